import functools
import json
import mmap
import signal
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

from hydrax_cli.main import run_command_line
from hydrax_cli.shared.units import size

TARGET = """
from hydrax_core import DataGroup, Dataloader

def make(bad: int = -1, on_error="raise", kind="inline"):
    def load(item, arrays, seed):
        if item == bad:
            raise ValueError("bad header")
        arrays["x"][...] = item
    group = DataGroup(4, range(16), loader_arrays={"x": ((), "int32")})
    return Dataloader(load, group, loader_kind=kind, on_error=on_error)
"""


@pytest.fixture
def target(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "target.py").write_text(TARGET)
    return "target.py:make"


@pytest.fixture
def run(hydrax):
    return functools.partial(hydrax, "run")


def result_of(run, *arguments):
    code, out, _ = run(*arguments, "--json", "-")
    assert code == 0
    return json.loads(out)


def test_the_digits_run_for_epochs_with_validation(run):
    code, out, err = run("--kind", "thread")
    assert code == 0
    assert err == ""
    assert [line.partition(":")[0] for line in out.splitlines() if line.startswith(("epoch ", "validation "))] == [
        "validation 0",
        "epoch 0",
        "validation 0",
        "epoch 1",
        "validation 1",
        "epoch 2",
        "validation 2",
    ]
    assert out.splitlines()[-1].startswith("verdict: ")


def test_what_auto_chose_is_told(run):
    code, out, _ = run("--kind", "thread", "--workers", "auto", "--depth", "auto", "--epochs", "2")
    assert code == 0
    assert "workers: 1 thread to begin with (auto); 32 batches ahead to begin with (auto)" in out
    assert "; auto chose " in out.splitlines()[-1]


def test_the_json_adds_up(run):
    values = result_of(run, "--kind", "inline", "--epochs", "2", "--batch", "100")
    assert (values["target"], values["epochs"]) == ("digits", 2)
    assert (values["training_batches"], values["validation_batches"]) == (28, 8)
    assert values["items"] == 2 * (1400 + 360)
    assert values["bytes"] == 36 * 100 * (64 + 4)
    assert values["items_per_second"] == pytest.approx(values["items"] / values["seconds"], rel=0.01)
    assert 0 < values["first_batch_seconds"] <= values["idle_seconds"] + 1e-5
    assert values["idle_seconds"] <= values["seconds"]
    assert values["digest"] is None


def test_json_on_standard_output_has_it_for_itself(run, tmp_path):
    code, out, err = run("--kind", "inline", "--batches", "2", "--json", "-")
    assert code == 0
    assert json.loads(out)["training_batches"] == 2
    assert err.startswith("hydrax run: digits")
    file = tmp_path / "result.json"
    run("--kind", "inline", "--batches", "2", "--json", str(file))
    assert json.loads(file.read_text())["training_batches"] == 2


def test_the_digest_depends_on_the_data_and_not_on_the_workers(run):
    arguments = ("--quiet", "--digest", "--batches", "30")
    _, digest, _ = run(*arguments, "--kind", "inline")
    assert len(digest.strip()) == 32
    for same in (["--kind", "thread", "--workers", "3"], ["--workers", "2", "--depth", "1"]):
        assert run(*arguments, *same) == (0, digest, "")
    for other in (["--seed", "1"], ["--start", "0:1"], ["--batch", "32"]):
        assert run(*arguments, *other, "--kind", "inline")[1] != digest


def test_a_run_goes_on_where_another_ended(run, target):
    first = result_of(run, target, "--batches", "3")
    rest = result_of(run, target, "--start", "0:3")
    assert first["training_batches"] + rest["training_batches"] == 4


MISTAKEN = """
import numpy as np
from hydrax_core import DataGroup, Dataloader

def load(item, arrays, seed):
    arrays["x"][...] = np.float32(item) / 255  # as for a float array

group = DataGroup(4, range(16), loader_arrays={"x": ((), "uint8"), "y": ((), "int32")})
loader = Dataloader(load, group)
"""


def test_mistakes_of_a_loader_function_are_said_after_the_run(run, target):
    Path("mistaken.py").write_text(MISTAKEN)
    x = "training group 0, item 8: 'x' is uint8, which cannot hold 0.0313725508749485: the value changes in silence"
    y = "training group 0, item 0: 'y' is not filled at all; write into it: arrays['y'][...] = value"
    code, out, _ = run("mistaken.py:loader")
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith("check: ")] == [f"check: {x}", f"check: {y}"]
    assert result_of(run, "mistaken.py:loader")["findings"] == [x, y]
    assert result_of(run, "mistaken.py:loader", "--no-check")["findings"] is None
    assert result_of(run, target)["findings"] == []


def test_quiet_says_nothing(run, target):
    assert run(target, "--quiet") == (0, "", "")


def test_an_endless_loader_runs_for_one_epoch(run, target):
    assert result_of(run, target)["training_batches"] == 4


