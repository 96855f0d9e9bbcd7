"""jsonl, csv and text_lines, on Python's own documentation and sources (PSF licence), and on our digits."""

import csv as csv_format
import gzip
import json
import os
import pickle
import pydoc_data.topics
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
from filekit import check_cache, check_promises, check_two_groups, epoch, touch
from hypothesis import example, given
from hypothesis import strategies as st

from hydrax_core.errors import LoaderError
from hydrax_core.sources import csv, jsonl, text_lines, uci_digits
from hydrax_core.sources import index as index_module
from hydrax_core.sources import lines as lines_module
from hydrax_core.sources import record_columns as records_module
from hydrax_core.sources.lines import LineFiles

TOPICS = [
    {
        "topic": name,
        "text": text,
        "size": len(text),
        "share": len(text) / 1e5,
        "words": [len(w) for w in text.split()[: len(text) % 9 + 1]],
    }
    for name, text in pydoc_data.topics.topics.items()
]


def write_jsonl(path, records=TOPICS):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def some_lines(paths, kind, **options):
    lines = LineFiles(tuple(str(path) for path in paths), kind, **options)
    return lines.read(np.arange(len(lines)))


# --- lines


@given(
    st.lists(st.text(alphabet='ab "\r\n\x85\u2028', max_size=12), min_size=1, max_size=3),
    st.sampled_from([1, 2, 3, 7, 64]),
    st.booleans(),
)
@example(["\r\r"], 1, True)
def test_lines_are_those_of_python_wherever_blocks_end(texts, block, filled):
    before = lines_module._BLOCK, lines_module._SEGMENT
    with tempfile.TemporaryDirectory() as folder:
        expected = []
        for number, text in enumerate(texts):
            (Path(folder) / str(number)).write_bytes(text.encode())
            found = text.encode().split(b"\n")
            found = found[:-1] if not found[-1] else found
            if filled:
                expected += [line.rstrip(b"\r") for line in found if line not in {b"", b"\r"}]
            else:
                expected += [line.removesuffix(b"\r") for line in found]
        lines_module._BLOCK, lines_module._SEGMENT = block, block * 2
        try:
            paths = [f"{folder}/{number}" for number in range(len(texts))]
            assert some_lines(paths, "filled" if filled else "all") == expected
        finally:
            lines_module._BLOCK, lines_module._SEGMENT = before


@given(
    st.lists(st.lists(st.text(alphabet='ab ",\n', max_size=6), min_size=2, max_size=2), max_size=9),
    st.sampled_from([1, 3, 8, 64]),
)
def test_records_of_csv_are_those_of_the_standard_library(rows, block):
    before = lines_module._BLOCK, lines_module._SEGMENT
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        with path.open("w", newline="") as file:
            csv_format.writer(file, quoting=csv_format.QUOTE_ALL).writerows([["x", "y"], *rows])
        lines_module._BLOCK, lines_module._SEGMENT = block, block * 2
        try:
            found = some_lines([path], "quoted", header=True)
        finally:
            lines_module._BLOCK, lines_module._SEGMENT = before
    assert [next(csv_format.reader([line.decode()])) for line in found] == rows


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\ntwo".encode())
    assert some_lines([tmp_path / "a.txt"], "all") == [b"one", b"two"]


@pytest.mark.parametrize("content", [gzip.compress(b"{}\n", mtime=0), "{}\n".encode("utf-16"), b"PK\x03\x04"])
def test_what_has_no_lines_to_look_for_is_refused_by_name(tmp_path, content):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.jsonl is (compressed by gzip; unpack it|text in UTF-16|a zip archive)"):
        jsonl(tmp_path / "a.jsonl")


