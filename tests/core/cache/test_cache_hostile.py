"""A cache folder made by somebody who wants to do harm: nothing outside it is touched, refusals are clear."""

import contextlib
import json
import sqlite3
import struct

import cachekit as kit
import click
import pytest

from hydrax_cli.cache.render import info_lines
from hydrax_cli.inspect.cache_app.model.contents import Selection
from hydrax_cli.inspect.cache_app.model.source import CacheSource
from hydrax_core.cache import clear, info, verify
from hydrax_core.cache.format import manifest
from hydrax_core.errors import CacheError

JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")


def plant_journal(folder, victim, work):
    """A commit cut off in the middle, whose journal claims that the victim belongs to it."""
    work.mkdir()
    copy = work / "index.sqlite"
    copy.write_bytes((folder / "index.sqlite").read_bytes())
    connection = sqlite3.connect(copy, isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")  # so that changed pages and journal get into their files
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO entries SELECT 5, number, checksum, created, size, zeroblob(50000) FROM entries")
    journal, changed = (work / "index.sqlite-journal").read_bytes(), copy.read_bytes()
    connection.execute("ROLLBACK")
    connection.close()
    assert journal.startswith(JOURNAL_MAGIC)
    name = str(victim).encode()
    pointer = struct.pack(">I", (1 << 30) // 4096 + 1) + name + struct.pack(">II", len(name), sum(name)) + JOURNAL_MAGIC
    (folder / "index.sqlite").write_bytes(changed)
    (folder / "index.sqlite-journal").write_bytes(journal + pointer)


def look(folder):
    assert "names another file" in info(folder).problem


def check(folder):
    assert "corrupt" in [finding.what for finding in verify(folder)]


def repair(folder):
    assert all(finding.repaired for finding in verify(folder, repair=True))
    assert list(verify(folder)) == []
    assert info(folder).entries == kit.BATCHES


def clear_all(folder):
    clear(folder)
    assert list(folder.iterdir()) == []


def read(folder):
    kit.served(folder, cache_readonly=True)


def write(folder):
    assert len(kit.served(folder)[0]) == kit.BATCHES  # what the index held before is read from it, and checked


@pytest.mark.parametrize("use", [look, check, repair, clear_all, read, write])
def test_a_journal_that_names_another_file_does_not_remove_it(tmp_path, use):
    folder = kit.fill(tmp_path / "c")
    victim = tmp_path / "thesis.tex"
    victim.write_text("years of work")
    plant_journal(folder, victim, tmp_path / "work")
    use(folder)
    assert victim.read_text() == "years of work"


def test_the_journal_of_a_true_writer_is_played_back(tmp_path):
    folder = kit.fill(tmp_path / "c")
    plant_journal(folder, tmp_path / "nowhere", tmp_path / "work")
    journal = folder / "index.sqlite-journal"
    data = journal.read_bytes()
    journal.write_bytes(data[: data.rindex(str(tmp_path).encode()) - 4])
    assert info(folder).entries == kit.BATCHES
    assert not journal.exists()


def forge(folder, **changes):
    content = json.loads((folder / "hydrax-cache.json").read_text())
    del content["checksum"]
    content |= changes
    (folder / "hydrax-cache.json").write_bytes(manifest._pretty({**content, "checksum": manifest._checksum(content)}))


def nested(depth):
    return {"a": nested(depth - 1)} if depth else 1


ARRAY = {"shape": [8], "dtype": "float32", "jax_dtype": "float32", "stored": "<f4"}


def look_into(folder):
    """What the inspector does with a cache."""
    with contextlib.closing(CacheSource(folder)) as source:
        for group in source.load().groups:
            if group.info is None:
                continue
            entries = source.select(group, Selection(), [])
            page = entries.page(0, source.items_at_once(group))
            source.coverage(group, 0, max(1, group.info.entries_per_epoch // 100), None)
            if page:
                record = source.record(group, page, 0)
                source.glance(group, page)
                with contextlib.suppress(LookupError):
                    source.open(group, page, record)


@pytest.mark.parametrize(
    "changes",
    [
        {"entries": 2**60},
        {"entries": 2**33, "arrays": {"x": {**ARRAY, "shape": [1], "stored": "|u1"}}},
        {"entries": 2**50},
        {"entries": -1},
        {"entries": True},
        {"group_index": -1},
        {"group_index": 2**70},
        {"settings": nested(300)},
        {"settings": {"seed": [1]}},
        {"version": True},
        {"version": [1]},
        {"version": "\x1b[2J"},
        {"arrays": {"x": {**ARRAY, "stored": "<f32"}}},
        {"arrays": {"x": {**ARRAY, "stored": "|O8"}}},
        {"arrays": {"x": {**ARRAY, "stored": "|c1"}}},
        {"arrays": {"x": {**ARRAY, "shape": [2**40, 2**40]}}},
        {"arrays": {"x": {**ARRAY, "shape": [-1]}}},
        {"arrays": {"x": {**ARRAY, "shape": "12"}}},
        {"arrays": {"x": {**ARRAY, "shape": [1] * 5000}}},
        {"arrays": {"x": {**ARRAY, "shape": [1] * 40}}},
        {"arrays": {"x": {**ARRAY, "shape": []}}},
        {"arrays": {"x": ARRAY, "y": {**ARRAY, "shape": [4]}}},
        {"arrays": {"x": {**ARRAY, "shape": [8, 2**30]}}, "entries": 12},
        {"arrays": {"x": {**ARRAY, "shape": [2**30]}}, "entries": 12, "cache_by": "item"},
        {"arrays": {f"x{n}": ARRAY for n in range(20_000)}},
        {"arrays": {"x": {**ARRAY, "dtype": "object"}}},
        {"code": 1},
        {"code": {"load": 1}},
        {"arrays": {"../../../thesis": ARRAY}},
        {"arrays": {"a\0b": ARRAY}},
        {"arrays": {"\ud800": ARRAY}},
    ],
    ids=lambda changes: ascii(changes)[:50],
)
def test_a_forged_manifest_ends_in_findings_or_a_clear_error(tmp_path, changes):
    folder = kit.fill(tmp_path / "c")
    (tmp_path / "thesis.npy").write_text("years of work")
    forge(folder, **changes)
    for function in (info, lambda path: list(verify(path)), lambda path: list(verify(path, repair=True))):
        with contextlib.suppress(CacheError):
            function(folder)
    look_into(folder)
    assert (tmp_path / "thesis.npy").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "thesis.npy"]


def test_names_and_settings_cannot_control_the_terminal(tmp_path):
    folder = kit.fill(tmp_path / "c")
    bell = "\x1b[2J\x07"
    forge(
        folder,
        arrays={f"x{bell}": {**ARRAY, "dtype": f"float32{bell}"}},
        settings={"seed": bell, "items": bell},
        made={"at": bell, "by": bell, "hydrax": bell},
    )
    lines = [click.unstyle(line).replace("\x1b[2J", "") for line in info_lines(info(folder))]
    assert all(line.isprintable() for line in lines)
    raw = "".join(info_lines(info(folder)))
    assert "\x1b[2J" not in raw
    with pytest.raises(CacheError) as raised:
        kit.open_store(folder)
    assert "\x1b" not in str(raised.value)
