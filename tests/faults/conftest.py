"""Every test of this folder: a time limit of its own, nothing left behind, one row in the table of faults."""

import os
import tempfile
import uuid

import jax
import leaks
import numpy as np
import pytest
from faultkit import KINDS, group, kill_started
from faultloads import fill

from hydrax_core import Dataloader
from hydrax_core.batch import placement

os.environ[leaks.MARK] = uuid.uuid4().hex
_rows = {}


@pytest.fixture(scope="session", autouse=True)
def _warm(tmp_path_factory):
    """What jax, NumPy and Python open once and keep is open before the first comparison."""
    folder = str(tmp_path_factory.mktemp("temporary"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        for kind in KINDS:
            with Dataloader(fill, group(), loader_kind=kind, end_at=("epoch", 1)) as loader:
                for batch in loader:
                    jax.jit(lambda x: x + 1)(batch.arrays["x"]).block_until_ready()
        del batch, loader
        np.linalg.inv(np.eye(2))
        yield


@pytest.fixture(autouse=True)
def _nothing_left(request, _warm):
    before = leaks.holdings()
    yield
    kill_started()
    report = request.node.stash.get(_CALL, None)
    if report is not None and report.passed:  # the traceback of a failure keeps what the test had
        left = leaks.leaked_since(before)
        assert not left, f"left behind: {left}"


_CALL = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call":
        item.stash[_CALL] = report
    return report


def pytest_collection_modifyitems(items):
    for item in items:
        if "faults" in item.path.parts and item.get_closest_marker("timeout") is None:
            raise pytest.UsageError(f"{item.nodeid}: a fault test says its own time limit")


def pytest_runtest_logreport(report):
    if "faults/" not in report.nodeid or (report.when != "call" and report.passed):
        return
    name = report.nodeid.rpartition("::")[2].partition("[")[0].removeprefix("test_").replace("_", " ")
    row = _rows.setdefault(name, {"rounds": 0, "passed": 0, "failed": 0, "skipped": 0})
    row["rounds"] += dict(report.user_properties).get("rounds", 1)
    row[report.outcome] += 1


def pytest_terminal_summary(terminalreporter):
    if not _rows:
        return
    terminalreporter.section("faults")
    width = max(map(len, _rows))
    terminalreporter.write_line(f"{'fault':{width}}  rounds  outcome")
    for name, row in _rows.items():
        outcome = "FAILED" if row["failed"] else "holds" if row["passed"] else "skipped"
        terminalreporter.write_line(f"{name:{width}}  {row['rounds']:6}  {outcome}")


@pytest.fixture(autouse=True)
def _no_batch_is_copied(monkeypatch):
    """Faults around leases need batches that are handed over where they lie, however small."""
    monkeypatch.setattr(placement, "_SMALL", -1)