def test_a_fifo_is_refused_before_it_is_opened(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises((ValueError, FileNotFoundError), match=r"a\.jsonl is"):
        jsonl(tmp_path / "a.jsonl")


# --- the index


def test_an_index_is_kept_used_again_and_never_for_other_files(tmp_path, monkeypatch):
    path, folder = write_jsonl(tmp_path / "a.jsonl"), tmp_path / "index"
    assert some_lines([path], "filled", folder=str(folder))[0] == json.dumps(TOPICS[0]).encode()
    (kept,) = folder.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(LineFiles, "_build", lambda self: pytest.fail("built again"))
        assert len(some_lines([path], "filled", folder=str(folder))) == len(TOPICS)
    write_jsonl(path, TOPICS[::-1])
    assert some_lines([path], "filled", folder=str(folder))[0] == json.dumps(TOPICS[-1]).encode()
    assert list(folder.iterdir()) == [kept], "an index of what is no more is replaced"


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "tail"])
def test_a_damaged_index_is_made_anew(tmp_path, damage):
    path, folder = write_jsonl(tmp_path / "a.jsonl"), tmp_path / "index"
    expected = some_lines([path], "filled", folder=str(folder))
    (kept,) = folder.iterdir()
    whole = kept.read_bytes()
    flipped = bytes([whole[70] ^ 1])
    tail = whole[:-24] + (1 << 60).to_bytes(8, "little") + whole[-16:]
    kept.write_bytes(
        {"cut": whole[:-30], "flip": whole[:70] + flipped + whole[71:], "empty": b"", "tail": tail}[damage]
    )
    assert some_lines([path], "filled", folder=str(folder)) == expected
    assert kept.read_bytes() == whole


def test_an_index_of_much_data_is_kept_in_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "KEPT_FROM", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    some_lines([write_jsonl(tmp_path / "a.jsonl")], "filled")
    assert len(list((tmp_path / "cache/hydrax/index").iterdir())) == 1


def test_where_no_index_can_be_kept_a_warning_says_so(tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    found = some_lines([write_jsonl(tmp_path / "a.jsonl")], "filled", folder=str(tmp_path / "file"))
    assert len(found) == len(TOPICS)
    assert "cannot be kept" in caplog.text


@pytest.mark.parametrize("x", [1, [[1, 2], [3, 4]]])
def test_a_column_named_like_the_lengths_of_another_is_one_of_its_own(x, tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"x": x, "x_length": n}) + "\n" for n in (5, 6)))
    (tmp_path / "a.csv").write_text("x,x_length\n1,5\n2,6\n")
    for rows in (jsonl(tmp_path / "a.jsonl"), csv(tmp_path / "a.csv")):
        assert epoch(rows.training)[0]["x_length"].tolist() == [5, 6]


@pytest.mark.parametrize("second", [[1], [1, 2]])
def test_lengths_and_a_column_of_their_name_are_refused_together(second, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"x_length": 9, "x": x}) + "\n" for x in ([7, 8], second)))
    with pytest.raises(ValueError, match="columns: the lengths of 'x' would be 'x_length', which is a column, too"):
        jsonl(path)
    found = epoch(jsonl(path, columns=["x"]).training)[0]
    assert found["x"][:, 0].tolist() == [7, 1]
    assert found.get("x_length", np.array([2, 2])).tolist() == [2, len(second)]


def test_a_file_that_is_written_anew_while_it_is_open_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("aaaa\nbb\n")
    rows = text_lines(path)
    assert epoch(rows.training)[0]["length"].tolist() == [4, 2]
    path.write_text("aa\nbbbb\n")
    touch(path)
    with pytest.raises(LoaderError, match=r"a\.txt changed after it was indexed"):
        epoch(rows.training)


def test_a_file_that_changes_under_a_source_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl")
    source = jsonl(path).training.items
    copy = pickle.loads(pickle.dumps(source))
    touch(path)
    with pytest.raises(ValueError, match=r"a\.jsonl changed after it was indexed"):
        copy[0]


@pytest.mark.parametrize("gone", ["os", "suppress"])
def test_files_go_without_a_word_when_the_interpreter_ends(tmp_path, monkeypatch, gone):
    files = index_module.IndexedFiles((str(write_jsonl(tmp_path / "a.jsonl")),), "x", None)
    descriptor = files.descriptor(0)
    with monkeypatch.context() as patch:
        patch.setattr(index_module, gone, None)
        files.__del__()
    if gone == "os":
        os.close(descriptor)
    files._descriptors.clear()


# --- jsonl


def test_json_lines_fill_arrays_by_column(tmp_path):
    source = jsonl(write_jsonl(tmp_path / "a.jsonl"), additional=("topic",), labels=("size",))
    assert source.training.labels == ("size",)
    arrays, more = epoch(source.training)
    assert set(arrays) == {"size", "share", "words", "words_length"}
    assert arrays["size"].tolist() == [record["size"] for record in TOPICS]
    assert arrays["share"].tolist() == [np.float32(record["share"]) for record in TOPICS]
    assert [record["topic"] for record in TOPICS] == [each["topic"] for each in more]
    for row, length, record in zip(arrays["words"], arrays["words_length"], TOPICS, strict=True):
        assert row[:length].tolist() == record["words"]
        assert not row[length:].any()
    assert "text" in source.left_out
    check_promises(source.training)


