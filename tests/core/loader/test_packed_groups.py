"""Rows of several documents, through the loader: pack and concat."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest

from hydrax_cli.run.digest import RunDigest
from hydrax_core import DataGroup, Dataloader, LoaderError, Ragged, Source, batched, buckets, concat, pack
from hydrax_core.monitor.run import plan_of
from hydrax_core.plan.packing import PackedRows

LENGTHS = [3, 9, 4, 16, 2, 8, 1, 12, 4, 7, 15, 5, 3, 6, 11, 2, 45, 20, 0, 17] * 2
ITEMS = range(len(LENGTHS))
LENGTH = 16
ARRAYS = {"tokens": ((Ragged(pad=-7),), "int32")}


def document(item):
    """Tokens that tell which document they are of, and where in it they stand."""
    return 100 * item + np.arange(LENGTHS[item])


def fill(item, arrays, seed):
    arrays["tokens"][...] = document(item)
    return {"item": item, "seed": seed}


def returns(item, arrays, seed):
    return {"tokens": document(item), "item": item, "seed": seed}


@batched
def many(items, arrays, seeds):
    for row, item in enumerate(items):
        arrays["tokens"][row] = document(item)
    return [{"item": item, "seed": None if seeds is None else seeds[row]} for row, item in enumerate(items)]


class Documents(Source):
    def __len__(self):
        return len(LENGTHS)

    def __getitem__(self, index):
        return range(len(LENGTHS))[index]

    def lengths(self):
        return np.array(LENGTHS)

    def fingerprint(self):
        return "documents"


def group(data=ITEMS, **settings):
    return DataGroup(4, data, **{"loader_arrays": ARRAYS, "remainder": "pad", **settings})


def packed(data=ITEMS, lengths=LENGTHS, *, loader_arrays=ARRAYS, **settings):
    return pack(group(data, loader_arrays=loader_arrays), lengths, length=LENGTH, **settings)


def segments_of(batch):
    """What each segment holds: (row, tokens, positions)."""
    arrays = {name: np.asarray(array) for name, array in batch.arrays.items()}
    for row in range(batch.size):
        ids = arrays["segment_ids"][row]
        for segment in range(1, ids.max() + 1):
            place = np.flatnonzero(ids == segment)
            assert (np.diff(place) == 1).all()
            yield row, arrays["tokens"][row][place], arrays["positions"][row][place]
        assert (arrays["tokens"][row][ids == 0] == -7).all()
        assert (arrays["positions"][row][ids == 0] == 0).all()


def check_epoch(batches, lengths=LENGTHS):
    """Every token once; segments whole and in their document's order; what a batch says of its rows is true."""
    tokens = []
    for batch in batches:
        segments = list(segments_of(batch))
        assert [len(row) for row in batch.indices] == [len(row) for row in batch.data]
        owners = [item for row in batch.indices for item in row]
        assert owners == [item for row in batch.data for item in row]
        assert owners == [item for row in batch.additional["item"][: batch.size] for item in row]
        if batch.is_training:
            assert list(batch.seeds) == list(batch.additional["seed"][: batch.size])
        for item, (_, found, positions) in zip(owners, segments, strict=True):
            assert positions.tolist() == list(range(len(found)))
            assert (found // 100 == item).all()
            assert (np.diff(found) == 1).all()
            tokens += found.tolist()
    assert sorted(tokens) == [100 * item + n for item, length in enumerate(lengths) for n in range(length)]


def batches_of(loader, count=None):
    with loader:
        return list(itertools.islice(loader, count))


def record(batch):
    return batch.indices, batch.seeds, *(np.asarray(array).tobytes() for array in batch.arrays.values())


@pytest.mark.parametrize("load", [fill, returns, many])
@pytest.mark.parametrize("zeroed", [True, False])
@pytest.mark.parametrize("repack", ["once", "epoch"])
def test_an_epoch_has_every_token_once_and_no_segment_mixes(load, zeroed, repack):
    made = packed(repack=repack, zeroed=zeroed)
    loader = Dataloader(load, made, loader_kind="inline", end_at=("epoch", 3))
    found = batches_of(loader)
    per_epoch = loader.batches_per_epoch
    contents = []
    for epoch in range(3):
        batches = found[epoch * per_epoch : (epoch + 1) * per_epoch]
        check_epoch(batches)
        contents.append({row for batch in batches for row in batch.indices})
    assert (contents[0] == contents[1] == contents[2]) == (repack == "once")


@pytest.mark.parametrize("data", [range(len(LENGTHS)), Documents(), [*range(len(LENGTHS))]])
def test_documents_are_read_in_workers_or_sent_to_them(data):
    lengths = None if isinstance(data, Source) else LENGTHS
    made = packed(data, lengths, shuffle_first=False)
    assert isinstance(made.items, Source) == isinstance(data, Source)
    check_epoch(batches_of(Dataloader(fill, made, end_at=("epoch", 1))))
    validated = Dataloader(fill, group(loader_arrays={"t": ((), "int32")}), validation=("batch", 1, made))
    assert validated.batches_per_validation == made.batch_count


def test_the_stream_of_documents_fills_every_row():
    made = concat(group(), LENGTHS, length=LENGTH)
    assert made.rows.fill == pytest.approx(sum(LENGTHS) / (len(made) * LENGTH))
    found = batches_of(Dataloader(fill, made, loader_kind="inline", end_at=("epoch", 1)))
    check_epoch(found)
    rows = {}
    for batch in found:
        rows.update(zip(batch.known.host.indices.tolist(), segments_of_rows(batch), strict=True))
    assert [token for index in sorted(rows) for token in rows[index]] == [
        100 * item + n for item, length in enumerate(LENGTHS) for n in range(length)
    ]


def segments_of_rows(batch):
    ids = np.asarray(batch.arrays["segment_ids"])
    return [np.asarray(batch.arrays["tokens"])[row][ids[row] > 0].tolist() for row in range(batch.size)]


@pytest.mark.parametrize("settings", [{}, {"repack": "epoch"}])
def test_a_run_goes_on_from_any_batch(settings):
    made = packed(**settings)
    whole = list(map(record, batches_of(Dataloader(fill, made, loader_kind="inline"), 12)))
    for stop in (1, 4, 5, 9):
        first, second = (Dataloader(fill, made, loader_kind="inline") for _ in range(2))
        batches_of(first, stop)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert list(map(record, batches_of(second, 12 - stop))) == whole[stop:]


def test_a_substitute_is_another_row_of_the_epoch():
    def fails(item, arrays, seed):
        if item == 5:
            raise ValueError(item)
        return fill(item, arrays, seed)

    for repack in ("once", "epoch"):
        loader = Dataloader(
            fails, packed(repack=repack), loader_kind="inline", on_error="substitute", end_at=("epoch", 3)
        )
        found = batches_of(loader)
        assert len(found) == 3 * loader.batches_per_epoch
        assert loader.stats().substituted_items >= 3
        assert 5 not in {item for batch in found for row in batch.indices for item in row}


@pytest.mark.parametrize("by", ["batch", "item"])
def test_packed_rows_are_cached(tmp_path, by):
    made = packed(cache_location=tmp_path / "c", cache_by=by)
    runs = []
    for _ in range(2):
        loader = Dataloader(fill, made, loader_kind="inline", end_at=("epoch", 2))
        runs.append(list(map(record, batches_of(loader))))
    assert runs[0] == runs[1]
    assert loader.stats().loaded_items == 0
    with pytest.raises(ValueError, match="repack: with 'epoch' no row comes twice"):
        packed(repack="epoch", cache_location=tmp_path / "d")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("maxtext", ["tokens", "tokens_segmentation", "tokens_position"]),
        ("grain", ["tokens", "tokens_segment_ids", "tokens_positions"]),
        ({"segment_ids": "s", "positions": "p_{}"}, ["tokens", "s", "p_tokens"]),
    ],
)
def test_arrays_have_the_names_that_a_model_expects(names, expected):
    assert list(packed(names=names).loader_layouts) == expected


