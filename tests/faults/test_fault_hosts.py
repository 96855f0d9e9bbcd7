"""Hosts of one run, up to four processes with two devices each: placed every way, killed, resumed on other numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "core/loader"))

from hostkit import ENVIRONMENT, free_address, run_hosts
from test_global_batches import merged

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.environ.get("HYDRAX_FAULTS") != "long", reason="the everyday suite has two hosts"),
]
EXAMPLES = Path(__file__).parents[2] / "docs/examples"
AXES = {
    "rows": ["data"],
    "columns": [None, "model"],
    "both": ["data", "model"],
    "replicated": [None],
    "transposed": [["model", "data"]],
}


@pytest.fixture(scope="module")
def one_host():
    return run_hosts(1, {"model": True, "axes": [None], "size": 127})[0]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("axes", AXES)
def test_any_number_of_hosts_has_the_same_rows_however_they_are_spread(one_host, axes, count):
    setting = {"model": True, "axes": AXES[axes], "size": 127, "kind": "process"}
    hosts = run_hosts(count, setting)
    assert merged(hosts) == merged([one_host])
    assert all(host["losses"] == one_host["losses"] for host in hosts)
    for host in hosts:
        for batch in host["batches"]:
            assert len(batch["rows"]) == (24 // count if AXES[axes][0] else 24)


def test_a_training_stopped_on_four_hosts_goes_on_with_two_and_three_to_the_same_bits():
    whole = run_hosts(1, {"size": 127, "epochs": 3})[0]
    losses, setting, at = [], {"size": 127, "epochs": 3}, 0
    for count, stop in ((4, 4), (2, 7), (3, None)):
        hosts = run_hosts(count, {**setting, "stop": stop})
        assert len({str((host["losses"], host["weights"], host["state"])) for host in hosts}) == 1
        batches = merged(hosts)
        assert batches == merged([whole])[at : at + len(batches)]
        at += len(batches)
        losses += hosts[0]["losses"]
        setting |= {"state": hosts[0]["state"], "weights": hosts[0]["weights"]}
    assert at == len(whole["batches"])
    assert losses == whole["losses"]


@pytest.mark.parametrize("axes", AXES)
def test_packed_rows_stopped_on_four_hosts_go_on_with_two_and_three(axes):
    """One after the other, with documents that cannot be loaded; other rows of the plan stand in for theirs."""
    setting = {"documents": 300, "train": False, "verify": 2, "epochs": 3, "kind": "process"}
    setting |= {"bad": [5, 17, 120], "on_error": "substitute", "model": True}
    (one,) = run_hosts(1, {**setting, "axes": [None]})
    at = 0
    for count, stop in ((4, 9), (2, 14), (3, None)):
        hosts = run_hosts(count, {**setting, "axes": AXES[axes], "stop": stop})
        batches = one["batches"][at : at + len(hosts[0]["batches"])]
        for *parts, batch in zip(*(host["batches"] for host in hosts), batches, strict=True):
            assert {*batch["rows"]} == {row for part in parts for row in part["rows"]}
            for part in parts:
                assert part["address"] == batch["address"]
                assert part["rows"] == {row: batch["rows"][row] for row in part["rows"]}
        at += len(batches)
        assert len({str(host["state"]) for host in hosts}) == 1
        setting |= {"state": hosts[0]["state"]}
    assert at == len(one["batches"])
    assert setting["state"] == one["state"]


def test_a_training_killed_on_four_hosts_goes_on_with_two_and_three_to_the_same_bits(tmp_path):
    """Every host gets SIGKILL, while the others wait in a computation for the last of them."""
    setting = {"size": 127, "epochs": 3, "kind": "process"}
    whole = run_hosts(1, setting)[0]
    path = tmp_path / "checkpoint.json"
    losses, start = [], {}
    for count, steps in ((4, 5), (2, 6)):
        path.unlink(missing_ok=True)
        given = {**setting, **start, "checkpoint": str(path)}
        last = {**given, "hang": steps}

        def trained(steps=steps):
            return path.exists() and len(json.loads(path.read_text())["losses"]) == steps

        assert run_hosts(count, *[given] * (count - 1), last, until=trained) is None
        saved = json.loads(path.read_text())
        losses += saved.pop("losses")
        start = saved
    hosts = run_hosts(3, {**setting, **start})
    assert len(losses) == 11
    for host in hosts:
        assert losses + host["losses"] == whole["losses"]
        assert host["weights"] == whole["weights"]
        assert host["state"] == whole["state"]


def test_items_that_stand_in_for_bad_ones_are_the_same_on_any_number_of_hosts():
    items = [10**6 + item if item % 9 == 4 else item for item in range(127)]
    setting = {"items": items, "on_error": "substitute", "kind": "process", "model": True, "axes": [None]}
    one = run_hosts(1, setting)[0]
    assert "error" not in one
    for axes in (["data"], [None, "model"]):
        hosts = run_hosts(2, {**setting, "axes": axes, "verify": 2})
        for *parts, batch in zip(*(host["batches"] for host in hosts), one["batches"], strict=True):
            for part in parts:  # each host knows which items stand in for its own rows
                assert part["rows"] == {row: batch["rows"][row] for row in part["rows"]}
                own = [int(row) for row in part["rows"] if int(row) < batch["size"]]
                assert [part["indices"][row] for row in own] == [batch["indices"][row] for row in own]
            assert {*batch["rows"]} == {row for part in parts for row in part["rows"]}
        assert all(host["losses"] == one["losses"] for host in hosts)


def test_hosts_whose_copies_of_a_row_differ_are_found_on_the_way():
    setting = {"verify": 2, "train": False, "model": True, "axes": [None]}
    for host in run_hosts(2, setting, {**setting, "drift": 1}):
        assert "the hosts of this run differ after 2 batches" in host["error"]
        assert "digest of items and bytes: host 0 has '" in host["error"]
        assert "digest of indices and seeds" not in host["error"]
    assert not any("error" in host for host in run_hosts(2, setting))


@pytest.mark.parametrize("field", ["verify", "epochs"])
def test_other_settings_are_named(field):
    for host in run_hosts(2, {field: 1}, {field: 3}):
        assert {"verify": "verify_hosts_every", "epochs": "end"}[field] in host["error"]
        assert host["seconds"] < 25  # less than the timeout


def test_a_host_that_fails_ends_the_others_with_its_error():
    bad = [*range(30), 10**6, *range(31, 96)]
    hosts = run_hosts(2, {"items": bad, "train": False, "epochs": 1000, "later": "repeat"})
    errors = [host["error"] for host in hosts]
    assert all("a bad item" in error for error in errors)
    assert sorted(error.split(":")[0] for error in errors) == ["HostMismatchError", "LoaderError"]
    assert all(host["seconds"] < 20 for host in hosts)


def test_a_host_that_starts_no_loader_is_named():
    waiting, _ = run_hosts(2, {"timeout": 3}, {"silent": True})
    assert "host 1 of 2 said nothing before the first batch within 3 s" in waiting["error"]


def test_the_example_trains_on_two_hosts_of_slurm_as_on_one():
    """jax reads what the launcher says; each process has two devices."""
    job = {"JOB_ID": "1", "STEP_NODELIST": "127.0.0.1", "NTASKS": "2", "LOCALID": "0", "STEP_NUM_NODES": "2"}
    slurm = {f"SLURM_{name}": value for name, value in job.items()} | {"JAX_COORDINATOR_ADDRESS": free_address()}
    program = [sys.executable, EXAMPLES / "train_devices.py", "--epochs", "2"]
    four = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    one = subprocess.check_output(program, text=True, env=four)
    assert "on 4 devices" in one
    hosts = [
        subprocess.Popen(
            [*program, "--hosts"],
            stdout=subprocess.PIPE,
            text=True,
            env={**ENVIRONMENT, **slurm, "SLURM_PROCID": str(number)},
        )
        for number in range(2)
    ]
    try:
        outputs = [host.communicate(timeout=200)[0] for host in hosts]
    finally:
        for host in hosts:
            host.kill()
            with host:  # which closes its pipe
                pass
    told = [[line for line in output.splitlines() if not line.startswith("[Gloo]")] for output in outputs]
    assert told == [one.splitlines(), []]
