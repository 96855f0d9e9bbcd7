"""The looks of the cache screen, pinned as pictures in ``looks/``, as in ``test_inspect_looks.py``."""

from itertools import islice
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from inspect_support import asynchronous, still_picture, until, until_drawn
from test_inspect_looks import SIZES, compare

from hydrax_cli.inspect.cache_app.app import CacheApp
from hydrax_cli.inspect.cache_app.model.contents import Group, Key, Snapshot, VerifyProgress
from hydrax_cli.inspect.cache_app.model.listing import KeyList
from hydrax_cli.inspect.cache_app.model.views import record_of, view_of
from hydrax_core.cache import CacheInfo, Cleared, EntryInfo, EpochCount, Finding, StoredArray, StoredEntry

AT = 1_700_000_000.0
PATH = Path("caches/flowers")
BATCHES = 40
FOUND = (
    Finding("foreign", "notes.txt", AT, "it is not of this format and is left alone"),
    Finding("corrupt", "epoch 0, batch 7", AT + 7, "its checksum does not fit", 0, 7),
    Finding("cut", "epoch 2, batch 12", AT + 92, "a file ends before it", 2, 12),
    Finding("unfinished", "epoch 3, batch 9", AT + 200, "data without a row", 3, 9),
)


def stored(epoch):
    return range(BATCHES if epoch < 3 else 9) if epoch != 1 else [*range(15), *range(25, BATCHES)]


def cache(name, kind="training", epochs=range(4), **changes):
    arrays = (
        StoredArray("features", (32, 48), "float32", "bfloat16", "<f4"),
        StoredArray("image", (32, 12, 12, 3), "uint8", "float32", "|u1"),
        StoredArray("label", (32,), "int32", "int32", "<i4"),
    )
    settings = {"items": 1_270, "batch_size": 32, "seed": 7, "shuffle_later": "itemwise", "shuffle_first": True}
    values = {
        "path": PATH / name,
        "kind": kind,
        "group_index": 0 if kind == "training" else None,
        "cache_by": "batch",
        "settings": settings,
        "arrays": arrays,
        "made": {"at": "2023-11-14T22:13:20Z", "by": "ada@lab", "hydrax": "0.1.0"},
        "code": {},
        "entries_per_epoch": BATCHES,
        "epochs": tuple(EpochCount(n, len(stored(n)), AT, AT + 100 * n + 40) for n in epochs),
        "disk_bytes": 2_940_000,
        "in_use": False,
        "problem": "",
    }
    info = CacheInfo(**{**values, **changes})
    return Group(info.path, "training 0" if kind == "training" else kind, info, info.problem, writable=True)


class StillSource:
    """The same cache every time."""

    def __init__(self, *groups):
        self._snapshot = Snapshot(groups or (cache("training-0"),))

    def load(self):
        return self._snapshot

    def stamp(self):
        return 0

    def select(self, group, selection, bad):
        entries = [
            EntryInfo(e.epoch, n, AT + 100 * e.epoch + n, 20_096, 890 + n)
            for e in group.info.epochs
            for n in stored(e.epoch)
        ]
        keys = set(bad)
        return KeyList([entry for entry in entries if not selection.bad or Key(entry.epoch, entry.number) in keys])

    def coverage(self, _group, epoch, width, _since):
        there = set(stored(epoch))
        return [(len(there & set(range(first, first + width))), 0) for first in range(0, BATCHES, width)]

    def still_bad(self, _group, bad, _since):
        return list(bad)

    def items_at_once(self, _group):
        return 1

    def record(self, group, entries, place):
        return record_of(group.info, entries, place)

    def glance(self, group, entries):
        return self.open(group, entries, record_of(group.info, entries, 0))[0]

    def open(self, group, entries, record):
        y, x = np.mgrid[:12, :12] / 12
        pictures = [
            np.stack([np.hypot(x - n % 5 / 5, y - n % 3 / 3), np.abs(np.sin(3 * x + n)), y * (n % 4) / 4], -1)
            for n in range(32)
        ]
        arrays = {
            "features": (np.sin(np.arange(32 * 48) * 0.37).reshape(32, 48) * 3).astype(np.float32),
            "image": np.clip(np.array(pictures) * 200, 0, 255).astype(np.uint8),
            "label": np.arange(32, dtype=np.int32) * 3 % 10,
        }
        fault = "corrupt" if (entries[0].epoch, entries[0].number) == (0, 7) else ""
        additional = {"path": [f"tulips/{97 * n % 3_200:04}.jpg" for n in range(32)]}
        indices = tuple(97 * n % 1_270 for n in range(32))
        entry = StoredEntry(MappingProxyType(arrays), additional, fault, "", indices, tuple(range(32)))
        return view_of(group.info, record, [entry]), [fault]

    def verify(self, _group, _stop, tell, *, repair):
        tell(VerifyProgress(1_470_000, 2_940_000, 1.5, Key(1, 30), FOUND[:2]))
        if not repair:
            tell(VerifyProgress(2_940_000, 2_940_000, 3.0, Key(3, 8), FOUND[2:], "done"))

    def clear(self, *_, **__):
        return Cleared(40, ("a", "b", "c"), 812_345)

    def close(self):
        """Nothing to close."""


async def picture(size, source, keys=(), *, light=False):
    app = CacheApp(source, PATH, light=light)
    app.tick = lambda **_: None
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.screen.query("FooterKey"))
        await until_drawn(pilot, lambda: app.at_rest)
        for key in keys:
            await still_picture(pilot)
            await pilot.press(key)
            await until_drawn(pilot, lambda: app.settled)
        app.clear_notifications()
        return await still_picture(pilot)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_a_verified_cache_at_every_size(size):
    @asynchronous
    async def check():
        source = StillSource(cache("training-0"), cache("validation-0", "validation", [0], in_use=True))
        svg = await picture(size, source, ["down", "down", "v"])
        compare(f"cache-{size[0]}x{size[1]}", svg)

    check()


@pytest.mark.parametrize(
    ("name", "size", "changes", "keys", "light"),
    [
        ("cache-light", (120, 40), {"in_use": True}, ["m", "right", "right"], True),
        ("cache-empty", (80, 24), {"epochs": (), "disk_bytes": 8_192}, [], False),
        ("cache-damaged", (120, 40), {"problem": "it does not have the table of an index", "epochs": ()}, [], False),
        ("cache-repairing", (80, 24), {}, ["p", "y", "f"], False),
        ("cache-clear", (80, 24), {}, ["x", "down", "down", "enter", "enter"], False),
        ("cache-entry", (80, 24), {}, [*["down"] * 8, "enter"], False),
        ("cache-help", (80, 24), {}, ["question_mark"], False),
        ("cache-filter", (80, 24), {}, ["v", "slash", *"bad"], False),
    ],
)
def test_other_states(name, size, changes, keys, light):
    @asynchronous
    async def check():
        compare(name, await picture(size, StillSource(cache("training-0", **changes)), keys, light=light))

    check()


def test_the_pictures_differ():
    texts = [path.read_text("utf-8") for path in islice(Path(__file__).parent.glob("looks/cache-*.svg"), 20)]
    assert len(set(texts)) == len(texts) == 11
