"""The script for machines with a GPU: its measuring part, shortly and on the CPU, and how it counts tests."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests/gpu"


def test_the_measuring_part_measures_everything(tmp_path):
    result = tmp_path / "result.json"
    program = [sys.executable, FOLDER / "measure.py", "--short", result]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    shown = subprocess.run(program, check=True, capture_output=True, text=True, env=environment).stdout
    found = json.loads(result.read_text())
    assert found["device"].startswith("cpu")
    assert found["a kept batch stays as it was"] is True
    assert found["bare device_put, GB/s"] > 0
    assert found["batches, GB/s"] > 0
    assert all(0 <= found[f"idle share at a step of {step} ms"] <= 1 for step in (2, 20))
    assert [line.split("  ")[0] for line in shown.splitlines()] == list(found)


@pytest.fixture
def core_tests(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    import core_tests as module  # noqa: PLC0415  it stands beside its script

    monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / "tests/core/batch").mkdir(parents=True)
    yield module
    del sys.modules["core_tests"]


def write(tmp_path, **files):
    for name, text in files.items():
        (tmp_path / f"tests/core/batch/{name}.py").write_text(text)


def test_every_test_is_counted(core_tests, tmp_path):
    write(
        tmp_path,
        kit="import surely_missing_module",
        test_kit="import kit\ndef test(): pass",
        test_none="from surely_missing.part import x\ndef test(): pass",
        test_some="import pytest\ndef test(): pass\ndef test_skipped(): pytest.skip('so')\ndef test_bad(): assert 0\n",
    )
    lines, good = core_tests.run(50)
    assert not good
    assert lines["tests"].startswith("1 passed, 1 failed, 1 skipped, 0 not reached")
    assert lines["files left out"] == "test_kit.py (surely_missing_module), test_none.py (surely_missing)"


def test_a_lack_of_time_is_no_failure(core_tests, tmp_path):
    hang = "def test_hangs(): pathlib.Path('reached').touch(); threading.Event().wait()"
    write(tmp_path, test_slow=f"import pathlib, threading\ndef test_a(): pass\n{hang}\ndef test_z(): pass\n")
    process, at = core_tests._start(["tests/core/batch/test_slow.py"], tmp_path / "0")
    try:
        while not (tmp_path / "reached").exists():
            assert process.poll() is None
            time.sleep(0.01)
        core_tests._end(process, time.monotonic())
    finally:
        process.kill()
        process.wait()
    assert core_tests._counts(at) == {"collected": 3, "tests": 1, "failures": 0, "errors": 0, "skipped": 0}
