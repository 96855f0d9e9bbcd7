"""Ragged columns of built-in sources, packed, concatenated and in buckets: every element once, whole and in order."""

import json
import pickle

import numpy as np
import pytest

from hydrax_core import DataGroup, Dataloader, LoaderError, Ragged, buckets, concat, pack
from hydrax_core.sources import arrow, hugging_face, jsonl, numpy_rows, text_lines, torch_dataset, wrap
from hydrax_core.testing import check_loader, check_source

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
datasets = pytest.importorskip("datasets")

LENGTHS = [3, 9, 4, 40, 2, 8, 1, 12, 5, 7]
IDS = [[100 * row + place for place in range(length)] for row, length in enumerate(LENGTHS)]
RAGGED = {"ids": ((Ragged(),), "int32")}
FLAT = sorted(value for ids in IDS for value in ids)


class Items:
    def __len__(self):
        return len(IDS)

    def __getitem__(self, index):
        return {"ids": IDS[index], "label": index}


def opened(kind, folder, columns=RAGGED, **settings):
    rows = {"ids": IDS, "label": list(range(len(IDS)))}
    if kind == "items":
        return torch_dataset(Items(), columns, **settings)
    if kind == "jsonl":
        lines = (json.dumps({"ids": ids, "label": label}) + "\n" for label, ids in enumerate(IDS))
        (folder / "rows.jsonl").write_text("".join(lines))
        return jsonl(folder / "rows.jsonl", columns=columns, index_folder=folder, **settings)
    if kind.startswith("datasets"):
        dataset = datasets.Dataset.from_dict(rows)
        if kind == "datasets chosen":
            dataset = dataset.shuffle(seed=3)
        return hugging_face(dataset, columns, **settings)
    table = pa.table(rows)
    if kind == "chunks":
        table = pa.concat_tables([pa.table(rows).slice(0, 3), pa.table(rows).slice(3)])
    if kind == "mapped":
        with pa.ipc.new_file(folder / "rows.arrow", table.schema) as file:
            file.write_table(table, max_chunksize=4)
        return arrow(folder / "rows.arrow", columns, **settings)
    return arrow(table, columns, **settings)


KINDS = ["items", "jsonl", "datasets", "datasets chosen", "table", "chunks", "mapped"]


def values_of(group, **settings):
    """All elements of an epoch, and the rows."""
    found, rows = [], []
    with Dataloader(group, end_at=("epoch", 1), **{"loader_kind": "inline", **settings}) as loader:
        for batch in loader:
            arrays = {name: np.asarray(array) for name, array in batch.arrays.items()}
            for row in range(batch.size):
                if "segment_ids" in arrays:
                    kept = arrays["segment_ids"][row] > 0
                else:
                    kept = np.arange(arrays["ids"].shape[1]) < arrays["ids_length"][row]
                assert (arrays["ids"][row][~kept] == 0).all()
                rows.append(arrays["ids"][row][kept].tolist())
                found += rows[-1]
    return sorted(found), rows


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_of_a_source_is_packed_concatenated_and_put_into_buckets_by_one_call(kind, tmp_path):
    group = opened(kind, tmp_path, batch_size=2).training
    assert sorted(group.items.lengths().tolist()) == sorted(LENGTHS)
    assert [len(row["ids"]) for row in group.items] == group.items.lengths().tolist()
    assert values_of(pack(group, length=32))[0] == FLAT
    assert values_of(concat(group, length=32, remainder="pad"))[0] == FLAT
    found, rows = values_of(buckets(group, boundaries=[4, 12, 40]))
    assert found == FLAT
    assert sorted(rows) == sorted(IDS)
    check_source(group.items)