@pytest.mark.parametrize(("text", "seconds"), [("5ms", 0.005), ("250us", 0.00025), ("0.2s", 0.2), ("1 s", 1.0)])
def test_every_batch_gets_a_pretended_step(run, target, monkeypatch, text, seconds):
    slept = []
    clock = types.SimpleNamespace(perf_counter=time.perf_counter, sleep=slept.append)
    monkeypatch.setattr("hydrax_cli.run.drive.time", clock)
    values = result_of(run, target, "--step-time", text, "--epochs", "2")
    assert slept == [pytest.approx(seconds)] * 8
    assert "step" in values["verdict"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--step-time=5", "expected a time with its unit, such as 5ms"),
        ("--start=a", "expected EPOCH or EPOCH:BATCH"),
        ("--epochs=0", "expected a whole number of at least 1, got '0'"),
        ("--kind=fork", "'fork' is not one of"),
        ("-pbatch", "'batch' is not of the form name=value"),
        ("--json=no/such/folder/x.json", "cannot be written"),
        ("--workers=9999", "loader_count: expected an int from 1 to"),
        ("--batch=99", "batch_size: 99 is more than the 16 items"),
        ("--nonsense", "No such option"),
    ],
)
def test_wrong_usage_is_told_and_ends_with_2(run, target, text, message):
    code, out, err = run(target, text)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("start", ["3", "2:56", "999:0"])
def test_a_start_beyond_the_loaders_own_end_is_wrong_usage(run, start):
    code, out, err = run("--start", start)  # the digits end after three epochs of 28 batches
    assert (code, out) == (2, "")
    assert "--start: the run would be empty" in err
    assert "stops before 3:0" in err
    assert run("--start", start, "--batches", "1", "--quiet", "--kind", "inline")[0] == 0


def test_a_parameter_given_twice_is_refused(run, target):
    code, _, err = run(target, "-p", "bad=1", "-p", "bad=2")
    assert code == 2
    assert "bad is given twice" in err


def test_a_failing_item_ends_with_1_and_the_workers_traceback(run, target, tmp_path):
    code, out, err = run(target, "-p", "bad=9", "-p", "kind=process", "--json", "result.json", "--digest")
    assert code == 1
    assert err.startswith("Error: item 9 (9) of training group 0, epoch 0, batch 2 failed: ValueError: bad header")
    assert 'target.py", line 7, in load' in err
    assert "hydrax_cli" not in err
    assert "verdict" not in out
    values = json.loads((tmp_path / "result.json").read_text())
    assert values["training_batches"] == 2
    assert values["errors"] == 1
    assert values["digest"] is None
    assert (
        values["verdict"] == "failed: item 9 (9) of training group 0, epoch 0, batch 2 failed: ValueError: bad header"
    )


def test_errors_that_do_not_end_the_run_are_counted(run, target):
    code, out, _ = run(target, "-p", "bad=9", "-p", "on_error=substitute")
    assert code == 0
    assert "errors: 1 item failed, 1 item substituted" in out.splitlines()


def test_a_target_that_fails_ends_with_1_and_its_traceback(run, tmp_path):
    (tmp_path / "failing.py").write_text("raise RuntimeError('no data')")
    code, out, err = run(f"{tmp_path}/failing.py:loader")
    assert (code, out) == (1, "")
    assert "RuntimeError: no data" in err
    assert "hydrax_cli" not in err


def test_a_damaged_image_is_named(run, tmp_path):
    pil = pytest.importorskip("PIL.Image")
    for number in range(4):
        pil.fromarray(np.full((8, 8, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:50])
    code, _, err = run(str(tmp_path), "--batch", "2", "--size", "8", "--kind", "inline")
    assert code == 1
    assert f"{tmp_path}/2.png: the image cannot be read" in err


def test_rows_of_a_file_run(run, tmp_path):
    np.savez(tmp_path / "rows.npz", x=np.zeros((10, 3)), y=np.arange(10))
    values = result_of(run, str(tmp_path / "rows.npz"), "--batch", "4", "--kind", "inline")
    assert (values["training_batches"], values["items"]) == (3, 10)


def test_the_signal_handler_is_put_back(run):
    before = signal.getsignal(signal.SIGINT)
    run("--kind", "inline", "--batches", "1", "--quiet")
    assert signal.getsignal(signal.SIGINT) is before


def test_the_plan_tells_the_room_that_slots_really_take(capsys):
    assert run_command_line(["run", "--kind", "inline", "--batches", "1"]) == 0
    page = mmap.PAGESIZE  # a batch of digits takes 4.2 KiB
    room = -(-(4096 + 256) // page) * page
    out = capsys.readouterr().out
    assert f"memory: 3 slots x {size(room)} = {size(3 * room)}" in out
    assert "workers: none, the loader runs in line\n" in out
