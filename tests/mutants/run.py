"""Changes one thing in a module at a time and looks whether its tests notice; see README.md beside this file.

Promise: the working tree is not touched, as all happens in a copy. The same seed and code give the same mutants.
"""

from __future__ import annotations

import argparse
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkItem, WorkResult

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CONFIG = """[cosmic-ray]
module-path = {module!r}
timeout = {timeout}
test-command = {command!r}
[cosmic-ray.distributor]
name = "local"
"""


def main() -> None:
    known = tomllib.loads((HERE / "modules.toml").read_text())
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="WORDS", default="", help="modules whose path has one of these, by commas")
    parser.add_argument("--sample", type=int, default=60, metavar="N", help="mutants of a module; 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="chooses them")
    asked = parser.parse_args()
    words = asked.only.split(",")
    skips = [re.compile(skip) for skip in known["skip"]]
    rows = []
    with tempfile.TemporaryDirectory(prefix="hydrax-mutants-") as folder:
        copy(Path(folder))
        for module, tests in known["tests"].items():
            if any(word in module for word in words):
                rows.append((module, *trial(Path(folder), module, tests, skips, asked.sample, asked.seed)))
                say(line(*rows[-1]))
    say("\n" + "\n".join(line(*row) for row in rows))
    killed, survived = (sum(row[column] for row in rows) for column in (2, 3))
    say(line("all", sum(row[1] for row in rows), killed, survived))


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def line(module: str, mutants: int, killed: int, survived: int) -> str:
    share = f"{100 * killed / (killed + survived):.0f} %" if killed + survived else "-"
    return f"{module:45} {mutants:5} mutants, {killed:4} killed, {survived:3} survived  {share}"


def copy(folder: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def trial(
    folder: Path, module: str, tests: str, skips: list[re.Pattern[str]], sample: int, seed: int
) -> tuple[int, int, int]:
    """Mutants that there are, and of those tried how many were killed and survived; survivors are printed."""
    command = shlex.join([sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *shlex.split(tests)])
    started = time.monotonic()
    subprocess.run(shlex.split(command), cwd=folder, check=True, stdout=subprocess.DEVNULL)
    timeout = 10 + 5 * (time.monotonic() - started)
    (folder / "mutants.toml").write_text(CONFIG.format(module=module, timeout=timeout, command=command))
    session = folder / f"{module.replace('/', '.')}.sqlite"
    tool = [str(Path(sys.executable).parent / "cosmic-ray")]
    subprocess.run([*tool, "init", "mutants.toml", session.name], cwd=folder, check=True)
    source = (folder / module).read_text().split("\n")
    with use_db(str(session), WorkDB.Mode.open) as database:
        items = list(database.work_items)
        wanted = [item for item in items if not any(skip.search(described(item, source)) for skip in skips)]
        wanted.sort(key=lambda item: described(item, source))
        chosen = random.Random(seed).sample(wanted, min(sample or len(wanted), len(wanted)))
        left = {item.job_id for item in items} - {item.job_id for item in chosen}
        database.set_multiple_results(left, WorkResult(worker_outcome=WorkerOutcome.SKIPPED))
    subprocess.run([*tool, "exec", "mutants.toml", session.name], cwd=folder, check=True)
    with use_db(str(session), WorkDB.Mode.open) as database:
        results = [result for _, result in database.results if result.worker_outcome == WorkerOutcome.NORMAL]
    survived = [result for result in results if result.test_outcome == TestOutcome.SURVIVED]
    for result in survived:
        say(changed(module, result.diff or ""))
    return len(wanted), len(results) - len(survived), len(survived)


def described(item: WorkItem, source: list[str]) -> str:
    """An operator, its occurrence, and the line that it changes: what ``skip`` is matched with."""
    (mutation,) = item.mutations
    return f"{mutation.operator_name} {mutation.occurrence:05} | {source[mutation.start_pos[0] - 1]}"


def changed(module: str, diff: str) -> str:
    where = re.search(r"^@@ -(\d+)", diff, re.MULTILINE)
    lines = [row for row in diff.split("\n") if re.match(r"[-+](?![-+])", row)]
    return "\n".join([f"{module}, near line {int(where[1]) + 3 if where else 0}:", *lines])


if __name__ == "__main__":
    main()
