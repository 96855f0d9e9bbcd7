import gc
import os
import resource
import weakref

import jax
import numpy as np
import pytest

from hydrax_core import DataGroup, Dataloader
from hydrax_core.data.portable import PORTABLE
from hydrax_core.engine.resources import slots as slots_module
from hydrax_core.engine.resources.slots import SlotMemory, SlotPool


@pytest.fixture
def pool():
    made = SlotPool(1000, limit=6, workers=2, base=2)
    yield made
    made.close()


def array_over(pool, slot):
    return np.ndarray((250,), np.float32, pool.lease(slot))


def test_a_slot_is_free_only_after_the_last_array_over_it_is_gone(pool):
    slot = pool.acquire(1)
    array = array_over(pool, slot)
    part = array[5:7].reshape(2, 1)
    del array
    assert pool.acquire(1) != slot
    del part
    assert pool.acquire(1) == slot


def test_a_jax_array_holds_its_slot_and_aliases_it(pool):
    slot = pool.acquire(1)
    host = array_over(pool, slot)
    host[...] = 7
    placed = jax.device_put(host)
    assert placed.unsafe_buffer_pointer() == host.ctypes.data
    del host
    assert pool.acquire(1) != slot
    assert float(placed[0]) == 7
    del placed
    assert pool.acquire(1) == slot, "acquire() must provoke jaxlib to drop its hold"


def test_the_limit_is_kept_until_a_slot_is_released(pool):
    arrays = [array_over(pool, pool.acquire(1)) for _ in range(6)]
    assert pool.acquire(1) is None
    assert pool.exhausted
    arrays.pop(2)
    assert pool.acquire(1) == 2
    assert not pool.exhausted


def test_held_leases_are_named_once_annotated(pool):
    first, second = pool.acquire(1), pool.acquire(1)
    arrays = [array_over(pool, first), array_over(pool, second)]
    pool.annotate(second, "train.py:7", (weakref.ref(arrays[1]),))
    assert pool.held() == pool.notes() == ["train.py:7"]
    assert pool.leased() == {first, second}
    del arrays


def test_another_mapping_of_the_file_sees_the_same_slots(pool):
    other = SlotMemory(pool.memory.fd, 1000, 2, 2)
    for slot in range(6):
        assert pool.acquire(1) == slot
        mapping, offset = pool.memory.locate(slot)
        mapping[offset : offset + 4] = b"%04d" % slot
    for slot in range(6):
        mapping, offset = other.locate(slot)
        assert mapping[offset : offset + 4] == b"%04d" % slot
    pool.memory.status(1)[3] = 99
    assert list(other.status(1)) == [0, 0, 0, 99, 0, 0, 0, 0]
    assert list(other.status(0)) == [0] * 8


def blocks(fd):
    return os.fstat(fd).st_blocks


def test_memory_is_taken_on_use_and_given_back_when_unused():
    pool = SlotPool(1 << 20, limit=1000, workers=1, base=2)
    assert blocks(pool.memory.fd) == 0
    held = []
    for _ in range(8):
        slot = pool.acquire(1)
        pool.memory.prefault(slot)
        held.append(array_over(pool, slot))
    full = blocks(pool.memory.fd)
    assert full >= 8 * (1 << 20) // 512
    held.clear()
    gc.collect()
    for _ in range(80):
        pool.release(pool.acquire(1))
    assert PORTABLE or blocks(pool.memory.fd) <= full // 4
    pool.close()


def test_arrays_outlive_the_pool():
    pool = SlotPool(1000, limit=2, workers=1, base=2)
    array = array_over(pool, pool.acquire(1))
    array[...] = 3
    gone = weakref.ref(pool)
    pool.close()
    del pool
    gc.collect()
    assert array.sum() == 750
    del array
    gc.collect()
    assert gone() is None


@pytest.fixture
def _files_of_a_megabyte():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("_files_of_a_megabyte")
@pytest.mark.parametrize("kind", ["process", "inline"])
def test_a_limit_of_file_sizes_limits_the_slots(kind):
    def load(item, arrays, seed):
        arrays["x"][...] = item

    group = DataGroup(1, range(40), loader_arrays={"x": ((1 << 14,), "int32")})  # 64 KiB: 15 slots
    with Dataloader(load, group, loader_kind=kind, depth=3, end_at=("epoch", 1), timeout_sec=20) as loader:
        kept = []
        for batch in loader:
            kept = [*kept, batch][-6:]
            assert int(batch.arrays["x"][0, -1]) == batch.indices[0]
    too_large = DataGroup(1, range(40), loader_arrays={"x": ((1 << 17,), "int32")})
    with (
        pytest.raises(MemoryError, match="ulimit -f"),
        Dataloader(load, too_large, loader_kind=kind, depth=3, end_at=("epoch", 1)) as loader,
    ):
        next(loader)


def test_a_slot_that_cannot_be_mapped_is_an_error_that_says_how_much():
    pool = SlotPool(1000, limit=64, workers=1, base=2)
    pool.memory.locate(0)
    pool.close()
    assert pool.memory.locate(1) == (pool.memory.locate(0)[0], pool.memory.stride)
    with pytest.raises(MemoryError, match=f"{32 * pool.memory.stride:,} bytes for 32 batches cannot be mapped"):
        pool.memory.locate(40)


