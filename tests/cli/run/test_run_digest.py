import numpy as np
import pytest

from hydrax_cli.run.digest import RunDigest
from hydrax_core import DataGroup, Dataloader


def fill(item, arrays, seed):
    for array in arrays.values():
        array[...] = item % 7


def digest(fill=fill, items=range(32), batch=4, arrays=None, seed=0, loader_seed_only=False, **options):
    arrays = arrays or {"x": ((3,), "float32", "bfloat16"), "y": ((), "uint8")}
    group = DataGroup(batch, items, loader_arrays=arrays, seed=seed)
    valid = DataGroup(batch, range(6), loader_arrays=arrays, remainder="pad")
    options = {"validation": ("epoch", 1, valid), "end_at": ("epoch", 2), "loader_kind": "inline"} | options
    hashed = RunDigest()
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


def test_the_boundaries_between_arrays_count():
    one, other = RunDigest(), RunDigest()
    one._add(np.zeros(2, np.uint8))
    one._add(np.zeros(1, np.uint8))
    other._add(np.zeros(1, np.uint8))
    other._add(np.zeros(2, np.uint8))
    assert one.hexdigest() != other.hexdigest()


def test_it_is_the_same_on_every_machine_and_in_every_version():
    assert digest() == "0dc6efd2c5e6cd2897ce545bc30937de"
