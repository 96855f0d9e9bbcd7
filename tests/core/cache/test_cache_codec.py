import datetime as dt
import enum
import random
import tracemalloc
import zoneinfo
from collections import OrderedDict, namedtuple

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hydrax_core.cache.format import codec
from hydrax_core.cache.format.codec import MAX_DEPTH, DecodeError, PickleRefusedError, UnstorableError, decode, encode

known_zones = zoneinfo.available_timezones() & {"UTC", "Europe/Berlin"}  # a small container has none
zones = st.one_of(
    st.sampled_from([None, *map(zoneinfo.ZoneInfo, sorted(known_zones))]),
    st.builds(dt.timezone, st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23))),
    st.builds(dt.timezone, st.just(dt.timedelta(hours=1)), st.text(max_size=5)),
)
numpy_dtypes = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(),
    hnp.unsigned_integer_dtypes(),
    hnp.floating_dtypes(),
    hnp.complex_number_dtypes(),
    hnp.byte_string_dtypes(min_len=1),
    hnp.unicode_string_dtypes(min_len=1),
    hnp.datetime64_dtypes(),
    hnp.timedelta64_dtypes(),
)
arrays = hnp.arrays(numpy_dtypes, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**300), 2**300),
    st.floats(),
    st.complex_numbers(),
    st.text(st.characters()),
    st.binary(),
    st.dates(),
    st.times(timezones=zones),
    st.datetimes(timezones=zones, allow_imaginary=True),
    st.timedeltas(),
    arrays,
    arrays.filter(lambda array: array.size).map(lambda array: array.reshape(-1)[0]),
)
keys = st.one_of(st.text(), st.integers(), st.binary(), st.tuples(st.integers(), st.text()))
values = st.recursive(
    plain,
    lambda inner: st.one_of(st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(keys, inner)),
    max_leaves=12,
)


def same(left, right):  # noqa: PLR0911  one case a kind of value
    if type(left) is not type(right):
        return False
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return same(list(left), list(right)) and same(list(left.values()), list(right.values()))
    if isinstance(left, np.ndarray | np.generic):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    if isinstance(left, float | complex):
        return repr(left) == repr(right)
    if isinstance(left, dt.datetime | dt.time):
        names = left.tzname() == right.tzname() if isinstance(left, dt.datetime) else True
        return left.replace(tzinfo=None) == right.replace(tzinfo=None) and names and left.fold == right.fold
    return bool(left == right)


@given(values)
def test_what_is_encoded_comes_back_with_value_and_type(value):
    assert same(decode(encode(value)), value)


@given(values)
def test_equal_values_have_one_code(value):
    assert encode(decode(encode(value))) == encode(value)


@pytest.mark.parametrize("kind", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4"])
def test_dtypes_of_ml_dtypes_come_back(kind):
    array = np.arange(6).reshape(2, 3).astype(getattr(ml_dtypes, kind))
    assert same(decode(encode([array, array[1, 2]])), [array, array[1, 2]])


@pytest.mark.parametrize("text", ["\ud800", "\x00", "\U0010ffff", "é"])
def test_any_str_comes_back(text):
    assert decode(encode(text)) == text


def test_arrays_of_any_memory_order_come_back_and_are_writable():
    array = np.asfortranarray(np.arange(12).reshape(3, 4))[::2, ::-1]
    found = decode(encode(array))
    assert np.array_equal(found, array)
    found[0, 0] = 99
    assert found[0, 0] == 99


class Colour(enum.IntEnum):
    RED = 1


Pair = namedtuple("Pair", "a b")  # noqa: PYI024  the kind that has to be refused


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        object(),
        Colour.RED,
        Pair(1, 2),
        OrderedDict(a=1),
        bytearray(b"x"),
        range(3),
        np.array([None]),
        np.zeros(2, [("a", int)]),
        np.ma.masked_array([1, 2]),
        np.datetime64,
        type("Text", (str,), {})("x"),
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)
def test_other_types_and_subclasses_are_refused(value):
    with pytest.raises(UnstorableError):
        encode([{"key": value}])


def test_other_types_are_pickled_where_that_is_allowed():
    value = [Colour.RED, {1, 2}, {"pair": Pair(1, (2,))}]
    found = decode(encode(value, allow_pickle=True), allow_pickle=True)
    assert same(found, value)


def test_what_cannot_even_be_pickled_is_refused():
    with pytest.raises(UnstorableError, match="cannot be pickled"):
        encode(lambda: 1, allow_pickle=True)


def test_a_container_that_holds_itself_is_refused():
    endless = []
    endless.append(endless)
    with pytest.raises(UnstorableError, match="nested"):
        encode(endless)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was executed",))


def test_a_pickle_is_not_executed_without_leave():
    with pytest.raises(PickleRefusedError):
        decode(encode([1, Bomb()], allow_pickle=True))


def test_what_a_pickle_raises_is_a_decode_error():
    class_gone = b"cno_such_module\nThing\n."
    with pytest.raises(DecodeError):
        decode(b"P" + bytes([len(class_gone)]) + class_gone, allow_pickle=True)


def attempt(data):
    """Decode in bounded memory, or raise DecodeError."""
    tracemalloc.start()
    try:
        decode(data)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 200_000 + 500 * len(data)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_decode_error(data):
    try:
        attempt(data)
    except DecodeError:
        return


@settings(max_examples=50)
@given(values, st.randoms(use_true_random=False))
def test_damaged_code_gives_a_value_or_a_decode_error(value, source):
    data = bytearray(encode(value))
    for _ in range(20):
        damaged = bytearray(data)
        for _ in range(source.randint(1, 3)):
            damaged[source.randrange(len(damaged))] = source.randrange(256)
        try:
            attempt(bytes(damaged[: source.randint(0, len(damaged))]))
        except DecodeError:
            continue


