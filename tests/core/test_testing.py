import random

import numpy as np

from hydrax_core import DataGroup, batched
from hydrax_core.testing import check_loader, load_item

GROUP = DataGroup(4, range(10), loader_arrays={"x": ((3,), "float32"), "y": ((), "int32")})


def load(item, arrays, seed):
    arrays["x"][...] = item
    arrays["y"][...] = seed or -1
    return {"item": item}


@batched
def load_many(items, arrays, seeds):
    arrays["x"][...] = np.array(items)[:, None]
    arrays["y"][...] = seeds or -1
    return [{"item": item} for item in items]


def test_an_item_is_loaded_as_a_worker_would():
    for loader in (load, load_many):
        arrays, additional = load_item(loader, GROUP, 7, seed=5)
        assert arrays["x"].tolist() == [7] * 3
        assert arrays["y"].shape == ()
        assert arrays["y"] == 5
        assert additional == {"item": 7}
        assert load_item(loader, GROUP, 7, seed=None)[0]["y"] == -1
        assert check_loader(loader, GROUP, range(10)) == []


def test_mistakes_that_show_late_are_found():
    def forgetful(item, arrays, seed):
        arrays["x"][: item % 3] = 1
        arrays["y"][...] = random.getrandbits(30)
        return {"luck": random.random()}

    findings = [
        "item 2: 'y' differs from call to call; use `seed` for randomness",
        "item 2: the additional data differ from call to call",
    ]
    assert check_loader(forgetful, GROUP, [2]) == findings
    assert check_loader(forgetful, GROUP.replace(zeroed=False), [2]) == [
        "item 2: 'x' is not filled entirely; with zeroed=False the rest is old data",
        *findings,
    ]