@pytest.mark.parametrize("kind", KINDS)
def test_an_unpacked_row_is_whole_or_refused(kind, tmp_path):
    made = opened(kind, tmp_path, {"ids": ((Ragged(40),), "int32")}, batch_size=3)
    assert sorted(values_of(made.training)[1]) == sorted(IDS)
    check_loader(made.loader_func, made.training)
    short = opened(kind, tmp_path, {"ids": ((Ragged(20),), "int32")}, batch_size=3).training
    with pytest.raises(LoaderError, match=r"'ids' has 40 elements, its Ragged\(max=20\) has room for no more"):
        values_of(short)


def test_workers_load_packed_rows_with_their_labels_and_additional_columns(tmp_path):
    columns = {**RAGGED, "label": "int32"}
    made = pack(opened("mapped", tmp_path, columns, batch_size=2).training, length=32, max_segments=4)
    assert values_of(made, loader_kind="process", loader_count=1)[0] == FLAT
    with Dataloader(made, loader_kind="inline", end_at=("epoch", 1)) as loader:
        for batch in loader:
            for row, items in enumerate(batch.indices):
                assert batch.arrays["label"][row].tolist() == [*items, *[0] * (4 - len(items))]
    texts = opened("jsonl", tmp_path, additional=["label"]).training
    with Dataloader(pack(texts, length=32), loader_kind="inline", end_at=("epoch", 1)) as loader:
        batch = next(loader)
        assert list(batch.additional["label"][: batch.size]) == list(batch.indices)


def test_both_sides_of_a_split_are_packed(tmp_path):
    sides = opened("table", tmp_path, batch_size=2).split(0.3)
    pickle.loads(pickle.dumps(sides[0].items)).lengths()
    assert sorted(value for side in sides for value in values_of(pack(side, length=32))[0]) == FLAT


def test_texts_of_json_are_packed_as_their_bytes(tmp_path):
    texts = ["ä long one", "b", "", "three words here"]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    rows = jsonl(tmp_path / "t.jsonl", columns={"text": ((Ragged(),), "uint8")}, index_folder=tmp_path, batch_size=1)
    with Dataloader(pack(rows.training, length=64), loader_kind="inline", end_at=("epoch", 1)) as loader:
        batch = next(loader)
        ids, codes = (np.asarray(batch.arrays[name])[0] for name in ("segment_ids", "text"))
        found = [codes[ids == segment].tobytes().decode() for segment in range(1, ids.max() + 1)]
    assert sorted(found) == sorted(filter(None, texts))


@pytest.mark.parametrize("kind", KINDS)
def test_an_element_that_does_not_fit_fails_its_item(kind, tmp_path):
    group = opened(kind, tmp_path, {"ids": ((Ragged(),), "uint8")}, batch_size=2).training
    for made in (pack(group, length=64), *buckets(group, boundaries=[40])):
        with pytest.raises(LoaderError, match=r"'ids': .* does not fit into uint8"):
            values_of(made)


def test_arrays_of_the_same_lengths_are_packed_together_and_others_refused():
    table = pa.table({"ids": IDS, "mask": [[1] * length for length in LENGTHS], "odd": [[1]] * len(IDS)})
    both = arrow(table, {**RAGGED, "mask": ((Ragged(),), "int32")}, batch_size=2).training
    with Dataloader(pack(both, length=32), loader_kind="inline", end_at=("epoch", 1)) as loader:
        for batch in loader:
            assert (np.asarray(batch.arrays["mask"]) == (np.asarray(batch.arrays["segment_ids"]) > 0)).all()
    odd = arrow(table, {**RAGGED, "odd": ((Ragged(),), "int32")}).training
    with pytest.raises(ValueError, match="lengths: row 0 has 3 elements in 'ids' and 1 in 'odd'"):
        pack(odd, length=32)