def test_arrays_of_a_document_have_an_entry_for_each():
    arrays = {"tokens": ((Ragged(),), "int32"), "scores": ((Ragged(), 2), "float32"), "label": ((), "int32")}

    def load(item, views, seed):
        views["tokens"][...] = document(item)
        views["scores"][...] = item
        views["label"][...] = item

    made = packed(loader_arrays=arrays, max_segments=3)
    assert made.loader_layouts["label"].shape == (4, 3)
    assert made.loader_layouts["scores"].shape == (4, LENGTH, 2)
    for batch in batches_of(Dataloader(load, made, loader_kind="inline", end_at=("epoch", 1))):
        for row, items in enumerate(batch.indices):
            assert batch.arrays["label"][row].tolist() == [*items, *[0] * (3 - len(items))]
            ids = np.asarray(batch.arrays["segment_ids"])[row]
            scores = np.asarray(batch.arrays["scores"])[row]
            assert scores[ids > 0].tolist() == [[items[n - 1]] * 2 for n in ids[ids > 0].tolist()]
    with pytest.raises(ValueError, match="max_segments: 'label' has one entry for each document"):
        packed(loader_arrays=arrays)


def test_lengths_may_be_measured_once_and_kept(tmp_path):
    calls = []

    def measure(item):
        calls.append(item)
        return LENGTHS[item]

    kept = tmp_path / "lengths" / "of.npz"
    for _ in range(2):
        check_epoch(
            batches_of(
                Dataloader(fill, packed(lengths=measure, lengths_file=kept), loader_kind="inline", end_at=("epoch", 1))
            )
        )
    assert Counter(calls) == dict.fromkeys(range(len(LENGTHS)), 1)
    packed([*range(len(LENGTHS))][::-1], measure, lengths_file=kept)
    assert len(calls) == 2 * len(LENGTHS), "other data: measured again"
    kept.write_bytes(b"PK damaged")
    packed(lengths=measure, lengths_file=kept)
    assert len(calls) == 3 * len(LENGTHS)
    assert [file.name for file in kept.parent.iterdir()] == ["of.npz"]


