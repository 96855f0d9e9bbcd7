"""Names, items, exceptions and runs made to break the screens: they become harmless text, and the app lives."""

import asyncio
import re
from xml.dom import minidom

import pytest
from inspect_support import app_of, asynchronous, make_loader, texts, until
from textual import events
from textual.geometry import Size
from textual.widgets import Input

from hydrax_cli.inspect.screens.batch import BatchScreen
from hydrax_cli.inspect.screens.dialogs import FaultScreen, HelpScreen
from hydrax_cli.inspect.svg import screen_svg
from hydrax_cli.inspect.widgets.batch_table import BatchTable
from hydrax_core import DataGroup, Dataloader

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
