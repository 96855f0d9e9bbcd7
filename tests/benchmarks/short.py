"""The short version for CI: hydrax against the bare work in the same environment, no peers, half a minute.

It fails on gross loss only: a ratio under half of its reference (or over twice, where less is better), three times in a
row. Absolute times decide nothing, and a machine that is busy for a while fails nobody.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import measuring
import report
from inputs import make_inputs
from rich.console import Console
from works import MAP, ONE, TWO, WORK_ALONE, WORKS, Mark, Work

TRIES = 3
SLACK = 2.0

# cached, image and memory have a mark against bare work: theirs is used as it is. The others are promised against
# peers, which are not installed here, or are not reached (docs/performance.md): their reference is the ratio to the
# bare work that was measured on a quiet machine of two cores, so that a loss shows whatever a peer would do.
REFERENCES = {
    "tiny": Mark("one process alone", ("hydrax",), (ONE,), 0.5),
    "batched": Mark("one process alone", ("hydrax",), (ONE,), 0.4),
    "copy": Mark("two processes that copy and sum", ("hydrax",), (TWO,), 0.5),
    "cached": Mark("rows of a kept-open memory map", ("hydrax",), (MAP,), 0.8),
    "image": Mark("two processes that only decode", ("hydrax",), (WORK_ALONE,), 0.95),
    "memory": Mark("above jax alone, MiB", ("hydrax",), (ONE,), 60.0, "at most", how="difference"),
    "idle": Mark("share of the time in next()", ("hydrax",), (), 0.05, "at most", how="value"),
}


def main() -> None:
    console = Console(width=100)
    works = [shortened(work) for work in WORKS if work.name in REFERENCES]
    with tempfile.TemporaryDirectory(prefix="hydrax-bench-") as folder:
        make_inputs(Path(folder))
        lost = [work.name for work in works if not any(_holds(work, folder, console) for _ in range(TRIES))]
    if lost:
        console.print(f"gross loss, {TRIES} times in a row: {', '.join(lost)}")
        sys.exit(1)


def shortened(work: Work) -> Work:
    """The two sides of the reference of a work, measured for less than a second each."""
    mark = REFERENCES[work.name]
    cases = {label: replace(work.cases[label], warmup=0.4, seconds=0.8) for label in (*mark.tops, *mark.bottoms)}
    return replace(work, cases=cases, marks=(mark,))


def _holds(work: Work, folder: str, console: Console) -> bool:
    one = {label: measuring.run_child(job, folder) for label, job in work.cases.items()}
    mark = work.marks[0]
    found = report.figure(mark, one)
    texts = "; ".join(f"{label} {report.in_words(result, work)}" for label, result in one.items())
    if found is None:
        console.print(f"{work.name}: {texts}", markup=False)
        return False
    bound = mark.bound / SLACK if mark.sense == "at least" else mark.bound * SLACK
    holds = mark.holds(found, SLACK)
    verdict = "holds" if holds else "LOST"
    console.print(
        f"{work.name}: {report.number(found)}, {mark.sense} {bound:g} of {mark.text}: {verdict} ({texts})",
        markup=False,
        highlight=False,
    )
    return holds


if __name__ == "__main__":
    main()
