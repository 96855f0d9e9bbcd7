"""Every key of the cache screen, on caches that a real loader has filled."""

import os
import re
import shutil
import threading
from contextlib import asynccontextmanager

import numpy as np
import pytest
from inspect_support import asynchronous, found_first, texts, until
from textual.widgets import Input

from hydrax_cli.inspect.cache_app.app import CacheApp
from hydrax_cli.inspect.cache_app.dialogs import ClearScreen, ConfirmScreen
from hydrax_cli.inspect.cache_app.model.source import CacheSource
from hydrax_cli.inspect.cache_app.screen import CacheScreen
from hydrax_cli.inspect.cache_app.widgets.coverage_map import CoverageMap
from hydrax_cli.inspect.cache_app.widgets.entry_table import EntryTable
from hydrax_cli.inspect.cache_app.widgets.lists import GroupList
from hydrax_cli.inspect.screens.batch import BatchScreen
from hydrax_cli.inspect.screens.dialogs import GoToScreen, HelpScreen, TooSmallScreen
from hydrax_cli.inspect.widgets.array_picture import ArrayPicture
from hydrax_core import DataGroup, Dataloader
from hydrax_core.cache import CacheStore, info
from hydrax_core.cache import verify as verify_cache

ARRAYS = {"image": ((6, 5, 3), "uint8", "float32"), "label": ((), "int32")}
IMAGE_BYTES = 8 * 6 * 5 * 3


class Opaque:
    """Stored as a pickle."""


def load(item, arrays, seed):
    arrays["image"][...] = item
    arrays["image"][0, 0] = 0
    arrays["label"][...] = item % 10
    return {"path": f"photo-{item}.jpg"}


def group(folder, items=44, **more):
    settings = {"loader_arrays": ARRAYS, "seed": 5, "remainder": "pad", "cache_location": folder, **more}
    return DataGroup(8, range(items), **settings)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Caches of a run: two whole epochs and a part of the third, validation, items, and one that is empty."""
    folder = tmp_path_factory.mktemp("caches")
    training = group(folder / "run" / "training-0", shuffle_later="itemwise", shuffle_first=True)
    validation = group(folder / "run" / "validation-0", items=16)
    with Dataloader(
        load, training, validation=("epoch", 1, validation), loader_kind="inline", end_at=("batch", 15)
    ) as loader:
        for batch in loader:
            batch.close()
    with Dataloader(
        load, group(folder / "items", cache_by="item", seed=1), loader_kind="inline", end_at=("batch", 4)
    ) as loader:
        for batch in loader:
            batch.close()
    store(folder / "empty").close()
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run's caches, to be damaged."""
    return shutil.copytree(made / "run", tmp_path / "run")


def store(folder, **more):
    return CacheStore.open(group(folder, **more), kind="training", group_index=0)


def damage(folder, epoch, number):
    with (folder / f"epoch-{epoch}" / "image.npy").open("r+b") as file:
        file.seek(4096 + number * IMAGE_BYTES + 5)
        file.write(b"\x5a\xa5")


@asynccontextmanager
async def app_of(path, *, size=(120, 40)):
    source = CacheSource(path)
    app = CacheApp(source, path)
    try:
        async with app.run_test(size=size, notifications=True) as pilot:
            await until(pilot, lambda: app.at_rest)
            yield app, pilot
    finally:
        source.close()


def table(app):
    return app.screen_stack[0].query_one(EntryTable)


def chosen(app):
    found = table(app).chosen_entry
    return None if found is None else (found.epoch, found.number)


def shown(app, text):
    return any(text in line for line in texts(app))


async def shows(app, pilot, *wanted):
    for text in wanted:
        await until(pilot, lambda text=text: shown(app, text))


async def press(app, pilot, *keys):
    await pilot.press(*keys)
    await until(pilot, lambda: app.settled)


def pointed(app):
    return str(app.screen_stack[0].query_one("#pointed").render())


# what is shown


