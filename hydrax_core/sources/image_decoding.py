"""One picture, out of the bytes of its file, into an array.

Promise: what a browser shows: upright by its EXIF tag, in sRGB by its colour profile, transparent parts on a colour of
your choice, the first frame of several; then brought to one size. JPEG files are decoded by simplejpeg where that is
installed, at the smallest scale that the size asks for; all else by Pillow, which is told which formats it may try, so
that no file's content starts another program. Refused by name: damage, more pixels than
``PIL.Image.MAX_IMAGE_PIXELS``, more than 8 bits a channel unless 16 are asked for.

A colour profile that is damaged counts as none, as in browsers.
"""

from __future__ import annotations

import functools
import io
import math
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from hydrax_core.data.checks import choice
from hydrax_core.sources.image_resizing import opencv, resized, turned
from hydrax_core.sources.row_source import require

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FORMATS", "Augment", "Picture", "Resampling", "Resize"]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What Pillow may take a file for."""

_JPEG = b"\xff\xd8\xff"
_ORIENTATION = 0x0112
_TRIES = 10
_DEEP = 16
_MIRRORED, _UPSIDE_DOWN, _TRANSPOSED = {2, 3, 6, 7}, {3, 4, 7, 8}, {5, 6, 7, 8}
"""Orientations: an upright image is the stored one with rows and columns exchanged, then mirrored, then turned over."""
_TURNS: Mapping[int, tuple[str, ...]] = {
    1: (),
    2: ("FLIP_LEFT_RIGHT",),
    3: ("ROTATE_180",),
    4: ("FLIP_TOP_BOTTOM",),
    5: ("TRANSPOSE",),
    6: ("ROTATE_270",),
    7: ("TRANSVERSE",),
    8: ("ROTATE_90",),
}

_local = threading.local()

Resize = Literal["crop", "fit", "pad", "stretch"]
Resampling = Literal["pillow", "opencv"]


class Augment(NamedTuple):
    """Random changes of training images, by the item's seed; validation has none.

    Attributes:
        area: Least and greatest share of the image that is cut out.
        ratio: Least and greatest width of the cut for a height of 1, before it is brought to the size.
        flip: Whether half of the images are mirrored.
    """

    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True


_Part: TypeAlias = tuple[float, float, float, float]
"""Left, top, right and bottom."""


class _Box(NamedTuple):
    """Which part of an upright image is brought to which rows and columns of the target."""

    left: float
    top: float
    right: float
    bottom: float
    rows: slice
    columns: slice
    flipped: bool = False


