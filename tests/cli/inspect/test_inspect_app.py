"""Every key and screen of the app, on a real loader with worker processes."""

import numpy as np
from inspect_support import (
    app_of,
    asynchronous,
    failing_at,
    found_first,
    load,
    make_loader,
    shown,
    shows,
    table,
    texts,
    until,
)
from textual.widgets import Input

from hydrax_cli.inspect.screens.batch import BatchScreen
from hydrax_cli.inspect.screens.dialogs import FaultScreen, GoToScreen, HelpScreen, TooSmallScreen
from hydrax_cli.inspect.screens.main import MainScreen
from hydrax_cli.inspect.widgets.array_picture import ArrayPicture
from hydrax_cli.inspect.widgets.batch_lists import ArrayList, ItemList
from hydrax_cli.inspect.widgets.batch_table import BatchTable
from hydrax_cli.inspect.widgets.log_view import LogView
from hydrax_core import DataGroup, Dataloader
from hydrax_core.sources import stream


def state(app):
    return None if app.frame is None else app.frame.state


async def ready(app, pilot):
    """Paused before the first batch."""
    await until(pilot, lambda: state(app) == "paused" and app.frame.subject is not None)


async def stepped(app, pilot, count):
    """Paused after so many batches, all of them in the table."""
    await ready(app, pilot)
    for number in range(1, count + 1):
        await pilot.press("s")
        await until(pilot, lambda number=number: table(app).count() == number and state(app) == "paused")


@asynchronous
async def test_space_pauses_and_plays_and_the_speed_has_a_limit():
    async with app_of(make_loader, limit=10.0) as (app, pilot):
        await until(pilot, lambda: table(app).count() > 0)
        await pilot.press("plus")
        await until(pilot, lambda: app.frame.limit == 20)
        await pilot.press("minus", "minus")
        await until(pilot, lambda: app.frame.limit == 5 and shown(app, "≤ 5/s"))
        await pilot.press("0")
        await until(pilot, lambda: app.frame.limit is None)
        await pilot.press("space")
        await until(pilot, lambda: state(app) == "paused" and shown(app, "paused"))
        count = app.frame.stats.training_batches
        await pilot.press("minus", "space")
        await until(pilot, lambda: app.frame.limit == 1000 and app.frame.stats.training_batches > count)


@asynchronous
async def test_a_stream_shows_no_total():
    def make():
        return Dataloader(stream(lambda: ({"x": n} for n in range(100)), batch_size=16).training, loader_kind="thread")

    async with app_of(make, playing=False) as (app, pilot):
        await stepped(app, pilot, 2)
        await shows(app, pilot, "2 batches of a stream")
        await pilot.press("n")
        await until(pilot, lambda: (app.frame.current.epoch, app.frame.current.epoch_batch) == (1, 0))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, BatchScreen))
        await shows(app, pilot, "StreamPlace")
        assert state(app) != "failed"


@asynchronous
async def test_a_paused_run_goes_where_keys_say():
    async with app_of(make_loader, playing=False) as (app, pilot):
        await stepped(app, pilot, 3)
        assert [record.epoch_batch for record in table(app).shown] == [2, 1, 0]
        await shows(app, pilot, "3 / 12")
        await pilot.press("n")
        await until(pilot, lambda: (app.frame.current.epoch, app.frame.current.epoch_batch) == (1, 0))
        assert state(app) != "failed"
        await pilot.press("g")
        await until(pilot, lambda: isinstance(app.screen, GoToScreen))
        field = app.screen.query_one(Input)
        field.value = "the end"
        await pilot.press("enter")
        assert isinstance(app.screen, GoToScreen)
        await shows(app, pilot, "the end is no place")
        field.value = "70:3"
        await pilot.press("enter")
        await until(pilot, lambda: app.frame.current.epoch == 70)
        assert app.frame.current.epoch_batch == 3
        await pilot.press("g", "escape")
        assert isinstance(app.screen, MainScreen)


@asynchronous
async def test_typing_into_a_field_moves_no_run():
    async with app_of(make_loader, playing=False) as (app, pilot):
        await stepped(app, pilot, 1)
        await pilot.press("slash", *"seed")
        assert app.screen.query_one("#filter", Input).value == "seed"
        await pilot.press("escape", "g", "backspace", "space", "s", "n")
        await pilot.press("escape")
        await pilot.pause(0.3)
        assert table(app).count() == 1
        assert app.frame.current.epoch_batch == 0


@asynchronous
async def test_the_filter_shows_only_what_fits_and_escape_ends_it():
    async with app_of(lambda: make_loader(end_at=("epoch", 1))) as (app, pilot):
        await until(pilot, lambda: state(app) == "done" and table(app).count() == 24)
        await pilot.press("slash", *"validation batch:2-4")
        assert [(record.kind, record.batch_num) for record in table(app).shown] == [
            ("validation", number) for number in (4, 3, 2)
        ]
        await pilot.press("enter", "down")
        assert table(app).has_focus
        await pilot.press("escape")
        assert table(app).count() == 24