def test_texts_become_bytes_where_they_are_named_or_nothing_else_is_there(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": record["text"]} for record in TOPICS])
    for columns in (None, ["text"]):
        arrays, _ = epoch(jsonl(path, columns=columns, length=300).training)
        for row, length, record in zip(arrays["text"], arrays["text_length"], TOPICS, strict=True):
            assert bytes(row[:length]) == record["text"].encode()[:300]
            assert not row[length:].any()


def test_shapes_and_dtypes_can_be_given(tmp_path):
    source = jsonl(write_jsonl(tmp_path / "a.jsonl"), columns={"words": ((20,), "float32"), "size": ((), "float32")})
    layouts = source.training.loader_layouts
    assert {name: (layout.shape[1:], str(layout.numpy_dtype)) for name, layout in layouts.items()} == {
        "words": ((20,), "float32"), "words_length": ((), "int32"), "size": ((), "float32"),
    }  # fmt: skip
    epoch(source.training)


BIG = 2**24 + 1  # no float32


def write_numbers(path, ids, xs):
    """The same columns as JSON and as CSV."""
    rows = [{"id": one, "x": other} for one, other in zip(ids, xs, strict=True)]
    told = {None: "NA"}
    path.with_suffix(".csv").write_text("id,x\n" + "".join(f"{told.get(r['id'], r['id'])},{r['x']}\n" for r in rows))
    return {jsonl: write_jsonl(path.with_suffix(".jsonl"), rows), csv: path.with_suffix(".csv")}


@pytest.mark.parametrize("read", [jsonl, csv])
def test_a_missing_whole_number_is_an_error_unless_it_is_said_what_it_is(tmp_path, read):
    path = write_numbers(tmp_path / "a", [BIG, None, 3], [0.5, 1.5, 2.5])[read]
    with pytest.raises(
        Exception, match=r"'id' is missing; expected int32; missing=\{'id': 0\} .* columns=\{'id': \"flo"
    ):
        epoch(read(path).training)
    arrays, _ = epoch(read(path, missing={"id": -1}).training)
    assert (arrays["id"].dtype, arrays["id"].tolist()) == (np.int32, [BIG, -1, 3])
    arrays, _ = epoch(read(path, columns={"id": "float32"}).training)
    np.testing.assert_array_equal(arrays["id"], np.float32([BIG, np.nan, 3]))
    with pytest.raises(ValueError, match="missing: there is no 'ids'; there are 'id', 'x'"):
        read(path, missing={"ids": 0})
    assert read(path, missing={"id": 1}).training.fingerprint() != read(path, missing={"id": 2}).training.fingerprint()


@pytest.mark.parametrize("read", [jsonl, csv])
def test_a_missing_float_is_nan(tmp_path, read):
    path = tmp_path / "a.jsonl"
    if read is jsonl:
        write_jsonl(path, [{"x": 0.5}, {"x": None}, {}])
    else:
        path.write_text("x,y\n0.5,1\nnull,1\n,1\n")
    np.testing.assert_array_equal(epoch(read(path).training)[0]["x"], np.float32([0.5, np.nan, np.nan]))


@pytest.mark.parametrize("number", ["1e300", "1e40", "1e400", "-1e400", "9" * 400 + ".5"])
@pytest.mark.parametrize("read", [jsonl, csv])
def test_a_number_beyond_its_dtype_fails_its_row(tmp_path, read, number):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"x": 0.5}}\n{{"x": {number}}}\n' if read is jsonl else f"x,y\n0.5,1\n{number},1\n")
    with pytest.raises(Exception, match=r"OverflowError|.* does not fit into float(32|64)"):
        epoch(read(path).training)


ROUNDED = 2**53 + 1  # no float64


