"""The ``.npy`` files of one content epoch: their layout, writing into them and reading from a mapping of them.

Promise: the layout follows from the manifest alone; what a file says about itself is not believed. Files are written
with ``pwrite`` and never through a mapping: a full disk is an error, not a SIGBUS. No file in use gets shorter.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hydrax_core.cache.format.folder import array_file_name, epoch_folder, open_folder, open_regular
from hydrax_core.data.portable import PORTABLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from hydrax_core.cache.format.manifest import Manifest, StoredArray

__all__ = ["HEADER_BYTES", "ArrayFile", "EpochMap", "EpochWriter", "array_files", "open_array", "punch"]

HEADER_BYTES: Final = 4096
"""A page, so that entries whose size is a multiple of pages share none; NumPy reads headers of up to 10,000 bytes."""

_MAGIC: Final = b"\x93NUMPY\x01\x00"
_LENGTH_BYTES: Final = 2
_MADV_POPULATE_READ: Final = 22  # asm-generic/mman-common.h
_KEEP_SIZE_PUNCH_HOLE: Final = 0x01 | 0x02  # linux/falloc.h
_ZEROS: Final = bytes(1 << 16)


@dataclass(frozen=True, slots=True)
class ArrayFile:
    """Where the entries of one array lie in its file.

    Attributes:
        array: What is stored.
        file_name: Name of the file within the epoch's folder.
    """

    array: StoredArray
    file_name: str
    entries: int
    entry_bytes: int
    size: int
    header: bytes

    def offset(self, number: int) -> int:
        return HEADER_BYTES + number * self.entry_bytes


def array_files(manifest: Manifest) -> tuple[ArrayFile, ...]:
    """The files of one content epoch, in the order of the arrays' names."""
    return tuple(
        ArrayFile(
            array,
            array_file_name(array.name),
            manifest.entries,
            array.nbytes,
            HEADER_BYTES + manifest.entries * array.nbytes,
            _header(array.stored, (manifest.entries, *array.shape)),
        )
        for array in manifest.arrays
    )


def _header(stored: str, shape: tuple[int, ...]) -> bytes:
    """The header of ``.npy`` format 1.0, see ``numpy.lib.format``, padded with spaces."""
    text = f"{{'descr': {stored!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    length = HEADER_BYTES - len(_MAGIC) - _LENGTH_BYTES
    return _MAGIC + length.to_bytes(_LENGTH_BYTES, "little") + text.encode().ljust(length - 1) + b"\n"


def open_array(file: ArrayFile, *, within: int) -> tuple[int, bool]:
    """A file descriptor to write an array file, and whether one that was there had to be brought to its length.

    A missing one is created; it has its header then, and its full length, unfilled.
    """
    descriptor = open_regular(file.file_name, os.O_RDWR | os.O_CREAT, within=within)
    try:
        size = os.fstat(descriptor).st_size
        if size < file.size:
            os.ftruncate(descriptor, file.size)
        if os.pread(descriptor, HEADER_BYTES, 0) != file.header:
            _write_all(descriptor, file.header, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, 0 < size < file.size


class EpochWriter:
    """The files of one content epoch, open for writing.

    Args:
        files: Its files, which are created where they are missing and get their full length, unfilled.

    Attributes:
        mended: Whether a file that was there had to be brought to its length: what had been read from it may be gone.

    Raises:
        OSError: A file cannot be opened, created or extended, or is a link.
    """

    def __init__(self, folder: Path, epoch: int, files: Sequence[ArrayFile]) -> None:
        self._files = files
        self._descriptors: list[int] = []
        self._folders: list[int] = []
        self.mended = False
        try:
            self._folders.append(open_folder(folder))
            name = epoch_folder(epoch)
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=self._folders[0])
            self._folders.append(open_folder(name, within=self._folders[0]))
            for file in files:
                descriptor, mended = open_array(file, within=self._folders[1])
                self._descriptors.append(descriptor)
                self.mended |= mended
        except BaseException:
            self.close()
            raise

    def write(self, number: int, parts: Sequence[Any]) -> None:
        for file, descriptor, part in zip(self._files, self._descriptors, parts, strict=True):
            _write_all(descriptor, part, file.offset(number))

    def free(self, number: int) -> None:
        """Give the room of an entry back that could not be written as a whole: others may need it to commit theirs."""
        for file, descriptor in zip(self._files, self._descriptors, strict=True):
            with contextlib.suppress(OSError):
                punch(descriptor, file.offset(number), file.entry_bytes)

    def sync(self) -> None:
        """Wait until all that was written is on the disk, the files' names included."""
        for descriptor in self._descriptors:
            (os.fsync if PORTABLE else os.fdatasync)(descriptor)
        for folder in self._folders[::-1]:
            os.fsync(folder)

    def close(self) -> None:
        for descriptor in (*self._descriptors, *self._folders):
            os.close(descriptor)
        self._descriptors, self._folders = [], []


