"""A cache whose manifest or index somebody has made up: the app lives and says what is wrong."""

import contextlib
import json
import sqlite3
import time

import pytest
from inspect_support import asynchronous, texts

from hydrax_cli.inspect.cache_app.app import CacheApp
from hydrax_cli.inspect.cache_app.model.source import CacheSource
from hydrax_core import DataGroup, Dataloader
from hydrax_core.cache.format.manifest import _checksum, _pretty

EVIL = "[/red]\x1b]0;owned\x07\x9b2J\udce9"


def fill(item, arrays, seed):
    arrays["x"][...] = item


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("caches") / "training-0"
    group = DataGroup(4, range(16), loader_arrays={"x": ((2, 2), "float32")}, cache_location=folder)
    list(Dataloader(fill, group, loader_kind="inline", end_at=("epoch", 1)))
    return folder


ARRAY = {"dtype": "float32", "jax_dtype": "float32", "shape": [4, 2, 2], "stored": "<f4"}
FORGED = [
    {"arrays": {"x": {**ARRAY, "shape": []}}},
    {"arrays": {"x": {**ARRAY, "shape": [1, 2**40]}}, "settings": {}},
    {"arrays": {EVIL: {**ARRAY, "dtype": EVIL, "jax_dtype": EVIL}}, "made": {"at": EVIL, "by": EVIL}},
    {"settings": {"items": EVIL, "seed": EVIL, "shuffle_later": EVIL, "batch_size": EVIL}},
    {"settings": {"items": 10**300, "seed": -(10**300), "shuffle_later": None, "batch_size": 0}},
    {"entries": 2**50, "cache_by": "item"},
]
"""What passes for a manifest, its checksum made to fit."""


async def look(folder):
    """Go everywhere in a cache."""
    source = CacheSource(folder.parent)
    app = CacheApp(source, folder.parent)
    try:
        async with app.run_test(size=(100, 34)) as pilot:
            for key in ("", "enter", "escape", "m"):
                deadline = time.monotonic() + 20
                while not app.at_rest:
                    assert time.monotonic() < deadline
                    await pilot.pause(0.01)
                await pilot.press(*([key] if key else []))
                assert not {"\x1b", "\x9b", "\x07"} & set("".join(texts(app)))
    finally:
        source.close()


@pytest.mark.parametrize("changes", FORGED, ids="-".join)
def test_no_manifest_breaks_the_screen(manifest, changes):
    path = manifest / "hydrax-cache.json"
    before = path.read_bytes()
    values = {**json.loads(before), **changes}
    del values["checksum"]
    path.write_bytes(_pretty({**values, "checksum": _checksum(values)}))
    try:
        asynchronous(look)(manifest)
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("odd", [-1, 1e300])
def test_no_row_of_the_index_breaks_the_screen(manifest, odd):
    path = manifest / "index.sqlite"
    before = path.read_bytes()
    with contextlib.closing(sqlite3.connect(path)) as index, index:
        (table,) = [name for (name,) in index.execute("SELECT name FROM sqlite_master WHERE type='table'")][:1]
        columns = [row[1] for row in index.execute(f"PRAGMA table_info({table})")]
        for column in columns:
            try:
                index.execute(f"UPDATE OR IGNORE {table} SET {column} = ? WHERE rowid % 3 = 1", (odd,))
            except sqlite3.Error:
                continue
    index.close()
    try:
        asynchronous(look)(manifest)
    finally:
        path.write_bytes(before)
