"""Slots for batches in one sparse, anonymous memory file, and the leases on them.

Promise: a slot is given to one batch at a time, and given again only after the last array over it is gone,
computations in flight included. Memory is taken when a slot is first used and can be handed back. The kernel frees all
of it with the last process that maps it: nothing is left behind, whatever ends them. Where there are no memory files
(macOS), an unlinked file in the temporary folder stands in for one; what it took is given back at the end only.

How a lease ends: NumPy and jax arrays over a slot keep a ctypes object alive (the *root* of the lease); a weak
reference to it fires when the last of them is gone. jaxlib drops its hold late, at its next call or a garbage
collection, so a pool without a free slot calls ``gc.collect(0)`` before it takes more memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import mmap
import os
import resource
import tempfile
import weakref
from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from hydrax_core.data.layout import aligned
from hydrax_core.data.portable import PORTABLE

__all__ = ["SlotMemory", "SlotPool"]

_MADV_POPULATE_WRITE = 23  # linux/mman.h, since Linux 5.14; Python has no name for it
_PREFAULT_PIECE = 4 << 20
_PREFAULT_BYTES = 128 << 20
_STATUS_WORDS = 8
_MOST_BYTES = 1 << 62
"""Of a file without a limit: sizes are signed 64-bit numbers."""
_IDLE_ROUNDS = 64
"""How many batches in a row may leave a slot unused before its memory is handed back."""


class SlotMemory:
    """The memory file as one process sees it: a status page and the slots, mapped as they are used.

    Args:
        fd: The file; it is not closed here.
        workers: Number of workers, each of which has a status block.
        base: Slots mapped at once at first; each further mapping doubles their number, because each costs a descriptor.
    """

    def __init__(self, fd: int, slot_size: int, workers: int, base: int) -> None:
        self.fd = fd
        self.slot_size = slot_size
        self.workers = workers
        self.base = base
        self.stride = aligned(max(slot_size, 1), mmap.PAGESIZE)
        self._header = aligned(workers * _STATUS_WORDS * 8, mmap.PAGESIZE)
        self._status: mmap.mmap | None = None
        self._segments: dict[int, mmap.mmap] = {}

    def length(self, slots: int) -> int:
        return self._header + max(slots, self.base) * self.stride

    def status(self, worker: int) -> memoryview:
        """The status block of a worker: eight unsigned 64-bit words."""
        if self._status is None:
            self._status = mmap.mmap(self.fd, self._header)
        first = worker * _STATUS_WORDS
        return memoryview(self._status).cast("Q")[first : first + _STATUS_WORDS]

    def locate(self, slot: int) -> tuple[mmap.mmap, int]:
        """The mapping that holds a slot and the slot's offset in it."""
        segment = (slot // self.base).bit_length()
        first = 0 if segment == 0 else self.base << (segment - 1)
        if segment not in self._segments:
            slots = self.base if segment == 0 else first
            offset = self._header + first * self.stride
            try:
                slots = min(slots, (os.fstat(self.fd).st_size - offset) // self.stride)
                self._segments[segment] = mmap.mmap(self.fd, slots * self.stride, offset=offset)
            except OSError as error:
                raise MemoryError(
                    f"{slots * self.stride:,} bytes for {slots} batches cannot be mapped: {error}"
                ) from error
        return self._segments[segment], (slot - first) * self.stride

    def prefault(self, slot: int) -> None:
        """Have the pages of a slot mapped now: first touches run at a twentieth of the speed of warm memory."""
        mapping, offset = self.locate(slot)
        with contextlib.suppress(OSError, ValueError):  # an older kernel, or another
            for start in range(0, self.stride, _PREFAULT_PIECE):  # mmap.madvise() keeps the GIL
                size = min(_PREFAULT_PIECE, self.stride - start)
                mapping.madvise(_MADV_POPULATE_WRITE, offset + start, size)

    def discard(self, slot: int) -> None:
        """Give the memory of a slot back; its content becomes zeros."""
        mapping, offset = self.locate(slot)
        if not PORTABLE:
            with contextlib.suppress(OSError):
                mapping.madvise(mmap.MADV_REMOVE, offset, self.stride)


class _Lease(weakref.ref[Any]):
    """A weak reference to a lease's root that remembers the slot, and the objects that were handed out."""

    __slots__ = ("holders", "note", "slot")
    slot: int
    note: Any
    holders: tuple[weakref.ref[Any], ...]


class SlotPool:
    """The slots of one loader.

    Only the thread that drives the engine acquires slots; leases may end in any thread, at any moment.

    Args:
        limit: Most slots there may ever be.
        base: Slots expected in ordinary use.
    """

    def __init__(self, slot_size: int, limit: int, workers: int, base: int) -> None:
        # A file object closes once and whole, and with its last reference: Ctrl-C may come at any moment.
        self._file = io.FileIO(_anonymous_file(), "r+")
        self.memory = SlotMemory(self._file.fileno(), slot_size, workers, base)
        self.limit = min(max(limit, base), self._most_slots())
        self._file.truncate(self.memory.length(self.limit))  # a sparse file costs nothing
        self._free: list[tuple[int, int]] = []
        """Slots, and the round in which each came free: the longest idle ones come first."""
        self._released: deque[Any] = deque()
        self._leases: dict[int, _Lease] = {}
        self._round = 0
        self._given_back = 0
        """How many of the first free slots have no memory."""
        self.count = 0
        """Slots made so far."""
        self._exhausted = False

    @property
    def exhausted(self) -> bool:
        """Whether ``acquire()`` found no slot and none has come free since."""
        return self._exhausted

    def held(self) -> list[Any]:
        """The note of each lease whose holders are alive, oldest first.

        A lease may outlast its holders: while a computation on them is in flight, and until jaxlib drops its hold.
        """
        leases = list(self._leases.values())
        return [lease.note for lease in leases if any(holder() is not None for holder in lease.holders)]

    def notes(self) -> list[Any]:
        """The note of each lease that was handed out, oldest first."""
        return [lease.note for lease in list(self._leases.values()) if lease.note is not None]

    def leased(self) -> frozenset[int]:
        return frozenset(slot for slot, lease in list(self._leases.items()) if lease() is not None)

    def acquire(self, soft_limit: int) -> int | None:
        """A slot for a new batch, or ``None`` at the limit; then it is worth asking again soon.

        Args:
            soft_limit: How many slots there may be before it is worth looking for garbage that holds one.
        """
        self._reclaim()
        if not self._free and self.count >= soft_limit:
            gc.collect(0)
            self._reclaim()
        if not self._free and self.count < self.limit:
            self.count += 1
            return self.count - 1
        if not self._free:
            self._exhausted = True  # set before looking again: a lease may end at any moment
            gc.collect(0)
            self._reclaim()
        if not self._free:
            return None
        slot, _ = self._free.pop()
        self._round += 1
        self._trim()
        return slot

    def prefault(self, slots: Iterable[int]) -> None:
        """Have the memory of slots mapped, as much as that takes no longer than a worker's start."""
        for slot, _ in zip(slots, range(_PREFAULT_BYTES // self.memory.stride), strict=False):
            self.memory.prefault(slot)

    def release(self, slot: int) -> None:
        self._free.append((slot, self._round))

    def lease(self, slot: int) -> Any:
        """The root of a new lease on a slot: a writable buffer of the slot's bytes to make arrays over."""
        mapping, offset = self.memory.locate(slot)
        root = _char_array(self.memory.stride).from_buffer(mapping, offset)
        # Python throws away a KeyboardInterrupt that arrives in a weak reference's callback: this one is C code, in
        # which none arrives. It cannot wake anybody, so when no slot is free, the engine asks
        # again.
        lease = _Lease(root, self._released.append)
        lease.slot = slot
        lease.note = None
        lease.holders = ()
        self._leases[slot] = lease
        return root

    def annotate(self, slot: int, note: Any, holders: tuple[weakref.ref[Any], ...]) -> None:
        """Note where the batch in a slot was handed out, and the objects that were."""
        lease = self._leases[slot]
        lease.holders = holders
        lease.note = note

    def close(self) -> None:
        self.memory.fd = -1  # a thread left behind must not map a file that gets this number
        self._file.close()

    def __del__(self) -> None:
        if hasattr(self, "_file"):  # Ctrl-C may have hit the start
            self._file.close()

    def _most_slots(self) -> int:
        """How many slots a file of the size allowed here holds."""
        allowed = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        needed = self.memory.length(0)
        if allowed == resource.RLIM_INFINITY:
            return _MOST_BYTES // self.memory.stride
        if allowed < needed:
            self._file.close()
            raise MemoryError(
                f"batch_size, depth: {self.memory.base} batches and what belongs to them take a file of {needed:,} "
                f"bytes, and files may have {allowed:,} here: raise the limit (ulimit -f), or load less ahead"
            )
        return self.memory.base + (allowed - needed) // self.memory.stride

    def _reclaim(self) -> None:
        while self._released:
            slot = self._released.popleft().slot
            del self._leases[slot]
            self._free.append((slot, self._round))
            self._exhausted = False

    def _trim(self) -> None:
        """Give memory back that was not needed for a while: of free slots, the one used last is taken first."""
        free = self._free
        self._given_back = kept = min(self._given_back, len(free))
        if kept < len(free) and self._round - free[kept][1] >= _IDLE_ROUNDS:
            self.memory.discard(free[kept][0])
            self._given_back += 1


@lru_cache(maxsize=8)
def _char_array(size: int) -> type[ctypes.Array[ctypes.c_char]]:
    return ctypes.c_char * size


def _anonymous_file() -> int:
    if not PORTABLE:
        return os.memfd_create("hydrax", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile(prefix="hydrax") as file:
        return os.dup(file.fileno())
