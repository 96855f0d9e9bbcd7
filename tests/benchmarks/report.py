"""From raw figures to medians, ratios and a verdict: pure functions, nothing is measured here."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from measuring import DISTURBED
from rich.table import Table
from works import PEERS, Mark, Work

Round = Mapping[str, Mapping[str, Any]]
"""One round of one work: label -> what the measurement returned; ``{"error": text}`` where it failed."""
COLUMNS = ("hydrax", *PEERS)
_UNITS = {"ratio": " x", "difference": "", "value": ""}


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


def summary(work: Work, rounds: Sequence[Round]) -> dict[str, Any]:
    """Everything about one work as JSON values; README.md says what each is."""
    return {
        "title": work.title,
        "unit": work.unit,
        "better": work.better,
        "along": work.along,
        "rounds": len(rounds),
        "cases": {
            label: _case_summary([one[label] for one in rounds if label in one], work.scale) for label in work.cases
        },
        "marks": [_mark_summary(mark, rounds) for mark in work.marks],
    }


def _case_summary(found: Sequence[Mapping[str, Any]], scale: float) -> dict[str, Any]:
    measured = [one for one in found if "value" in one]
    values = [one["value"] * scale for one in measured]
    fields = [name for name in (measured[0] if measured else ()) if name not in {"value", "others"}]
    return {
        "median": statistics.median(values) if values else None,
        "values": values,
        "others": [round(one.get("others", 0.0), 3) for one in measured],
        "more": {name: statistics.median(one[name] for one in measured) for name in fields},
        "errors": [one["error"] for one in found if "error" in one],
        "unsupported": next((one["unsupported"] for one in found if "unsupported" in one), None),
    }


def _mark_summary(mark: Mark, rounds: Sequence[Round]) -> dict[str, Any]:
    found, quiet = median_figure(mark, rounds)
    return {
        "text": mark.text,
        "of": mark.tops[0] if len(mark.tops) == 1 else "",
        "figure": found,
        "quiet_rounds": quiet,
        "how": mark.how,
        "sense": mark.sense,
        "bound": mark.bound,
        "reached": None if found is None or mark.bound is None else mark.holds(found),
    }


def number(value: float) -> str:
    """Three digits at least, none after the point from a hundred on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def powers(text: str) -> str:
    """Ten to a power as it is printed: in a page, two stars would be markup."""
    return re.sub(r"10\*\*(\d)", lambda found: "10" + "⁰¹²³⁴⁵⁶⁷⁸⁹"[int(found[1])], text)


def case_text(case: Mapping[str, Any] | None) -> str:
    """Median and half of the range of a case, or why there is none."""
    if case is None:
        return ""
    if case["median"] is None:
        return reason(case["unsupported"] or (case["errors"] or ["not measured"])[0])
    values = case["values"]
    spread = f" ±{(max(values) - min(values)) / 2 / case['median']:.0%}" if len(values) > 1 and case["median"] else ""
    failed = f" ({len(case['errors'])} failed)" if case["errors"] else ""
    more = case["more"]
    settled = f" ({more['loader_count']:g} x {more['depth']:g})" if "depth" in more else ""
    return f"{number(case['median'])}{spread}{settled}{failed}"


def reason(text: str) -> str:
    """The last line of an error, cut to what a table has room for."""
    line = (text.strip().splitlines() or ["no reason given"])[-1]
    return line if len(line) <= 40 else "not supported" if line.startswith("not supported") else line[:39] + "…"


def in_words(one: Mapping[str, Any], work: Work) -> str:
    """One measurement for the progress lines."""
    if "value" not in one:
        return str(one.get("unsupported") or one["error"]).strip()[-200:]
    return f"{number(one['value'] * work.scale)} {work.unit} (others {one.get('others', 0.0):.0%})"


def mark_texts(mark: Mapping[str, Any]) -> tuple[str, str, str]:
    """Figure, promise and verdict of a mark."""
    unit = _UNITS[mark["how"]]
    found = "" if mark["figure"] is None else f"{number(mark['figure'])}{unit}"
    bound = "" if mark["bound"] is None else f"{mark['sense']} {mark['bound']:g}{unit}"
    verdict = {None: "", True: "reached", False: "missed"}[mark["reached"]]
    return found, bound, verdict if mark["figure"] is not None else "not measured"


def others_text(summary_of_work: Mapping[str, Any]) -> list[str]:
    """The cases that stand in no column of their own."""
    return [f"{label}: {case_text(case)}" for label, case in summary_of_work["cases"].items() if label not in COLUMNS]


def figures_table(works: Sequence[Work], summaries: Mapping[str, Mapping[str, Any]]) -> Table:
    """Medians, one work a row; readable at 100 columns."""
    table = Table(title="medians", title_justify="left", show_lines=True)
    table.add_column("work")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    table.add_column("limits, variants", overflow="fold")
    for work in works:
        found = summaries[work.name]
        shown = [case_text(found["cases"].get(column)) for column in COLUMNS]
        table.add_row(f"{work.name}\n{work.unit}", *shown, "\n".join(others_text(found)))
    return table


def marks_table(works: Sequence[Work], summaries: Mapping[str, Mapping[str, Any]]) -> Table:
    """What was promised and what came of it, one mark a row."""
    table = Table(title="against the marks", title_justify="left")
    for column in ("work", "against", "figure", "mark", ""):
        table.add_column(column, justify="right" if column == "figure" else "left")
    for work in works:
        for mark in summaries[work.name]["marks"]:
            table.add_row(work.name, mark["text"], *mark_texts(mark))
    return table