@dataclass(frozen=True)
class Picture:
    """How pictures become arrays of ``height`` x ``width`` x channels.

    Attributes:
        resize: ``"crop"``: scaled until it fills the size, the middle of it; ``"fit"``: all of it, in the top left
            corner; ``"pad"``: all of it, in the middle; ``"stretch"``: all of it, whatever its shape was.
        bits: 8 for uint8, 16 for uint16; images of 8 bits then span the whole range.
        background: Red, green and blue (0 to 255) behind transparent parts.
        augment: Random changes where there is a seed.
        resampling: What makes pixels of others, see ``image_resizing``; of 16 bits always Pillow.
    """

    height: int
    width: int
    resize: Resize = "crop"
    gray: bool = False
    bits: Literal[8, 16] = 8
    background: tuple[int, int, int] = (255, 255, 255)
    augment: Augment | None = None
    resampling: Resampling = "pillow"

    @classmethod
    def sized(cls, size: int | tuple[int, int], augment: bool | Augment = False, **others: Any) -> Picture:
        """Pictures of a height and width, or one number for both; ``augment`` may be ``True`` for the usual changes."""
        height, width = (size, size) if isinstance(size, int) else size
        how = augment if isinstance(augment, Augment) else Augment() if augment else None
        return cls(height, width, augment=how, **others)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, 1 if self.gray else 3

    @property
    def dtype(self) -> str:
        return f"uint{self.bits}"

    def check(self) -> None:
        """Refuse wrong arguments, and say what is missing for reading images."""
        if self.height < 1 or self.width < 1:
            raise ValueError(f"size: expected a height and a width of at least 1, got {(self.height, self.width)}")
        if self.bits not in (8, 16):
            raise ValueError(f"bits: expected 8 or 16, got {self.bits!r}")
        choice("resize", self.resize, get_args(Resize))
        choice("resampling", self.resampling, get_args(Resampling))
        _pillow()
        if self.resampling == "opencv":
            opencv()

    def read(self, data: bytes, name: str, target: npt.NDArray[Any], seed: int | None) -> None:
        """Fill an array of ``shape``, every element.

        Args:
            data: The file's bytes.
            seed: Chooses the random changes; ``None`` for none.

        Raises:
            ValueError: The picture is damaged or refused.
        """
        try:
            if data.startswith(_JPEG) and self.bits == 8 and _simplejpeg() is not None:  # noqa: PLR2004
                done = self._read_jpeg(data, target, seed)
            else:
                done = False
            if not done:
                self._read_other(data, target, seed)
        except ImportError:
            raise
        except Exception as error:
            # Pillow's plugins let out whatever damage makes them stumble over: OSError, SyntaxError, struct.error.
            raise ValueError(f"{name}: the image cannot be read ({type(error).__name__}: {error})") from error

    def cut(self, pixels: npt.NDArray[Any], target: npt.NDArray[Any], seed: int | None) -> None:
        """Make another array of this kind from one of another size, as ``read`` makes it of a file."""
        height, width = pixels.shape[:2]
        if self.gray:
            pixels = pixels[..., 0]
        elif self.bits == _DEEP:
            pixels = (pixels // 257).astype(np.uint8)  # Pillow has no colours of more bits, and read none
        self._place(_pillow().Image.fromarray(pixels), self._box(height, width, seed), target)

    def _read_jpeg(self, data: bytes, target: npt.NDArray[Any], seed: int | None) -> bool:
        """Decode with simplejpeg; false where Pillow knows better."""
        jpeg = _simplejpeg()
        height, width, colours, _ = jpeg.decode_jpeg_header(data)
        if colours not in {"YCbCr", "Gray", "RGB"}:
            return False
        _refuse_oversized(height, width)
        exif, profile = _segments(data)
        turn = _orientation(exif)
        upright = (width, height) if turn in _TRANSPOSED else (height, width)
        box = self._box(*upright, seed)
        down = min((box.bottom - box.top) / _length(box.rows), (box.right - box.left) / _length(box.columns))
        least = (math.ceil(height / down), math.ceil(width / down)) if down >= 2 else (0, 0)  # noqa: PLR2004  else it takes longer
        rows, columns, *_ = jpeg.decode_jpeg_header(data, *least)
        mode, kind = ("L", "GRAY") if self.gray and profile is None else ("RGB", "RGB")
        buffer = _buffer(rows * columns * len(mode))
        # What the fast ways lose is less than what making the image smaller does to it.
        fast = {"fastdct": down >= 1, "fastupsample": down >= 1}
        decoded = jpeg.decode_jpeg(data, kind, min_height=least[0], min_width=least[1], buffer=buffer, **fast)
        part = _stored(box, (rows, columns), (height, width), turn)
        pixels, part = _around(decoded, part, _size(box, turn))
        transform = None if profile is None else _transform(profile, "RGB")
        if self.resampling == "opencv" and transform is None and pixels.shape[2] == self.shape[2]:
            self._bring_pixels(pixels, part, box, target, turn)
            return True
        image = _pillow().Image.new(mode, pixels.shape[1::-1], None)  # not filled, as frombytes() itself does
        image.frombytes(np.ascontiguousarray(pixels))
        self._bring(image if transform is None else transform(image), part, box, target, turn)
        return True

    def _read_other(self, data: bytes, target: npt.NDArray[Any], seed: int | None) -> None:
        pil = _pillow()
        with pil.Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _refuse_oversized(image.height, image.width)
            deep = _is_deep(image)
            if deep and (self.bits == 8 or not image.mode.startswith("I")):  # noqa: PLR2004
                hint = "give bits=16" if image.mode.startswith("I") else "Pillow reads 16 bits of gray images only"
                raise ValueError(f"mode {image.mode} has more than 8 bits a channel; {hint}")
            profile = image.info.get("icc_profile")
            upright = pil.ImageOps.exif_transpose(image)
            upright = upright if deep else self._to_rgb(upright, profile)
        box = self._box(upright.height, upright.width, seed)
        self._place(upright, box, target)

    def _to_rgb(self, image: Image, profile: bytes | None) -> Image:
        if image.mode in {"P", "PA"}:
            image = image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")
        elif "transparency" in image.info or image.mode == "LA":
            image = image.convert("RGBA")
        alpha = image.getchannel("A") if image.mode == "RGBA" else None
        if alpha is not None:
            image = image.convert("RGB")
        if profile is not None and (transform := _transform(profile, image.mode)) is not None:
            image = transform(image)
        image = image.convert("RGB")
        if alpha is not None:
            below = _pillow().Image.new("RGB", image.size, self.background)
            below.paste(image, mask=alpha)
            image = below
        return image

    def _box(self, height: int, width: int, seed: int | None) -> _Box:
        whole = slice(0, self.height), slice(0, self.width)
        if self.augment is not None and seed is not None:
            return _random_box(height, width, self.augment, int(seed), *whole)
        if self.resize == "stretch":
            return _Box(0, 0, width, height, *whole)
        down, up = height / self.height, width / self.width
        if self.resize == "crop":
            scale = min(down, up)
            left, top = (width - scale * self.width) / 2, (height - scale * self.height) / 2
            return _Box(left, top, left + scale * self.width, top + scale * self.height, *whole)
        scale = max(down, up)
        rows = min(self.height, max(1, round(height / scale)))
        columns = min(self.width, max(1, round(width / scale)))
        middle = round((self.height - rows) / 2), round((self.width - columns) / 2)
        top, left = middle if self.resize == "pad" else (0, 0)
        return _Box(0, 0, width, height, slice(top, top + rows), slice(left, left + columns))

    def _place(self, image: Image, box: _Box, target: npt.NDArray[Any]) -> None:
        """Bring a part of an upright image into its part of the target."""
        shape = image.height, image.width
        self._bring(image, _stored(box, shape, shape, 1), box, target, 1)

    def _bring(self, image: Image, part: _Part, box: _Box, target: npt.NDArray[Any], turn: int) -> None:
        """Bring a part of an image, which is as it is stored, into the box's part of the target.

        Args:
            turn: EXIF's orientation.
        """
        pil = _pillow()
        deep = image.mode.startswith("I")
        if deep:
            values = np.asarray(image)
            if values.min() < 0 or values.max() > np.iinfo(np.uint16).max:
                raise ValueError("it holds values that 16 bits cannot hold")
            image = pil.Image.fromarray(values.astype(np.float32))
        elif self.gray and image.mode != "L":
            image = image.convert("RGB").convert("L")
        if self.resampling == "opencv" and not deep:
            self._bring_pixels(_pixels(image), part, box, target, turn)
            return
        size = _size(box, turn)
        if image.size != size or part != (0.0, 0.0, float(size[0]), float(size[1])):
            image = image.resize(size, pil.Image.Resampling.BILINEAR, part, reducing_gap=2.0)
        for change in (*_TURNS[turn], *(("FLIP_LEFT_RIGHT",) if box.flipped else ())):
            image = image.transpose(pil.Image.Transpose[change])  # ten times as fast as NumPy's [:, ::-1]
        self._fill(_pixels(image), box, target)

    def _bring_pixels(
        self, pixels: npt.NDArray[np.uint8], part: _Part, box: _Box, target: npt.NDArray[Any], turn: int
    ) -> None:
        """The same of pixels, by OpenCV."""
        small = turned(
            resized(pixels, part, _size(box, turn)),
            transposed=turn in _TRANSPOSED,
            mirrored=(turn in _MIRRORED) != box.flipped,
            over=turn in _UPSIDE_DOWN,
        )
        self._fill(small.reshape(*small.shape[:2], -1), box, target)

    def _fill(self, pixels: npt.NDArray[Any], box: _Box, target: npt.NDArray[Any]) -> None:
        if pixels.dtype == np.uint8 and self.bits == _DEEP:
            pixels = pixels.astype(np.uint16) * 257
        if pixels.shape[:2] != target.shape[:2]:
            target[...] = 0
        target[box.rows, box.columns] = pixels


def decoding(picture: Picture, decoded_size: int | tuple[int, int] | None) -> Picture:
    """What the loader reads: the picture itself; or, of ``decoded_size``, what it is cut from behind a cache.

    Raises:
        ValueError: ``decoded_size`` is of no use here.
    """
    if decoded_size is None:
        return picture
    if picture.augment is None:
        raise ValueError("decoded_size: it is what images are cut from at random; give augment, too, or leave it out")
    if picture.resize not in {"crop", "stretch"}:
        raise ValueError(
            f"decoded_size: resize={picture.resize!r} leaves borders, which would be cut out of, too; give 'crop' or "
            "'stretch'"
        )
    whole = Picture.sized(decoded_size, **{name: getattr(picture, name) for name in _ALIKE})
    whole.check()
    return whole


def advice_for(picture: Picture) -> str:
    """See ``random_in_each_epoch``; ``""`` where pictures are the same in each epoch."""
    return _ADVICE if picture.augment is not None else ""


_ADVICE = (
    "augment cuts images at random while they are decoded, and the cache would keep what the first epoch saw; give "
    "decoded_size=256, and whole images of that size are kept, and cut anew in each epoch"
)
_ALIKE = ("resize", "gray", "bits", "background", "resampling")


@dataclass(frozen=True)
class Cutting:
    """The ``augment_func`` of decoded images: cuts them anew, and passes on the other arrays.

    Attributes:
        names: The arrays that are images.
    """

    picture: Picture
    names: tuple[str, ...]

    def __call__(self, loaded: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], seed: int | None) -> None:
        for name, target in arrays.items():
            if name in self.names:
                self.picture.cut(loaded[name], target, seed)
            else:
                target[...] = loaded[name]

    def changes(self, specs: Mapping[str, Any]) -> dict[str, Any]:
        """What a group with these arrays needs."""
        cut = dict.fromkeys(self.names, (self.picture.shape, self.picture.dtype))
        return {"augment_func": self, "augment_arrays": {**specs, **cut}}


