"""Side by side with the peers: ``run.py`` measures, prints figures and ratios, and writes JSON.

Every measurement runs in a fresh process; the cases of a work take turns, for several rounds; ratios are taken within a
round and their median is shown. The JSON is written after every round: a run that is broken off loses one
round at most.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import measuring
import peers
import report
from inputs import make_inputs
from rich.console import Console
from works import PEERS, WORKS, Mark, Work

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

FORMAT = 1
TRIES = 3
WIDTH = 100


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", multiple=True, type=click.Choice([work.name for work in WORKS]), help="Measure only this work.")
@click.option("--case", multiple=True, help="Measure only cases with this label.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Rounds.")
@click.option("--seconds", type=click.FloatRange(0.1), help="Seconds of a measurement, and of its warm-up a third.")
@click.option("--impatient", is_flag=True, help="Measure once, however busy the machine is.")
@click.option(
    "--against",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    help="Another checkout of this repository: each case of hydrax is measured with its hydrax_core as well.",
)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures here.")
@click.option("--merge", is_flag=True, help="Keep the works in the JSON file that are not measured now.")
@click.option("--list", "list_only", is_flag=True, help="List the works and their marks.")
def main(
    *,
    only: Sequence[str],
    case: Sequence[str],
    rounds: int,
    seconds: float | None,
    impatient: bool,
    against: Path | None,
    json_file: Path | None,
    merge: bool,
    list_only: bool,
) -> None:
    """Measure hydrax side by side with its peers."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    works = [_chosen(work, case, seconds, against) for work in WORKS if not only or work.name in only]
    works = [work for work in works if work.cases]
    if list_only:
        for work in works:
            console.print(f"[bold]{work.name}[/bold] {work.title}", highlight=False)
            for mark in work.marks:
                console.print(f"    {mark.text}: {mark.sense} {mark.bound:g}", highlight=False)
        return
    versions = {name: peers.version(name) for name in peers.DISTRIBUTIONS}
    missing = sorted(name for name, version in versions.items() if version is None)
    about = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": measuring.commit(),
        "machine": measuring.machine(),
        "versions": versions,
    }
    kept = json.loads(json_file.read_text())["works"] if merge and json_file is not None and json_file.exists() else {}
    summaries: dict[str, Any] = {}
    figures: dict[str, list[Any]] = {}
    with tempfile.TemporaryDirectory(prefix="hydrax-bench-") as folder:
        make_inputs(Path(folder))
        progress = Console(stderr=True, width=WIDTH)
        for figures in _rounds(works, rounds, missing, folder, progress, tries=1 if impatient else TRIES):
            summaries = {work.name: report.summary(work, figures[work.name]) | {"about": about} for work in works}
            if json_file is not None:
                document = {"format": FORMAT, "works": in_order({**kept, **summaries})}
                json_file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    console.print(report.figures_table(works, summaries))
    console.print(report.marks_table(works, summaries))
    for name in missing:
        console.print(f"{name} is not installed here: it was not measured, and no mark speaks of it")
    broken = [work.name for work in works if any(_own_failure(work, one) for one in figures[work.name])]
    if broken:
        raise click.ClickException(f"measurements of hydrax itself failed: {', '.join(broken)}")


def in_order(summaries: Mapping[str, Any]) -> dict[str, Any]:
    """The works in the order of the table; those that are no longer in it are dropped."""
    return {work.name: summaries[work.name] for work in WORKS if work.name in summaries}


def _chosen(work: Work, labels: Sequence[str], seconds: float | None, against: Path | None) -> Work:
    cases = {label: job for label, job in work.cases.items() if not labels or label in labels}
    marks = list(work.marks)
    if seconds is not None:
        cases = {
            label: replace(job, seconds=seconds, warmup=job.warmup * seconds / job.seconds)
            for label, job in cases.items()
        }
    if against is not None:
        ours = [label for label, job in cases.items() if job.peer == "hydrax"]
        for label in ours:
            other = f"{label}, other"
            cases[other] = replace(cases[label], package=str(against))
            sense = "at least" if work.better == "more" else "at most"
            marks.append(Mark(f"{label}, other version", (label,), (other,), None, sense))
    return replace(work, cases=cases, marks=tuple(marks))


def _own_failure(work: Work, one: Mapping[str, Mapping[str, Any]]) -> bool:
    return any("error" in one[label] for label, job in work.cases.items() if job.peer == "hydrax" and label in one)


def _rounds(
    works: Sequence[Work], rounds: int, missing: Sequence[str], folder: str, console: Console, *, tries: int
) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """Measure round by round; yields all figures so far after each."""
    figures: dict[str, list[dict[str, Any]]] = {work.name: [] for work in works}
    for number in range(rounds):
        for work in works:
            labels = list(work.cases)
            turn = number % len(labels)
            one: dict[str, Any] = {}
            for label in labels[turn:] + labels[:turn]:
                job = work.cases[label]
                if job.peer in PEERS and job.peer in missing:
                    one[label] = {"error": "not installed"}
                    continue
                one[label] = measuring.measure(job, folder, tries)
                console.print(
                    f"{number + 1}/{rounds} {work.name} {label}: {report.in_words(one[label], work)}",
                    highlight=False,
                    markup=False,
                )
            figures[work.name].append(one)
        yield figures


if __name__ == "__main__":
    main()
