"""``page.py FIGURES PAGE`` writes the measured figures into a page, between its markers, and draws the plots beside it.

A block of the page begins with ``<!-- figures: NAME -->`` and ends with ``<!-- end -->``; what stands between is
replaced by what ``BLOCKS[NAME]`` makes of the JSON that ``run.py`` wrote. ``--check`` writes nothing and fails where
the page says something else than its figures.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import report
from measuring import DISTURBED

Works = Mapping[str, Mapping[str, Any]]
_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_BUSY = "†"


@click.command()
@click.argument("figures", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("page", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--check", is_flag=True, help="Only see whether the page is what the figures make of it.")
def main(*, figures: Path, page: Path, check: bool) -> None:
    """Bring a page up to date with measured figures."""
    works = json.loads(figures.read_text())["works"]
    old = page.read_text()
    new = filled(old, works)
    if check:
        if new != old:
            raise click.ClickException(f"{page} does not say what {figures} says: run page.py without --check")
        return
    import plots  # noqa: PLC0415  --check needs no matplotlib

    page.write_text(new)
    plots.draw(works, page.parent / "images")


def filled(text: str, works: Works) -> str:
    """The page with all its blocks made anew."""
    return _BLOCK.sub(lambda found: f"{found[1]}{report.powers(BLOCKS[found[2]](works))}\n{found[3]}", text)


def _rows(*rows: Sequence[str]) -> str:
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "| --- " * len(rows[0]) + "|", *body])


def _case(case: Mapping[str, Any] | None) -> str:
    if case is None:
        return ""
    busy = case["median"] is not None and statistics.median(case["others"]) > DISTURBED
    return report.case_text(case) + (f" {_BUSY}" if busy else "")


def machine(works: Works) -> str:
    """What was measured on, once for each set of works that were measured together."""
    together: dict[str, list[str]] = {}
    for name, work in works.items():
        about, on = work["about"], work["about"]["machine"]
        peers = ", ".join(f"{peer.split()[0]} {version}" for peer, version in about["versions"].items() if version)
        rounds = "1 round" if work["rounds"] == 1 else f"{work['rounds']} rounds"
        text = (
            f"{about['date']}, hydrax_core of commit {about['commit'] or 'unknown'}, {rounds}: {on['cores']} cores of "
            f"{on['processor']}, {on['memory_gib']} GiB memory, Linux {on['kernel']}, Python {on['python']}, "
            f"NumPy {on['numpy']}, jax {on['jax']} on the CPU; {peers}."
        )
        together.setdefault(text, []).append(name)
    if len(together) == 1:
        return next(iter(together))
    return "\n".join(f"- {', '.join(names)}: {text}" for text, names in together.items())


def medians(works: Works) -> str:
    """One work a row."""
    rows: list[Sequence[str]] = [("work", *report.COLUMNS, "limits and variants")]
    for name, work in works.items():
        if not work["along"]:
            cases = work["cases"]
            rest = [f"{label}: {_case(case)}" for label, case in cases.items() if label not in report.COLUMNS]
            shown = [_case(cases.get(column)) for column in report.COLUMNS]
            rows.append((f"**{name}**, {work['unit']}", *shown, "<br>".join(rest)))
    return _rows(*rows)


def marks(works: Works) -> str:
    """One mark a row."""
    rows: list[Sequence[str]] = [("work", "against", "figure", "mark", "")]
    for name, work in works.items():
        rows.extend((name, mark["text"], *report.mark_texts(mark)) for mark in work["marks"])
    return _rows(*rows)


def growth(works: Works) -> str:
    """The works that are plotted along something, a table each."""
    tables = []
    for work in works.values():
        if work["along"]:
            labels = [f"{int(label):,}" for label in work["cases"]]
            tables.append(_rows((work["along"], *labels), (work["unit"], *map(_case, work["cases"].values()))))
    return "\n\n".join(tables)


BLOCKS: Mapping[str, Callable[[Works], str]] = {
    "machine": machine,
    "medians": medians,
    "marks": marks,
    "growth": growth,
}

if __name__ == "__main__":
    main()
