"""Side by side with the peers: ``run.py`` measures, prints figures and ratios, and writes JSON.

Every measurement runs in a fresh process; the peers take turns, for several rounds; ratios are taken within a round and
their median is shown. A measurement during which other programs took more than a tenth of the machine is repeated.
``--quick`` is for CI: one short round that fails only on gross loss, a ratio under half of its mark.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import peers
import report
import system
from inputs import make_inputs
from loads import FOLDER
from rich.console import Console
from works import WORKS, Work

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from job import Job

CHILD = Path(__file__).with_name("child.py")
LIMIT = 150
"""Seconds a measurement may take; the original hydrax waits 60 for a batch that never comes."""
TRIES = 3
PATIENCE = 20.0
"""Seconds to wait for a quiet machine before a measurement, at most."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="One short round of the main works; fails on gross loss only.")
@click.option("--impatient", is_flag=True, help="Measure once, however busy the machine is.")
@click.option("--only", multiple=True, type=click.Choice([work.name for work in WORKS]), help="Measure only this work.")
@click.option("--peer", multiple=True, help="Measure only cases with these labels.")
@click.option("--rounds", type=click.IntRange(1), default=None, help="Rounds; 5, or 1 with --quick.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures here.")
@click.option("--list", "list_only", is_flag=True, help="List the works and their marks.")
def main(
    *,
    quick: bool,
    impatient: bool,
    only: Sequence[str],
    peer: Sequence[str],
    rounds: int | None,
    json_file: Path | None,
    list_only: bool,
) -> None:
    """Measure hydrax side by side with its peers."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    works = [work for work in WORKS if (work.name in only if only else work.quick or not quick)]
    if peer:
        works = [
            replace(work, cases={label: job for label, job in work.cases.items() if label in peer}) for work in works
        ]
    if list_only:
        for work in works:
            marks = "; ".join(f"{mark.text}: {mark.sense} {mark.bound:g}" for mark in work.marks)
            console.print(f"[bold]{work.name}[/bold] {work.title}. Marks: {marks or 'none'}")
        return
    rounds = rounds or (1 if quick else 5)
    versions = {name: peers.version(name) for name in peers.DISTRIBUTIONS}
    missing = sorted(name for name, version in versions.items() if version is None)
    with tempfile.TemporaryDirectory(prefix="hydrax-bench-") as folder:
        make_inputs(Path(folder))
        figures = _measure(
            works, rounds, missing, folder, Console(stderr=True), quick=quick, tries=1 if impatient else TRIES
        )
    summaries = {work.name: report.summary(work, figures[work.name], quick=quick) for work in works}
    console.print(report.figures_table(works, summaries))
    console.print(report.marks_table(works, summaries))
    for name in missing:
        console.print(f"{name} is not installed here: it was not measured, and no mark speaks of it")
    if json_file is not None:
        document = {"machine": machine(), "versions": versions, "rounds": rounds, "quick": quick, "works": summaries}
        json_file.write_text(json.dumps(document, indent=1) + "\n")
    lost = [
        f"{work.name} ({mark['text']})"
        for work in works
        for mark in summaries[work.name]["marks"]
        if mark["gross_loss"]
    ]
    broken = [work.name for work in works if any(_own_failure(work, one) for one in figures[work.name])]
    if broken or (quick and lost):
        raise click.ClickException(f"failed: {', '.join(broken) or 'none'}; gross loss: {', '.join(lost) or 'none'}")


def _own_failure(work: Work, one: Mapping[str, Mapping[str, Any]]) -> bool:
    return any("error" in one[label] for label, job in work.cases.items() if job.peer == "hydrax" and label in one)


def _measure(
    works: Sequence[Work],
    rounds: int,
    missing: Sequence[str],
    folder: str,
    console: Console,
    *,
    quick: bool,
    tries: int,
) -> dict[str, list[dict[str, Any]]]:
    figures: dict[str, list[dict[str, Any]]] = {work.name: [] for work in works}
    for number in range(rounds):
        for work in works:
            labels = list(work.cases)
            turn = number % len(labels) if labels else 0
            one: dict[str, Any] = {}
            for label in labels[turn:] + labels[:turn]:
                job = work.cases[label]
                if job.peer in missing:
                    one[label] = {"error": "not installed"}
                    continue
                one[label] = measure(replace(job, warmup=0.5, seconds=1.0) if quick else job, folder, tries)
                shown = (
                    one[label].get("error", "").strip()[-200:] or f"{one[label]['value'] * work.scale:.4g} {work.unit}"
                )
                console.print(f"{number + 1}/{rounds} {work.name} {label}: {shown}", highlight=False)
            figures[work.name].append(one)
    return figures


def measure(job: Job, folder: str, tries: int) -> dict[str, Any]:
    """One measurement in a fresh process; again where others disturbed it, then the least disturbed one."""
    best: dict[str, Any] = {}
    for _ in range(tries):
        if tries > 1:
            _await_quiet()
        found = _run_child(job, folder)
        if not best or found.get("others", 1.0) < best.get("others", 1.0):
            best = found
        if "error" in found or found["others"] <= report.DISTURBED:
            break
    return best


def _await_quiet() -> None:
    end = time.perf_counter() + PATIENCE
    while time.perf_counter() < end:
        neighbours = system.Neighbours()
        time.sleep(0.3)
        if neighbours.share() <= report.DISTURBED:
            return


def _run_child(job: Job, folder: str) -> dict[str, Any]:
    environment = {**os.environ, FOLDER: folder, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(CHILD), job.dump()]
    try:
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"no result in {LIMIT} s"}
    lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    if not lines:
        return {"error": ended.stderr[-2000:] or f"exit code {ended.returncode}"}
    return dict(json.loads(lines[0]))


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import jax  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": model[0].partition(":")[2].strip() if model else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / (1 << 30), 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "jax": jax.__version__,
    }


if __name__ == "__main__":
    main()
