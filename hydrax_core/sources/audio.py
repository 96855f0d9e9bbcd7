"""A folder of sound files: each sub-folder is a label.

Promise: what ``folders`` promises of the items and labels. Every row is sound of one rate and length: a part of a long
file, chosen by the item's seed in training and the beginning in validation; a short file is followed by zeros, and
``length`` counts what is sound. Refused by name: a damaged file, one that ends before its header says.

Reading needs soundfile, the extra ``audio``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hydrax_core.data.checks import integer
from hydrax_core.sources.folders import FolderGroups, FolderItem, find_sides, open_tree
from hydrax_core.sources.index import regular_file
from hydrax_core.sources.paths import refuse_remote
from hydrax_core.sources.row_source import require

__all__ = ["SOUNDS", "AudioFolder", "audio_folder"]

SOUNDS = frozenset({".aif", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav"})
"""What counts as sound, in upper or lower case; other files are left alone."""

_UNKNOWN_SIZES = {0, 0xFFFFFFFF}
"""What programs write that do not know the size in advance."""


class AudioFolder(FolderGroups):
    """A folder of sound, ready for a ``Dataloader``; see ``ImageFolder``."""


def audio_folder(
    folder: str | os.PathLike[str],
    *,
    seconds: float,
    rate: int = 16_000,
    channels: int = 1,
    split: float | Iterable[str] | None = None,
    classes: Sequence[str] | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> AudioFolder:
    """Sound files in batches of ``audio`` (float32, (batch, samples)), ``length`` and ``label`` (int32, (batch,)).

    ``audio`` is from -1 to 1; with several channels it is (batch, samples, channels). A folder that holds its files
    directly has no ``label``; sub-folders ``train`` and ``val`` are as in ``image_folder``. The path of each file is in
    ``batch.additional["path"]``.

    Args:
        folder: The folder.
        seconds: Length of a row.
        rate: Samples a second; files of another rate are resampled.
        channels: 1 for the mean of what a file has; else each file must have so many.
        split: What is for validation: a share of each label's files, chosen by ``seed``; or their paths in the folder.
        classes: Names of the labels in the order of their numbers; by default the sub-folders.
        batch_size: Rows in a batch; the last one is padded.
        seed: Chooses the order.

    Raises:
        ImportError: soundfile is not installed.
        NotADirectoryError: There is no such folder.
        ValueError: It holds no sound, or some in sub-folders and some not, or an argument has a wrong value.
    """
    require("soundfile", "audio", "reading sound")
    integer("rate", rate, minimum=1)
    integer("channels", channels, minimum=1)
    refuse_remote("folder", folder, "a folder of sound")
    samples = round(seconds * rate) if seconds > 0 else 0
    if samples < 1:
        raise ValueError(f"seconds: expected a length of at least one sample, got {seconds!r}")
    root = open_tree(folder)
    sides = find_sides(root, SOUNDS, "sound", split, classes, seed)
    loader = AudioLoader(root.place, rate, channels)
    shape = (samples,) if channels == 1 else (samples, channels)
    arrays = {"audio": (shape, "float32"), "length": ((), "int32")}
    return AudioFolder(*sides.groups(root, loader, arrays, f"{samples} {rate} {channels}", batch_size, seed))


@dataclass(frozen=True)
class AudioLoader:
    root: str
    rate: int
    channels: int

    def __call__(self, item: FolderItem, arrays: Mapping[str, npt.NDArray[Any]], seed: int | None) -> dict[str, str]:
        """Fill ``audio``, ``length`` and, where there is one, ``label``.

        Raises:
            ValueError: The file is damaged or refused; the text names it.
        """
        path, label = item
        target = arrays["audio"]
        sound = self._read(os.path.join(self.root, path), len(target), seed)  # noqa: PTH118  as for images
        target[: len(sound)] = sound
        target[len(sound) :] = 0
        arrays["length"][...] = len(sound)
        if "label" in arrays:
            arrays["label"][...] = label
        return {"path": path}

    def _read(self, path: str, samples: int, seed: int | None) -> npt.NDArray[np.float32]:
        soundfile = require("soundfile", "audio", "reading sound")
        _refuse_cut(path)
        try:
            with soundfile.SoundFile(path) as file:
                wanted = math.ceil(samples * file.samplerate / self.rate)
                spare = max(0, file.frames - wanted)
                start = 0 if seed is None or not spare else int(np.random.default_rng(seed).integers(spare + 1))
                file.seek(start)
                count = min(wanted, file.frames)
                sound: npt.NDArray[np.float32] = file.read(count, "float32", always_2d=True)
                rate = file.samplerate
        except (soundfile.SoundFileError, OSError, RuntimeError) as error:
            raise ValueError(f"{path}: the sound cannot be read ({error})") from error
        if len(sound) != count:
            raise ValueError(f"{path}: it has {len(sound)} samples where its header says {count}; it was cut")
        if self.channels == 1:
            sound = sound.mean(1)
        elif sound.shape[1] != self.channels:
            raise ValueError(f"{path}: it has {sound.shape[1]} channels, not {self.channels}")
        return _resampled(sound, rate, self.rate)[:samples]


def _refuse_cut(path: str) -> None:
    """A WAV file that was cut is taken for a shorter one by those who read it."""
    size = regular_file(path).st_size
    with open(path, "rb") as file:  # noqa: PTH123  once a file
        head = file.read(12)
    said = int.from_bytes(head[4:8], "little")
    if head[:4] == b"RIFF" and said not in _UNKNOWN_SIZES and said + 8 > size + 1:
        raise ValueError(f"{path}: it has {size} bytes where its header says {said + 8}; it was cut")


def _resampled(sound: npt.NDArray[np.float32], rate: int, wanted: int) -> npt.NDArray[np.float32]:
    if rate == wanted or not len(sound):
        return sound
    from scipy.signal import resample_poly  # noqa: PLC0415  dear, and seldom needed; jax brings it

    common = math.gcd(rate, wanted)
    found: npt.NDArray[np.float32] = resample_poly(sound, wanted // common, rate // common, axis=0)
    return found