@pytest.mark.parametrize("read", [jsonl, csv])
@pytest.mark.parametrize("late", [False, True])
def test_a_whole_number_that_floats_round_is_never_rounded(tmp_path, read, late):
    values = [0.5] * 2000
    values[1001 if late else 0] = ROUNDED
    path = write_numbers(tmp_path / "a", range(len(values)), values)[read]
    if late:
        with pytest.raises(OverflowError, match=rf"'x' holds {ROUNDED}, which floats round to {2**53}; name it in add"):
            read(path).training.items[1001]
        return
    assert read(path).left_out["x"] == f"of floats and a whole number that these round, {ROUNDED}"
    assert read(path, columns=["id"], additional=["x"]).training.items[0]["x"] in {ROUNDED, str(ROUNDED)}
    exact = write_numbers(tmp_path / "b", [1, 2], [2**60, 0.5])[read]
    assert read(exact).training.items[0]["x"] == np.float32(2**60)


def test_whole_numbers_that_floats_round_in_lists_and_beside_missing_ones(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"v": [0.5, 1.0]}] * 2000)
    text = path.read_text().splitlines()
    text[1001] = json.dumps({"v": [0.5, ROUNDED]})
    path.write_text("\n".join(text))
    group = jsonl(path).training
    assert group.items[1000]["v"].tolist() == [0.5, 1]
    for asked in ([1001], [1000, 1001, 1002]):
        with pytest.raises(OverflowError, match=f"'v' holds {ROUNDED}"):
            group.items.__getitems__(asked)
    ids = write_jsonl(tmp_path / "b.jsonl", [{"id": ROUNDED}, {"id": None}])
    with pytest.raises(OverflowError, match=f"'id' holds {ROUNDED}"):
        jsonl(ids, columns={"id": "float32"}).training.items[0]


@pytest.mark.parametrize("word", ["inf", "-Infinity"])
def test_infinity_that_is_written_is_infinity(tmp_path, word):
    (tmp_path / "a.csv").write_text(f"x\n0.5\n{word}\n")
    assert np.isinf(epoch(csv(tmp_path / "a.csv").training)[0]["x"][1])


def test_text_that_is_cut_by_nobodys_choice_is_told_once(tmp_path, caplog):
    path = write_jsonl(tmp_path / "a.jsonl", [{"t": "a" * 300}, {"t": "b" * 400}])
    for _ in range(2):
        epoch(jsonl(path).training)
    assert caplog.text.count("'t' holds text of 400 bytes, of which the first 256 are kept; length=400") == 2
    caplog.clear()
    epoch(jsonl(path, length=300).training)
    write_jsonl(path, [{"t": "a" * 256}])
    epoch(jsonl(path).training)
    assert not caplog.text


def test_text_that_is_cut_later_on_is_told_too(tmp_path, caplog):
    late = [{"t": "a"}] * 1001 + [{"t": "b" * 300}] + [{"t": "a"}] * 998
    group = jsonl(write_jsonl(tmp_path / "a.jsonl", late)).training
    assert not caplog.text
    for _ in range(2):
        assert int(group.items[1001]["t_length"]) == 256
    assert caplog.text.count("'t' holds text of 300 bytes") == 1


def test_lines_that_are_cut_by_nobodys_choice_are_told_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(records_module, "_warned", set())
    (tmp_path / "a.txt").write_text("a" * 300 + "\n" + "b" * 300)
    epoch(text_lines(tmp_path / "a.txt").training)
    assert caplog.text.count("'text' holds text of 300") == 1


def test_numbers_that_encode_makes_fit_or_fail(tmp_path):
    (tmp_path / "a.txt").write_text("a\n")
    group = text_lines(tmp_path / "a.txt", encode=lambda line: np.array([2**40])).training
    with pytest.raises(OverflowError, match="the encoded text: 1099511627776 does not fit into int32"):
        group.items[0]


@pytest.mark.parametrize("word", ["", "NA", "n/a", "null", "None", "NaN", "NULL"])
def test_words_for_nothing_are_missing_numbers(tmp_path, word):
    (tmp_path / "a.csv").write_text(f"x,y\n0.5,1\n{word},2\n")
    np.testing.assert_array_equal(epoch(csv(tmp_path / "a.csv").training)[0]["x"], np.float32([0.5, np.nan]))


