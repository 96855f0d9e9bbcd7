"""From raw figures to medians, ratios and a verdict: pure functions, nothing is measured here."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from works import ONE, PEERS, TWO, WORK_ALONE, Mark, Work

Round = Mapping[str, Mapping[str, Any]]
"""One round of one work: label -> what the measurement returned; ``{"error": text}`` where it failed."""

DISTURBED = 0.1
"""Share of the machine that others may use while a measurement runs."""
_COLUMNS = ("hydrax", *PEERS, ONE)


def figure(mark: Mark, one: Round) -> float | None:
    """What a mark compares, in one round; ``None`` where a side was not measured."""
    tops = [one[label][mark.field] for label in mark.tops if mark.field in one.get(label, {})]
    bottoms = [one[label][mark.field] for label in mark.bottoms if mark.field in one.get(label, {})]
    if len(tops) < len(mark.tops) or (mark.how != "value" and not bottoms):
        return None
    more = mark.sense == "at least"
    top = min(tops) if more else max(tops)
    if mark.how == "value":
        return float(top)
    bottom = max(bottoms) if more else min(bottoms)
    return float(top - bottom if mark.how == "difference" else top / bottom)


def median_figure(mark: Mark, rounds: Sequence[Round]) -> tuple[float | None, int]:
    """The median over the rounds in which nobody else used the machine much, and how many those are; else over all."""
    labels = (*mark.tops, *mark.bottoms)
    quiet = [one for one in rounds if all(one.get(label, {}).get("others", 0.0) <= DISTURBED for label in labels)]
    found = [value for value in (figure(mark, one) for one in quiet or rounds) if value is not None]
    return (statistics.median(found) if found else None), len(quiet)


def values(label: str, rounds: Sequence[Round]) -> list[float]:
    return [one[label]["value"] for one in rounds if "value" in one.get(label, {})]


def summary(work: Work, rounds: Sequence[Round], *, quick: bool) -> dict[str, Any]:
    """Everything about one work as JSON values."""
    cases = {}
    for label in work.cases:
        found = values(label, rounds)
        errors = [one[label]["error"] for one in rounds if "error" in one.get(label, {})]
        cases[label] = {
            "median": statistics.median(found) * work.scale if found else None,
            "values": [value * work.scale for value in found],
            "others": [round(one[label].get("others", 0.0), 3) for one in rounds if "value" in one.get(label, {})],
            "errors": errors,
        }
    marks = []
    for mark in work.marks:
        found_figure, quiet_rounds = median_figure(mark, rounds)
        marks.append(
            {
                "text": mark.text,
                "figure": found_figure,
                "quiet_rounds": quiet_rounds,
                "how": mark.how,
                "sense": mark.sense,
                "bound": mark.bound,
                "reached": None if found_figure is None else mark.holds(found_figure, quick=False),
                "gross_loss": found_figure is not None and not mark.holds(found_figure, quick=True),
            }
        )
    return {
        "title": work.title,
        "unit": work.unit,
        "better": work.better,
        "quick": quick,
        "cases": cases,
        "marks": marks,
    }


def figures_table(works: Sequence[Work], summaries: Mapping[str, Mapping[str, Any]]) -> Table:
    """Medians, one work a row."""
    table = Table(title="medians", title_justify="left")
    table.add_column("work")
    table.add_column("unit")
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    table.add_column("others")
    for work in works:
        cases = summaries[work.name]["cases"]
        shown = [_shown(cases.get(column)) for column in _COLUMNS]
        rest = [f"{label}: {_shown(case)}" for label, case in cases.items() if label not in _COLUMNS]
        table.add_row(f"{work.name}: {work.title}", work.unit, *shown, "\n".join(rest))
    return table


def _shown(case: Mapping[str, Any] | None) -> str:
    if case is None:
        return ""
    if case["median"] is None:
        return (case["errors"] or ["not measured"])[0].splitlines()[-1][:40]
    low, high = min(case["values"]), max(case["values"])
    spread = f" ±{(high - low) / 2 / case['median'] * 100:.0f}%" if len(case["values"]) > 1 and case["median"] else ""
    return f"{case['median']:.4g}{spread}"


def marks_table(works: Sequence[Work], summaries: Mapping[str, Mapping[str, Any]]) -> Table:
    """What was promised and what came of it, one mark a row."""
    table = Table(title="hydrax against its marks: medians over rounds of the ratio in one round", title_justify="left")
    for column in ("work", "against", "figure", "mark", ""):
        table.add_column(column, justify="right" if column == "figure" else "left")
    for work in works:
        for mark in summaries[work.name]["marks"]:
            found = mark["figure"]
            unit = " x" if mark["how"] == "ratio" else ""
            verdict = "not measured" if found is None else ("reached" if mark["reached"] else "MISSED")
            table.add_row(
                work.name,
                mark["text"],
                "" if found is None else f"{found:.3g}{unit}",
                f"{mark['sense']} {mark['bound']:g}{unit}",
                verdict,
            )
    return table


__all__ = ["TWO", "WORK_ALONE", "figure", "figures_table", "marks_table", "median_figure", "summary", "values"]
