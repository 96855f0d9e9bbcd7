"""Batches over several devices of one process, and rows of hosts that know nothing of each other."""

import itertools

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from hydrax_core import DataGroup, Dataloader, batched
from hydrax_core.batch import jaxlib_private

ARRAYS = {"x": ((4,), np.float32), "half": ((2,), np.uint8, np.float32), "y": ((), np.int32)}
MESH = jax.make_mesh((2, 2), ("data", "model"))


def load(item, arrays, seed):
    arrays["x"][...] = item + np.arange(4) / 4
    arrays["half"][...] = item % 256
    arrays["y"][...] = 0 if seed is None else seed % 1000
    return {"text": str(item)}


def group(size=32, batch_size=8, **more):
    return DataGroup(batch_size, range(size), loader_arrays=ARRAYS, shuffle_first=True, **more)


def loader(train=None, **more):
    return Dataloader(load, train or group(), **{"loader_kind": "inline", "end_at": ("epoch", 2), **more})


def rows(batch):
    return {name: np.asarray(array).tolist() for name, array in batch.arrays.items()}


def by_names(*specs):
    return {name: NamedSharding(MESH, PartitionSpec(*specs[: len(ARRAYS[name][0]) + 1])) for name in ARRAYS}


@pytest.mark.parametrize(
    "sharding",
    [
        pytest.param((MESH, "data"), id="rows"),
        pytest.param((MESH, ("data", "model")), id="rows and columns"),
        pytest.param((MESH, (None, "model")), id="columns"),
        pytest.param((MESH, None), id="replicated"),
        pytest.param((MESH, (("model", "data"),)), id="transposed"),
        pytest.param(NamedSharding(MESH, PartitionSpec("model")), id="one sharding"),
        pytest.param(by_names("data", "model"), id="one for each array"),
        pytest.param(SingleDeviceSharding(jax.devices()[3]), id="a device"),
    ],
)
def test_a_sharded_run_has_the_batches_of_one_device_where_the_sharding_says(sharding):
    with loader() as plain, loader(sharding=sharding) as sharded:
        for expected, batch in zip(plain, sharded, strict=True):
            assert rows(batch) == rows(expected)
            assert (batch.indices, batch.seeds, batch.size) == (expected.indices, expected.seeds, expected.size)
            assert batch.get_additional("text") == expected.get_additional("text")
            assert tuple(batch.own_rows) == tuple(range(8))
            for name, array in batch.arrays.items():
                assert array.committed
                if isinstance(sharding, dict):
                    assert array.sharding == sharding[name]
            assert batch.mask.devices() == batch.arrays["x"].devices()


@pytest.mark.parametrize("mesh", [MESH, jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 2), ("data", "model"))])
def test_it_is_jaxlibs_own_function_that_spreads_the_batches(monkeypatch, mesh):
    with loader(sharding=(mesh, "data")) as running:
        asked = jax.device_put(np.zeros((8, 4), np.float32), NamedSharding(mesh, PartitionSpec("data")))
        assert next(running).arrays["x"].aval == asked.aval
        monkeypatch.setattr(jax, "device_put", None)
        monkeypatch.setattr(jax, "make_array_from_single_device_arrays", None)
        assert len(list(running)) == 7


def test_without_it_the_public_way_gives_the_same(monkeypatch):
    monkeypatch.setattr(jaxlib_private, "batched_device_put", None)
    with loader() as plain, loader(sharding=(MESH, ("data", "model"))) as sharded:
        for expected, batch in zip(plain, sharded, strict=True):
            assert rows(batch) == rows(expected)


def test_made_ahead_or_not_it_is_the_same():
    with loader(sharding=(MESH, "data"), loader_kind="thread") as running, loader() as plain:
        for batch, expected in zip(running, plain, strict=True):
            assert rows(batch) == rows(expected)


def test_large_shards_are_aliases_of_the_slot():
    big = DataGroup(8, range(16), loader_arrays={"x": ((1 << 14,), np.float32)})

    def fill(item, arrays, seed):
        arrays["x"][...] = item

    with Dataloader(fill, big, sharding=(MESH, "data"), loader_kind="inline", end_at=("epoch", 1)) as running:
        batch = next(running)
        start = {s.index[0].start or 0: s.data.unsafe_buffer_pointer() for s in batch.arrays["x"].addressable_shards}
        assert start[4] - start[0] == 4 * (1 << 16)