@asynchronous
async def test_a_run_shows_its_caches_what_they_hold_and_every_entry(made):
    async with app_of(made / "run") as (app, pilot):
        await shows(app, pilot, "training 0", "validation", "15 of 18 batches", "6 batches an epoch, 44 items, seed 5")
        await shows(app, pilot, "cache_by batch, shuffle_later itemwise", "3 content epochs, one each epoch")
        await shows(app, pilot, "(8, 6, 5, 3)", "uint8→float32", "○ not in use", "made 2", "entries · 15")
        await until(pilot, lambda: any(re.search(r"2:0 ■ ■ ■ · · · +50 %", line) for line in texts(app)))
        assert app.screen.query_one(GroupList).count() == 2
        await press(app, pilot, "right_square_bracket")
        await shows(app, pilot, "2 of 2 batches", "entries · 2", "2 batches an epoch, 16 items")
        await press(app, pilot, "right_square_bracket", "left_square_bracket", "left_square_bracket")
        await shows(app, pilot, "entries · 15")
        await pilot.click(GroupList, offset=(10, 2))
        await shows(app, pilot, "entries · 2")


@pytest.mark.parametrize("size", [(60, 18), (300, 20)])  # others are pinned as pictures
def test_the_smallest_and_a_flat_terminal_show_the_cache_and_its_entries(made, size):
    @asynchronous
    async def check():
        async with app_of(made / "run", size=size) as (app, pilot):
            for text in ("15 of 18 batches", "0:0", "epoch", "not read", "verify"):
                await shows(app, pilot, text)
            await press(app, pilot, "v")
            await shows(app, pilot, "● sound")

    check()


@asynchronous
async def test_keys_of_the_table_and_what_is_in_an_entry(made):
    async with app_of(made / "run") as (app, pilot):
        await press(app, pilot, "down", "down", "enter")
        assert isinstance(app.screen, BatchScreen)
        await shows(app, pilot, "epoch 0, batch 1", "sound", "training group 0", "nothing odd")
        view = app.screen._view
        assert [name for name, _ in view.additional.items()] == ["path"]
        assert view.additional["path"][0] == f"photo-{view.indices[0]}.jpg"
        assert view.arrays["label"].tolist() == [index % 10 for index in view.indices]
        assert len(view.seeds) == 8
        await press(app, pilot, "a", "right_square_bracket")
        await shows(app, pilot, "epoch 0, batch 2")
        await press(app, pilot, *["right_square_bracket"] * 3)
        await shows(app, pilot, "epoch 0, batch 5", "4 items")  # the last batch of an epoch is padded
        await press(app, pilot, "s", "c")  # keys of a run do nothing here
        await press(app, pilot, "escape", "home")
        assert isinstance(app.screen, CacheScreen)
        assert table(app).chosen_entry.number == 0
        await shows(app, pilot, "● sound")
        await press(app, pilot, "enter", "left_square_bracket")
        await shows(app, pilot, "nothing further")
        await press(app, pilot, "escape")
        await pilot.double_click(EntryTable, offset=(20, 5))
        await until(pilot, lambda: isinstance(app.screen, BatchScreen) and app.settled)
        assert app.screen.record.epoch_batch == 3


@asynchronous
async def test_the_picture_follows_the_cursor(made):
    async with app_of(made / "run") as (app, pilot):
        picture = app.screen.query_one(ArrayPicture)
        assert picture.border_title.startswith("epoch 0, batch 0 · image (8, 6, 5, 3)")
        await press(app, pilot, "end")
        assert picture.border_title.startswith("epoch 2, batch 2 · image")


@asynchronous
async def test_the_map_says_what_is_where_and_leads_to_the_entry(made):
    async with app_of(made / "run") as (app, pilot):
        plan = app.screen.query_one(CoverageMap)
        await press(app, pilot, "m")
        assert plan.has_focus
        assert pointed(app) == "epoch 0, batch 0: stored"
        await press(app, pilot, "right", "down", "down")
        assert (pointed(app), chosen(app)) == ("epoch 2, batch 1: stored", (2, 1))
        await press(app, pilot, "end")
        assert pointed(app) == "epoch 2, batch 5: missing"
        await press(app, pilot, "enter")
        assert table(app).has_focus
        await shows(app, pilot, "is not listed")
        await press(app, pilot, "m", "home", "left", "pagedown", "up", "enter")
        assert (chosen(app), table(app).has_focus) == ((1, 0), True)
        await press(app, pilot, "down")
        assert pointed(app) == "epoch 1, batch 1: stored"
        left = plan.plot.label
        await pilot.hover(CoverageMap, offset=(left + 2 * 3, 2))
        await until(pilot, lambda: pointed(app) == "epoch 2, batch 3: missing")
        await pilot.click(CoverageMap, offset=(left + 2 * 4, 1))
        await until(pilot, lambda: chosen(app) == (1, 4))
        await pilot.double_click(CoverageMap, offset=(left + 2 * 2, 0))
        await until(pilot, lambda: chosen(app) == (0, 2) and table(app).has_focus)