@asynchronous
async def test_the_cursor_stays_on_its_batch_while_new_ones_come():
    async with app_of(make_loader, limit=50.0) as (app, pilot):
        await until(pilot, lambda: table(app).count() > 5)
        await pilot.press("down", "down", "down")
        held = table(app).chosen_record
        count = table(app).count()
        await until(pilot, lambda: table(app).count() > count + 10)
        assert table(app).chosen_record == held
        await pilot.press("home")
        assert table(app).chosen is None
        await until(pilot, lambda: table(app).chosen_record.serial > held.serial)


@asynchronous
async def test_keys_of_the_batch_screen():
    async with app_of(make_loader, playing=False) as (app, pilot):
        await stepped(app, pilot, 2)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, BatchScreen) and app.screen.settled)
        await shows(app, pilot, "the batch in hand")
        await shows(app, pilot, "photo-8.jpg")
        await shows(app, pilot, "label *")
        picture, items, arrays = (app.screen.query_one(kind) for kind in (ArrayPicture, ItemList, ArrayList))
        assert "as picture" in picture.border_title
        await pilot.press("v")
        assert "as heat map" in picture.border_title
        await pilot.press("v")
        assert "as rows" in picture.border_title
        await pilot.press("v", "z")
        assert picture.border_title.startswith("image[0]")
        await pilot.press("right", "right")
        assert items.chosen == 2
        assert picture.border_title.startswith("image[2]")
        await pilot.press("left", "escape")
        assert items.chosen == 1
        assert picture.border_title.startswith("image (8, 6, 5, 3)")
        assert items.has_focus
        await pilot.press("a")
        assert arrays.chosen == 1
        assert "label" in picture.border_title
        await pilot.press("a", "tab", "shift+tab")
        assert arrays.chosen == 2
        await shows(app, pilot, "“iiiiiii”")  # item 8 of the data fills its row with 97 + 8
        await pilot.press("escape")
        assert isinstance(app.screen, MainScreen)


@asynchronous
async def test_from_a_batch_to_those_beside_which_are_loaded_again_and_to_the_next_one():
    async with app_of(make_loader, playing=False) as (app, pilot):
        await stepped(app, pilot, 2)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, BatchScreen) and app.screen.settled)
        await pilot.press("s")
        await until(pilot, lambda: app.screen.record.epoch_batch == 2 and shown(app, "photo-16.jpg"))
        await pilot.press("left_square_bracket")
        await until(pilot, lambda: app.screen.record.epoch_batch == 1 and app.screen.settled)
        await until(pilot, lambda: shown(app, "loaded again"))
        await shows(app, pilot, "photo-8.jpg")
        await pilot.press("right_square_bracket")
        await until(pilot, lambda: app.screen.record.epoch_batch == 2 and shown(app, "photo-16.jpg"))
        await pilot.press("right_square_bracket")
        await until(pilot, lambda: shown(app, "nothing further"))
        await pilot.press("c")
        assert app.clipboard == "hydrax run the-target --start 0:2 --batches 1"


@asynchronous
async def test_the_mouse_chooses_and_opens_and_c_copies_the_command():
    async with app_of(make_loader, playing=False) as (app, pilot):
        await stepped(app, pilot, 3)
        await pilot.press("down", "down", "down", "c")
        assert app.clipboard == "hydrax run the-target --start 0:0 --batches 1"
        await until(pilot, lambda: shown(app, "--start 0:0"))
        await pilot.click(BatchTable, offset=(20, 3))
        assert table(app).chosen_record.epoch_batch == 1
        await pilot.double_click(BatchTable, offset=(20, 3))
        await until(pilot, lambda: isinstance(app.screen, BatchScreen) and app.screen.settled)
        assert app.screen.record.epoch_batch == 1
        texts(app)  # where its rows are, a picture knows once it is drawn
        picture = app.screen.query_one(ArrayPicture)
        grid = picture._grid
        left = (picture.size.width - grid.columns * (grid.width + 1) - 1) // 2
        await pilot.click(ArrayPicture, offset=(left + grid.width + 3 + 2, picture._top + 2))
        assert app.screen.query_one(ItemList).chosen == 1


@asynchronous
async def test_an_error_is_shown_marked_and_gone_past():
    async with app_of(lambda: make_loader(failing_at(17), validation=None)) as (app, pilot):
        await until(pilot, lambda: state(app) == "failed" and table(app).count() == 3)
        await until(pilot, lambda: shown(app, "✗ item 17"))
        assert isinstance(app.screen, MainScreen)
        await pilot.press("e")
        assert isinstance(app.screen, FaultScreen)
        await shows(app, pilot, 'raise ValueError(f"bad header in item {item}")')
        await pilot.press("c")
        assert "bad header in item 17" in app.clipboard
        await pilot.press("escape", "enter")
        assert isinstance(app.screen, FaultScreen)
        await pilot.press("space")
        await until(pilot, lambda: isinstance(app.screen, MainScreen) and table(app).count() > 4)


