"""Arguments of Dataloader: what is wrong is refused by name, with what came and what was expected."""

import threading

import pytest
from loaderkit import group, inline, load, records

from hydrax_core import Dataloader


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth: expected an int from 1 to 4096, got 0"),
        ({"loader_count": 0}, "loader_count: expected an int from 1 to 1024, got 0"),
        ({"start_at": (0, -1)}, r"start_at\[1\]: expected an int of at least 0"),
        ({"end_at": ("hours", 3)}, r"end_at\[0\]: expected one of 'epoch', 'batch', got 'hours'"),
        ({"validation": ("epoch", 0, group())}, r"validation\[1\]: expected an int of at least 1"),
        ({"loader_kind": "fork"}, "loader_kind: expected one of 'process', 'thread', 'inline', got 'fork'"),
        ({"on_error": "ignore"}, "on_error: expected one of 'raise', 'skip', 'substitute'"),
        ({"training": []}, "training: expected at least one DataGroup"),
        ({"max_held": 0}, "max_held: expected an int of at least 1"),
    ],
)
def test_wrong_values_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        Dataloader(**{"loader_func": load, "training": group(), **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loader_func": 5}, r"loader_func: expected a function of \(item, arrays, seed\), got 5"),
        ({"loader_func": lambda item: 1}, r"loader_func: it is called with \(item, arrays, seed\)"),
        ({"startup_func": load}, "startup_func: it is called with no argument"),
        ({"placement_func": load}, r"placement_func: it is called with \(arrays, layouts"),
        ({"training": [group(), 5]}, "training: expected DataGroups, got int at position 1"),
        ({"training": 5}, "training: expected a DataGroup or several, got int"),
        ({"validation": group()}, r"validation: expected \(\"epoch\", interval, groups\)"),
        ({"start_at": 5}, r"start_at: expected \(epoch, batches\)"),
        ({"timeout_sec": "soon"}, "timeout_sec: expected a number of seconds"),
        ({"deterministic": "yes"}, "deterministic: expected True or False"),
        ({"depth": 2.5}, "depth: expected an int"),
    ],
)
def test_wrong_types_are_refused_by_name(arguments, message):
    with pytest.raises(TypeError, match=message):
        Dataloader(**{"loader_func": load, "training": group(), **arguments})


def test_a_loader_that_cannot_travel_is_refused_with_advice():
    lock = threading.Lock()

    def locked(item, arrays, seed):
        with lock:
            pass

    with pytest.raises(TypeError, match=r"loader_func: it cannot be sent to worker processes.*startup_func"):
        Dataloader(locked, group()).__enter__()
    assert len(records(inline(loader=locked, loader_kind="thread"))) == 5


def test_replace_makes_a_new_loader():
    loader = inline(iter([group()]), validation=("epoch", 1, iter([group(8)])))
    again = loader.replace(loader_count=3, end_at=("batch", 2))
    assert again.loader_count == 3
    assert again.validation_interval == 5
    assert len(records(again)) == 2
    assert len(records(loader)) == 7
