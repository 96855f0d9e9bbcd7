"""Frames between a run and who watches it: what is sent arrives, and no bytes whatever do harm."""

import contextlib
import json
import struct
from dataclasses import MISSING, fields

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrax_core.engine.counters import FirstBatch, WorkerStats
from hydrax_core.monitor.protocol.messages import ArrayHead, Ask, Bye, Hello, Moment, Sample
from hydrax_core.monitor.protocol.wire import WireError, arrays_of, client_reader, dtype_of, encode, server_reader
from hydrax_core.monitor.run import ArrayPlan, BatchRecord, GroupPlan, RunPlan
from hydrax_core.monitor.stats import Stats

RECORD = BatchRecord(7, "training", 0, 3, 14, 1000, 32, 2**32 - 1, 0.001, None, True, "")
WORKERS = (
    WorkerStats(0, 123, "busy", 50, 0.1, 0, "group 0", 5, 1e-3),
    WorkerStats(1, None, "idle", 0, 0, 1, "", None, 0),
)
VALUES = {"slots": ("free", "held"), "workers": WORKERS, "first_batch": FirstBatch(0.1, 0.2, 0.3), "running": True}
STATS = Stats(**{field.name: VALUES.get(field.name, 3) for field in fields(Stats) if field.default is MISSING})
PLAN = ArrayPlan("x", (4, 2), "bfloat16", "float32", 0, 16, is_label=False)
GROUP = GroupPlan("training", 0, 100, 4, 25, -(10**40), True, "reseed", "pad", (PLAN,), ())
MESSAGES = [
    Hello(1, 42, "träin \ud800.py", "python train.py", 1.7e9, ("validation", 3, 4), ended=False),
    Ask("moment", 5, 6, sample=True),
    RunPlan(
        (GroupPlan("training", 0, 100, 4, 25, -(10**40), True, "reseed", "pad", (PLAN,), ()),),
        25,
        0,
        0,
        0,
        None,
        "process",
    ),
    Moment(
        STATS, (RECORD, RECORD._replace(seed=None, load_seconds=0.5, error="no\n")), (), 3, 0.5, "cpu:0", True, None
    ),
    Sample(RECORD, 2, False, (1, 2), None, ("a",), (("path", ("b", "")),), (ArrayHead("x", "bfloat16", (2, 2)),)),
    Bye("", failed=True),
]


def whole(message, payload=b""):
    return b"".join(encode(message, payload))


def read_all(reader, data, size):
    return [found for start in range(0, len(data), size) for found in reader.feed(data[start : start + size])]


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_arrives_as_it_was_sent_in_whatever_pieces(message, size):
    reader = server_reader() if isinstance(message, Ask) else client_reader()
    payload = b"" if isinstance(message, Ask) else bytes(range(8))
    assert read_all(reader, 2 * whole(message, payload), size) == [(message, payload)] * 2


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int64", "float16", "complex64", "bfloat16", "float8_e4m3fn", "int4"]
)
def test_arrays_of_every_kind_of_dtype_arrive_bit_for_bit(dtype):
    array = np.arange(12).reshape(3, 2, 2).astype(dtype_of(dtype))
    found = arrays_of([ArrayHead("a", dtype, (3, 2, 2)), ArrayHead("b", "uint8", (1,))], array.tobytes() + b"\x07")
    assert found["a"].dtype == np.dtype(getattr(ml_dtypes, dtype, dtype))
    assert found["a"].tobytes() == array.tobytes()
    assert found["b"].tolist() == [7]


@pytest.mark.parametrize(
    "heads",
    [
        [ArrayHead("a", "uint8", (5,))],
        [ArrayHead("a", "uint8", (3,))],
        [ArrayHead("a", "uint8", (2**40, 2**40))],
        [ArrayHead("a", "uint8", (-1, -4))],
        [ArrayHead("a", "uint8", (0,)), ArrayHead("b", "uint8", (4,))],
        [ArrayHead("a", "uint8", (1,) * 40)],
        [ArrayHead("a", "uint16", (1,)), ArrayHead("a", "uint16", (1,))],
        [ArrayHead("a", "object", (1,))],
        [ArrayHead("a", "O", (1,))],
        [ArrayHead("a", "int32,int8", (1,))],
        [ArrayHead("a", "U1", (1,))],
        [ArrayHead("a", "float8_finfo", (4,))],
        [],
    ],
    ids=str,
)
def test_arrays_that_do_not_fit_their_bytes_are_refused(heads):
    with pytest.raises(WireError):
        arrays_of(heads, b"1234")


def frame(text, magic=b"hydx", size=None, payload=0):
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    return struct.pack("<4sII", magic, len(text) if size is None else size, payload) + text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "no hydrax messages"),
        (frame(b"", size=2**32 - 1), "too large"),
        (frame(["Ask", ["moment", 0, 0, False]], payload=1), "too large"),
        (frame(b"[" * 4000), "no JSON"),
        (frame(b"\xff\xfe"), "no JSON"),
        (frame(b"1" * 4090), "no pair"),
        (frame({"Ask": []}), "no pair"),
        (frame(["Bye", ["", False]]), "not expected here"),
        (frame(["Ask", ["moment", 0, 0]]), "expected 4 values"),
        (frame(["Ask", ["everything", 0, 0, False]]), "expected one of about, moment, batch"),
        (frame(["Ask", ["moment", 1e999, 0, False]]), "no JSON: Infinity"),
        (frame(["Ask", ["moment", True, 0, False]]), "expected an integer"),
        (frame(b'["Ask", ["moment", 1' + b"0" * 301 + b", 0, false]]"), "expected an integer from 0 to"),
        (frame(["Ask", ["moment", 0, None, False]]), "expected an integer"),
        (frame(["Ask", ["moment", 0, 0, 1]]), "expected true or false"),
    ],
)
def test_what_is_no_question_is_told_apart(data, text):
    with pytest.raises(WireError, match=text):
        list(server_reader().feed(data))


@given(st.binary(max_size=300), st.integers(1, 40), st.booleans())
def test_no_bytes_whatever_make_a_reader_fail_otherwise_or_keep_more_than_they_are(data, size, begins_well):
    data = frame(data) if begins_well else data
    for reader in (server_reader(), client_reader()):
        with contextlib.suppress(WireError):
            read_all(reader, data, size)
        assert len(reader._bytes) <= len(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=12,
)


@given(st.sampled_from([type(message).__name__ for message in MESSAGES]), st.lists(JSON, max_size=9))
def test_values_of_other_types_are_refused_or_are_what_the_types_say(name, values):
    for reader in (server_reader(), client_reader()):
        try:
            found = list(reader.feed(frame([name, values])))
        except WireError:
            continue
        ((message, _),) = found
        assert whole(message) == whole(type(message)(*(getattr(message, name) for name in message.__slots__)))


@given(st.sampled_from(MESSAGES), st.data())
def test_a_damaged_message_is_refused_or_read_never_more(message, data):
    reader = server_reader() if isinstance(message, Ask) else client_reader()
    sent = bytearray(whole(message))
    for _ in range(data.draw(st.integers(1, 3))):
        sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = list(reader.feed(bytes(sent)))
    except WireError:
        return
    assert all(type(one) in {type(message) for message in MESSAGES} for one, _ in found)
