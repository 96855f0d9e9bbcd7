"""What the cache screen is made of, without a screen: the lie of the map, the filter, and what is known of entries."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrax_cli.inspect.cache_app.model.contents import Key, Selection, VerifyProgress
from hydrax_cli.inspect.cache_app.model.listing import KeyList, read_filter
from hydrax_cli.inspect.cache_app.model.state import GroupState, Verdicts
from hydrax_cli.inspect.cache_app.widgets.plotting import plot
from hydrax_core.cache import EntryInfo, Finding

SIZES = st.tuples(st.integers(0, 300), st.integers(0, 80))


@given(st.integers(1, 10**15), st.integers(1, 10**5), SIZES)
def test_a_map_fits_and_shows_all_epochs_where_there_are_lines_for_them(entries, epochs, size):
    made = plot(entries, epochs, epochs - 1, size)
    assert made.across * made.broad <= max(1, size[0] - made.label - 6)
    assert made.lines * epochs <= max(size[1], epochs)
    assert (made.cells - 1) * made.width < entries <= made.cells * made.width
    assert made.lines == -(-made.cells // made.across)


@given(st.integers(1, 700), st.integers(1, 9), SIZES)
def test_every_entry_is_in_one_cell_which_is_found_where_it_is_drawn(entries, epochs, size):
    made = plot(entries, epochs, 12, size)
    found = []
    for line in range(made.lines * epochs):
        epoch, cells = made.line(line)
        for across, number in enumerate(cells):
            cell = made.cell(epoch, number)
            assert made.at(made.label + across * made.broad, line) == cell
            assert made.line_of(epoch, cell.first) == line
            found += [(epoch, entry) for entry in range(cell.first, cell.end)]
        assert made.at(made.label - 1, line) is None
        assert made.at(made.label + len(cells) * made.broad, line) is None
    assert found == [(epoch, entry) for epoch in range(epochs) for entry in range(entries)]


@pytest.mark.parametrize(
    ("text", "selection"),
    [
        ("", Selection()),
        ("epoch:3", Selection(epochs=(3, 4))),
        ("epoch:2-4 batch:10-20", Selection(epochs=(2, 5), numbers=(10, 21))),
        ("item:7", Selection(numbers=(7, 8))),
        ("12-15", Selection(numbers=(12, 16))),
        ("BAD epoch:0", Selection(epochs=(0, 1), bad=True)),
        ("older:2h", Selection(written=(float("-inf"), 10_000 - 7_200))),
        ("newer:1.5min older:30s", Selection(written=(9_910, 9_970))),
        ("epoch:", Selection()),
    ],
)
def test_a_filter_asks_for_what_its_words_say(text, selection):
    assert read_filter(text, 10_000) == (selection, "")


@pytest.mark.parametrize("word", ["nonsense", "epoch:x", "older:7", "batch:3-", "seed:3", "bad:1"])
def test_a_word_that_is_not_understood_is_named(word):
    assert read_filter(f"epoch:1 {word}", 0) == (Selection(), word)


def entry(epoch, number, created=50.0):
    return EntryInfo(epoch, number, created, 10, None)


def corrupt(epoch, number, **changes):
    return Finding("corrupt", f"epoch {epoch}, batch {number}", None, "", epoch, number, **changes)


def test_entries_are_found_in_a_list_that_is_at_hand():
    listed = KeyList([entry(0, 3), entry(0, 7), entry(2, 0)])
    assert [listed.place_of(*key) for key in ((0, 0), (0, 3), (0, 5), (2, 0), (3, 0))] == [0, 0, 1, 2, 3]
    assert listed.page(1, 5) == [entry(0, 7), entry(2, 0)]
    assert len(listed) == 3


def test_an_entry_is_sound_once_it_was_read_after_it_was_written():
    known = Verdicts()
    assert known.state(entry(0, 0)) == "unread"
    known.begin(100.0)
    known.add([corrupt(0, 2)])
    known.read_to(Key(0, 5))
    assert [known.state(entry(0, n)) for n in (0, 2, 5, 6)] == ["sound", "bad", "sound", "unread"]
    assert known.state(entry(0, 1, created=101.0)) == "unread"
    assert (known.is_read(0, 5), known.is_read(1, 0)) == (True, False)
    known.finish()
    assert known.state(entry(7, 0)) == "sound"
    known.begin(200.0)
    assert known.state(entry(0, 2)) == "unread"


@given(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 30))), st.integers(0, 30), st.integers(0, 30))
def test_bad_entries_are_counted_where_they_are(keys, first, end):
    known = Verdicts()
    known.add([corrupt(*key) for key in keys])
    known.add([Finding("foreign", "x", None, ""), Finding("unfinished", "epoch 9, batch 9", None, "", 9, 9)])
    assert known.bad() == sorted(keys)
    assert known.bad_count == len(keys)
    assert known.bad_between(1, first, end) == len({n for epoch, n in keys if epoch == 1 and first <= n < end})
    known.keep([Key(*key) for key in keys if key[0] == 2])
    assert known.bad() == sorted(key for key in keys if key[0] == 2)


def test_what_is_repaired_or_found_good_is_bad_no_more():
    known = Verdicts()
    known.add([corrupt(0, 1), corrupt(0, 2)])
    known.add([corrupt(0, 1, repaired=True)])
    known.opened(entry(0, 2), good=True)
    assert known.bad() == []
    assert known.state(entry(0, 2)) == "sound"
    assert known.state(entry(0, 2, created=51.0)) == "unread"
    known.opened(entry(0, 3), good=False)
    assert known.state(entry(0, 3)) == "bad"


def progress(*findings, end="", read_to=None):
    return VerifyProgress(1, 2, 0.1, read_to, findings, end)


def test_a_verify_that_fails_at_once_leaves_what_is_known():
    state = GroupState(SimpleNamespace())
    state.begin("verify", 100.0)
    state.report(progress(corrupt(0, 1), read_to=Key(0, 1)))
    state.report(progress(end="done"))
    assert (state.found, state.doing, state.did, state.mendable) == (1, "", "verify", True)
    state.begin("repair", 200.0)
    assert state.doing == "repair"
    state.report(progress(end="a run is using this cache"))
    assert (state.found, state.doing, state.did, state.verdicts.bad_count) == (1, "", "verify", 1)
    state.begin("repair", 300.0)
    state.report(progress(corrupt(0, 1, repaired=True), end="done"))
    assert (state.found, state.did, state.mendable, state.verdicts.bad_count) == (1, "repair", False, 0)


def test_of_very_many_findings_the_first_are_kept_and_all_are_counted():
    state = GroupState(SimpleNamespace())
    state.begin("verify", 100.0)
    for first in range(0, 12_000, 4_000):
        state.report(progress(*(corrupt(0, n) for n in range(first, first + 4_000))))
    assert (len(state.findings), state.found, state.verdicts.bad_count) == (10_000, 12_000, 12_000)
