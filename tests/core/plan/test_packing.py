import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrax_core.plan.packing import ConcatenatedRows, PackedRows, checked_length, checked_lengths

LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=60).filter(any)


def packed(lengths, length=20, **settings):
    return PackedRows(np.array(lengths, np.int64), length, **settings)


def rows_of(rows, epoch=0):
    return [rows.row(number, epoch) for number in range(len(rows))]


def tokens_of(rows, epoch=0):
    """(document, token) in the order of the rows."""
    return [
        (piece.item, token)
        for row in rows_of(rows, epoch)
        for piece in row
        for token in range(piece.start, piece.start + piece.length)
    ]


def all_tokens(lengths):
    return [(item, token) for item, length in enumerate(lengths) for token in range(length)]


@given(LENGTHS, st.integers(1, 30), st.one_of(st.none(), st.integers(1, 4)), st.integers(0, 3))
def test_each_token_stands_in_one_row_and_no_row_is_overfull(lengths, length, most, epoch):
    rows = packed(lengths, length, max_segments=most)
    assert sorted(tokens_of(rows, epoch)) == all_tokens(lengths)
    for row in rows_of(rows, epoch):
        assert 0 < sum(piece.length for piece in row) <= length
        assert len(row) <= (most or len(lengths))
    assert rows.tokens == sum(lengths)
    assert rows.fill == pytest.approx(sum(lengths) / (len(rows) * length))


@given(LENGTHS, st.integers(0, 3))
def test_the_parts_of_a_document_are_numbered_from_its_start(lengths, epoch):
    pieces = sorted(piece for row in rows_of(packed(lengths), epoch) for piece in row if piece.part is not None)
    for item in {piece.item for piece in pieces}:
        parts = [piece for piece in pieces if piece.item == item]
        assert [(piece.part, piece.start) for piece in parts] == [(n, n * 20) for n in range(len(parts))]
        assert lengths[item] > 20
    assert {item for item, length in enumerate(lengths) if length > 20} == {piece.item for piece in pieces}


def best_fit_one_by_one(lengths, length, most):
    spaces = []
    for size in sorted(lengths, reverse=True):
        fitting = [row for row in spaces if row[0] >= size and row[1] < most]
        if not fitting:
            spaces.append([length - size, 1])
            continue
        row = min(fitting)
        row[0] -= size
        row[1] += 1
    return len(spaces)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=80))
def test_there_are_as_many_rows_as_best_fit_decreasing_makes_one_document_at_a_time(lengths):
    assert len(packed(lengths)) == best_fit_one_by_one(lengths, 20, 99)


@given(LENGTHS)
def test_rows_are_as_long_as_documents_that_are_dropped_or_refused_allow(lengths):
    kept = [length if length <= 20 else 0 for length in lengths]
    if any(kept):
        rows = packed(lengths, split_long="drop")
        assert sorted(tokens_of(rows)) == all_tokens(kept)
        assert rows.dropped == sum(length > 20 for length in lengths)
    if max(lengths) > 20:
        item = next(item for item, length in enumerate(lengths) if length > 20)
        with pytest.raises(
            ValueError, match=f"length: item {item} has {lengths[item]} tokens and a row has room for 20"
        ):
            packed(lengths, split_long=False)


@given(LENGTHS)
def test_a_row_reads_as_its_documents(lengths):
    rows = packed(lengths)
    assert len(list(rows)) == len(rows)
    for number, row in enumerate(rows):
        assert row == tuple(p.item if p.part is None else (p.item, p.part) for p in rows.row(number))
    assert rows[-1] == rows[len(rows) - 1]
    assert rows[1:3] == [rows[number] for number in range(len(rows))[1:3]]
    with pytest.raises(IndexError, match=f"row {len(rows)} of {len(rows)}"):
        rows[len(rows)]


def test_documents_of_equal_length_change_rows_from_epoch_to_epoch():
    rows = packed([7, 13] * 500, 20)
    first, second, third = (rows_of(rows, epoch) for epoch in range(3))
    assert first != second != third
    assert [[p.length for p in row] for row in first] == [[p.length for p in row] for row in second]
    assert rows.row(3, 2) == packed([7, 13] * 500, 20).row(3, 2)


def test_a_million_lengths_need_few_kinds_of_rows():
    lengths = np.clip(np.random.default_rng(0).lognormal(6, 1, 200_000), 1, 2048).astype(np.int64)
    rows = PackedRows(lengths, 2048)
    assert rows.fill > 0.995
    assert len(rows._kinds) < 10_000
    items = np.array([piece.item for row in rows_of(rows) for piece in row])
    assert (np.sort(items) == np.arange(len(lengths))).all()


@given(LENGTHS, st.integers(1, 30))
def test_the_stream_of_all_documents_is_cut_into_rows(lengths, length):
    rows = ConcatenatedRows(np.array(lengths), length, remainder="pad")
    assert tokens_of(rows) == all_tokens(lengths)
    sizes = [sum(piece.length for piece in row) for row in rows_of(rows)]
    assert set(sizes[:-1]) <= {length}
    for row, pieces in enumerate(rows_of(rows)):
        for piece in pieces:
            whole = piece.start == 0 and piece.length == lengths[piece.item]
            assert (piece.part is None) == whole, (row, piece)
    seen = {}
    for piece in (piece for row in rows_of(rows) for piece in row if piece.part is not None):
        assert piece.part == seen.get(piece.item, 0)
        seen[piece.item] = piece.part + 1
    if sum(lengths) >= length:
        full = ConcatenatedRows(np.array(lengths), length)
        assert rows_of(full) == rows_of(rows)[: len(full)]
        assert len(full) == sum(lengths) // length


def test_equal_lengths_and_settings_have_one_digest():
    assert packed([3, 4]).digest == packed([3, 4]).digest
    others = [packed([4, 3]), packed([3, 4], 21), packed([3, 4], max_segments=2), packed([3, 4], split_long="drop")]
    assert len({made.digest for made in (*others, packed([3, 4]), ConcatenatedRows(np.array([3, 4]), 7))}) == 6


@pytest.mark.parametrize(
    ("lengths", "error", "text"),
    [
        ([], ValueError, r"lengths: expected one number for each item, got an array of shape \(0,\)"),
        ([[1]], ValueError, "lengths: expected one number for each item"),
        ([1.5], TypeError, "lengths: expected whole numbers, got float64"),
        ([1, -2], ValueError, "lengths: expected numbers of at least 0, got -2 for item 1"),
    ],
)
def test_wrong_lengths_are_refused(lengths, error, text):
    with pytest.raises(error, match=text):
        checked_lengths("lengths", lengths)


def test_what_gives_no_row_is_refused():
    with pytest.raises(ValueError, match="there is no token to pack"):
        packed([0, 0])
    with pytest.raises(ValueError, match="5 tokens do not fill one row of 20"):
        ConcatenatedRows(np.array([5]), 20)
    with pytest.raises(ValueError, match="length: expected an int from 1"):
        checked_length(0)
    assert "100.0% full" in repr(packed([20]))