@asynchronous
async def test_a_target_that_fails_is_a_screen_and_r_reads_it_anew():
    tries = []

    def make():
        tries.append(1)
        if len(tries) < 2:
            raise RuntimeError("no such table")
        return make_loader()

    async with app_of(make) as (app, pilot):
        await until(pilot, lambda: isinstance(app.screen, FaultScreen) and shown(app, "no such table"))
        assert app.fatal_fault is not None
        await pilot.press("r")
        await until(pilot, lambda: table(app).count() > 3)
        assert app.fatal_fault is None
        assert isinstance(app.screen, MainScreen)


@asynchronous
async def test_a_frame_that_comes_while_the_app_closes_is_dropped():
    async with app_of(make_loader) as (app, pilot):
        await until(pilot, lambda: table(app).count() > 3)
    app.tick(at_once=True)
    app._tick_preview()


@asynchronous
async def test_the_end_of_a_run_is_told_and_space_starts_it_again():
    async with app_of(lambda: make_loader(end_at=("batch", 4), validation=None)) as (app, pilot):
        await until(pilot, lambda: shown(app, "✓ done") and shown(app, "at its end"))
        await pilot.press("space")
        await until(pilot, lambda: table(app).count() == 8)


@asynchronous
async def test_what_is_logged_comes_into_the_log_and_cannot_garble_the_screen():
    async with app_of(make_loader, size=(80, 24), playing=False) as (app, pilot):
        await ready(app, pilot)
        app._feed._log.add("loader", "warning", "item 3:\tred \x1b[31m\x07 text\nsecond line")
        log = app.screen.query_one(LogView)
        await until(pilot, lambda: log.count() == 2)
        assert not log.display
        await pilot.press("l")
        assert log.has_focus
        await pilot.pause()
        await shows(app, pilot, "item 3:    red ·[31m· text")
        await pilot.press("l")
        assert not log.display
        assert table(app).has_focus


@asynchronous
async def test_help_theme_palette_small_terminals_and_quitting():
    for quitting in ("q", "ctrl+c"):
        async with app_of(make_loader, playing=False) as (app, pilot):
            await ready(app, pilot)
            if quitting == "q":
                await pilot.press("question_mark")
                assert isinstance(app.screen, HelpScreen)
                await shows(app, pilot, "play or pause")
                await pilot.press("question_mark")
                assert isinstance(app.screen, MainScreen)
                dark = app.theme
                await pilot.press("t")
                assert app.theme != dark
                await pilot.press("ctrl+p", *"next ep")
                await found_first(app, pilot, "Next epoch")
                await pilot.press("enter")
                await until(pilot, lambda app=app: app.frame.current is not None)
                await pilot.resize_terminal(40, 10)
                await until(pilot, lambda app=app: isinstance(app.screen, TooSmallScreen))
                await shows(app, pilot, "60x18 at least")
                await pilot.resize_terminal(80, 24)
                await until(pilot, lambda app=app: isinstance(app.screen, MainScreen))
                await pilot.press("s")
                await until(pilot, lambda app=app: table(app).count() == 2)
            await pilot.press(quitting)
            await until(pilot, lambda app=app: not app.is_running)


@asynchronous
async def test_the_smallest_and_a_flat_terminal_show_the_run_and_its_batches():
    async with app_of(lambda: make_loader(end_at=("epoch", 1))) as (app, pilot):
        for size in [(60, 18), (300, 20)]:  # others are pinned as pictures
            await pilot.resize_terminal(*size)
            await until(pilot, lambda: table(app).count() == 24 and shown(app, "done"))
            for text in ("the-target", "done", "items/s", "slots", "validation", "play"):
                await shows(app, pilot, text)
            await pilot.press("enter")
            await until(pilot, lambda: isinstance(app.screen, BatchScreen) and app.screen.settled)
            for text in ("validation 0, batch 11", "image", "(8, 6, 5, 3)", "mean"):
                await shows(app, pilot, text)
            await pilot.press("escape")


def odd(item, arrays, seed):
    load(item, arrays, seed)
    if item == 3:
        arrays["image"][...] = np.nan
    if item in (4, 5):
        arrays["tokens"][...] = 0


@asynchronous
async def test_odd_values_are_warned_of():
    def make():
        arrays = {"image": ((6, 5, 3), "float32"), "label": ((), "int32"), "tokens": ((7,), "int32")}
        return Dataloader(odd, DataGroup(8, range(16), loader_arrays=arrays))

    async with app_of(make, playing=False) as (app, pilot):
        await stepped(app, pilot, 1)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, BatchScreen) and app.screen.settled)
        await shows(app, pilot, "90 NaN")
        await pilot.press("a", "a")
        await shows(app, pilot, "rows 4, 5 are all zeros")