@asynchronous
async def test_the_filter_and_going_to_an_entry(made):
    async with app_of(made / "run") as (app, pilot):
        await press(app, pilot, "slash", *"epoch:1 2-9")
        await shows(app, pilot, "entries · 4 of 15 with epoch:1 2-9")
        await press(app, pilot, *" odd")
        await shows(app, pilot, "what is “odd”?")
        await press(app, pilot, "enter", "down")
        assert chosen(app) == (1, 2)
        await press(app, pilot, "escape")
        await shows(app, pilot, "entries · 15 ")
        await press(app, pilot, "slash", *"older:1d", "enter")
        await shows(app, pilot, "nothing fits the filter")
        await press(app, pilot, "escape", "g")
        assert isinstance(app.screen, GoToScreen)
        app.screen.query_one(Input).value = "2:1"
        await press(app, pilot, "enter")
        await until(pilot, lambda: chosen(app) == (2, 1))


# putting it in order


@asynchronous
async def test_a_sound_cache_is_verified(made):
    async with app_of(made / "run") as (app, pilot):
        await press(app, pilot, "v")
        await shows(app, pilot, "✓ clean", "read in", "● sound")
        await until(pilot, lambda: any(re.search(r"2:0 ● ● ● · · · +50 %", line) for line in texts(app)))
        await press(app, pilot, "right_square_bracket")
        assert not shown(app, "✓ clean")


@asynchronous
async def test_damage_is_listed_mapped_looked_at_and_repaired(run):
    damage(run / "training-0", 0, 3)
    damage(run / "training-0", 1, 0)
    (run / "training-0" / "notes.txt").write_text("mine")
    async with app_of(run) as (app, pilot):
        await press(app, pilot, "v")
        await shows(app, pilot, "✗ 3 findings", "p repairs", "✗ 2 bad", "notes.txt: not of this format")
        await until(pilot, lambda: any(re.search(r"0:0 ● ● ● ✗ ● ●", line) for line in texts(app)))
        await press(app, pilot, "f", "down", "enter")
        await shows(app, pilot, "That is no entry")
        await press(app, pilot, "f", "f", "down", "enter")
        assert chosen(app) == (0, 3)
        await press(app, pilot, "enter")
        await shows(app, pilot, "BAD: its checksum does not fit", "A bad entry")
        await press(app, pilot, "escape", "slash", *"bad", "enter")
        await shows(app, pilot, "entries · 2 of 15 with bad")
        await press(app, pilot, "p", "n")
        assert len(list(verify_cache(run / "training-0"))) == 3
        await press(app, pilot, "p")
        assert isinstance(app.screen, ConfirmScreen)
        await press(app, pilot, "y")
        app.clear_notifications()
        await shows(app, pilot, "✓ repaired", "1 left alone", "entries · 0 of 13 with bad", "batch 3: missing")
        await press(app, pilot, "escape")
        await shows(app, pilot, "entries · 13 ", "13 of 18 batches")
    assert [finding.what for finding in verify_cache(run / "training-0")] == ["foreign"]