def _size(box: _Box, turn: int) -> tuple[int, int]:
    """Width and height of the part of the target that a box fills, as the image is stored."""
    width, height = _length(box.columns), _length(box.rows)
    return (height, width) if turn in _TRANSPOSED else (width, height)


def _around(pixels: npt.NDArray[np.uint8], part: _Part, size: tuple[int, int]) -> tuple[npt.NDArray[np.uint8], _Part]:
    """The pixels that a part is made of by a bilinear filter, and where the part is in them."""
    left, top, right, bottom = part
    across, down = (
        1 + math.ceil(max(1.0, length / count))
        for length, count in zip((right - left, bottom - top), size, strict=True)
    )
    first, above = max(0, int(left) - across), max(0, int(top) - down)
    found = pixels[above : math.ceil(bottom) + down, first : math.ceil(right) + across]
    return found, (left - first, top - above, right - first, bottom - above)


def _stored(box: _Box, shape: tuple[int, int], whole: tuple[int, int], turn: int) -> _Part:
    """Where a part of an upright image is in one as it is stored, perhaps decoded smaller than the whole."""
    left, top, right, bottom = box[:4]
    height, width = whole[::-1] if turn in _TRANSPOSED else whole
    if turn in _MIRRORED:
        left, right = width - right, width - left
    if turn in _UPSIDE_DOWN:
        top, bottom = height - bottom, height - top
    if turn in _TRANSPOSED:
        left, top, right, bottom = top, left, bottom, right
    # JPEG is decoded at so many eighths of its size, rounded up: the last row and column may be partly empty.
    down, across = round(8 * shape[0] / whole[0]) / 8, round(8 * shape[1] / whole[1]) / 8
    right, bottom = min(float(shape[1]), right * across), min(float(shape[0]), bottom * down)
    return max(0.0, left * across), max(0.0, top * down), right, bottom


