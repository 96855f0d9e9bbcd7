import json
import os
import random
import re

import cachekit as kit
import numpy as np
import pytest
import xxhash

from hydrax_core.cache import CacheStore, clear, info
from hydrax_core.cache.format.folder import MANIFEST, array_file_name, caches
from hydrax_core.cache.format.manifest import DamagedManifestError, Manifest, read_manifest
from hydrax_core.errors import CacheError, CacheMismatchError, NotACacheError
from hydrax_core.plan.order import group_order

LONG = "HYDRAX_CACHE_ROUNDS" in os.environ


def manifest_of(folder, **changes):
    return Manifest.of(kit.group(folder, **changes), kind="training", group_index=0, cache_by="batch")


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("settings.batch_size", {"batch_size": 4}),
        ("settings.seed", {"seed": 1}),
        ("settings.shuffle_first", {"shuffle_first": True}),
        ("settings.shuffle_later", {"shuffle_later": "itemwise"}),
        ("settings.remainder", {"remainder": "pad"}),
        ("settings.items", {"data": range(101)}),
        ("settings.data", {"data": [*range(99), 5]}),
        ("arrays.x.shape", {"loader_arrays": {**kit.ARRAYS, "x": ((4, 5), "float32")}}),
        ("arrays.x.dtype", {"loader_arrays": {**kit.ARRAYS, "x": ((4, 4), "int32")}}),
        ("arrays.x.jax_dtype", {"loader_arrays": {**kit.ARRAYS, "x": ((4, 4), "float32", "bfloat16")}}),
        ("arrays.more.shape", {"loader_arrays": {**kit.ARRAYS, "more": ((4, 4), "int32")}}),
        ("arrays.x.shape", {"loader_arrays": {"label": kit.ARRAYS["label"], "half": kit.ARRAYS["half"]}}),
        ("cache_by", {"cache_by": "item"}),
        ("kind", {"kind": "validation"}),
        ("group_index", {"group_index": 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_cache_made_for_something_else_is_refused_side_by_side(tmp_path, field, changes):
    kit.fill(tmp_path / "c", batches=range(2))
    before = kit.snapshot(tmp_path)
    for readonly in (False, True):
        with pytest.raises(CacheMismatchError, match=re.escape(field)) as error:
            kit.open_store(tmp_path / "c", cache_readonly=readonly, **changes)
        assert "cache" in str(error.value)
        assert "group" in str(error.value)
    assert kit.snapshot(tmp_path) == before


def test_the_refusal_shows_both_values(tmp_path):
    kit.fill(tmp_path, batches=range(1))
    with pytest.raises(CacheMismatchError, match=r"settings.seed +0 +123"):
        kit.open_store(tmp_path, seed=123)


def test_the_order_in_which_arrays_are_declared_does_not_matter(tmp_path):
    kit.fill(tmp_path)
    turned = dict(reversed(kit.ARRAYS.items()))
    with kit.open_store(tmp_path, loader_arrays=turned) as store:
        assert kit.serve(store, 3)
        assert list(store.read(0, 3).arrays) == list(turned)


def test_validation_ignores_seed_and_shuffle_because_it_has_none(tmp_path):
    kit.fill(tmp_path, kind="validation")
    assert len(kit.served(tmp_path, kind="validation", group_index=3, seed=5, shuffle_first=True)[0]) == kit.BATCHES


def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    before = kit.snapshot(tmp_path)
    for act in (kit.open_store, info, clear):
        with pytest.raises(NotACacheError, match="no hydrax cache"):
            act(tmp_path)
    with pytest.raises(NotACacheError):
        kit.open_store(tmp_path / "thesis.tex")
    assert kit.snapshot(tmp_path) == before


def test_checkpoints_in_folders_named_like_epochs_are_no_cache(tmp_path):
    (tmp_path / "epoch-0").mkdir()
    (tmp_path / "epoch-0" / "weights.npy").write_text("dear")
    with pytest.raises(NotACacheError):
        clear(tmp_path)
    with pytest.raises(NotACacheError):
        kit.open_store(tmp_path)
    assert (tmp_path / "epoch-0" / "weights.npy").read_text() == "dear"


def test_a_missing_cache_that_is_only_read_is_empty_or_refused(tmp_path, caplog):
    with kit.open_store(tmp_path / "c", cache_readonly=True) as store:
        assert store.read(0, 0) is None
    assert "no cache yet" in caplog.text
    with pytest.raises(NotACacheError, match="loader_arrays"):
        kit.open_store(tmp_path / "c", loader_arrays=None, cache_arrays=kit.ARRAYS)
    assert not (tmp_path / "c").exists()


def test_a_later_version_of_the_format_is_refused(tmp_path):
    kit.fill(tmp_path, batches=range(1))
    content = json.loads((tmp_path / MANIFEST).read_text())
    content["version"] = 7
    del content["checksum"]
    coded = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    content["checksum"] = xxhash.xxh3_128_hexdigest(coded)
    (tmp_path / MANIFEST).write_text(json.dumps(content, sort_keys=True, indent=1) + "\n")
    with pytest.raises(CacheMismatchError, match="version 7"):
        kit.open_store(tmp_path)


def test_changed_bytes_and_cuts_of_the_manifest_is_noticed(tmp_path):
    kit.fill(tmp_path, batches=range(1))
    path = tmp_path / MANIFEST
    whole, source = path.read_bytes(), random.Random(0)
    for position in range(0, len(whole), 1 if LONG else 5):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << source.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(DamagedManifestError):
            read_manifest(tmp_path)
    for size in range(0, len(whole), 1 if LONG else 17):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedManifestError):
            read_manifest(tmp_path)


@pytest.mark.parametrize("damage", ["flipped", "cut", "deleted"])
def test_a_damaged_manifest_is_written_anew_and_the_entries_stay(tmp_path, damage):
    kit.fill(tmp_path)
    path = tmp_path / MANIFEST
    whole = path.read_bytes()
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(whole[:40] + (b"~" + whole[41:] if damage == "flipped" else b""))
    readonly, _ = kit.served(tmp_path, cache_readonly=True)
    found, counters = kit.served(tmp_path)
    assert len(readonly) == len(found) == kit.BATCHES
    assert counters.corrupt == 0
    assert read_manifest(tmp_path).identity() == manifest_of(tmp_path).identity()


def test_entries_under_a_lost_manifest_are_not_served_to_another_group(tmp_path):
    kit.fill(tmp_path)
    (tmp_path / MANIFEST).unlink()
    with kit.open_store(tmp_path, seed=1) as store:
        assert [store.read(0, number) for number in range(kit.BATCHES)] == [None] * kit.BATCHES
        assert store.counters().corrupt == kit.BATCHES


@pytest.mark.parametrize("content", ["[]", "{}", "[" * 100_000, '{"format": "hydrax-cache"}', "\x00" * 100, "1e999"])
def test_a_manifest_of_nonsense_is_damaged(tmp_path, content):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(DamagedManifestError):
        read_manifest(tmp_path)
    with pytest.raises(CacheError, match="damaged"):
        info(tmp_path)


def test_one_of_several_creators_at_once_makes_the_cache(tmp_path):
    script = """
        seed = int(arguments[1])
        print("ready"); sys.stdin.readline()
        try:
            with kit.open_store(arguments[0], seed=seed) as store:
                store.write(0, 0, kit.batch(0)); print("made", seed)
        except Exception as error:
            print(type(error).__name__, seed)
    """
    children = [kit.start(script, tmp_path / "c", seed % 2) for seed in range(4)]
    for child in children:
        assert child.line() == "ready"
    for child in children:
        child.tell("go")
    results = sorted(child.result().strip() for child in children)
    winner = read_manifest(tmp_path / "c").settings["seed"]
    assert results == sorted([f"made {winner}"] * 2 + [f"CacheMismatchError {1 - winner}"] * 2)
    assert [path.name for path in (tmp_path / "c").iterdir() if path.suffix == ".tmp"] == []


def test_names_of_arrays_become_safe_and_different_file_names(tmp_path):
    names = ["a/b", "a%2Fb", "..", ".", ".hidden", "é", "\ud800", "x" * 500, "x" * 499 + "y", "A b\n", "~", "\x00"]
    files = [array_file_name(name) for name in names]
    assert len(set(files)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_%~-][A-Za-z0-9._%~-]*\.npy", file) for file in files)
    arrays = dict.fromkeys(names, ((2,), "int32"))
    group = kit.group(tmp_path / "c", loader_arrays=arrays)
    data = {name: np.full((kit.BATCH, 2), place, np.int32) for place, name in enumerate(names)}
    with CacheStore.open(group, kind="training", group_index=0) as store:
        store.write(0, 1, data)
        store.flush()
        assert kit.equal(store.read(0, 1).arrays, data)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_folder_of_caches_is_found_through_its_parent(tmp_path):
    for name in ("b", "a"):
        kit.fill(tmp_path / name, batches=range(1))
    (tmp_path / "other").mkdir()
    assert caches(tmp_path) == (tmp_path / "a", tmp_path / "b")
    assert caches(tmp_path / "a") == (tmp_path / "a",)
    with pytest.raises(NotACacheError):
        caches(tmp_path / "other")


def constant(item, arrays, seed):
    arrays["x"][...] = 1


def other_constant(item, arrays, seed):
    arrays["x"][...] = 100


def test_another_version_of_the_users_is_another_cache(tmp_path):
    kit.fill(tmp_path, batches=range(2))
    with pytest.raises(CacheMismatchError, match=r"settings\.version +0 +two"):
        kit.open_store(tmp_path, cache_version="two")
    for kind in ("training", "validation"):
        for by in ("batch", "item"):
            versions = {
                Manifest.of(
                    kit.group(tmp_path, cache_version=n, cache_by=by), kind=kind, group_index=0, cache_by=by
                ).identity_digest()
                for n in (0, 1)
            }
            assert len(versions) == 2


@pytest.mark.parametrize("readonly", [False, True])
def test_another_loader_is_served_what_is_cached_with_a_warning_that_names_it(tmp_path, caplog, readonly):
    kit.fill(tmp_path, loader_func=constant)
    assert kit.served(tmp_path, loader_func=constant)[0] == list(range(kit.BATCHES))
    assert caplog.messages == []
    assert kit.served(tmp_path, loader_func=other_constant, cache_readonly=readonly)[0] == list(range(kit.BATCHES))
    assert len(caplog.messages) == 1
    assert "(constant, other_constant)" in caplog.messages[0]
    assert "cache_version" in caplog.messages[0]


def test_the_loader_of_the_dataloader_counts_where_the_group_brings_none(tmp_path, caplog):
    group = kit.group(tmp_path)
    for function in (constant, other_constant):
        CacheStore.open(group, kind="training", group_index=0, loader_func=function).close()
    assert "(constant, other_constant)" in caplog.messages[0]
    assert set(info(tmp_path).code) == {"python", "constant"}


@pytest.mark.parametrize("later", ["itemwise", "reseed", "batchwise"])
def test_an_item_of_a_cache_of_items_has_one_seed_in_all_epochs(tmp_path, later):
    def seeds(epoch, **changes):
        order = group_order(kit.group(tmp_path, shuffle_later=later, **changes), "training", 0)
        batches = [order.batch(epoch, number) for number in range(kit.BATCHES)]
        return {int(i): int(seed) for batch in batches for i, seed in zip(batch.indices, batch.seeds, strict=True)}

    first, second = seeds(0, cache_by="item"), seeds(1, cache_by="item")
    assert first.keys() & second.keys()
    assert all(first[index] == second[index] for index in first.keys() & second.keys())
    assert (seeds(0) == seeds(1)) == (later == "batchwise")