ODD = {"x": ((22, 1001), np.uint8), "y": ((6,), np.float32), "half": ((9_002,), np.uint8, np.float32)}
"""Arrays of which no device's part has a size that is a multiple of 64 bytes."""


def odd(item, arrays, seed):
    for name, array in arrays.items():
        array[...] = (item + len(name)) % 251
        array.reshape(-1)[-1] = item % 17


def odd_batches(size, **more):
    train = DataGroup(8, range(size), loader_arrays=ODD, remainder="pad", seed=3)
    with Dataloader(odd, train, end_at=("epoch", 2), **more) as running:
        for batch in running:
            yield batch, rows(batch)


@pytest.mark.parametrize(
    ("axes", "kind"),
    [
        ("data", "process"),
        (("data", "model"), "inline"),
        (None, "inline"),
        ((("model", "data"),), "inline"),
    ],
)
def test_no_size_of_a_row_costs_a_copy_or_changes_a_batch(axes, kind):
    """Each device's part lies at a multiple of 64 bytes, padding rows included, and is an alias of the slot."""
    plain = odd_batches(27, loader_kind="inline")
    for (expected, values), (batch, found) in zip(
        plain, odd_batches(27, sharding=(MESH, axes), loader_kind=kind), strict=True
    ):
        assert found == values
        assert batch.mask.tolist() == expected.mask.tolist()
        if axes in ("data", (("model", "data"),)):
            shards = batch.arrays["x"].addressable_shards
            starts = sorted({shard.data.unsafe_buffer_pointer() for shard in shards})
            part = 22 * 1001 * 8 // len(starts)
            assert len(starts) == (2 if axes == "data" else 4)
            assert {end - start for start, end in itertools.pairwise(starts)} == {-(-part // 64) * 64}


def test_a_loader_of_many_items_at_once_has_its_rows_together():
    shapes = []

    @batched
    def many(items, arrays, seeds):
        shapes.append({name: array.shape for name, array in arrays.items()})
        for row, item in enumerate(items):
            odd(item, {name: array[row] for name, array in arrays.items()}, None)

    train = DataGroup(8, range(16), loader_arrays={"x": ODD["x"]})
    with Dataloader(many, train, sharding=(MESH, "data"), loader_kind="inline", end_at=("epoch", 1)) as running:
        found = [rows(batch) for batch in running]
    with Dataloader(odd, train, loader_kind="inline", end_at=("epoch", 1)) as running:
        assert found == [rows(batch) for batch in running]
    assert all(len(shape["x"]) == 3 for shape in shapes)


def test_a_cache_takes_what_the_devices_get_and_gives_it_back(tmp_path):
    train = DataGroup(8, range(16), loader_arrays=ODD, cache_location=tmp_path)
    runs = []
    for _ in range(2):
        with Dataloader(odd, train, sharding=(MESH, "data"), loader_kind="inline", end_at=("epoch", 1)) as running:
            runs.append([rows(batch) for batch in running])
    assert runs[0] == runs[1]


def test_padding_is_masked_on_the_devices_of_the_rows():
    with loader(group(13, remainder="pad"), sharding=(MESH, "data"), end_at=("epoch", 1)) as running:
        *_, last = running
    assert last.size == 5
    assert last.mask.tolist() == [True] * 5 + [False] * 3
    assert last.mask.sharding.spec == PartitionSpec("data")
    assert len(jax.tree.leaves(last)) == 4


@pytest.mark.parametrize("count", [1, 2, 4, 8, 64])
def test_the_rows_of_all_hosts_together_are_the_batches_of_one(count):
    """Seeds, order and padding belong to the batch; the host that has no real row of the last one has it, too."""
    train = group(5 * 64 + 3, batch_size=64, remainder="pad")
    with loader(train) as one:
        expected = [rows(batch) for batch in one]
    hosts = [loader(train, hosts=(index, count)) for index in range(count)]
    parts = []
    for host in hosts:
        with host as running:
            parts.append(list(running))
    for count_of in (lambda loader: loader.stats().bytes, lambda loader: loader.stats().items):
        assert sum(map(count_of, hosts)) == count_of(one)
    for number, batch in enumerate(expected):
        for name, values in batch.items():
            joined = [row for part in parts for row in np.asarray(part[number].arrays[name]).tolist()]
            assert joined == values
        assert [row for part in parts for row in part[number].own_rows] == list(range(64))
        assert sum(part[number].size for part in parts) == (3 if number % 6 == 5 else 64)
        assert [m for part in parts for m in part[number].mask.tolist()].count(True) == sum(
            p[number].size for p in parts
        )


def test_a_state_goes_on_with_another_number_of_hosts():
    train = [group(40), group(24, seed=3)]
    valid = group(10, remainder="pad")
    settings = {"validation": ("batch", 3, valid)}
    with loader(train, **settings) as one:
        expected = [(batch.address, rows(batch)) for batch in one]
    state, joined = None, []
    for count, steps in ((4, 4), (2, 3), (8, 5), (1, len(expected) - 12)):
        hosts = [loader(train, hosts=(index, count), **settings) for index in range(count)]
        for host in hosts:
            if state is not None:
                host.load_state_dict(state)
        for _ in range(steps):
            parts = [next(host) for host in hosts]
            merged = {name: [row for part in parts for row in rows(part)[name]] for name in ARRAYS}
            joined.append((parts[0].address, merged))
        states = [host.state_dict() for host in hosts]
        assert all(other == states[0] for other in states)
        state = states[0]
        for host in hosts:
            host.close()
    assert joined == expected


def test_substitutes_and_the_cache_of_items_serve_any_number_of_hosts(tmp_path):
    def sometimes(item, arrays, seed):
        if item % 7 == 3:
            raise ValueError(item)
        load(item, arrays, 5)

    train = group(32, cache_location=tmp_path / "c", cache_by="item", shuffle_later="itemwise")
    with Dataloader(sometimes, group(32), on_error="substitute", loader_kind="inline", end_at=("epoch", 1)) as one:
        expected = [rows(batch) for batch in one]
    for count in (4, 2):
        parts = []
        for index in range(count):
            with Dataloader(
                sometimes,
                train,
                on_error="substitute",
                loader_kind="inline",
                end_at=("epoch", 1),
                hosts=(index, count),
            ) as running:
                parts.append([rows(batch) for batch in running])
        for number, batch in enumerate(expected):
            assert [row for part in parts for row in part[number]["x"]] == batch["x"]
    with Dataloader(
        sometimes, train, on_error="substitute", loader_kind="inline", end_at=("epoch", 1), hosts=(0, 4)
    ) as running:
        assert [batch.from_cache for batch in running].count(True) >= 1


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"sharding": "data"}, TypeError, "sharding: expected a jax.sharding.Sharding"),
        ({"sharding": {"x": NamedSharding(MESH, PartitionSpec())}}, ValueError, "sharding: array 'half' has none"),
        ({"sharding": (MESH, "rows")}, ValueError, "sharding: .*rows"),
        ({"sharding": (MESH, "data"), "training": group(9, 3)}, ValueError, "'x' of shape .* cannot be divided"),
        ({"sharding": (MESH, "data"), "placement_func": lambda *_: {}}, ValueError, "placement_func: sharding places"),
        ({"hosts": (2, 2)}, ValueError, r"hosts\[0\]"),
        ({"hosts": 2}, TypeError, r"hosts: expected \(index, count\)"),
        ({"hosts": (0, 3)}, ValueError, "hosts: a batch_size of 8 cannot be divided among 3"),
        ({"hosts": (0, 2), "on_error": "skip"}, ValueError, "on_error: 'skip' would leave out"),
        ({"hosts": (0, 2), "deterministic": False}, ValueError, "deterministic: several hosts"),
        ({"verify_hosts_every": -1}, ValueError, "verify_hosts_every"),
    ],
)
def test_what_cannot_be_is_refused_by_name(arguments, kind, text):
    train = arguments.pop("training", None)
    with pytest.raises(kind, match=text):
        loader(train, **arguments)


def test_a_cache_of_batches_is_refused_where_a_host_has_no_whole_batch(tmp_path):
    train = group(cache_location=tmp_path)
    with pytest.raises(ValueError, match="cache_by='item'"):
        loader(train, hosts=(0, 2))
    with loader(train, sharding=(MESH, "data")) as running:
        assert len(list(running)) == 8