def _pixels(image: Image) -> npt.NDArray[Any]:
    if image.mode == "F":
        rounded: npt.NDArray[Any] = np.rint(np.asarray(image)[..., None])
        return rounded
    mode = "L" if image.mode == "L" else "RGB"  # three times as fast as np.asarray(image)[..., :3]
    return np.frombuffer(image.tobytes("raw", mode), np.uint8).reshape(image.height, image.width, len(mode))


def _random_box(height: int, width: int, augment: Augment, seed: int, rows: slice, columns: slice) -> _Box:
    """A part of random area and shape; where ten tries give none that fits, the largest of a shape that is allowed."""
    rng = random.Random(seed)  # noqa: S311  no secret; made in a quarter of the time of NumPy's
    flipped = augment.flip and rng.random() < 0.5  # noqa: PLR2004
    low, high = map(math.log, augment.ratio)
    for _ in range(_TRIES):
        area = height * width * rng.uniform(*augment.area)
        ratio = math.exp(rng.uniform(low, high))
        wide, tall = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if 1 <= wide <= width and 1 <= tall <= height:
            left, top = rng.uniform(0, width - wide), rng.uniform(0, height - tall)
            return _Box(left, top, left + wide, top + tall, rows, columns, flipped)
    ratio = min(max(width / height, augment.ratio[0]), augment.ratio[1])
    tall = min(height, width / ratio)
    wide = tall * ratio
    left, top = (width - wide) / 2, (height - tall) / 2
    return _Box(left, top, left + wide, top + tall, rows, columns, flipped)


