"""Arrays as pictures: what an array is shown as, its colours, and its size on the screen. Pure NumPy.

Promise: a picture is an array of shape (height, width, 3), uint8; two of its rows make one line of half blocks. Values
are mapped to colours once for the whole array, so that the rows of a batch can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np

from hydrax_cli.inspect.numbers.statistics import MOST_VALUES, as_numbers, shares

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

__all__ = [
    "Grid",
    "Kind",
    "Pixels",
    "Scale",
    "best_kind",
    "fit",
    "grid_of",
    "heat",
    "images",
    "montage",
    "scale_of",
    "segments",
    "thin",
]

Kind: TypeAlias = Literal["picture", "heat map", "segments", "rows"]
Pixels: TypeAlias = "npt.NDArray[np.uint8]"

_CHANNELS = (1, 3, 4)
_SMALLEST_SIDE = 4
_SMALLEST_PICTURE = 16
_BYTE = 255
_GAP = 1
_OVERSAMPLING = 4
# A scale of our own from dark to light, which stays ordered without colours.
_HEAT_STOPS = (
    (0x16, 0x12, 0x2E),
    (0x3B, 0x2A, 0x7A),
    (0x2E, 0x66, 0xA8),
    (0x2F, 0xA3, 0x9A),
    (0x9B, 0xCB, 0x5C),
    (0xFD, 0xF0, 0xA8),
)
_NOT_A_NUMBER = (0xE0, 0x40, 0xC0)


@dataclass(frozen=True, slots=True)
class Scale:
    """Which values are dark and which are light."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Grid:
    """How pictures lie: ``columns`` x ``rows`` of them, each ``width`` x ``height`` pixels, one pixel apart."""

    columns: int
    rows: int
    width: int
    height: int

    @property
    def page(self) -> int:
        return self.columns * self.rows


def _channels_last(shape: tuple[int, ...]) -> bool | None:
    """Whether an item of this shape is an image with its channels last, or first; ``None`` if it is none."""
    if len(shape) == 2:  # noqa: PLR2004  height and width
        return True if min(shape) >= _SMALLEST_SIDE else None
    if len(shape) != 3:  # noqa: PLR2004  and channels
        return None
    if shape[2] in _CHANNELS and min(shape[:2]) >= _SMALLEST_SIDE:
        return True
    if shape[0] in _CHANNELS and min(shape[1:]) >= _SMALLEST_SIDE:
        return False
    return None


