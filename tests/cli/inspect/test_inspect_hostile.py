"""Names, items, exceptions and runs made to break the screens: they become harmless text, and the app lives."""

import asyncio
import random
import re
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from types import UnionType
from typing import Literal, get_args, get_origin, get_type_hints
from xml.dom import minidom

import pytest
from inspect_support import app_of, asynchronous, make_loader, texts, until
from textual import events
from textual.geometry import Size
from textual.widgets import Input

from hydrax_cli.inspect.app import InspectApp
from hydrax_cli.inspect.base_app import Throttle
from hydrax_cli.inspect.feeds.capture import LogBuffer
from hydrax_cli.inspect.feeds.live import Translation, choice_of, trouble_fault
from hydrax_cli.inspect.run_view import Frame
from hydrax_cli.inspect.screens.batch import BatchScreen
from hydrax_cli.inspect.screens.dialogs import FaultScreen, HelpScreen
from hydrax_cli.inspect.svg import screen_svg
from hydrax_cli.inspect.widgets.batch_table import BatchTable
from hydrax_core import DataGroup, Dataloader
from hydrax_core.monitor import BatchRecord, Hello, Moment, Run, RunPlan
from hydrax_core.monitor.protocol.wire import client_reader, encode

EVIL = "[/red]\x1b]0;owned\x07\x1b[31m\x9b2J\u202e[@click=app.quit]x[/]\udce9\n"


class Items(list):
    """Reading one of them fails, but not in the engine's thread."""

    def __init__(self, bad=None):
        super().__init__(EVIL + str(number) for number in range(32))
        self.bad = bad

    def __getitem__(self, index):
        if self.bad is not None and index == self.bad:
            raise ValueError(EVIL)
        return super().__getitem__(index)


def fill(item, arrays, seed):
    for array in arrays.values():
        array[...] = 1
    return {EVIL: EVIL}


def hostile(function=fill, items=None, **options):
    arrays = {EVIL: ((4, 4), "float32"), "mean[/rgb]": ((), "int32")}
    group = DataGroup(8, Items() if items is None else items, loader_arrays=arrays)
    return Dataloader(function, group, loader_kind="thread", **options)


def nothing_got_through(app):
    shown = "".join(texts(app))
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202e\ud800-\udfff]", shown)
    minidom.parseString(screen_svg(app))


async def opened(app, pilot):
    await until(pilot, lambda: app.has_batch and app.screen_stack[0].query_one(BatchTable).count())
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(app.screen, BatchScreen) and app.screen.settled)


@asynchronous
async def test_names_and_items_are_shown_as_text():
    async with app_of(hostile, playing=True, limit=2.0) as (app, pilot):
        await opened(app, pilot)
        nothing_got_through(app)
        await pilot.press("a", "z")
        nothing_got_through(app)
        await pilot.press("escape", "escape", "slash", *"[/]")
        await until(pilot, lambda: app.screen.query_one("#filter", Input).value == "[/]")
        await until(pilot, lambda: any("with [/]" in line for line in texts(app)))
        nothing_got_through(app)


def raising(item, arrays, seed):
    raise ValueError(EVIL * 100_000)


def placing(*arguments):
    raise RuntimeError(EVIL)


@pytest.mark.parametrize(
    "make",
    [
        lambda: hostile(raising),
        lambda: hostile(placement_func=placing),
        lambda: hostile(items=Items(bad=3)),
        lambda: exec(f"raise ValueError({EVIL!r})"),
    ],
    ids=["loader", "placement", "data", "target"],
)
def test_what_raises_becomes_a_fault_of_harmless_text(make):
    @asynchronous
    async def check():
        async with app_of(make) as (app, pilot):
            await until(pilot, lambda: app.frame is not None and app.frame.fault is not None)
            await pilot.press("e")
            await until(pilot, lambda: isinstance(app.screen, FaultScreen))
            assert len(app.frame.fault.text) < 100_000
            nothing_got_through(app)

    check()


@asynchronous
async def test_an_item_that_fails_when_a_batch_is_looked_into_is_told():
    items = Items()
    async with app_of(lambda: hostile(items=items), playing=False) as (app, pilot):
        await until(pilot, lambda: app.frame is not None and app.frame.subject is not None)
        await pilot.press("s")
        await until(pilot, lambda: app.has_batch)
        items.bad = 3
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, BatchScreen) and app.screen.settled)
        nothing_got_through(app)