def _length(part: slice) -> int:
    return int(part.stop - part.start)


def _buffer(size: int) -> npt.NDArray[np.uint8]:
    """Memory that is used again: fresh pages cost a third of the decoding."""
    held: npt.NDArray[np.uint8] | None = getattr(_local, "buffer", None)
    if held is None or len(held) < size:
        held = _local.buffer = np.empty(size, np.uint8)
    return held[:size]


def _segments(data: bytes) -> tuple[bytes | None, bytes | None]:
    """The EXIF block and the colour profile of a JPEG file, which may be spread over several segments."""
    exif, parts, place = None, {}, 2
    while place + 4 <= len(data) and data[place] == 0xFF:  # noqa: PLR2004  every segment begins with it
        marker = data[place + 1]
        if marker == 0xDA:  # noqa: PLR2004  the image itself
            break
        size = int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xE1 and data.startswith(b"Exif\0\0", place + 4):  # noqa: PLR2004
            exif = data[place + 4 : place + 2 + size]
        elif marker == 0xE2 and data.startswith(b"ICC_PROFILE\0", place + 4):  # noqa: PLR2004
            parts[data[place + 16]] = data[place + 18 : place + 2 + size]
        place += 2 + size
    return exif, b"".join(parts[number] for number in sorted(parts)) or None


def _orientation(exif: bytes | None) -> int:
    if exif is None:
        return 1
    found = _pillow().Image.Exif()
    try:
        found.load(exif)
        turn = found.get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001  a damaged block counts as none, as in Pillow
        return 1
    return turn if turn in range(1, 9) else 1


@functools.lru_cache(32)
def _transform(profile: bytes, mode: str) -> Any:
    """What brings an image of a profile to sRGB; ``None`` where it is already, or the profile is of another kind."""
    cms = require("PIL.ImageCms", "image", "colour profiles")
    try:
        source = cms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in (str(cms.getProfileDescription(source))):
            return None
        made = cms.buildTransform(source, cms.createProfile("sRGB"), mode, "RGB")
    except (cms.PyCMSError, OSError, ValueError):
        return None
    return functools.partial(cms.applyTransform, transform=made)


def _is_deep(image: Image) -> bool:
    if image.mode.startswith(("I", "F")):
        return True
    return any(str(_DEEP) in str(tile[3]) for tile in getattr(image, "tile", ()))


def _refuse_oversized(height: int, width: int) -> None:
    """Pillow itself refuses only what is twice as large, and warns of the rest."""
    limit = _pillow().Image.MAX_IMAGE_PIXELS
    if limit is not None and height * width > limit:
        raise ValueError(
            f"{width} x {height} pixels are more than the {limit} of PIL.Image.MAX_IMAGE_PIXELS, "
            "which guards against decompression bombs"
        )


@functools.cache
def _pillow() -> Any:
    require("PIL.ImageOps", "image", "reading images")
    return require("PIL", "image", "reading images")


@functools.cache
def _simplejpeg() -> Any:
    """The module, or ``None``: Pillow then reads JPEG files, too."""
    try:
        import simplejpeg  # noqa: PLC0415  an optional extra
    except ImportError:
        return None
    return simplejpeg