def best_kind(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Kind:
    """What items of this shape are shown as, unless the user asks for something else."""
    if _channels_last(shape) is not None:
        return "picture"
    if len(shape) <= 1 and (dtype.kind in "iub" or not shape):
        return "rows"
    return "heat map"


def scale_of(array: npt.NDArray[Any]) -> Scale:
    """The scale of an array: a usual range where it has one, else from its least value to its largest."""
    row_size = max(1, array.size // max(1, len(array)))
    numbers = as_numbers(array[: max(1, MOST_VALUES // row_size)])
    finite = numbers[np.isfinite(numbers)] if numbers.dtype.kind == "f" else numbers
    if not finite.size:
        return Scale(0.0, 1.0)
    low, high = float(finite.min()), float(finite.max())
    if low >= 0 and _BYTE // 2 < high <= _BYTE and _channels_last(array.shape[1:]) is not None:
        return Scale(0.0, float(_BYTE))
    if numbers.dtype.kind == "f" and high <= 1 and low >= -1 and high > 0:
        return Scale(0.0 if low >= 0 else -1.0, 1.0)
    return Scale(low, high)


def images(array: npt.NDArray[Any], scale: Scale) -> Pixels:
    """Items of shape (rows, height, width[, channels]) or (rows, channels, height, width) as RGB pictures."""
    shape = array.shape[1:]
    last = _channels_last(shape)
    if last is None:
        raise ValueError(f"items of shape {shape} are no images")
    if not last:
        array = np.moveaxis(array, 1, -1)
    bytes_ = _to_bytes(array, scale)
    if bytes_.ndim == 3:  # noqa: PLR2004  no channels
        bytes_ = bytes_[..., None]
    if bytes_.shape[-1] == 1:
        return np.repeat(bytes_, 3, axis=-1)
    return np.ascontiguousarray(bytes_[..., :3])


def heat(array: npt.NDArray[Any], scale: Scale) -> Pixels:
    """A matrix of numbers as a heat map; what is no number stands out."""
    numbers = as_numbers(array)
    levels = _to_bytes(array, scale)
    pixels: Pixels = _few_levels(_HEAT[levels])
    if numbers.dtype.kind == "f":
        pixels[~np.isfinite(numbers)] = _NOT_A_NUMBER
    return pixels


def thin(matrix: npt.NDArray[Any], width: int, height: int) -> npt.NDArray[Any]:
    """Every so many rows and columns of a matrix much larger than what is drawn of it."""
    down, across = (
        max(1, size // (_OVERSAMPLING * wanted)) for size, wanted in zip(matrix.shape, (height, width), strict=True)
    )
    return matrix[::down, ::across]


def fit(picture: Pixels, width: int, height: int) -> Pixels:
    """A picture in another size: averaged where it shrinks, in hard squares where it grows."""
    return _resize(_resize(picture, height, 0), width, 1)


def segments(ids: npt.NDArray[Any], palette: Sequence[tuple[int, int, int]], width: int, thick: int) -> Pixels:
    """Rows of segments, each ``thick`` pixels high: the first colour for no segment, the others in turn.

    Args:
        ids: Shape (rows, length); 0 for no segment.
        palette: Colours.
        width: Most pixels of a row; of a longer one every so-manieth element is drawn.
        thick: The last pixel of several parts a row from the next.
    """
    length = ids.shape[1]
    wide = min(width, length * max(1, min(8, width // length)))
    shown = ids[:, np.arange(wide) * length // wide].astype(np.int64)
    colours = np.array(palette, np.uint8)
    which = np.where(shown > 0, (shown - 1) % (len(colours) - 1) + 1, 0)
    drawn = np.repeat(which, thick, axis=0)
    if thick > 1:
        drawn[thick - 1 :: thick] = 0
    made: Pixels = colours[drawn]
    return made


def grid_of(area: tuple[int, int], shape: tuple[int, int], count: int, at_least: int) -> Grid:
    """The largest pictures of which ``at_least`` (or all) fit into an area.

    Args:
        area: Width and height in pixels.
        shape: Height and width of a picture.
        at_least: How many should be seen at once, as long as that leaves them large enough to be made out.
    """
    wanted = max(1, min(count, at_least))
    least = min(shape[0], _SMALLEST_PICTURE)
    while wanted > 1 and _best(area, shape, wanted).height < least:
        wanted -= 1
    best = _best(area, shape, wanted)
    columns = max(1, min(count, (area[0] - _GAP) // (best.width + _GAP)))
    rows = max(1, (area[1] - _GAP) // (best.height + _GAP))
    return Grid(columns, min(rows, -(-count // columns)), best.width, best.height)


def _best(area: tuple[int, int], shape: tuple[int, int], wanted: int) -> Grid:
    best = Grid(1, 1, 1, 1)
    for columns in range(1, max(1, area[0] // (_SMALLEST_SIDE + _GAP)) + 1):
        width = (area[0] - _GAP) // columns - _GAP
        rows_wanted = -(-wanted // columns)
        height = (area[1] - _GAP) // rows_wanted - _GAP
        if width < 1 or height < 1:
            continue
        zoom = min(width / shape[1], height / shape[0])
        if zoom > 1:
            zoom = int(zoom)
        made = Grid(columns, 1, max(1, round(shape[1] * zoom)), max(1, round(shape[0] * zoom)))
        if made.height > best.height:
            best = made
    return best


def montage(
    pictures: Pixels, grid: Grid, background: tuple[int, int, int], chosen: int | None, mark: tuple[int, int, int]
) -> Pixels:
    """Pictures of shape (n, height, width, 3) side by side; the chosen one gets a frame."""
    wide, high = grid.width + _GAP, grid.height + _GAP
    canvas = np.empty((grid.rows * high + _GAP, grid.columns * wide + _GAP, 3), np.uint8)
    canvas[...] = background
    for place, picture in enumerate(pictures[: grid.page]):
        row, column = divmod(place, grid.columns)
        y, x = row * high, column * wide
        if place == chosen:
            canvas[y : y + high + _GAP, x : x + wide + _GAP] = mark
        canvas[y + _GAP : y + high, x + _GAP : x + wide] = _few_levels(fit(picture, grid.width, grid.height))
    return canvas


def _few_levels(picture: Pixels) -> Pixels:
    """64 levels a channel: no eye sees more here, and what is drawn for a colour can be used again."""
    fewer: Pixels = picture & np.uint8(0xFC) | picture >> np.uint8(6)
    return fewer


def _to_bytes(array: npt.NDArray[Any], scale: Scale) -> Pixels:
    if array.dtype == np.uint8 and scale == Scale(0.0, float(_BYTE)):
        return cast("Pixels", array)
    numbers = as_numbers(array)
    if numbers.dtype.kind == "f":
        numbers = np.nan_to_num(numbers, nan=scale.low, posinf=scale.high, neginf=scale.low)
    levels: Pixels = np.clip(_BYTE * shares(numbers, scale.low, scale.high), 0, _BYTE).astype(np.uint8)
    return levels


def _resize(picture: Pixels, size: int, axis: int) -> Pixels:
    length = picture.shape[axis]
    if length == size:
        return picture
    if size > length:
        larger: Pixels = np.take(picture, np.arange(size) * length // size, axis=axis)
        return larger
    edges = np.arange(size + 1) * length // size
    sums = np.add.reduceat(picture.astype(np.uint32), edges[:-1], axis=axis)
    counts = np.diff(edges).reshape([-1 if i == axis else 1 for i in range(picture.ndim)])
    smaller: Pixels = (sums // counts).astype(np.uint8)
    return smaller


def _heat_table() -> Pixels:
    stops = np.array(_HEAT_STOPS, np.float64)
    places = np.linspace(0, len(stops) - 1, _BYTE + 1)
    table = np.stack([np.interp(places, np.arange(len(stops)), stops[:, channel]) for channel in range(3)], axis=1)
    return table.astype(np.uint8)


_HEAT = _heat_table()