def test_a_column_of_numbers_and_words_is_left_out_and_told(tmp_path, caplog):
    (tmp_path / "a.csv").write_text("x,y\n0.5,1\n?,2\n3,3\n")
    rows = csv(tmp_path / "a.csv")
    assert rows.left_out == {"x": "numbers and text, as '?'; name it in columns for its bytes, or in additional"}
    assert caplog.text.count("no arrays are made of 'x' (numbers and text, as '?'") == 1
    (tmp_path / "b.csv").write_text("x\n0.5\n?\n")
    with pytest.raises(ValueError, match="nothing can become an array; it holds 'x': numbers and text"):
        csv(tmp_path / "b.csv")
    assert set(csv(tmp_path / "b.csv", columns=["x"]).training.loader_layouts) == {"x", "x_length"}


NUMBERS = st.integers() | st.floats(allow_nan=False) | st.from_regex(r"\A[a-f]?[eE]\+?[0-9]{1,4}\Z")


@given(
    st.dictionaries(st.text(max_size=5), st.recursive(NUMBERS | st.none() | st.text(), st.lists, max_leaves=8)),
    st.sampled_from(["", " ", "\t ", "{}", "]"]),
    st.booleans(),
)
def test_a_line_says_what_json_says(record, behind, ascii_only):
    line = (json.dumps(record, ensure_ascii=ascii_only) + behind).encode("utf-8", "surrogatepass")
    if behind.strip():
        with pytest.raises(ValueError, match="Extra data"):
            records_module.read_json(line)
    else:
        assert records_module.read_json(line) == record


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"x": 1} {}', "Extra data"),
        ('{"x": 1', "a.jsonl at byte"),
        ("[1]", "expected a JSON object a line, got a list"),
        ('{"x": 4294967296}', "'x': 4294967296 does not fit into int32"),
        ('{"x": 1.5}', "'x' holds 1.5; expected int32"),
        ('{"x": "a"}', "'x' holds 'a'; expected int32"),
        ("\xff", "a.jsonl at byte"),
    ],
)
def test_a_damaged_line_fails_its_item_by_place(tmp_path, bad, message):
    lines = [b'{"x": 1}'] * 2000
    lines[1001] = bad.encode("latin-1")  # between those that are sampled
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    sampled = set(range(200)) | set(np.linspace(0, 1999, 200).astype(int).tolist())
    assert 1001 not in sampled
    group = jsonl(tmp_path / "a.jsonl").training
    assert int(group.items[1000]["x"]) == 1
    with pytest.raises(Exception, match=r"a\.jsonl") as raised:
        group.items[1001]
    assert message in str(raised.value)
    with pytest.raises(IndexError):
        group.items[2000]


@pytest.mark.parametrize(
    ("records", "options", "message"),
    [
        ([], {}, "it has no rows"),
        ([{"a": {"b": 1}}], {}, "nothing can become an array"),
        ([{"x": 1}], {"columns": ["y"]}, "there is no 'y'"),
        ([{"x": 1}], {"additional": ["y"]}, "there is no 'y'"),
        ([{"x": 1}, {"x": "a"}], {}, "no number: 'a'"),
        ([{"x": [[1]]}, {"x": [[1, 2]]}], {}, "of several shapes"),
    ],
)
def test_what_gives_no_arrays_is_told(tmp_path, records, options, message):
    with pytest.raises(ValueError, match=message):
        jsonl(write_jsonl(tmp_path / "a.jsonl", records), **options)


# --- csv


def write_digits(path, start=0, stop=200, delimiter=","):
    digits = uci_digits().training.replace(remainder="pad")
    rows = epoch(digits)[0]
    with path.open("w", newline="") as file:
        writer = csv_format.writer(file, delimiter=delimiter)
        writer.writerow(["label", "brightness", "even", "note"])
        for label, image in zip(rows["label"][start:stop].tolist(), rows["image"][start:stop], strict=True):
            brightness = "" if label == 7 else float(image.mean())
            writer.writerow([label, brightness, str(label % 2 == 0).lower(), f'a "{label}",\nor so'])
    return rows["label"][start:stop], rows["image"][start:stop].mean((1, 2))


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_columns_of_csv_are_found_out(tmp_path, delimiter):
    labels, brightness = write_digits(tmp_path / "a.csv", delimiter=delimiter)
    source = csv(tmp_path / "a.csv", additional=["note"], labels=["label"])
    assert source.training.labels == ("label",)
    arrays, more = epoch(source.training)
    assert {name: str(array.dtype) for name, array in arrays.items()} == {
        "label": "int32", "brightness": "float32", "even": "bool",
    }  # fmt: skip
    assert arrays["label"].tolist() == labels.tolist()
    assert arrays["even"].tolist() == (labels % 2 == 0).tolist()
    np.testing.assert_allclose(arrays["brightness"][labels != 7], brightness.reshape(-1)[labels != 7], rtol=1e-6)
    assert np.isnan(arrays["brightness"][labels == 7]).all()
    assert more[3]["note"] == f'a "{labels[3]}",\nor so'
    check_promises(source.training)


