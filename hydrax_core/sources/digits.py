"""1,797 handwritten digits that ship with hydrax: a small, real data set that needs no download.

Promise: the same digits in the same split everywhere. Where they come from and their licence: ``data/README.md``.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hydrax_core.data.fingerprint import IdentifiedItems
from hydrax_core.data.function import batched
from hydrax_core.data.group import DataGroup

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Digits", "load_digits", "uci_digits"]

_VALIDATION_STEP = 5


class Digits(NamedTuple):
    """The digits, ready for a ``Dataloader``."""

    loader_func: Any
    training: DataGroup[int]
    validation: DataGroup[int]


def uci_digits(batch_size: int = 64, seed: int = 0) -> Digits:
    """The digits in batches of ``image`` (float32, (batch, 8, 8), values 0 to 16) and ``label`` (int32, (batch,)).

    Every fifth digit is for validation: 360 of them, 1,437 for training. Validation shows all of its digits, the last
    batch padded; training leaves out those that do not fill a batch.

    Args:
        batch_size: Digits in a batch, of training and of validation.
        seed: Chooses the order of training.

    Raises:
        ValueError: The batch is larger than the data.
    """
    numbers = range(len(_data()["label"]))
    validation = IdentifiedItems(numbers[::_VALIDATION_STEP], _name)
    training = IdentifiedItems([number for number in numbers if number % _VALIDATION_STEP], _name)
    arrays = {"image": ((8, 8), "uint8", "float32"), "label": ((), "int32", "int32")}
    shared: dict[str, Any] = {"loader_func": load_digits, "loader_arrays": arrays, "labels": ("label",)}
    return Digits(
        load_digits,
        DataGroup(batch_size, training, seed=seed, shuffle_first=True, **shared),
        DataGroup(batch_size, validation, remainder="pad", **shared),
    )


@batched
def load_digits(items: Sequence[int], arrays: Mapping[str, npt.NDArray[Any]], seeds: Sequence[int] | None) -> None:  # noqa: ARG001  a loader has three parameters
    data = _data()
    for name, array in arrays.items():
        array[...] = data[name][items]


def _name() -> str:
    return "the digits that ship with hydrax"


@lru_cache(maxsize=1)
def _data() -> Mapping[str, npt.NDArray[np.uint8]]:
    source = files("hydrax_core.sources").joinpath("data", "digits.npz")
    with source.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return dict(archive)
