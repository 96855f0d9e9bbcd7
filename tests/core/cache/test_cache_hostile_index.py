"""An index or an entry made to cost without end: reading it takes what its size allows, and it counts as damaged."""

import contextlib
import resource
import struct

import cachekit as kit
import pytest

from hydrax_core.cache.format.codec import DecodeError, decode, encode
from hydrax_core.cache.index.index import Index, IndexRow

PAGE = 4096
LEVELS = 10


def pages(path):
    data = path.read_bytes()
    return [bytearray(data[first : first + PAGE]) for first in range(0, len(data), PAGE)]


def write(path, changed):
    changed[0][28:32] = struct.pack(">I", len(changed))  # pages in all
    path.write_bytes(b"".join(changed))


def interior(child):
    """A page of a table that has nothing but pointers, all of them to one page."""
    page = bytearray(PAGE)
    count = (PAGE - 12) // 7
    page[0] = 5
    struct.pack_into(">HHHBI", page, 1, 0, count, PAGE - 5 * count, 0, child)
    for cell in range(count):
        place = PAGE - 5 * (cell + 1)
        struct.pack_into(">H", page, 12 + 2 * cell, place)
        struct.pack_into(">IB", page, place, child, 1)
    return page


def circles(path):
    """Ten pages, each of which points to the next five hundred times."""
    found = pages(path)
    table = 1  # the second page; the first one holds the schema
    leaf, first = bytes(found[table]), len(found) + 1
    found[table] = interior(first)
    found += [interior(first + level + 1) for level in range(LEVELS)]
    found.append(bytearray(leaf))
    write(path, found)


def long_values(path):
    """A few pages whose rows say that they are of a hundred megabytes each, read from one page over and over."""
    found = pages(path)
    start = found[1]
    grown = 30_000 * (PAGE - 4)  # so that as much of a row lies in its own page as before
    for cell in range(struct.unpack_from(">H", start, 3)[0]):
        place = struct.unpack_from(">H", start, 8 + 2 * cell)[0]
        if start[place] < 128:  # the row of the entry that is there
            continue
        size = varint(start, place)
        record = place + 4 + 1  # behind the number of the row
        field = record + start[record] - 4  # the last one: length of the additional data, times two, plus 12
        set_varint(start, field, varint(start, field) + 2 * grown)
        set_varint(start, place, size + grown)
        least = (PAGE - 12) * 32 // 255 - 23
        struct.pack_into(">I", start, record + least + (size - least) % (PAGE - 4), 5)
    del found[5:]
    struct.pack_into(">I", found[4], 0, 5)  # the page behind the fifth is the fifth
    write(path, found)


def varint(page, place):
    assert all(page[place + n] >= 128 for n in range(3))
    assert page[place + 3] < 128
    return sum(page[place + n] % 128 << 7 * (3 - n) for n in range(4))


def set_varint(page, place, value):
    for n in range(4):
        page[place + n] = value >> 7 * (3 - n) & 127 | (128 if n < 3 else 0)
    assert varint(page, place) == value


ATTACKS = {"circles": circles, "long values": long_values}


@pytest.fixture(params=ATTACKS)
def folder(request, tmp_path):
    with kit.open_store(tmp_path) as store:
        store.write(0, 0, kit.batch(0))
    index = Index(tmp_path, writable=True, alone=contextlib.nullcontext)
    index.add(
        [
            IndexRow(0, n, bytes(16), 1.0, 1, bytes(3_000_000) if request.param == "long values" else None)
            for n in (1, 2, 3)
        ]
    )
    index.close()
    ATTACKS[request.param](tmp_path / "index.sqlite")
    return tmp_path


READS = """
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    from hydrax_core.cache import CacheEntries
    if arguments[1] == "info":
        assert kit.info(arguments[0]).entries < 5
    elif arguments[1] == "verify":
        assert "corrupt" in [found.what for found in kit.verify(arguments[0])]
    elif arguments[1] == "repair":
        assert all(found.repaired for found in kit.verify(arguments[0], repair=True))
        assert not list(kit.verify(arguments[0]))
    elif arguments[1] == "clear":
        kit.clear(arguments[0])
    elif arguments[1] == "entries":
        with CacheEntries(arguments[0]) as entries:
            entries.find([(0, 1), (0, 2)])
            found = entries.read(0, 1)
            assert found is None or found.fault == "corrupt"
    else:
        with kit.open_store(arguments[0], cache_readonly=arguments[1] == "readonly") as store:
            assert store.read(0, 1) is None
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("use", ["info", "verify", "repair", "clear", "entries", "run", "readonly"])
def test_an_index_of_few_pages_costs_little_and_counts_as_damaged(folder, use):
    size = (folder / "index.sqlite").stat().st_size
    assert size < 100_000
    kilobytes = int(kit.start(READS, folder, use).result())
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert kilobytes < 2 * own  # of this process, which has the same imports


def coded_dict(keys):
    return b"d" + bytes([*leb(len(keys))]) + b"".join(encode(key) + b"N" for key in keys)


def leb(number):
    while number >= 128:
        yield number % 128 | 128
        number >>= 7
    yield number


def test_keys_with_equal_hashes_are_limited():
    keys = [n * (2**61 - 1) for n in range(20_000)]
    assert len({hash(key) for key in keys}) == 1
    with pytest.raises(DecodeError, match="keys that are neither text nor small numbers"):
        decode(coded_dict(keys))
    with pytest.raises(TypeError, match="keys that are neither text nor small numbers"):
        encode(dict.fromkeys(range(-(2**70), -(2**70) + 20_000)))
    plain = {**dict.fromkeys(range(-20_000, 20_000)), **{str(n): n for n in range(20_000)}, (1, 2): 3}
    assert decode(encode(plain)) == plain


def test_an_array_of_many_dimensions_is_refused_before_they_are_multiplied():
    dims = b"".join([bytes(leb(2**62))] * 100_000)
    with pytest.raises(DecodeError, match="100000 dimensions"):
        decode(b"a" + b"\x03<i4" + bytes(leb(100_000)) + dims + b"\0")
