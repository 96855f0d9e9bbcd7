"""The looks of the screens, pinned as pictures in ``looks/``: open them to see what a change has changed.

``UPDATE_LOOKS=1`` in the environment writes them anew. They stand still because nothing in them is measured.
"""

import math
import os
import time
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from inspect_support import asynchronous, still_picture, until

from hydrax_cli.inspect.app import InspectApp
from hydrax_cli.inspect.base_app import Throttle
from hydrax_cli.inspect.run_view import BatchView, Fault, Frame, RunChoice, Subject
from hydrax_cli.inspect.screens.batch import BatchScreen
from hydrax_core import FirstBatch, Stats, WorkerStats
from hydrax_core.monitor import ArrayPlan, BatchRecord, GroupPlan, LogLine, RunPlan

LOOKS = Path(__file__).parent / "looks"
ARRAYS = (
    ArrayPlan("image", (32, 12, 12, 3), "uint8", "float32", 0, 32 * 12 * 12 * 3, is_label=False),
    ArrayPlan("label", (32,), "int32", "int32", 13_824, 128, is_label=True),
    ArrayPlan("features", (32, 48), "float32", "bfloat16", 13_952, 6_144, is_label=False),
)
GROUPS = (
    GroupPlan("training", 0, 3_200, 32, 100, 7, True, "itemwise", "pad", ARRAYS, ()),
    GroupPlan("validation", 0, 320, 32, 10, 0, False, "itemwise", "pad", ARRAYS, ()),
)
SUBJECT = Subject(
    "flowers.py:make", "hydrax run flowers.py:make", RunPlan(GROUPS, 100, 10, 100, 0, 500, "process"), has_step=True
)
FAILED = "item 1307 ('tulips/0412.jpg') of training group 0, epoch 2, batch 39 failed: ValueError: it is truncated"
FAULT = Fault(
    FAILED,
    f"{FAILED}\n\nIn the worker:\nTraceback (most recent call last):\n"
    '  File "flowers.py", line 21, in load\n    arrays["image"][...] = read(item.path)\n'
    "                           ^^^^^^^^^^^^^^^\nValueError: it is truncated",
    fatal=False,
)
GONE = Fault(
    "train.py (pid 4321): its process has ended", "train.py (pid 4321): its process has ended", False, gone=True
)
NOTHING = {"subject": None, "stats": None, "current": None, "device": "", "detail": "which run?"}
RUNS = (
    RunChoice("a", "train.py", 4321, "epoch 3:14", 754.0, "train.py --epochs 90"),
    RunChoice("b", "resnet", 999, "validation 2:0", None, "python -m resnet --data /mnt/data/flowers"),
)
AT = 1_700_000_000.0


def record(serial, **changes):
    place = BatchRecord(
        serial, "training", 0, *divmod(serial + 200, 100), serial + 200, 32, 10_007 * serial, 0.012, None, False
    )
    return place._replace(**changes)


def records():
    validation = [
        record(20 + n, kind="validation", epoch=1, epoch_batch=n, batch_num=10 + n, seed=None) for n in range(3)
    ]
    failed = record(39, size=0, error=FAULT.text)
    return [*map(record, range(1, 20)), *validation, *map(record, range(23, 39)), failed, record(40, cached=True)]


