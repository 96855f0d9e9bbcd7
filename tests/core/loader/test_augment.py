"""``augment_func``: decoded once, augmented anew in every epoch."""

import json
import logging

import numpy as np
import pytest

from hydrax_core import DataGroup, Dataloader, LoaderError, Ragged, Source, batched, mix, pack
from hydrax_core import state as states
from hydrax_core.testing import check_loader, load_item

RAW = {"x": ((6,), "uint8"), "origin": ((), "uint32")}
MADE = {"x": ((4,), "uint8", "float32"), "origin": ((), "uint32"), "seed": ((), "uint32")}


def load(item, arrays, seed):
    arrays["x"][...] = (item + np.arange(6)) % 256
    arrays["origin"][...] = seed or 0
    return {"name": f"item {item}"}


@batched
def load_many(items, arrays, seeds):
    for row, item in enumerate(items):
        arrays["x"][row] = (item + np.arange(6)) % 256
        arrays["origin"][row] = 0 if seeds is None else seeds[row]
    return [{"name": f"item {item}"} for item in items]


def crop(loaded, arrays, seed):
    first = 0 if seed is None else seed % 3
    arrays["x"][...] = loaded["x"][first : first + 4]
    arrays["origin"][...] = loaded["origin"]
    arrays["seed"][...] = seed or 0


@batched(least=2, most=3)
def crop_many(loaded, arrays, seeds):
    for row in range(len(loaded["x"])):
        own = {name: array[row] for name, array in loaded.items()}
        crop(own, {name: array[row, ...] for name, array in arrays.items()}, None if seeds is None else seeds[row])


class Numbers(Source):
    def __len__(self):
        return 22

    def __getitem__(self, index):
        return range(22)[index]


class Own(list):
    """Data of the user's own kind, which a thread of the main process reads."""


def group(function=load, augment=crop, data=range(22), **more):
    arguments = {"loader_arrays": RAW, "augment_arrays": MADE, "shuffle_first": True, "remainder": "pad", **more}
    return DataGroup(4, data, loader_func=function, augment_func=augment, **arguments)


def record(batch):
    arrays = {name: np.asarray(array).tolist() for name, array in batch.arrays.items()}
    return batch.address, batch.indices, batch.seeds, arrays, {key: list(v) for key, v in batch.additional.items()}


def run(training, **more):
    options = {"loader_kind": "inline", "end_at": ("epoch", 3), **more}
    with Dataloader(training, **options) as loader:
        batches = [record(batch) for batch in loader]
        return batches, loader.stats()


def check(batches):
    """Every row is what ``crop`` makes of its item with its seed; origin of each (epoch, item)."""
    origins = {}
    for address, indices, seeds, arrays, additional in batches:
        for row, (index, seed) in enumerate(zip(indices, seeds, strict=True)):
            assert arrays["seed"][row] == seed
            assert arrays["x"][row] == [(index + seed % 3 + place) % 256 for place in range(4)]
            assert additional["name"][row] == f"item {index}"
            origins[address.epoch, index] = arrays["origin"][row], seed
        assert not any(map(any, arrays["x"][len(indices) :]))
        assert additional["name"][len(indices) :] == [None] * (4 - len(indices))
    return origins


@pytest.mark.parametrize("by", [None, "item", "batch"])
def test_the_cached_part_keeps_its_seed_and_the_augmentation_has_a_fresh_one_in_every_epoch(tmp_path, by):
    cache = {} if by is None else {"cache_location": tmp_path / "cache", "cache_by": by}
    first, _ = run(group(**cache))
    origins = check(first)
    fresh = {seed for _, seed in origins.values()}
    assert len(fresh) == 3 * 22
    assert not fresh & {origin for origin, _ in origins.values()}
    if by is not None:
        assert len({origin for origin, _ in origins.values()}) == 22
    second, stats = run(group(**cache))
    assert second == first
    assert stats.cache_hits == (0 if by is None else 18)


@pytest.mark.parametrize("by", ["item", "batch"])
@pytest.mark.parametrize("data", [range(22), Numbers(), Own(range(22))], ids=["range", "source", "own"])
@pytest.mark.parametrize("functions", [(load, crop), (load_many, crop), (load, crop_many), (load_many, crop_many)])
def test_what_is_loaded_and_what_is_cached_give_the_same_batches(tmp_path, by, data, functions):
    expected, _ = run(group(shuffle_later="batchwise"), end_at=("epoch", 2))
    cached = group(*functions, data, cache_location=tmp_path / "cache", cache_by=by)
    for _ in range(2):  # of the first run some is cached when it comes again, some is not
        found, _ = run(cached, end_at=("epoch", 2), loader_kind="thread", loader_count=2)
        if by == "batch":
            assert found == expected
        assert check(found).keys() == check(expected).keys()