def test_places_lie_side_by_side_and_a_mapping_doubles_those_before_it():
    pool = SlotPool(5000, limit=23, workers=3, base=3)
    memory = pool.memory
    assert memory.stride % 4096 == 0
    assert memory.stride - 4096 < 5000 <= memory.stride
    assert os.fstat(memory.fd).st_size == memory.length(23) == memory.length(0) + 20 * memory.stride
    found = [memory.locate(slot) for slot in range(23)]
    sizes = [len(mapping) // memory.stride for mapping, _ in found]
    assert sizes == [3] * 3 + [3] * 3 + [6] * 6 + [11] * 11
    assert [offset // memory.stride for _, offset in found] == [*range(3), *range(3), *range(6), *range(11)]
    assert len({id(mapping) for mapping, _ in found}) == 4
    pool.close()


def test_the_slot_used_last_is_taken_first_and_more_are_made_only_then():
    pool = SlotPool(1000, limit=4, workers=1, base=2)
    assert [pool.acquire(1) for _ in range(3)] == [0, 1, 2]
    pool.release(1)
    pool.release(0)
    assert [pool.acquire(1) for _ in range(2)] == [0, 1]
    assert pool.count == 3
    assert (pool.acquire(1), pool.acquire(1), pool.count) == (3, None, 4)
    pool.close()


def test_memory_is_looked_for_among_garbage_before_more_of_it_is_taken():
    pool = SlotPool(1000, limit=4, workers=1, base=2)
    held = [array_over(pool, pool.acquire(5))]
    held.append(held)
    del held
    assert pool.acquire(2) == 1
    assert pool.acquire(2) == 0, "the third would be more than the soft limit"
    pool.close()


def test_notes_are_of_what_was_handed_out_and_holders_may_go_before_their_lease(pool):
    class Holder:
        pass

    slots = [pool.acquire(1) for _ in range(3)]
    arrays = [array_over(pool, slot) for slot in slots]
    holders = [Holder(), Holder()]
    for slot, note in ((slots[2], "first"), (slots[0], "second")):
        pool.annotate(slot, note, tuple(map(weakref.ref, holders)))
    assert pool.held() == pool.notes() == ["second", "first"]
    holders.pop()
    gc.collect()
    assert pool.held() == ["second", "first"]
    holders.clear()
    gc.collect()
    assert pool.held() == []
    assert pool.notes() == ["second", "first"]
    del arrays[1]
    assert pool.leased() == {slots[0], slots[2]}


def test_memory_goes_back_after_so_many_batches_that_had_no_need_of_it_a_slot_a_batch():
    pool, given_back, rounds = SlotPool(1000, limit=4, workers=1, base=2), [], 0
    pool.memory.discard = lambda slot: given_back.append((rounds, slot))
    slots = [pool.acquire(1) for _ in range(3)]

    def idle(count):
        nonlocal rounds
        for _ in range(count):
            rounds += 1
            pool.release(pool.acquire(1))

    for slot in slots:
        pool.release(slot)
    idle(200)
    assert given_back == [(64, 0), (65, 1)]
    given_back.clear()
    slots = [pool.acquire(1) for _ in range(3)]
    assert slots == [2, 1, 0]
    for slot in slots:
        pool.release(slot)
    rounds = 0
    idle(200)
    assert given_back == [(64, 2), (65, 1)]
    pool.close()


def test_as_much_memory_is_mapped_ahead_as_a_workers_start_leaves_time_for(monkeypatch):
    pool, mapped = SlotPool(10_000, limit=8, workers=1, base=8), []
    stride = pool.memory.stride
    monkeypatch.setattr(slots_module, "_PREFAULT_BYTES", 3 * stride + stride - 1)
    monkeypatch.setattr(pool.memory, "prefault", mapped.append)
    pool.prefault(range(8))
    assert mapped == [0, 1, 2]
    pool.prefault([7])
    assert mapped == [0, 1, 2, 7]
    pool.close()


@pytest.mark.skipif(PORTABLE, reason="memory is given back at the end only")
def test_memory_is_mapped_in_pieces_and_only_that_of_the_slot(monkeypatch):
    pool = SlotPool(40_000, limit=4, workers=1, base=4)
    monkeypatch.setattr(slots_module, "_PREFAULT_PIECE", 16_384)
    page, stride = 512, pool.memory.stride
    for slots in (1, 2):
        pool.memory.prefault(slots)
        assert blocks(pool.memory.fd) * page == slots * stride
    pool.memory.discard(1)
    assert blocks(pool.memory.fd) * page == stride
    pool.close()


@pytest.mark.skipif(PORTABLE, reason="there are no memory files")
def test_slots_lie_in_memory_and_on_no_disk(pool):
    assert os.readlink(f"/proc/self/fd/{pool.memory.fd}").startswith("/memfd:hydrax")  # noqa: PTH115  it is no file