def test_files_without_a_header_and_of_several_names(tmp_path):
    for number in range(3):
        (tmp_path / f"part-{number}.csv").write_text(f"{number},0.5\n{number},1.5\n")
    arrays, _ = epoch(csv(tmp_path / "part-*.csv", names=("n", "x")).training)
    assert arrays["n"].tolist() == [0, 0, 1, 1, 2, 2]
    (tmp_path / "part-1.csv").write_text("m,x\n1,2\n")
    (tmp_path / "part-0.csv").write_text("n,x\n1,2\n")
    with pytest.raises(ValueError, match=r"part-1\.csv: its columns are"):
        csv([tmp_path / "part-0.csv", tmp_path / "part-1.csv"])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "it is empty"),
        ("a,b\n", {}, "it has no rows"),
        ("a,a\n1,2\n", {}, "two columns are called 'a'"),
        ("a,b\n1,2\n3\n", {}, "expected 2 values, got 1"),
        ('a,b\n1,"2\n3,4\n', {}, "a quote is opened and never closed"),
    ],
)
def test_csv_that_is_none_is_refused(tmp_path, text, options, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        csv(tmp_path / "a.csv", **options)


def test_quotes_may_have_no_meaning(tmp_path):
    (tmp_path / "a.csv").write_text('size,n\n5",1\n6,2\n')
    arrays, more = epoch(csv(tmp_path / "a.csv", quotes=False, additional=["size"]).training)
    assert [each["size"] for each in more] == ['5"', "6"]
    assert arrays["n"].tolist() == [1, 2]


# --- text lines


def words(text):
    return [len(word) for word in text.split()]


def test_lines_of_sources_as_bytes_and_encoded(tmp_path):
    lines = Path(random.__file__).read_text().split("\n")[:-1]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    source = text_lines(tmp_path / "a.txt", length=40, additional=True)
    arrays, more = epoch(source.training)
    assert [each["line"] for each in more] == lines
    assert [bytes(row[:n]).decode() for row, n in zip(arrays["text"], arrays["length"], strict=True)] == [
        line[:40] for line in lines
    ]
    check_promises(source.training)
    arrays, _ = epoch(text_lines(tmp_path / "a.txt", length=3, encode=words).training)
    assert [row[:n].tolist() for row, n in zip(arrays["text"], arrays["length"], strict=True)] == [
        words(line)[:3] for line in lines
    ]


def test_a_damaged_character_fails_its_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good\nb\xffad\n")
    group = text_lines(tmp_path / "a.txt").training
    with pytest.raises(ValueError, match=r"a\.txt at byte 5: .*0xff"):
        group.items[1]


# --- what is true of all


def make_jsonl(path, part):
    write_jsonl(path.with_suffix(".jsonl"), TOPICS[part])
    return lambda: jsonl(path.with_suffix(".jsonl"), batch_size=8).training


def make_csv(path, part):
    path = path.with_suffix(".csv")
    path.write_text("x,y\n" + "".join(f"{len(each['text'])},{each['share']}\n" for each in TOPICS[part]))
    return lambda: csv(path, batch_size=8).training


def make_text(path, part):
    path = path.with_suffix(".txt")
    path.write_text("\n".join(each["topic"] for each in TOPICS[part]))
    return lambda: text_lines(path, batch_size=8).training


@pytest.mark.parametrize("make", [make_jsonl, make_csv, make_text])
def test_two_files_stand_in_one_loader_and_a_cache_is_of_one(tmp_path, make):
    one, other = make(tmp_path / "one", slice(0, 20)), make(tmp_path / "other", slice(30, 47))
    check_two_groups(one(), other())
    file = next(tmp_path.glob("one.*"))
    check_cache(one, lambda: touch(file), tmp_path / "cache")