@pytest.mark.parametrize("front", [None, "question_mark"])
def test_sizes_that_overtake_each_other_end(front):
    """Textual lays out what is behind a dialog in the size of each resize, which makes a resize of its own."""

    @asynchronous
    async def check():
        async with app_of(make_loader, size=(120, 40), playing=False) as (app, pilot):
            await until(pilot, lambda: app.frame is not None and app.frame.subject is not None)
            await pilot.press("s")
            await opened(app, pilot)
            if front is not None:
                await pilot.press(front)
                await until(pilot, lambda: isinstance(app.screen, HelpScreen))
            small, large = Size(40, 10), Size(120, 40)
            for screen in app.screen_stack:  # as of a terminal that changes faster than the screens are laid out
                for size in (small, large):
                    screen.post_message(events.Resize(size, size))
            seen = []
            for screen in app.screen_stack:
                screen._screen_resized = lambda size, do=screen._screen_resized: (seen.append(size), do(size))
            await asyncio.sleep(1.0)
            count = len(seen)
            await asyncio.sleep(0.5)
            assert len(seen) == count
            assert all(screen.size == large for screen in app.screen_stack[-2:])

    check()


def anything(kind, chance, field=""):
    """A value of a type of the protocol that no honest run sends."""
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return chance.choice(inner)
    if get_origin(kind) is UnionType:
        return chance.choice([None, anything(inner[0], chance, field)])
    if get_origin(kind) is tuple:
        parts = [inner[0]] * chance.choice([0, 1, 2, 12]) if inner[-1] is Ellipsis else inner
        return tuple(anything(part, chance, field) for part in parts)
    if is_dataclass(kind) or hasattr(kind, "_fields"):
        return kind(*(anything(hint, chance, name) for name, hint in get_type_hints(kind).items()))
    numbers = [0, 1, 3, 100, 2**62, *([-(10**299)] if field in {"seed", "seeds"} else [])]
    reals = [0.0, 1e-300, -1.0, 0.5, 1e15, -1e15]
    return chance.choice({int: numbers, float: reals, str: ["", EVIL, EVIL * 50], bool: [True, False]}[kind])


class SpoofedFeed:
    """A run that says anything that the protocol lets through."""

    controls = None

    def __init__(self, seed):
        self.attaching = self
        self.chance = random.Random(seed)
        self.log = LogBuffer()

    def say(self, kind):
        ((message, _),) = client_reader().feed(b"".join(encode(anything(kind, self.chance))))
        return message

    def frame(self):
        run = Run(Path("s"), 1, 1, self.say(Hello))
        try:
            translation = Translation(run, self.say(RunPlan), 0)
        except ConnectionError:
            return self.frame()
        moment = self.say(Moment)
        records = []
        for group in translation.subject.plan.groups:
            record = anything(BatchRecord, self.chance)._replace(kind=group.kind, group=group.index)
            with suppress(ConnectionError):
                records.append(translation.record(record))
        for line in moment.lines:
            self.log.add(line.source, line.level, line.text, line.at)
        lines, missed = self.log.drain()
        return Frame(
            self.chance.choice(["running", "starved", "done", "starting"]),
            subject=translation.subject,
            device=moment.device,
            stats=moment.stats,
            current=records[-1] if records else None,
            records=tuple(records),
            lines=lines,
            missed_lines=missed,
            waiting_seconds=moment.waiting_seconds,
            fault=trouble_fault(moment.trouble, None),
            choices=(choice_of(run),) if self.chance.random() < 0.05 else (),
        )

    def start(self):
        """Nothing to start."""

    def preview(self):
        """There is no picture."""

    def has(self, record):
        return record.serial % 2 == 0

    def choose(self, choice):
        """Nothing to choose."""


@pytest.mark.parametrize("size", [(80, 24), (160, 40)])
def test_a_spoofed_run_breaks_no_screen(size):
    @asynchronous
    async def check():
        app = InspectApp(SpoofedFeed(size[0]))
        app._frame_pace = Throttle(share=1.0, longest=0.0)
        async with app.run_test(size=size) as pilot:
            for number in range(10):
                app._last_fault = app.frame and app.frame.fault
                app.tick(at_once=True)
                await pilot.press(*(["down", "l", "home", "escape"][number % 4 : number % 4 + 1]))
                nothing_got_through(app)

    check()
