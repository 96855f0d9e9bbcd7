"""Loaders, feeds and waiting for the tests of ``hydrax inspect``."""

import asyncio
import os
import signal
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import cloudpickle
import textual.app
import textual.pilot
from textual._compositor import Compositor
from textual._context import active_app
from textual.command import CommandList

import hydrax_cli.inspect.app
from hydrax_cli.inspect.app import InspectApp
from hydrax_cli.inspect.base_app import Throttle
from hydrax_cli.inspect.feeds.capture import LogBuffer
from hydrax_cli.inspect.feeds.loader import LoaderFeed, Opened
from hydrax_cli.inspect.svg import screen_svg
from hydrax_cli.inspect.widgets.batch_table import BatchTable
from hydrax_core import DataGroup, Dataloader

TIMEOUT = 60
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers need not import textual


async def drained(*_):
    """Until no message waits anywhere and the screen is laid out; 300 rounds at most, where something always happens.

    Textual's own way is to wait until the process is idle, which one with a loader in it never is. A dozen rounds do;
    rounds, and no seconds, as those pass on a busy machine without anything having happened.
    """
    app, quiet = active_app.get(), 0
    for _ in range(300):
        await asyncio.sleep(0.0005)
        screen = app.screen
        pumps = (app, *screen.walk_children(with_self=True))
        busy = screen._callbacks or screen._layout_required or any(pump.message_queue_size for pump in pumps)
        quiet = 0 if busy else quiet + 1
        if quiet == 3:
            return


async def still_picture(pilot):
    """The picture of a screen that has come to rest.

    What a footer takes down and puts up again, also behind a dialog, is no message that waits anywhere.
    """
    before, since = "", 0
    for _ in range(100):
        picture = screen_svg(pilot.app)
        since = since + 1 if picture == before else 0
        if since == 3:
            break
        before = picture
        await pilot.pause(0.01)
    return before


def drawn_on_demand(compositor, full=False, draw=Compositor.render_update, **named):
    """What a headless app draws by itself goes nowhere; pictures and ``texts`` draw what a test looks at."""
    compositor._dirty_regions.clear()
    return draw(compositor, full=True, **named) if full else None


textual.app.wait_for_idle = textual.pilot.wait_for_idle = drained
Compositor.render_update = drawn_on_demand
hydrax_cli.inspect.app._FRAME_SECONDS = 0.05  # a run is drawn as soon as something has happened
ARRAYS = {"image": ((6, 5, 3), "uint8", "float32"), "label": ((), "int32"), "tokens": ((7,), "int32")}


def load(item, arrays, seed):
    arrays["image"][...] = item % 250 + 1
    arrays["image"][0, 0] = 0
    arrays["label"][...] = item % 10
    arrays["tokens"][...] = 97 + item % 20
    return {"path": f"photo-{item}.jpg"}


def make_loader(function=load, *, items=96, **arguments):
    def group(**more):
        return DataGroup(8, range(items), loader_arrays=ARRAYS, labels=("label",), seed=5, **more)

    arguments.setdefault("validation", ("epoch", 1, group(shuffle_first=False)))
    return Dataloader(function, group(), **{"loader_count": 1, **arguments})


def failing_at(bad):
    def load_or_fail(item, arrays, seed):
        if item == bad:
            raise ValueError(f"bad header in item {item}")
        load(item, arrays, seed)

    return load_or_fail


def killing_at(bad):
    def load_or_die(item, arrays, seed):
        if item == bad:
            os.kill(os.getpid(), signal.SIGSEGV)
        load(item, arrays, seed)

    return load_or_die


@contextmanager
def feed_of(make, *, check=False, **arguments):
    """A feed over what ``make()`` returns, closed at the end."""
    log = LogBuffer()
    feed = LoaderFeed(lambda: Opened("the-target", "hydrax run the-target", make(), check), log, **arguments)
    try:
        yield feed
    finally:
        feed.close()


class Watcher:
    """Takes frames and keeps what they bring."""

    def __init__(self, feed):
        self.feed = feed
        self.records = []
        self.lines = []
        self.frame = None

    def look(self):
        self.frame = self.feed.frame()
        self.records.extend(self.frame.records)
        self.lines.extend(self.frame.lines)
        return self.frame

    def until(self, condition):
        deadline = time.monotonic() + TIMEOUT
        while not condition(self.look()):
            assert time.monotonic() < deadline, f"waited in vain; last: {self.frame}"
            time.sleep(0.005)
        return self.frame


@asynccontextmanager
async def app_of(make, *, size=(120, 40), **arguments):
    """A running app over a loader; yields the app and its pilot."""
    with feed_of(make, **arguments) as feed:
        app = InspectApp(feed)
        app._frame_pace = Throttle(share=1.0, longest=0.0)
        async with app.run_test(size=size, notifications=True) as pilot:
            yield app, pilot


async def until(pilot, condition):
    """Wait until a condition of the app holds."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "waited in vain:\n" + "\n".join(texts(pilot.app))
        await pilot.pause(0.02)


async def until_drawn(pilot, condition):
    """Wait until a condition of the app holds, also when what it holds for is drawn: drawing may ask for more."""
    while True:
        await until(pilot, condition)
        if not pilot.app.screen.is_modal:  # what is behind a dialog is drawn when Textual does it
            texts(pilot.app)
        if condition():
            return


def asynchronous(function):
    """Run an async test."""

    def run(*arguments, **named):
        asyncio.run(function(*arguments, **named))

    run.__name__ = function.__name__
    run.__signature__ = __import__("inspect").signature(function)
    return run


def texts(app):
    """The screen as lines of text."""
    strips = app.screen._compositor.render_strips()
    return ["".join(segment.text for segment in strip) for strip in strips]


def table(app):
    return app.screen_stack[0].query_one(BatchTable)


def shown(app, text):
    return any(text in line for line in texts(app))


async def shows(app, pilot, text):
    await until(pilot, lambda: shown(app, text))


def children():
    """Processes of this process, those that ended and were not waited for included."""
    return {child for file in Path("/proc/self/task").glob("*/children") for child in file.read_text().split()}


async def found_first(app, pilot, command):
    """Until the palette offers that command first."""
    found = app.screen.query_one(CommandList)
    await until(pilot, lambda: found.option_count and command in str(found.get_option_at_index(0).prompt))