@pytest.mark.parametrize(("kind", "by"), [("process", "item"), ("thread", "batch"), ("inline", "item")])
def test_every_kind_of_worker_augments_and_the_loader_is_not_called_for_what_is_cached(tmp_path, kind, by):
    def not_again(item, arrays, seed):
        raise AssertionError("it is cached")

    cache = {"cache_location": tmp_path / "cache", "cache_by": by, "shuffle_later": "batchwise"}
    filled, _ = run(group(**cache), end_at=("epoch", 1))
    options = {"loader_kind": kind, "end_at": ("epoch", 2)}
    for function, arrays in [(None, None), (not_again, RAW)][: 1 + (kind != "process")]:
        given = {} if arrays else {"loader_arrays": None, "cache_arrays": RAW}
        served, stats = run(group(function, **cache, **given), **options)
        assert served[: len(filled)] == filled
        assert check(served)
        assert stats.cache_misses == 0


@pytest.mark.parametrize("by", [None, "item"])
def test_it_resumes_anywhere_and_hosts_have_their_rows(tmp_path, by):
    cache = {} if by is None else {"cache_location": tmp_path / "cache", "cache_by": by}
    training = group(**cache)
    whole, _ = run(training)
    for behind in (1, 7, 17):
        loader = Dataloader(training, loader_kind="inline", end_at=("epoch", 3))
        with loader:
            for _ in range(behind):
                next(loader)
        other = loader.replace()
        other.load_state_dict(json.loads(json.dumps(loader.state_dict())))
        with other:
            assert [record(batch) for batch in other] == whole[behind:]
    parts = [run(training, hosts=(host, 2))[0] for host in range(2)]
    for complete, *rows in zip(whole, *parts, strict=True):
        assert [seed for part in rows for seed in part[2]] == list(complete[2])
        assert [row for part in rows for row in part[3]["x"]] == complete[3]["x"]


def test_repeat_repeats_the_augmentation_too_and_validation_has_no_seed():
    epochs, _ = run(group(shuffle_later="repeat"))
    assert [batch[1:] for batch in epochs[:6]] == [batch[1:] for batch in epochs[6:12]]
    with Dataloader(evaluation=group(), loader_kind="inline", loader_func=None) as loader:
        for batch in loader:
            assert np.asarray(batch.arrays["seed"]).tolist() == [0] * 4


def odd_fails(loaded, arrays, seed):
    if loaded["x"][0] % 5 == 3:
        raise ValueError("cannot be augmented")
    crop(loaded, arrays, seed)


@batched
def odd_fails_many(loaded, arrays, seeds):
    if (loaded["x"][:, 0] % 5 == 3).any():
        raise ValueError("cannot be augmented")
    crop_many(loaded, arrays, seeds)


@pytest.mark.parametrize("by", [None, "item", "batch"])
@pytest.mark.parametrize("augment", [odd_fails, odd_fails_many])
@pytest.mark.parametrize("function", [load, load_many])
def test_a_row_that_cannot_be_augmented_is_an_item_that_fails(tmp_path, by, augment, function, caplog):
    cache = {} if by is None else {"cache_location": tmp_path / "cache", "cache_by": by}
    failing = group(function, augment, **cache)
    for _ in range(2):  # then from the cache
        with (
            Dataloader(failing, loader_kind="inline", end_at=("epoch", 1)) as loader,
            pytest.raises(LoaderError) as info,
        ):
            list(loader)
        assert info.value.index % 5 == 3
        assert "cannot be augmented" in info.value.worker_traceback
        batches, stats = run(failing, end_at=("epoch", 1), on_error="skip")
        assert stats.skipped_batches + len(batches) == 6
        check(batches)
        batches, stats = run(failing, end_at=("epoch", 2), on_error="substitute")
        assert stats.substituted_items >= 8
        assert check(batches)
        assert not any(index % 5 == 3 for _, indices, *_ in batches for index in indices)
        run(group(**cache), end_at=("epoch", 1))


def test_other_code_of_the_augmentation_uses_the_same_cache_and_is_named_by_states(tmp_path, caplog):
    cache = {"cache_location": tmp_path / "cache", "cache_by": "item"}
    loader = Dataloader(group(**cache), loader_kind="inline", end_at=("epoch", 1))
    with loader:
        next(loader)
    state = loader.state_dict()
    assert "augmented by: crop " in states.explain(state)

    def mirrored(loaded, arrays, seed):
        arrays["x"][...] = loaded["x"][3::-1]

    with caplog.at_level(logging.WARNING, "hydrax"):
        other = Dataloader(group(augment=mirrored, **cache), loader_kind="inline", end_at=("epoch", 1))
        other.load_state_dict(state)
    assert "mirrored" in caplog.text
    with other:
        batch = next(other)
        assert batch.batch_num == 1
        assert np.asarray(batch.arrays["x"])[:, 3].tolist() == list(batch.indices)
    _, stats = run(group(augment=mirrored, **cache), end_at=("epoch", 1))
    assert stats.cache_hits >= 1
    with pytest.raises(Exception, match="augment_func"):
        Dataloader(DataGroup(4, range(22), loader_func=load, loader_arrays=RAW), loader_kind="inline").load_state_dict(
            state
        )


