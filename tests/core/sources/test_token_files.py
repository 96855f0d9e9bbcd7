"""tokens, on the characters of Python's documentation (PSF licence)."""

import os
import pickle
import pydoc_data.topics
import tempfile
from pathlib import Path

import numpy as np
import pytest
from filekit import check_cache, check_promises, check_two_groups, epoch, touch
from hypothesis import given
from hypothesis import strategies as st

from hydrax_core.sources import tokens

STREAM = np.frombuffer("".join(pydoc_data.topics.topics.values()).encode("utf-16-le"), np.uint16)


@given(
    size=st.integers(1, 60),
    length=st.integers(1, 20),
    stride=st.integers(1, 25),
    targets=st.booleans(),
    npy=st.booleans(),
)
def test_windows_are_those_of_the_stream(size, length, stride, targets, npy):
    stream = STREAM[:size]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        stream.tofile(path)
        if npy:
            with path.open("wb") as file:
                np.save(file, stream)
        needed = length + targets
        options = {"dtype": None if npy else "uint16", "stride": stride, "targets": targets, "batch_size": 1}
        if size < needed:
            with pytest.raises(ValueError, match="fewer than"):
                tokens(path, length, **options)
            return
        source = tokens(path, length, **options)
        group = source.training
        windows = [group.items[index] for index in range(len(group))]
    starts = range(0, size - needed + 1, stride)
    assert [each["tokens"].tolist() for each in windows] == [stream[s : s + length].tolist() for s in starts]
    if targets:
        assert [each["targets"].tolist() for each in windows] == [stream[s + 1 :][:length].tolist() for s in starts]
    assert source.unused == size - (starts[-1] + needed)


def test_a_stream_in_batches_with_targets(tmp_path):
    STREAM[:100_000].tofile(tmp_path / "a.bin")
    source = tokens(tmp_path / "a.bin", 128, "uint16", targets=True, vocabulary=1 << 16)
    assert source.training.labels == ("targets",)
    arrays, _ = epoch(source.training)
    np.testing.assert_array_equal(arrays["tokens"].reshape(-1), STREAM[: arrays["tokens"].size])
    np.testing.assert_array_equal(arrays["targets"].reshape(-1), STREAM[1 : arrays["targets"].size + 1])
    check_promises(source.training)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", {"dtype": "uint16"}, "it holds 0 tokens"),
        (b"123", {"dtype": "uint16"}, "no multiple of the 2 bytes of uint16"),
        (b"1234", {}, "dtype: .* give it, as in dtype='uint16'"),
        (b"1234" * 4, {"dtype": "float32"}, "expected integers"),
        (b"\x93NUMPY\x01\x00v", {}, "cannot be read as a NumPy file"),
    ],
)
def test_what_is_no_stream_is_refused(tmp_path, content, options, message):
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        tokens(tmp_path / "a.bin", 4, **options)


def test_an_npy_file_of_another_kind_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((9, 9), np.int32))
    with pytest.raises(ValueError, match="one dimension"):
        tokens(tmp_path / "a.npy", 4)
    np.save(tmp_path / "a.npy", np.zeros(9, np.int32))
    with pytest.raises(ValueError, match="holds int32, not uint16"):
        tokens(tmp_path / "a.npy", 4, "uint16")
    os.mkfifo(tmp_path / "b.npy")
    with pytest.raises(ValueError, match="a FIFO"):
        tokens(tmp_path / "b.npy", 4)


def test_a_token_that_does_not_fit_fails_its_window(tmp_path):
    np.save(tmp_path / "a.npy", np.array([1, 2, 3, 1 << 40, 5, 99]))
    group = tokens(tmp_path / "a.npy", 2, vocabulary=None).training
    assert group.items[0]["tokens"].tolist() == [1, 2]
    with pytest.raises(OverflowError, match="1099511627776 does not fit into int32"):
        group.items[1]
    group = tokens(tmp_path / "a.npy", 2, vocabulary=50).training
    with pytest.raises(ValueError, match="token 99 is not below the vocabulary of 50"):
        group.items[2]


def test_two_streams_in_one_loader_and_a_cache_of_one(tmp_path):
    for name, part in (("one", STREAM[:3000]), ("other", STREAM[5000:7000])):
        part.tofile(tmp_path / name)

    def make(name="one"):
        return tokens(tmp_path / name, 50, "uint16", batch_size=8).training

    check_two_groups(make(), make("other"))
    check_cache(make, lambda: touch(tmp_path / "one"), tmp_path / "cache")


@pytest.mark.parametrize("count", [50, 200])
def test_a_file_of_another_length_than_its_windows_were_counted_of_is_refused(count, tmp_path):
    path = tmp_path / "a.bin"
    np.arange(100, dtype="uint16").tofile(path)
    copied = pickle.dumps(tokens(path, 10, "uint16").training.items)
    np.arange(count, dtype="uint16").tofile(path)
    with pytest.raises(ValueError, match=r"a\.bin: it changed: it no longer has 100 tokens"):
        pickle.loads(copied)[0]