def length(number):
    return (
        b""
        if number is None
        else bytes([number % 128 | 128]) + length(number >> 7)
        if number > 127
        else bytes([number])
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"l" + length(2**40) + b"N",
        b"d" + length(2**40) + b"NN",
        b"s" + length(2**60),
        b"i" + b"\xff" * 30,
        b"a" + length(3) + b"<f8" + length(1) + length(2**40) + length(0),
        b"a" + length(3) + b"|O8" + length(0) + length(8) + b"\x00" * 8,
        b"a" + length(3) + b"<U0" + length(1) + length(2**33) + length(0),
        b"a" + length(7) + b"<f8,<f8" + length(0) + length(16) + b"\x00" * 16,
        b"a" + length(2) + b"<U" + length(0) + length(0),
        b"n" + length(3) + b"|b1" + length(1) + b"\x02",
        b"n" + length(3) + b"<U1" + length(4) + b"\xff" * 4,
        b"n" + length(9) + b"ml_dtypes" + length(1) + b"\x00",
        b"n" + length(11) + b"float8_nope" + length(1) + b"\x00",
        b"d" + length(1) + b"l" + length(0) + b"N",
        b"D\x00\x00\x00\x00",
        b"L" + b"\xff\xff\xff\x7f" * 3,
        b"M\xd0\x07\x01\x01" + b"\x00" * 8 + b"s" + length(14) + b"../etc/passwd\x00",
        b"l\x01" * (MAX_DEPTH + 2) + b"N",
        b"l\x01" * 100_000,
        b"a" + length(3) + b"|u1" + length(1) + length(2) + length(3) + b"abc",
        b"a" + length(3) + b"|u1" + length(1) + length(2) + length(1) + b"a",
        b"n" + length(3) + b"|u1" + length(2) + b"ab",
        b"NN",
        b"?",
    ],
    ids=lambda data: repr(data[:24]),
)
def test_hostile_code_is_refused_without_cost(data):
    with pytest.raises(DecodeError):
        attempt(data)


def test_a_long_list_is_decoded_in_full():
    source = random.Random(0)
    value = [source.choice([source.random(), "é", None, 2**70]) for _ in range(10_000)]
    assert decode(encode(value)) == value


def nested(wrap, depth):
    value = None
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: (v,), lambda v: {"a": v}], ids=["list", "tuple", "dict"])
def test_containers_may_be_nested_so_deep_and_no_deeper(wrap):
    inner = [nested(wrap, MAX_DEPTH - 1)]
    assert decode(encode(inner)) == inner
    value = nested(wrap, MAX_DEPTH)
    code = encode(value)
    assert decode(code) == value
    with pytest.raises(UnstorableError, match="nested more than 100 deep"):
        encode(wrap(value))
    with pytest.raises(DecodeError, match="nested more than 100 deep"):
        decode(b"l\x01" + code)


def test_keys_count_for_the_depth():
    key = nested(lambda v: (v,), MAX_DEPTH - 1)
    code = encode({key: 1})
    assert decode(code) == {key: 1}
    with pytest.raises(UnstorableError, match="nested more than 100 deep"):
        encode({(key,): 1})
    with pytest.raises(DecodeError, match="nested more than 100 deep"):
        decode(b"l\x01" + code)


UNIQUE = 2**61 - 1


@pytest.mark.parametrize(
    "keys", [range(100), range(-100, 0), "abcdefghij", [b"a", b"b"], [1 - UNIQUE, UNIQUE - 1]], ids=str
)
def test_any_number_of_keys_whose_hashes_cannot_be_chosen_is_taken(monkeypatch, keys):
    monkeypatch.setattr(codec, "_MOST_KEYS", 1)
    value = dict.fromkeys(keys)
    assert decode(encode([value, value])) == [value, value]


@pytest.mark.parametrize("number", [lambda n: n * UNIQUE, lambda n: -n * UNIQUE, lambda n: n + 0.5, lambda n: (n,)])
def test_few_keys_may_be_such_that_their_hashes_could_be_chosen_equal(monkeypatch, number):
    assert codec._MOST_KEYS == 10_000
    monkeypatch.setattr(codec, "_MOST_KEYS", 50)
    most = {number(n): None for n in range(1, 51)}
    assert decode(encode([{}, most])) == [{}, most]
    with pytest.raises(UnstorableError, match="dicts with more than 50 keys"):
        encode([most, {number(51): None}])
    with pytest.raises(DecodeError, match="more than 50 keys"):
        decode(b"l\x02" + encode(most) + encode({number(51): None}))


def test_what_is_no_zone_is_refused():
    for tag in set(range(256)) - {ord("s")}:
        with pytest.raises(DecodeError):
            decode(encode(dt.time(1))[:-1] + bytes([tag]) + b"\x03UTC")


def test_an_array_has_so_many_dimensions_and_no_more():
    one = b"a" + length(3) + b"|u1"
    assert decode(one + length(32) + b"\x01" * 32 + b"\x01\x07").shape == (1,) * 32
    with pytest.raises(DecodeError, match="an array of 65 dimensions"):
        decode(one + length(65) + b"\x01" * 65 + b"\x01\x07")


def test_lengths_have_63_bits():
    assert decode(b"s\x80\x80\x80\x80\x80\x80\x80\x80\x00") == ""
    with pytest.raises(DecodeError, match=r"are announced at byte 10"):
        decode(b"s" + length(2**63 - 1))
    with pytest.raises(DecodeError, match="a length of more than 63 bits"):
        decode(b"s" + length(2**63))