def test_what_cannot_be_ragged_is_refused_by_name_with_a_recipe(tmp_path):
    recipe = r"load it yourself: DataGroup\(4, wrap\(dataset\), loader_arrays="
    table = pa.table({"ids": IDS, "text": ["a"] * len(IDS), "ids_length": LENGTHS})
    with pytest.raises(ValueError, match=f"columns: 'text' cannot be Ragged: its type is string; {recipe}"):
        arrow(table, {"text": ((Ragged(),), "uint8")})
    with pytest.raises(ValueError, match=f"columns: 'ids_length' cannot be Ragged: it has no lists.*{recipe}"):
        arrow(table, {"ids_length": ((Ragged(),), "int32")})
    with pytest.raises(ValueError, match="the lengths of 'ids' would be 'ids_length', which is a column"):
        arrow(table, RAGGED)
    parquet.write_table(table.select(["ids"]), tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"'ids' cannot be Ragged.*arrow\(pyarrow.parquet.read_table\(path\)"):
        arrow(tmp_path / "rows.parquet", RAGGED)
    assert values_of(pack(arrow(parquet.read_table(tmp_path / "rows.parquet"), RAGGED).training, length=32))[0] == FLAT
    np.save(tmp_path / "rows.npy", np.zeros((4, 3), np.int32))
    with pytest.raises(ValueError, match=f"'data' cannot be Ragged; {recipe}"):
        numpy_rows(tmp_path / "rows.npy", {"data": ((Ragged(),), "int32")})
    (tmp_path / "lines.txt").write_text("a\n")
    for group in (
        text_lines(tmp_path / "lines.txt", index_folder=tmp_path).training,
        jsonl_of(tmp_path, [{"a": 1}]).training,
    ):
        with pytest.raises(ValueError, match=f"lengths: no array of the source is ragged; .*{recipe}"):
            pack(group, length=32)
    with pytest.raises(ValueError, match=r"group: it has no ragged array; declare one: .*hugging_face\(data"):
        pack(arrow(table, ["ids"]).training, length=32)


def jsonl_of(folder, records):
    (folder / "some.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return jsonl(folder / "some.jsonl", index_folder=folder)


@pytest.mark.parametrize("value", [None, 3, {"a": 1}, ["a"], [[1], [1, 2]]])
def test_a_line_of_json_without_a_list_of_numbers_is_refused(tmp_path, value):
    lines = [{"ids": [1, 2]}] * 3 + [{"ids": value}]
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = jsonl(tmp_path / "some.jsonl", columns={"ids": ((Ragged(9),), "int32")}, index_folder=tmp_path)
    with pytest.raises(LoaderError, match=r"'ids' (is missing|holds)"):
        values_of(rows.training)


def test_the_recipe_for_data_of_ones_own_packs():
    def load(item, arrays, seed):
        return {"ids": item["ids"]}

    group = DataGroup(4, wrap(Items()), loader_arrays=RAGGED, loader_func=load, remainder="pad")
    assert values_of(pack(group, LENGTHS, length=32))[0] == FLAT


@pytest.mark.parametrize("kind", ["mapped", "table", "datasets"])
def test_a_missing_list_is_refused_before_it_is_packed_away(tmp_path, kind):
    rows = {"ids": [[1, 2], None, [3]]}

    def make(**options):
        if kind == "datasets":
            features = datasets.Features({"ids": datasets.Sequence(datasets.Value("int64"))})
            return hugging_face(datasets.Dataset.from_dict(rows, features), RAGGED, batch_size=1, **options)
        table = pa.table(rows)
        if kind == "mapped":
            with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as file:
                file.write_table(table)
            table = tmp_path / "a.arrow"
        return arrow(table, RAGGED, batch_size=1, **options)

    with pytest.raises(ValueError, match=r"'ids': row 1 has no value \(null\); missing=\{name: \[\]\} says what it is"):
        pack(make().training, length=4)
    said = make(missing={"ids": [7, 8, 9]})
    assert said.training.items.lengths().tolist() == [2, 3, 1]
    assert values_of(pack(said.training, length=6))[0] == [1, 2, 3, 7, 8, 9]
    assert make(missing={"ids": []}).training.items.lengths().tolist() == [2, 0, 1]
    with pytest.raises(ValueError, match=r"missing: .*'ids' holds lists; expected one, such as \[\], got 0"):
        make(missing={"ids": 0})