def test_lengths_are_kept_beside_the_cache_for_the_code_that_measured_them(tmp_path, caplog):
    told = []

    def measure(item):
        told.append(item)
        return LENGTHS[item]

    def measure_otherwise(item):
        return measure(item) + 0

    measure_otherwise.__qualname__ = measure.__qualname__
    steps = []
    for function in (measure, measure, measure_otherwise):
        packed(lengths=function, cache_location=tmp_path / "c", progress=lambda *step: steps.append(step))
    buckets(group(cache_location=tmp_path / "c"), measure_otherwise, boundaries=[45])
    assert len(told) == 2 * len(LENGTHS), "by two functions"
    assert [file.name for file in tmp_path.iterdir()] == ["c-lengths.npz"]
    assert steps[0] == (0, len(LENGTHS))
    assert steps.count((len(LENGTHS), len(LENGTHS))) == 2
    (tmp_path / "file").touch()
    packed(lengths=measure, lengths_file=tmp_path / "file" / "below.npz")
    assert "the lengths are not kept" in caplog.text
    with pytest.raises(TypeError, match="progress: it is called with"):
        packed(lengths=measure, progress=lambda done: None)


def test_lengths_alone_give_rows_of_item_numbers():
    rows = pack(LENGTHS, length=LENGTH)
    assert isinstance(rows, PackedRows)
    flat = [entry for row in rows for entry in row]
    assert sorted(entry for entry in flat if isinstance(entry, int)) == [
        item for item, length in enumerate(LENGTHS) if 0 < length <= LENGTH
    ]
    assert {entry for entry in flat if isinstance(entry, tuple)} >= {(16, 0), (16, 1), (16, 2), (17, 0), (17, 1)}