def test_what_it_may_not_do_fails_the_item():
    def returning(loaded, arrays, seed):
        crop(loaded, arrays, seed)
        return {"box": 3}

    def writing(loaded, arrays, seed):
        loaded["x"][...] = 0

    for augment, text in ((returning, "augment_func fills `arrays`"), (writing, "read-only")):
        with Dataloader(group(augment=augment), loader_kind="inline") as loader, pytest.raises(LoaderError, match=text):
            next(loader)


def test_arrays_of_the_loader_are_those_of_the_batch_where_no_others_are_declared():
    def mirrored(loaded, arrays, seed):
        for name, array in arrays.items():
            array[...] = loaded[name][..., ::-1] if name == "x" else loaded[name]

    training = DataGroup(4, range(8), loader_func=load, loader_arrays=RAW, augment_func=mirrored, labels=("origin",))
    with Dataloader(training, loader_kind="inline", end_at=("epoch", 1)) as loader:
        for batch in loader:
            assert np.asarray(batch.arrays["x"])[:, -1].tolist() == list(batch.indices)
            assert batch.layouts["x"].shape == (4, 6)
            assert list(batch.labels) == ["origin"]
            with pytest.raises(RuntimeError, match="no cache layouts"):
                batch.cache({})


def test_ragged_rows_packed_rows_and_mixtures_are_augmented():
    def letters(item, arrays, seed):
        return {"x": np.arange(item % 5 + 1)}

    def masked(loaded, arrays, seed):
        for name, array in arrays.items():
            array[...] = loaded[name]
        arrays["x"][...] = loaded["x"] + 10 * (loaded["segment_ids"] > 0)

    def shortened(loaded, arrays, seed):
        return {"x": loaded["x"][: loaded["x_length"] // 2 + 1]}

    ragged = DataGroup(2, range(40), loader_func=letters, loader_arrays={"x": ((Ragged(5),), "int32")})
    packed = pack(ragged, [number % 5 + 1 for number in range(40)], length=10, augment_func=masked)
    with Dataloader(packed, loader_kind="inline", end_at=("epoch", 1)) as loader:
        for batch in loader:
            segments, values = (np.asarray(batch.arrays[name]) for name in ("segment_ids", "x"))
            assert ((values >= 10) == (segments > 0)).all()
            assert all(isinstance(seed, int) for seed in batch.seeds)
    halves = mix([ragged, ragged.replace(data=range(40, 80))], [1, 1], augment_func=shortened)
    with Dataloader(halves, loader_kind="inline", end_at=("epoch", 1)) as loader:
        for batch in loader:
            lengths = [(index % 5 + 1) // 2 + 1 for index in batch.data]
            assert np.asarray(batch.arrays["x_length"]).tolist() == lengths


def test_what_does_not_go_together_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="augment_arrays: they need an augment_func"):
        group(augment=None)
    with pytest.raises(TypeError, match="augment_func: it is called with"):
        group(augment=lambda loaded: None)
    with pytest.raises(ValueError, match="cache_arrays: with an augment_func"):
        group(cache_arrays=MADE, cache_location=tmp_path)
    with pytest.raises(ValueError, match=r"augment_arrays\['x'\]: Ragged"):
        Dataloader(group(augment_arrays={"x": ((Ragged(),), "int32")}))
    ragged = group(loader_arrays={"x": ((Ragged(5),), "int32")}, augment_arrays=None)
    with pytest.raises(ValueError, match="augment_func: a packed group"):
        pack(ragged, [3] * 22, length=10)
    with pytest.raises(ValueError, match="another augment_func"):
        mix([group(), group(augment=crop_many)])


def test_check_loader_tries_it():
    def random(loaded, arrays, seed):
        crop(loaded, arrays, seed)
        arrays["seed"][...] = np.random.default_rng().integers(1, 2**32)

    assert check_loader(None, group()) == check_loader(None, group(load_many, crop_many)) == []
    assert check_loader(None, group(augment=random), [1]) == [
        "item 1: augment_func: 'seed' differs from call to call; use `seed` for randomness"
    ]
    arrays, additional = load_item(None, group(), 3, seed=7)
    assert (arrays["x"].tolist(), additional) == ([4, 5, 6, 7], {"name": "item 3"})