@asynchronous
async def test_a_verify_can_be_stopped_and_another_has_to_wait(made, monkeypatch):
    started = threading.Event()

    def endless(path, *, repair, progress, on_entry):
        progress(100, 1000)
        started.set()
        while not threading.Event().wait(0.002):
            on_entry(0, 0)
        yield

    monkeypatch.setattr("hydrax_cli.inspect.cache_app.model.source.verify", endless)
    async with app_of(made / "run") as (app, pilot):
        await pilot.press("v")
        await until(pilot, started.is_set)
        await shows(app, pilot, "verifying 10 %", "100 B of 1000 B", "v stops")
        await pilot.press("right_square_bracket", "v")
        await shows(app, pilot, "one thing at a time")
        await pilot.press("left_square_bracket", "v")
        await until(pilot, lambda: app.settled)
        await shows(app, pilot, "‖ stopped")
        await pilot.press("v", "q")  # and quitting waits for none
        await until(pilot, lambda: not app.is_running)


@asynchronous
async def test_clearing_shows_what_would_go_and_removes_only_that(run):
    damage(run / "training-0", 1, 2)
    async with app_of(run) as (app, pilot):
        await press(app, pilot, "x")
        assert isinstance(app.screen, ClearScreen)
        await press(app, pilot, "y", "enter")
        await shows(app, pilot, "Would remove 1 batch and 0 whole files")
        await press(app, pilot, "escape")
        assert info(run / "training-0").entries == 15
        await press(app, pilot, "x", "down", "down", "enter", "x", "enter")
        await shows(app, pilot, "x is no epoch")
        await press(app, pilot, "backspace", "1", "enter")
        await shows(app, pilot, "Would remove 6 batches and 2 whole files", "y removes them")
        await press(app, pilot, "down")  # another choice has another plan
        await press(app, pilot, "y")
        assert isinstance(app.screen, ClearScreen)
        await press(app, pilot, "enter", "7", "enter")
        await shows(app, pilot, "7 is no age")
        await press(app, pilot, "d", "enter")
        await shows(app, pilot, "There is nothing of that kind")
        await press(app, pilot, "shift+tab", "up", "enter", "1", "enter")
        await press(app, pilot, "y")
        await shows(app, pilot, "6 batches removed", "entries · 9 ", "9 of 12 batches")
        await press(app, pilot, "x", "down", "enter")
        await press(app, pilot, "y")
        await shows(app, pilot, "9 batches removed")
        await until(pilot, lambda: app.screen.query_one(GroupList).count() == 1)
    assert list((run / "training-0").iterdir()) == []
    assert info(run / "validation-0").entries == 2


@asynchronous
async def test_while_a_run_writes_it_is_watched_and_nothing_is_removed(tmp_path):
    with store(tmp_path / "c") as writer:
        async with app_of(tmp_path / "c") as (app, pilot):
            await shows(app, pilot, "► in use by a run", "nothing is stored yet", "0 of 6 batches")
            batch = {"image": np.ones((8, 6, 5, 3), np.uint8), "label": np.zeros(8, np.int32)}
            writer.write(0, 2, batch)
            writer.flush()
            app.tick(at_once=True)
            await shows(app, pilot, "1 of 6 batches", "entries · 1", "last written")
            await press(app, pilot, "p", "y")
            await shows(app, pilot, "Nothing was repaired", "a run is using this cache")
            await press(app, pilot, "x", "down", "enter")
            await press(app, pilot, "y")
            await shows(app, pilot, "Nothing was removed")
            await press(app, pilot, "v")
            await shows(app, pilot, "✓ clean")
            writer.write(0, 4, batch)
            writer.flush()
            await press(app, pilot, "r")
            await until(pilot, lambda: any(re.search(r"0:0 · · ● · ■ ·", line) for line in texts(app)))
            await shows(app, pilot, "○ not read")
    assert info(tmp_path / "c").entries == 2


# what else may be there, or not


@asynchronous
async def test_a_cache_that_vanishes_is_told_and_the_app_lives(run):
    async with app_of(run) as (app, pilot):
        run.rename(run.with_name("moved"))
        app.tick(at_once=True)
        await shows(app, pilot, "✗ gone", "there is no such folder", "there is no cache")
        await press(app, pilot, "down", "enter", "m", "right", "enter", "g", "slash", "3", "escape", "f", "enter")
        await press(app, pilot, "v", "p", "x", "r", "right_square_bracket")
        assert isinstance(app.screen, CacheScreen)
        await shows(app, pilot, "There is no cache.")
        run.with_name("moved").rename(run)
        await press(app, pilot, "r", "m", "home", "enter")
        await shows(app, pilot, "○ not in use", "entries · 15")
        app._next_look = float("inf")  # what goes now, it has not noticed yet
        shutil.rmtree(run / "training-0")
        await press(app, pilot, "end", "enter")
        await shows(app, pilot, "cannot be shown")
        await press(app, pilot, "escape", "v")
        await shows(app, pilot, "Nothing was verified")


