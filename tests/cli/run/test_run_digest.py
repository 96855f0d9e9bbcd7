import json

import numpy as np
import pytest

from hydrax_cli.main import run_command_line
from hydrax_cli.run.digest import RowsDigest, RunDigest
from hydrax_core import DataGroup, Dataloader


def fill(item, arrays, seed):
    for array in arrays.values():
        array[...] = item % 7


def digest(fill=fill, items=range(32), batch=4, arrays=None, seed=0, hashed=None, **options):
    arrays = arrays or {"x": ((3,), "float32", "bfloat16"), "y": ((), "uint8")}
    group = DataGroup(batch, items, loader_arrays=arrays, seed=seed)
    valid = DataGroup(batch, range(6), loader_arrays=arrays, remainder="pad")
    options = {"validation": ("epoch", 1, valid), "end_at": ("epoch", 2), "loader_kind": "inline"} | options
    hashed = hashed or RunDigest()
    for handed_out in Dataloader(fill, group, **options):
        hashed.update(handed_out)
    return hashed.hexdigest()


@pytest.mark.parametrize(
    "options", [{"loader_kind": "thread"}, {"loader_count": 2, "loader_kind": "process"}, {"depth": 1}], ids=str
)
def test_how_the_batches_are_loaded_does_not_change_it(options):
    assert digest(**options) == digest()


def other_byte(item, arrays, seed):
    fill(item, arrays, seed)
    if item == 31:
        arrays["x"][2] = 100


def test_a_single_other_value_changes_it():
    assert digest(other_byte) != digest()


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 1},
        {"end_at": ("epoch", 1)},
        {"start_at": (0, 1)},
        {"validation": None},
        {"items": range(1, 33)},
        {"arrays": {"x": ((3,), "float32"), "y": ((), "uint8")}},
        {"arrays": {"z": ((3,), "float32", "bfloat16"), "y": ((), "uint8")}},
    ],
    ids=str,
)
def test_other_order_seeds_bytes_names_or_dtypes_change_it(options):
    assert digest(**options) != digest()


def constant(item, arrays, seed):
    arrays["x"][...] = 1


def test_items_of_equal_bytes_in_another_order_change_it():
    arrays = {"x": ((), "uint8")}
    assert digest(constant, arrays=arrays, seed=1) != digest(constant, arrays=arrays, seed=2)


@pytest.mark.parametrize("count", [2, 4])
def test_the_digests_of_hosts_add_up_to_that_of_one(count):
    """Every row counts once, those of padding too, whichever host has it."""
    whole = digest(hashed=RowsDigest(), hosts=(0, 1))
    parts = [digest(hashed=RowsDigest(), hosts=(index, count)) for index in range(count)]
    assert f"{sum(int(part, 16) for part in parts) % 2**128:032x}" == whole
    assert len({whole, *parts}) == count + 1


@pytest.mark.parametrize("options", [{"seed": 1}, {"end_at": ("epoch", 1)}, {"items": range(1, 33)}], ids=str)
def test_what_changes_the_run_changes_the_digest_of_its_rows(options):
    assert digest(hashed=RowsDigest(), **options) != digest(hashed=RowsDigest())
    assert digest(other_byte, hashed=RowsDigest()) != digest(hashed=RowsDigest())


def test_the_command_has_a_host_load_its_rows(tmp_path):
    found = []
    for host in ("0/1", "0/2", "1/2"):
        at = tmp_path / "result.json"
        options = ["--kind", "inline", "--batch", "16", "--epochs", "1", "--quiet", "--digest"]
        assert run_command_line(["run", *options, "--hosts", host, "--json", str(at)]) == 0
        found.append(int(json.loads(at.read_text())["digest"], 16))
    assert (found[1] + found[2]) % 2**128 == found[0]
    assert run_command_line(["run", "--hosts", "2/2"]) == 2


def test_the_boundaries_between_arrays_count():
    one, other = RunDigest(), RunDigest()
    one._add(np.zeros(2, np.uint8))
    one._add(np.zeros(1, np.uint8))
    other._add(np.zeros(1, np.uint8))
    other._add(np.zeros(2, np.uint8))
    assert one.hexdigest() != other.hexdigest()


def test_it_is_the_same_on_every_machine_and_in_every_version():
    assert digest() == "0dc6efd2c5e6cd2897ce545bc30937de"
