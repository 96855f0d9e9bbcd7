"""Changes one thing in a module at a time and looks whether its tests notice; see README.md beside this file.

Promise: the working tree is not touched, as all happens in a copy. The same seed and code give the same mutants.
A fork that has imported everything but hydrax tries each of them; worker processes are fresh and import the mutant.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"  # as tests/conftest.py says too late for a jax that is imported already
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # some take seconds

import jax  # noqa: F401  for the forks
import pytest
from cosmic_ray.commands.init import init
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec
from hypothesis import HealthCheck, Phase, settings

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MOST_MEMORY = 8 << 30
"""Bytes of its own that a mutant may take; some never stop."""
OPTIONS = shlex.split(
    "-x -q -p no:cacheprovider -p pytest_timeout -p _hypothesis_pytestplugin --hypothesis-profile=mutants "
    "-W ignore::pytest.PytestAssertRewriteWarning"
)
settings.register_profile(  # the same examples for each mutant, and none made small
    "mutants",
    deadline=None,
    derandomize=True,
    max_examples=20,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


@dataclass
class Row:
    module: str
    mutants: int = 0
    tried: int = 0
    killed: int = 0
    late: int = 0
    explained: int = 0
    survived: int = 0

    def text(self) -> str:
        share = f"{100 * self.killed / self.tried:.0f} %" if self.tried else "-"
        return (
            f"{self.module:42} {self.mutants:5} mutants, {self.tried:4} tried, {self.killed:4} killed ({self.late} by "
            f"their time), {self.explained:3} explained, {self.survived:3} survived  {share}"
        )


def main() -> None:
    known = tomllib.loads((HERE / "modules.toml").read_text())
    explained = {
        (module, entry["change"])
        for module, entries in tomllib.loads((HERE / "survivors.toml").read_text()).items()
        for entry in entries
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="WORDS", default="", help="modules whose path has one of these, by commas")
    parser.add_argument("--sample", type=int, default=60, metavar="N", help="mutants of a module; 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="chooses them")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that the copy goes
    skips = [re.compile(skip) for skip in known["skip"]]
    rows = []
    with tempfile.TemporaryDirectory(prefix="hydrax-mutants-") as folder:
        copy(Path(folder))
        os.chdir(folder)
        sys.path.insert(0, folder)
        for module, tests in known["tests"].items():
            if any(word in module for word in asked.only.split(",")):
                rows.append(trial(module, shlex.split(tests), skips, explained, asked.sample, asked.seed))
                say(rows[-1].text())
    total = Row("all", *(sum(column) for column in zip(*(astuple(row)[1:] for row in rows), strict=True)))
    say("\n" + "\n".join(row.text() for row in [*rows, total]))


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def copy(folder: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def trial(
    module: str, tests: list[str], skips: list[re.Pattern[str]], explained: set[tuple[str, str]], sample: int, seed: int
) -> Row:
    """Survivors that are not explained are printed."""
    runner = Runner(tests)
    path, source = Path(module), Path(module).read_text()
    spans = annotations(source)
    found = [each for each in mutations(path) if not any(start <= each.start_pos < end for start, end in spans)]
    wanted = sorted(described(mutation, source) for mutation in found)
    wanted = [each for each in wanted if not any(skip.search(each) for skip in skips)]
    row = Row(module, len(wanted))
    for number, each in enumerate(random.Random(seed).sample(wanted, min(sample or len(wanted), len(wanted)))):
        operator, occurrence = each.split()[:2]
        mutant = mutate_code(source, get_operator(operator)(), int(occurrence))
        row.tried += 1
        what = change(source, mutant)
        if (module, what) in explained:
            row.explained += 1
            continue
        with written(path, mutant, source, number):
            outcome = runner.run()
        row.killed += outcome != "survived"
        row.late += outcome == "late"
        row.survived += outcome == "survived"
        if outcome == "survived":
            say(f"{module}: {what}")
    return row


def mutations(path: Path) -> list[MutationSpec]:
    database = Path("mutants.sqlite")
    with use_db(str(database), WorkDB.Mode.create) as opened:
        init([path], opened, {})
        return [item.mutations[0] for item in opened.work_items]


def annotations(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """From where to where they go, by line and column: nothing reads them."""
    fields = ("annotation", "returns")
    nodes = [getattr(node, field, None) for node in ast.walk(ast.parse(source)) for field in fields]
    return [((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)) for node in nodes if node]


def described(mutation: MutationSpec, source: str) -> str:
    """An operator, its occurrence, and the line that it changes: what ``skip`` is matched with."""
    line = source.split("\n")[mutation.start_pos[0] - 1]
    return f"{mutation.operator_name} {mutation.occurrence:05} | {line}"


def change(source: str, mutant: str) -> str:
    diff = list(difflib.unified_diff(source.split("\n"), mutant.split("\n"), lineterm="", n=0))[2:]
    before, after = ([line[1:].strip() for line in diff if line[0] == sign] for sign in "-+")
    return f"{' '.join(before)} -> {' '.join(after)}"


@contextlib.contextmanager
def written(path: Path, mutant: str, source: str, number: int) -> Iterator[None]:
    path.write_text(mutant)
    os.utime(path, (number, number))  # compiled files go by size and whole seconds
    try:
        yield
    finally:
        path.write_text(source)


class Runner:
    """Runs tests in forks: those first that are fast, or have killed before."""

    def __init__(self, tests: list[str]) -> None:
        self._tests = tests
        self._kills: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}
        self._limit = 600.0
        for _ in range(2):  # as they stand, and in the order that mutants get
            started = time.monotonic()
            if self.run(measured=True) != "survived":
                raise SystemExit(f"the tests fail without a change: {shlex.join(tests)}\n{Path('output').read_text()}")
            limit = 10 + 4 * (time.monotonic() - started)
        self._limit = limit

    def run(self, *, measured: bool = False) -> str:
        """``killed``, ``late`` or ``survived``."""
        child = os.fork()
        if child == 0:
            self._child()
        deadline, ended = time.monotonic() + self._limit, (0, 0)
        try:
            while not ended[0] and time.monotonic() < deadline:
                time.sleep(0.01)
                ended = os.waitpid(child, os.WNOHANG)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # its worker processes as well
            if not ended[0]:
                os.waitpid(child, 0)
        if not ended[0]:
            return "late"
        for line in Path("reports").read_text().splitlines():
            name, outcome, seconds = line.rsplit("\t", 2)
            self._kills[name] += outcome == "failed" and not measured
            if measured:
                self._seconds[name] = float(seconds)
        return "survived" if ended[1] == 0 else "killed"

    def _child(self) -> None:
        code = 1
        try:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
            for number in (1, 2):
                os.dup2(os.open("output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            with Path("reports").open("w") as self._reports:
                code = pytest.main([*OPTIONS, *self._tests], plugins=[self])
        except BaseException:  # noqa: BLE001  nothing may go on as the parent
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self._seconds.get(item.nodeid, 0.0) / (1 + self._kills[item.nodeid]))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.failed:
            self._reports.write(f"{report.nodeid}\t{report.outcome}\t{report.duration}\n")


if __name__ == "__main__":
    main()