def stats(second, workers, slots):
    items = 3_000 + 640 * second + 60 * math.sin(second)
    return Stats(
        seconds=2.0 + second,
        idle_seconds=1.5 + 0.12 * second,
        training_batches=int(items // 32),
        validation_batches=0,
        items=int(items),
        bytes=int(items * 4_000),
        errors=1,
        skipped_batches=0,
        substituted_items=0,
        dropped_batches=0,
        cache_hits=0,
        cache_misses=0,
        loaded_items=int(items) + 64,
        load_seconds=0.3 * workers * second,
        depth=3,
        loader_count=workers,
        slot_bytes=20_096,
        slots=slots,
        held_batches=slots.count("held"),
        worker_restarts=1,
        workers=tuple(
            WorkerStats(
                number=n,
                pid=100 + n,
                state=("busy", "busy", "idle", "busy", "starting")[n % 5],
                items=int(items // workers) + n,
                busy_seconds=second * (0.2 + 0.8 * (n * 7 % 10) / 10),
                restarts=1 if n == 3 else 0,
                address="training group 0, epoch 2, batch 41",
                item=1_307 + n if n % 5 in (0, 1, 3) else None,
                item_seconds=(0.004, 2.5, 0, 12.0)[n % 4],
            )
            for n in range(workers)
        ),
        first_batch=FirstBatch(start=0.21, load=0.08, place=0.44),
        running=True,
    )


SLOTS = ("held", "ready", "ready", "filling", "filling", "free")


class StillFeed:
    """The same frames every time."""

    class Controls:
        """Nothing to drive."""

    def __init__(self, *, workers=4, slots=SLOTS, live=False, **changes):
        self.controls = None if live else self.Controls()
        self.attaching = self if live else None
        if live:
            changes = {"subject": replace(SUBJECT, target="train.py", pid=4321), "limit": None, **changes}
        first = Frame("running", subject=SUBJECT, device="gpu:0", limit=20.0)
        self._frames = [Frame("running", subject=SUBJECT, stats=stats(tick / 5, workers, slots)) for tick in range(60)]
        self._last = Frame(
            **{
                **{name: getattr(first, name) for name in first.__slots__},
                "stats": stats(12, workers, slots),
                "current": records()[-1],
                **changes,
            }
        )
        lines = [
            LogLine(1, AT, "loader", "info", "reading the list of 3,200 flowers"),
            LogLine(
                2, AT + 61, "hydrax", "warning", "worker 3 ended: it was killed by SIGKILL (killed); it is replaced"
            ),
            LogLine(3, AT + 62, "loader", "error", FAULT.title),
        ]
        told = Frame("running", subject=SUBJECT, stats=self._last.stats, records=tuple(records()), lines=tuple(lines))
        self._frames.append(told)

    def start(self):
        """Nothing to start."""

    def frame(self):
        return self._frames.pop(0) if self._frames else self._last

    def preview(self):
        return view(records()[-1])

    def has(self, asked):
        return not asked.error and (self.attaching is None or asked.serial % 4 == 0)

    def open(self, asked):
        return view(asked)

    def close(self):
        """Nothing to close."""

    def choose(self, choice):
        """Nothing to choose."""


def view(asked):
    y, x = np.mgrid[:12, :12] / 12
    pictures = [
        np.stack([np.hypot(x - n % 5 / 5, y - n % 3 / 3), np.abs(np.sin(3 * x + n)), y * (n % 4) / 4], -1)
        for n in range(32)
    ]
    image = np.clip(np.array(pictures) * 200, 0, 255).astype(np.uint8).astype(np.float32)
    features = (np.sin(np.arange(32 * 48) * 0.37).reshape(32, 48) * 3).astype(np.float32)
    features[4] = 0
    features[9, 9] = np.nan
    arrays = {"image": image, "label": np.arange(32, dtype=np.int32) * 3 % 10, "features": features}
    return BatchView(
        record=asked,
        arrays=MappingProxyType(arrays),
        infos=ARRAYS,
        indices=tuple(97 * n % 3_200 for n in range(32)),
        seeds=tuple(1_000_003 * n % 2**32 for n in range(32)),
        descriptors=tuple(f"tulips/{97 * n % 3_200:04}.jpg" for n in range(32)),
        additional={"width": tuple(str(600 + n) for n in range(32))},
        source="the batch in hand",
        command="hydrax run flowers.py:make --start 2:40 --batches 1",
    )


@pytest.fixture(autouse=True)
def _one_time_zone(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def compare(name, svg):
    """One element a line, so that a difference can be read."""
    path = LOOKS / f"{name}.svg"
    if os.environ.get("UPDATE_LOOKS"):
        LOOKS.mkdir(exist_ok=True)
        path.write_text(svg, "utf-8")
    known = path.read_text("utf-8") if path.exists() else ""
    assert svg.replace("><", ">\n<").splitlines() == known.replace("><", ">\n<").splitlines(), (
        f"{name} looks otherwise; if it should, run again with UPDATE_LOOKS=1 and look at {path.name}"
    )


async def still(pilot, app):
    """Until all frames are shown and the preview is there."""
    await until(pilot, lambda: not app._feed._frames)
    app.tick()
    app._tick_preview()
    await pilot.pause()


async def picture(size, feed, keys=(), *, light=False):
    app = InspectApp(feed, light=light)
    app._frame_pace = app._preview_pace = Throttle(share=1.0, longest=0.0)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.screen.query("FooterKey"))  # before a dialog is in front of it
        while app._feed._frames:
            app.tick()
        await still(pilot, app)
        for key in keys:
            await still_picture(pilot)
            await pilot.press(key)
            await pilot.pause()
            if isinstance(app.screen, BatchScreen):
                await until(pilot, lambda: app.screen.settled)
        return await still_picture(pilot)


SIZES = [(80, 24), (120, 40), (200, 60)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_main_screen_at_every_size(size):
    @asynchronous
    async def check():
        compare(f"main-{size[0]}x{size[1]}", await picture(size, StillFeed()))

    check()


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_a_batch_at_every_size(size):
    @asynchronous
    async def check():
        compare(f"batch-{size[0]}x{size[1]}", await picture(size, StillFeed(), ["enter", "down", "down"]))

    check()


@pytest.mark.parametrize(
    ("name", "size", "feed", "keys", "light"),
    [
        ("main-light", (120, 40), {}, [], True),
        ("many-workers", (120, 40), {"workers": 48, "slots": ("held",) * 60 + SLOTS}, [], False),
        ("starved", (80, 24), {"state": "starved", "waiting_seconds": 4.2}, [], False),
        ("failed", (80, 24), {"state": "failed", "fault": FAULT}, ["e"], False),
        ("opening", (80, 24), {"state": "opening", **NOTHING, "detail": ""}, [], False),
        ("heat-map-light", (120, 40), {}, ["enter", "a", "a"], True),
        ("large", (80, 24), {}, ["enter", "down", "z"], False),
        ("help", (80, 24), {}, ["question_mark"], False),
        ("live", (120, 40), {"live": True}, [], False),
        ("live-small", (80, 24), {"live": True, "state": "silent", "detail": "no answer for 7 s"}, [], False),
        ("live-help", (120, 40), {"live": True}, ["question_mark"], True),
        ("live-gone", (80, 24), {"live": True, "state": "failed", "fault": GONE}, [], True),
        ("live-runs", (120, 40), {"live": True, "state": "opening", **NOTHING, "choices": RUNS}, [], False),
        ("log", (80, 24), {}, ["l"], False),
    ],
)
def test_other_states(name, size, feed, keys, light):
    @asynchronous
    async def check():
        compare(name, await picture(size, StillFeed(**feed), keys, light=light))

    check()


def test_a_picture_stands_alone():
    for path in LOOKS.glob("*.svg"):
        text = path.read_text("utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert "http" not in text
        assert "@import" not in text
        assert "url(" not in text