def test_a_document_of_another_length_is_named():
    def wrong(item, arrays, seed):
        return {"tokens": np.zeros(LENGTHS[item] + (item == 4))}

    with (
        Dataloader(wrong, packed(), loader_kind="inline", end_at=("epoch", 1)) as loader,
        pytest.raises(LoaderError, match="'tokens' has 3 elements, `lengths` says 2 for this item"),
    ):
        list(loader)


def test_the_log_says_once_how_many_are_left_out(caplog):
    made = packed(split_long="drop")
    batches_of(Dataloader(fill, made, loader_kind="inline", end_at=("epoch", 2)))
    buckets(group(), LENGTHS, boundaries=[16], longer="drop")
    packed()
    assert [record.getMessage() for record in caplog.records if record.name == "hydrax"] == [
        "pack: 6 of 40 documents are longer than 16 and left out (split_long='drop')",
        "buckets: 6 of 40 items are longer than 16 and left out (longer='drop')",
    ]


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="length: item 16 has 45 tokens"):
        packed(split_long=False)
    assert packed(split_long="drop").rows.dropped == 6
    with pytest.raises(ValueError, match="split_long: expected True, False or 'drop'"):
        packed(split_long="cut")
    with pytest.raises(ValueError, match="algorithm: expected one of 'best_fit'"):
        packed(algorithm="first_fit")
    with pytest.raises(ValueError, match=f"lengths: expected {len(LENGTHS)}, one for each item, got 3"):
        packed(lengths=[1, 2, 3])
    with pytest.raises(TypeError, match="lengths: a range does not tell the lengths of its items"):
        packed(lengths=None)
    with pytest.raises(ValueError, match="group: it has no ragged array"):
        packed(loader_arrays={"x": ((), "int32")})
    with pytest.raises(ValueError, match="group: it is mixed, packed or weighted already"):
        pack(packed(), LENGTHS, length=8)
    with pytest.raises(ValueError, match="names: expected one of 'hydrax'"):
        packed(names="t5")
    with pytest.raises(ValueError, match="names: 'tokens' is an array of the group"):
        packed(names={"segment_ids": "tokens", "positions": "p"})


def test_the_plan_of_a_run_says_how_full_rows_are():
    made = packed(remainder="drop", batch_size=5)
    (shown,) = plan_of(Dataloader(fill, made)).groups
    assert [array.segments for array in shown.arrays] == ["segment_ids"] * 3
    assert (shown.rows, shown.fill) == (len(made), made.rows.fill)
    assert shown.left_out == len(made) % 5


def test_the_stats_say_how_many_tokens_came_and_how_full_their_rows_were():
    whole = Dataloader(fill, packed(), loader_kind="inline", end_at=("epoch", 2))
    batches_of(whole)
    assert whole.stats().tokens == 2 * sum(LENGTHS)
    assert whole.stats().token_places == 2 * len(packed()) * LENGTH
    apart = buckets(group(), LENGTHS, boundaries=[4, 16, 45])
    batches_of(loader := Dataloader(returns, apart, loader_kind="inline", end_at=("epoch", 1)))
    assert loader.stats().tokens == sum(LENGTHS)
    assert loader.stats().shapes == 3
    assert loader.stats().token_places == sum(one.rows.size * one.loader_layouts["tokens"].shape[1] for one in apart)


def test_the_digest_of_a_run_tells_packed_rows_apart():
    digests = set()
    for settings in ({}, {"max_segments": 2}, {"seed": 1}):
        digest = RunDigest()
        for batch in batches_of(Dataloader(fill, packed(**settings), loader_kind="inline", end_at=("epoch", 1))):
            digest.update(batch)
        digests.add(digest.hexdigest())
    assert len(digests) == 3


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_rows_are_the_same_whoever_loads_them(kind):
    for made in (packed(repack="epoch"), packed(Documents(), None), concat(group(), LENGTHS, length=LENGTH)):
        settings = {"end_at": ("epoch", 2)}
        expected = list(map(record, batches_of(Dataloader(fill, made, loader_kind="inline", **settings))))
        found = batches_of(Dataloader(fill, made, loader_kind=kind, loader_count=2, **settings))
        assert list(map(record, found)) == expected
