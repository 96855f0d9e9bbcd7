import importlib.metadata
import json
import os
import random
import re

import cachekit as kit
import numpy as np
import pytest
import xxhash

from hydrax_core.cache import CacheStore, clear, info
from hydrax_core.cache.format import manifest as manifest_module
from hydrax_core.cache.format.folder import MANIFEST, array_file_name, caches
from hydrax_core.cache.format.manifest import (
    DamagedManifestError,
    Manifest,
    read_manifest,
    side_by_side,
    write_manifest,
)
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


ARRAY = {"shape": [8], "dtype": "float32", "jax_dtype": "float32", "stored": "<f4"}


def forged(folder, **changes):
    """The manifest of what somebody wrote who knows the format; a value that is ``...`` is left out."""
    write_manifest(folder, manifest_of(folder))
    content = {**json.loads((folder / MANIFEST).read_text()), "entries": 12, "arrays": {"x": ARRAY}, **changes}
    content = {key: value for key, value in content.items() if key != "checksum" and value is not ...}
    coded = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    content["checksum"] = xxhash.xxh3_128_hexdigest(coded)
    (folder / MANIFEST).write_text(json.dumps(content, sort_keys=True, indent=1) + "\n")
    return read_manifest(folder)


def array(**changes):
    return {"arrays": {"x": {**ARRAY, **changes}}}


@pytest.mark.parametrize(
    "changes",
    [
        {"entries": 1},
        {"entries": 2**57 - 1},  # of 32 bytes
        {"kind": "validation", "group_index": None},
        {"group_index": 2**31 - 1},
        {"cache_by": "item", "arrays": {"x": ARRAY, "y": {**ARRAY, "shape": []}}},
        {"arrays": {"x": ARRAY, "y": {**ARRAY, "shape": [8, 3]}}},
        array(shape=[8, *[1] * 31]),
        {"entries": 1, **array(shape=[2**38])},
        {"cache_by": "item", **array(stored="|u1", shape=[])},
        {"settings": {"a": "b", "c": 1, "d": 1.5, "e": True, "f": None}},
        {"made": {}, "code": {}, "settings": {}},
        {"code": {"load": "1234"}},
    ],
    ids=lambda changes: ascii(changes)[:50],
)
def test_a_manifest_within_the_bounds_is_read_as_it_was_written(tmp_path, changes):
    found = forged(tmp_path, **changes)
    for field in {"entries", "kind", "group_index", "cache_by", "settings", "made", "code"} & changes.keys():
        assert getattr(found, field) == changes[field]
    arrays = changes.get("arrays", {"x": ARRAY})
    assert found.identity()["arrays"] == arrays
    assert [array.name for array in found.arrays] == sorted(arrays)
    write_manifest(tmp_path, found)
    assert read_manifest(tmp_path) == found


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "other"},
        {"format": ...},
        {"entries": 0},
        {"entries": -1},
        {"entries": True},
        {"entries": 12.0},
        {"entries": 2**57},
        {"kind": "testing"},
        {"group_index": -1},
        {"group_index": 2**31},
        {"group_index": True},
        {"cache_by": "epoch"},
        {"settings": []},
        {"settings": {"seed": [1]}},
        {"made": []},
        {"made": {"at": 1}},
        {"code": 1},
        {"code": {"load": 1}},
        {"arrays": {}},
        {"arrays": []},
        {"arrays": {"x": ARRAY, "y": {**ARRAY, "shape": [4]}}},
        {"arrays": {"x": ARRAY, "y": {**ARRAY, "shape": []}}},
        {
            "entries": 1,
            "arrays": {
                "x": {**ARRAY, "shape": [8, 2**34]},
                "y": {**ARRAY, "shape": [8, 2**34 - 1]},
                "z": ARRAY,
                "zz": {**ARRAY, "stored": "|u1"},
            },
        },
        array(shape=[]),
        array(shape=[0]),
        array(shape=[-1]),
        array(shape=[True]),
        array(shape=[8.0]),
        array(shape="12"),
        array(shape=8),
        array(shape=[8, *[1] * 32]),
        array(shape=[2**38 + 1]),
        array(dtype=5),
        array(jax_dtype=None),
        array(stored=4),
        array(stored="float32"),
        array(stored="<f32"),
        array(stored="|O8"),
        array(stored="|c1"),
        array(stored="<f4 "),
        *(
            {field: ...}
            for field in ("kind", "group_index", "cache_by", "entries", "settings", "arrays", "made", "code")
        ),
        *({"arrays": {"x": {k: v for k, v in ARRAY.items() if k != gone}}} for gone in ARRAY),
    ],
    ids=lambda changes: ascii(changes)[:50],
)
def test_a_manifest_beyond_the_bounds_is_damaged(tmp_path, changes):
    with pytest.raises(DamagedManifestError):
        forged(tmp_path, **changes)


