"""Global batches on hosts that are processes of ``jax.distributed``; many more of them in tests/faults."""

import pytest
from hostkit import run_hosts

import hydrax_core


def merged(hosts):
    """The batches of all hosts together: each row's digest, wherever it was loaded."""
    assert not [host["error"] for host in hosts if "error" in host]
    batches = []
    for parts in zip(*(host["batches"] for host in hosts), strict=True):
        rows = {}
        for part in parts:
            for row, digest in part["rows"].items():
                assert rows.setdefault(row, digest) == digest
        assert len({(part["address"], str(part["indices"]), part["size"]) for part in parts}) == 1
        assert all(part["global"] for part in parts)
        batches.append((parts[0]["address"], parts[0]["indices"], dict(sorted(rows.items()))))
    return batches


@pytest.fixture(scope="module")
def one_host():
    return run_hosts(1, {"size": 127})[0]


@pytest.mark.timeout(120)
def test_two_hosts_have_the_batches_of_one_and_train_to_the_same_bits(one_host):
    hosts = run_hosts(2, {"size": 127, "verify": 2})
    assert merged(hosts) == merged([one_host])
    assert all(len(batch["rows"]) == 12 for host in hosts for batch in host["batches"])
    for host in hosts:
        assert host["losses"] == one_host["losses"]
        assert host["weights"] == one_host["weights"]
        assert host["state"] == one_host["state"]
    real = [[len(batch["texts"]) for batch in host["batches"]] for host in hosts]
    assert real == [[12, 12, 12, 12, 12, 7, 12, 6] * 2, [12, 12, 12, 12, 12, 0, 12, 0] * 2]


@pytest.mark.timeout(120)
def test_hosts_that_are_about_to_do_different_things_say_so_instead_of_waiting_for_each_other():
    for host in run_hosts(2, {"seed": 1}, {"seed": 2, "size": 47, "version": "0.0.9"}):
        text = host["error"]
        assert "the hosts of this run differ before the first batch" in text
        assert "training.groups[0].seed: host 0 has 1, host 1 has 2" in text
        assert "training.groups[0].items: host 0 has 48, host 1 has 47" in text
        assert "training.groups[0].data: host 0 has '" in text
        assert f"  hydrax_version: host 0 has '{hydrax_core.__version__}', host 1 has '0.0.9'" in text
        assert host["seconds"] < 25  # less than the timeout


@pytest.mark.timeout(120)
def test_packed_rows_a_stream_and_buckets_go_on_with_another_number_of_hosts():
    setting = {"documents": 300, "train": False, "verify": 2}
    (one,) = run_hosts(1, {**setting, "pause": 7})
    whole = merged([one])
    assert {type(row) for _, indices, _ in whole[7:] for row in indices} == {list, int}
    hosts = run_hosts(2, {**setting, "state": one["paused"]})
    assert merged(hosts) == whole[7:]
    assert all(host["state"] == one["state"] for host in hosts)
