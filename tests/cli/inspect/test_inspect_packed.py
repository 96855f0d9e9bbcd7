"""Packed rows on the screen, each document in a colour of its own, and the shares of a mixture."""

import numpy as np
from inspect_support import app_of, asynchronous, shows, table, until

from hydrax_cli.inspect.numbers.pixels import segments
from hydrax_cli.inspect.screens.batch import BatchScreen
from hydrax_cli.inspect.widgets.array_picture import ArrayPicture
from hydrax_cli.inspect.widgets.batch_lists import ItemList
from hydrax_core import DataGroup, Dataloader, Ragged, pack

LENGTHS = [3, 9, 4, 16, 2, 8, 1, 12, 4, 7, 15, 5, *[1] * 20]


def tokens(item, arrays, seed):
    return {"tokens": np.full(LENGTHS[item], item)}


def packed():
    texts = DataGroup(8, range(len(LENGTHS)), loader_arrays={"tokens": ((Ragged(),), "int32")})
    return Dataloader(
        tokens, pack(texts, LENGTHS, length=20, shuffle_first=False, remainder="pad"), loader_kind="thread"
    )


def colours_of(picture):
    """The colours of the first line that is drawn, those of blanks without the background."""
    found = []
    for segment in picture.render_line(0):
        colour = segment.style.color if segment.text.strip() else segment.style.bgcolor
        if colour is not None and tuple(colour.get_truecolor()) != picture.background_colors[1].rgb:
            found.append(tuple(colour.get_truecolor()))
    return [colour for place, colour in enumerate(found) if place == 0 or colour != found[place - 1]]


@asynchronous
async def test_a_packed_row_is_shown_with_its_documents_in_colours():
    async with app_of(packed, playing=False) as (app, pilot):
        await until(
            pilot, lambda: app.frame is not None and app.frame.state == "paused" and app.frame.subject is not None
        )
        await pilot.press("s")
        await until(pilot, lambda: table(app).count() == 1)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, BatchScreen) and app.screen.settled)
        picture = app.screen.query_one(ArrayPicture)
        assert "as segments" in picture.border_title
        documents = len(app.screen._view.indices[0])
        assert f"row 0: {documents} segments" in picture.border_subtitle
        assert "100.0% full" in picture.border_subtitle
        assert len(colours_of(picture)) == 1 + documents, "the number of the row, and its documents"
        items, indices = app.screen.query_one(ItemList), app.screen._view.indices
        assert max(map(len, indices)) > 10, "so many that they do not fit"
        room = items.content_size.width
        for row, numbers in enumerate(indices):
            line = "".join(text for text, _ in items.pieces(row, room))
            assert str(numbers)[:8] in line[:room], "whatever the other rows hold"
        await pilot.press("z")
        assert len(colours_of(picture)) == 1 + documents
        await pilot.press("v", "v", "v")
        assert len(picture.kinds) == 3


def mixture():
    arrays = {"tokens": ((3,), "int32")}
    groups = [DataGroup(2, range(size), loader_arrays=arrays) for size in (60, 20)]
    return Dataloader(lambda *_: None, groups, weights=[3, 1], loader_kind="thread", end_at=("batch", 80))


@asynchronous
async def test_the_shares_of_the_groups_of_a_mixture_stand_beside_those_that_were_asked_for():
    async with app_of(mixture) as (app, pilot):
        await shows(app, pilot, "shares (wanted) 75 % (75 %), 2.0 ep. · 25 % (25 %), 2.0 ep.")


def test_rows_of_segments_are_as_wide_as_there_is_room_and_padding_has_the_first_colour():
    ids = np.array([[1, 1, 2, 0], [7, 7, 7, 7]])
    palette = [(0, 0, 0), (1, 1, 1), (2, 2, 2)]
    assert segments(ids, palette, 4, 1)[..., 0].tolist() == [[1, 1, 2, 0], [1, 1, 1, 1]]
    assert segments(ids, palette, 9, 2)[..., 0].tolist() == [[1, 1, 1, 1, 2, 2, 0, 0], [0] * 8, [1] * 8, [0] * 8]
    assert segments(ids, palette, 2, 1)[..., 0].tolist() == [[1, 2], [1, 1]]