@pytest.mark.parametrize("version", [0, 2, True, 1.0, None, [1], ...])
def test_only_the_version_that_is_known_is_read(tmp_path, version):
    with pytest.raises(CacheMismatchError, match="has the format version"):
        forged(tmp_path, version=version)


def test_a_manifest_that_is_too_long_or_too_deep_is_damaged(tmp_path, monkeypatch):
    deep = 1
    for _ in range(500):
        deep = {"a": deep}
    with pytest.raises(DamagedManifestError):
        forged(tmp_path, settings=deep)
    write_manifest(tmp_path, manifest_of(tmp_path))
    size = (tmp_path / MANIFEST).stat().st_size
    monkeypatch.setattr(manifest_module, "_LARGEST", size)
    assert read_manifest(tmp_path) is not None
    monkeypatch.setattr(manifest_module, "_LARGEST", size - 1)
    with pytest.raises(DamagedManifestError, match="does not say"):
        read_manifest(tmp_path)


def test_a_manifest_names_so_many_arrays_and_no_more(tmp_path, monkeypatch):
    assert manifest_module._MOST_ARRAYS == 10_000
    monkeypatch.setattr(manifest_module, "_MOST_ARRAYS", 3)
    assert len(forged(tmp_path, arrays=dict.fromkeys("abc", ARRAY)).arrays) == 3
    with pytest.raises(DamagedManifestError, match="a field is wrong"):
        forged(tmp_path, arrays=dict.fromkeys("abcd", ARRAY))


def test_a_manifest_that_cannot_be_put_in_place_leaves_nothing(tmp_path):
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(OSError, match=MANIFEST):
        write_manifest(tmp_path, manifest_of(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]
    assert read_manifest(tmp_path / "missing") is None


def test_a_manifest_says_for_people_who_made_it_and_when(tmp_path, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    made = manifest_of(tmp_path).made
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", made["at"])
    assert made["by"].startswith("ada@")

    def unknown(*_):
        raise importlib.metadata.PackageNotFoundError

    def nameless():
        raise KeyError("uid")

    monkeypatch.setattr("getpass.getuser", nameless)
    monkeypatch.setattr("importlib.metadata.version", unknown)
    made = manifest_of(tmp_path).made
    assert made["by"].startswith(f"{os.getuid()}@")
    assert made["hydrax"] == "unknown"


def test_what_decides_content_is_part_of_the_identity_of_a_cache_and_what_does_not_is_not(tmp_path):
    def settings(kind="training", by="batch", **changes):
        made = kit.group(tmp_path, cache_by=by, **changes)
        return set(Manifest.of(made, kind=kind, group_index=2, cache_by=by).settings)

    assert settings() >= {
        "items",
        "data",
        "batch_size",
        "seed",
        "shuffle_first",
        "shuffle_later",
        "remainder",
        "version",
    }
    assert settings(by="item") == {"items", "data", "seed", "version"}
    assert settings("validation") == {"items", "data", "batch_size", "remainder", "version"}
    assert settings("validation", by="item") == {"items", "data", "version"}
    batches = Manifest.of(kit.group(tmp_path), kind="training", group_index=2, cache_by="batch")
    items = Manifest.of(kit.group(tmp_path, cache_by="item"), kind="validation", group_index=2, cache_by="item")
    assert (batches.entries, batches.group_index, batches.arrays[-1].shape) == (kit.BATCHES, 2, (kit.BATCH, 4, 4))
    assert (items.entries, items.group_index, items.arrays[-1].shape) == (kit.ITEMS, None, (4, 4))
    assert [array.name for array in items.arrays] == ["half", "label", "x"]
    assert [array.stored for array in items.arrays] == ["<u2", "<i8", "<f4"]
    assert [array.nbytes for array in batches.arrays] == [kit.BATCH * 6, kit.BATCH * 8, kit.BATCH * 64]


def test_what_differs_is_shown_in_columns_without_control_codes():
    table = side_by_side([("settings.seed", "0", "123"), ("kind", "training", "validation")], "group")
    assert table.splitlines() == [
        "                 cache     group",
        "  settings.seed  0         123",
        "  kind           training  validation",
    ]
    assert side_by_side([("settings.data", "a", "b")], "group").splitlines()[3].startswith("settings.data is ")


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