def _write_all(descriptor: int, data: Any, offset: int) -> None:
    rest = memoryview(data).cast("B")
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


class EpochMap:
    """The files of one content epoch, mapped for reading.

    The mappings live as long as any array over them does. They are never written through.

    Raises:
        OSError: A file is missing or cannot be read, or is a link.
    """

    def __init__(self, folder: Path, epoch: int, files: Sequence[ArrayFile]) -> None:
        self._folder = folder / epoch_folder(epoch)
        self._files = files
        self._maps: list[mmap.mmap] = []
        self._inodes: list[tuple[int, int]] = []
        opened = [open_folder(folder)]
        try:
            opened.append(open_folder(epoch_folder(epoch), within=opened[0]))
            for file in files:
                opened.append(open_regular(file.file_name, os.O_RDONLY, within=opened[1]))
                status = os.fstat(opened[-1])
                length = min(status.st_size, file.size)
                if length == 0:
                    raise OSError(f"{epoch_folder(epoch)}/{file.file_name} is empty")
                self._maps.append(mmap.mmap(opened[-1], length, access=mmap.ACCESS_READ))
                self._inodes.append((status.st_dev, status.st_ino))
                os.close(opened.pop())  # the mapping has its own
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def holds(self, number: int) -> bool:
        """Whether the files are long enough for an entry, now; touching what was cut off would end the process."""
        for file, mapped in zip(self._files, self._maps, strict=True):
            end = file.offset(number + 1)
            if end > len(mapped) or end > mapped.size():
                return False
        return True

    def is_current(self) -> bool:
        """Whether the files are those that lie in the folder now, in the length that was mapped."""
        for file, mapped, inode in zip(self._files, self._maps, self._inodes, strict=True):
            try:
                status = (self._folder / file.file_name).lstat()
            except OSError:
                return False
            if (status.st_dev, status.st_ino) != inode or min(status.st_size, file.size) != len(mapped):
                return False
        return True

    def parts(self, number: int) -> list[memoryview]:
        found = []
        for file, mapped in zip(self._files, self._maps, strict=True):
            first = file.offset(number)
            found.append(memoryview(mapped)[first : first + file.entry_bytes])
        return found

    def arrays(self, number: int, dtypes: Mapping[str, np.dtype[Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Read-only views of an entry; ``dtypes`` gives the names in the wanted order."""
        views = {
            file.array.name: np.ndarray(file.array.shape, dtypes[file.array.name], mapped, file.offset(number))
            for file, mapped in zip(self._files, self._maps, strict=True)
        }
        return {name: views[name] for name in dtypes}

    def gather(self, numbers: np.ndarray[Any, Any], into: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Copy entries into the first rows of arrays that are C-contiguous."""
        for file, mapped in zip(self._files, self._maps, strict=True):
            rows = (len(mapped) - HEADER_BYTES) // file.entry_bytes
            source = np.ndarray((rows, file.entry_bytes), np.uint8, mapped, HEADER_BYTES)
            target = into[file.array.name][: len(numbers)].reshape(len(numbers), -1).view(np.uint8)
            np.take(source, numbers, axis=0, out=target, mode="clip")  # "raise" would copy twice; they are in range

    def read_ahead(self, number: int) -> None:
        """Ask the system to have an entry in memory soon."""
        self._advise(number, mmap.MADV_WILLNEED)

    def read(self, number: int) -> None:
        """Have an entry in memory; what would end the process when the mapping is touched is an error here.

        Raises:
            OSError: The disk cannot read it, or it has been cut off.
        """
        try:
            self._advise(number, _MADV_POPULATE_READ)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a system that does not know it: Linux before 5.14
                raise
            self.read_ahead(number)

    def _advise(self, number: int, advice: int) -> None:
        for file, mapped in zip(self._files, self._maps, strict=True):
            first = file.offset(number) // mmap.PAGESIZE * mmap.PAGESIZE
            length = min(file.offset(number + 1), len(mapped)) - first
            if length > 0:
                mapped.madvise(advice, first, length)


def punch(descriptor: int, offset: int, length: int) -> None:
    """Make a part of a file read as zeros and free its room on the disk."""
    fallocate = None if PORTABLE else ctypes.CDLL(None).fallocate
    arguments = (ctypes.c_int(descriptor), ctypes.c_int(_KEEP_SIZE_PUNCH_HOLE))
    if fallocate is not None and fallocate(*arguments, ctypes.c_int64(offset), ctypes.c_int64(length)) == 0:
        return
    end = offset + length
    while offset < end:  # a file system without holes: zeros at least
        offset += os.pwrite(descriptor, _ZEROS[: end - offset], offset)