@asynchronous
async def test_an_empty_cache_and_one_of_items(made):
    async with app_of(made / "empty") as (app, pilot):
        await shows(app, pilot, "0 of 6 batches", "0:0 · · · · · ·", "nothing is stored yet")
        await press(app, pilot, "enter", "m", "right", "enter", "v")
        await shows(app, pilot, "✓ clean")
    async with app_of(made / "items") as (app, pilot):
        await shows(app, pilot, "32 of 44 items", "cache_by item", "items 0 … 31")
        await press(app, pilot, "down", "down", "enter")
        await shows(app, pilot, "items 1 … 31", "photo-1.jpg")
        assert app.screen._view.arrays["image"].shape == (31, 6, 5, 3)
        await press(app, pilot, "left_square_bracket")
        await shows(app, pilot, "items 0 … 31")
        await press(app, pilot, "right_square_bracket")
        await shows(app, pilot, "nothing further")


@asynchronous
async def test_damaged_manifests_and_indexes_and_other_folders_are_told(run):
    (run / "other").mkdir()
    manifest = (run / "validation-0").rename(run / "validation[b]") / "hydrax-cache.json"
    manifest.write_text(manifest.read_text()[:-20])
    (run / "training-0" / "index.sqlite").write_bytes(b"\xff" * 9000)
    async with app_of(run) as (app, pilot):
        await shows(app, pilot, "✗ damaged", "index: ", "entries · 0")
        await press(app, pilot, "v")
        await shows(app, pilot, "corrupt", "index.sqlite")
        await press(app, pilot, "right_square_bracket")
        await shows(app, pilot, "is damaged", "cannot be told apart")
        await press(app, pilot, "enter", "m", "right", "g", "slash", "3", "escape", "v")
        await shows(app, pilot, "hydrax-cache.json: ", "validation[b]")
        for key in ("p", "x"):
            await press(app, pilot, key)
            await shows(app, pilot, "r validation[b]")
            await press(app, pilot, "escape")


@asynchronous
async def test_a_pickle_is_named_and_not_opened(tmp_path):
    with store(tmp_path / "c", cache_pickle=True) as writer:
        batch = {"image": np.ones((8, 6, 5, 3), np.uint8), "label": np.zeros(8, np.int32)}
        writer.write(0, 0, batch, {"object": [Opaque()] * 8})
    async with app_of(tmp_path / "c", size=(160, 50)) as (app, pilot):
        await press(app, pilot, "enter")
        await shows(app, pilot, "<unopened pickle")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@asynchronous
async def test_a_folder_that_cannot_be_written_is_read_only(run):
    folder = run / "training-0"
    folder.chmod(0o500)
    try:
        async with app_of(folder) as (app, pilot):
            await shows(app, pilot, "⊘ read-only")
    finally:
        folder.chmod(0o700)


@asynchronous
async def test_help_theme_palette_small_terminals_and_quitting(made):
    async with app_of(made / "run") as (app, pilot):
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)
        await shows(app, pilot, "stored in part")
        await pilot.press("question_mark")
        dark = app.theme
        await pilot.press("t")
        assert app.theme != dark
        await pilot.resize_terminal(40, 10)
        await until(pilot, lambda: isinstance(app.screen, TooSmallScreen))
        await pilot.resize_terminal(100, 30)
        await until(pilot, lambda: isinstance(app.screen, CacheScreen))
        await pilot.press("ctrl+p", *"verify")
        await found_first(app, pilot, "Verify")
        await pilot.press("enter")
        await shows(app, pilot, "● sound")
        await pilot.press("ctrl+c")
        await until(pilot, lambda: not app.is_running)
