"""image_folder: small made-up images for what must be exact, and scikit-image's photos (CC0 and public domain)."""

import os
import pickle
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps
import pytest
import skimage.data
from filekit import check_cache, check_promises, check_two_groups, epoch, touch

from hydrax_core import Dataloader
from hydrax_core.sources import Augment, image_decoding, image_folder, oklab, srgb


def rows_of(source):
    """What the loader fills for all items."""
    group = source.training
    arrays = {name: np.zeros((len(group), *x.shape[1:]), x.numpy_dtype) for name, x in group.loader_layouts.items()}
    for row, item in enumerate(group):
        source.loader_func(item, {name: array[row, ...] for name, array in arrays.items()}, row)
    return arrays


def first(folder, seed=None, **options):
    """The first image of a folder."""
    source = image_folder(folder, batch_size=1, **options)
    shape, dtype = (
        source.training.loader_layouts["image"].shape[1:],
        source.training.loader_layouts["image"].numpy_dtype,
    )
    image = np.full(shape, 77, dtype)
    source.loader_func(source.training[0], {"image": image}, seed)
    return image


def save(path, colour=(10, 20, 30), shape=(6, 4), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = shape
    PIL.Image.new(mode, (width, height), colour).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    for label, colour in (("cat", (200, 0, 0)), ("dog", (0, 200, 0))):
        for number in range(3):
            save(tmp_path / "set" / label / f"{number}.png", colour)
    return tmp_path / "set"


def test_sub_folders_are_labels_in_the_order_of_their_names(folder):
    save(folder / "ant" / "deep" / "er" / "0.PNG", (0, 0, 200))
    source = image_folder(folder, size=(3, 5), batch_size=2)
    assert source.classes == ("ant", "cat", "dog")
    assert list(source.training)[:2] == [("ant/deep/er/0.PNG", 0), ("cat/0.png", 1)]
    arrays = rows_of(source)
    assert arrays["image"].shape == (7, 3, 5, 3)
    assert arrays["label"].tolist() == [0, 1, 1, 1, 2, 2, 2]
    assert (arrays["image"][1] == (200, 0, 0)).all()


def test_a_folder_without_sub_folders_has_no_labels(tmp_path):
    save(tmp_path / "b.png")
    save(tmp_path / "a.png")
    source = image_folder(tmp_path, batch_size=1)
    assert source.classes == ()
    assert [path for path, _ in source.training] == ["a.png", "b.png"]
    assert set(source.training.loader_layouts) == {"image"}


def test_hidden_files_and_other_files_are_ignored(folder):
    save(folder / ".thumbnails" / "0.png")
    save(folder / "cat" / ".hidden.png")
    save(folder / "cat" / ".cache" / "0.png")
    (folder / "readme.txt").write_text("no image")
    assert len(image_folder(folder, batch_size=1).training) == 6


def test_items_do_not_depend_on_where_the_folder_lies(folder, tmp_path):
    before = image_folder(folder, batch_size=2).training.fingerprint()
    moved = folder.rename(tmp_path / "elsewhere")
    assert image_folder(moved, batch_size=2).training.fingerprint() == before


def test_the_loader_returns_the_path_and_can_be_sent_to_a_worker(folder):
    source = image_folder(folder, size=2, batch_size=2)
    loader = pickle.loads(pickle.dumps(source.loader_func))
    arrays = {"image": np.zeros((2, 2, 3), np.uint8), "label": np.zeros((), np.int32)}
    assert loader(("dog/1.png", 1), arrays, None) == {"path": "dog/1.png"}
    assert arrays["label"] == 1


def test_an_image_is_cropped_to_the_middle_not_squeezed(tmp_path):
    picture = np.zeros((4, 12, 3), np.uint8)
    picture[:, 4:8] = 255
    PIL.Image.fromarray(picture).save(tmp_path / "a.png")
    assert (rows_of(image_folder(tmp_path, size=4, batch_size=1))["image"] == 255).all()


def test_a_photo_is_turned_upright(tmp_path):
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[0] = 255
    exif = PIL.Image.Exif()
    exif[0x0112] = 3  # orientation: upside down
    PIL.Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    image = rows_of(image_folder(tmp_path, size=4, batch_size=1))["image"][0]
    assert (image[3] == 255).all()
    assert (image[:3] == 0).all()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK"])
def test_all_8_bit_modes_become_rgb_without_a_warning(tmp_path, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    options = {"transparency": b"\x00\xff"} if mode == "P" else {}
    PIL.Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode).save(tmp_path / f"a.{suffix}", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = rows_of(image_folder(tmp_path, size=4, batch_size=1))["image"]
    assert (image == 255).all()


def test_more_than_8_bits_a_channel_are_refused_by_name(tmp_path):
    PIL.Image.fromarray(np.full((4, 4), 60_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png.*more than 8 bits"):
        rows_of(image_folder(tmp_path, batch_size=1))


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_damaged_image_is_named(tmp_path, keep):
    rng = np.random.default_rng(0)
    PIL.Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "bad.jpg")
    whole = (tmp_path / "bad.jpg").read_bytes()
    (tmp_path / "bad.jpg").write_bytes(whole[:keep])
    with pytest.raises(ValueError, match=r"bad\.jpg: the image cannot be read"):
        rows_of(image_folder(tmp_path, batch_size=1))


def test_decompression_bombs_are_refused(tmp_path, monkeypatch):
    save(tmp_path / "bomb.png", shape=(20, 20))
    for limit in (399, 300, 100):  # Pillow itself warns below and raises above twice the limit
        monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            with pytest.raises(ValueError, match=r"bomb\.png.*decompression bomb"):
                rows_of(image_folder(tmp_path, batch_size=1))


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(ValueError, match="holds no image"):
        image_folder(tmp_path)


def test_images_beside_sub_folders_of_images_are_refused(folder):
    save(folder / "stray.png")
    with pytest.raises(ValueError, match=r"stray\.png.*cat/"):
        image_folder(folder)


def test_a_missing_folder_and_a_wrong_size_are_refused(folder):
    with pytest.raises(NotADirectoryError, match="is no folder"):
        image_folder(folder / "nothing")
    with pytest.raises(ValueError, match=r"size: .* got \(0, 4\)"):
        image_folder(folder, size=(0, 4))


def test_without_pillow_the_error_says_how_to_install_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install 'hydrax-toolkit\[image\]'"):
        image_folder(folder)


# --- what a picture shows


def photo(name="chelsea", crop=(slice(None), slice(None))):
    return PIL.Image.fromarray(getattr(skimage.data, name)()[crop])


def plain_jpeg(path, image, **options):
    image.save(path, quality=95, subsampling=0, **options)


@pytest.fixture(params=["simplejpeg", "pillow"])
def decoder(request, monkeypatch):
    if request.param == "pillow":
        monkeypatch.setattr(image_decoding, "_simplejpeg", lambda: None)
    else:
        pytest.importorskip("simplejpeg")
    return request.param


@pytest.mark.parametrize("size", [(32, 32), (100, 60), (300, 451), (400, 500)])
@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_a_photo_is_resized_as_pillow_does(tmp_path, decoder, size, resize):
    plain_jpeg(tmp_path / "a.jpg", photo())
    with PIL.Image.open(tmp_path / "a.jpg") as image:
        how = {"crop": PIL.ImageOps.fit, "pad": PIL.ImageOps.pad, "stretch": PIL.Image.Image.resize}[resize]
        expected = np.asarray(how(image, size[::-1], PIL.Image.Resampling.BILINEAR)).astype(float)
    found = first(tmp_path, size=size, resize=resize).astype(float)
    assert np.abs(found - expected).mean() < 2


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation_is_turned_upright(tmp_path, decoder, turn):
    exif = PIL.Image.Exif()
    exif[0x0112] = turn
    plain_jpeg(tmp_path / "a.jpg", photo(crop=(slice(0, 200), slice(0, 300))), exif=exif)
    with PIL.Image.open(tmp_path / "a.jpg") as image:
        expected = PIL.ImageOps.fit(PIL.ImageOps.exif_transpose(image), (50, 64), PIL.Image.Resampling.BILINEAR)
    difference = np.abs(first(tmp_path, size=(64, 50)).astype(float) - np.asarray(expected))
    assert difference.mean() < 2


def swapped_profile():
    """A profile that is not sRGB: that of Lab's sRGB space with a lower white is not made by Pillow, XYZ is."""
    return PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()


def adobe_like_profile():
    """sRGB's own profile with red and green exchanged, under another name."""
    data = bytearray(swapped_profile())
    tags = {bytes(data[o : o + 4]): o for o in range(132, 132 + 12 * int.from_bytes(data[128:132], "big"), 12)}
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    data[red + 4 : red + 12], data[green + 4 : green + 12] = data[green + 4 : green + 12], data[red + 4 : red + 12]
    place = int.from_bytes(data[tags[b"desc"] + 4 : tags[b"desc"] + 8], "big")
    size = int.from_bytes(data[tags[b"desc"] + 8 : tags[b"desc"] + 12], "big")
    described = data[place : place + size]
    for old, new in ((b"s\0R\0G\0B", b"x\0R\0G\0B"), (b"sRGB", b"xRGB")):
        described = described.replace(old, new)
    data[place : place + size] = described
    return bytes(data)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_colours_of_a_profile_become_those_of_srgb(tmp_path, decoder, suffix):
    image = PIL.Image.new("RGB", (64, 64), (250, 20, 20))
    image.save(tmp_path / f"a.{suffix}", quality=100, icc_profile=adobe_like_profile())
    red, green, _ = first(tmp_path, size=16)[8, 8]
    assert green > 240
    assert red < 60


def test_a_profile_of_srgb_or_a_damaged_one_changes_nothing(tmp_path, decoder):
    for name, profile in (("a", swapped_profile()), ("b", b"no profile")):
        (tmp_path / name).mkdir()
        PIL.Image.new("RGB", (64, 64), (250, 20, 20)).save(tmp_path / name / "x.jpg", quality=100, icc_profile=profile)
        assert np.abs(first(tmp_path / name, size=16)[8, 8].astype(int) - (250, 20, 20)).max() <= 3


def test_transparent_parts_show_the_background(tmp_path):
    image = PIL.Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    image.putpixel((0, 0), (10, 20, 30, 255))
    image.save(tmp_path / "a.png")
    found = first(tmp_path, size=8, background=(1, 2, 3))
    assert found[0, 0].tolist() == [10, 20, 30]
    assert found[4, 4].tolist() == [1, 2, 3]


def test_fit_and_pad_leave_zeros_where_no_image_is(tmp_path):
    PIL.Image.new("RGB", (8, 4), (9, 9, 9)).save(tmp_path / "a.png")
    fit, pad = first(tmp_path, size=8, resize="fit"), first(tmp_path, size=8, resize="pad")
    assert (fit[:4] == 9).all()
    assert not fit[4:].any()
    assert (pad[2:6] == 9).all()
    assert not pad[:2].any()
    assert not pad[6:].any()


def test_one_channel_and_16_bits(tmp_path, decoder):
    deep = (np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)
    (tmp_path / "deep").mkdir()
    (tmp_path / "flat").mkdir()
    PIL.Image.fromarray(deep).save(tmp_path / "deep" / "a.png")
    np.testing.assert_array_equal(first(tmp_path / "deep", size=8, bits=16, gray=True)[..., 0], deep)
    plain_jpeg(tmp_path / "flat" / "a.jpg", PIL.Image.new("RGB", (8, 8), (50, 100, 150)))
    gray = first(tmp_path / "flat", size=8, gray=True)
    assert gray.shape == (8, 8, 1)
    assert abs(int(gray[4, 4, 0]) - 91) <= 2
    assert (first(tmp_path / "flat", size=8, gray=True, bits=16) == gray.astype(np.uint16) * 257).all()


def test_16_bits_of_colour_are_refused_not_cut(tmp_path):
    # Pillow writes none: an RGB image of 16 bits, 1 x 1, by hand
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    parts = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)), chunk(b"IDAT", zlib.compress(bytes(7)))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))
    for bits in (8, 16):
        with pytest.raises(ValueError, match=r"a\.png: .*more than 8 bits a channel"):
            first(tmp_path, bits=bits)


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", b"", b"\xff\xd8\xff"]
)
def test_what_is_no_image_is_refused_and_never_run(tmp_path, monkeypatch, content):
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a program was started"))
    (tmp_path / "b.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"b\.png: the image cannot be read"):
        first(tmp_path)


def test_a_fifo_among_the_images_is_refused_not_waited_for(tmp_path):
    (tmp_path / "x").mkdir()
    os.mkfifo(tmp_path / "x" / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg is a FIFO"):
        first(tmp_path)


# --- by OpenCV


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_opencv_resizes_as_pillow_does(tmp_path, decoder, name, resize):
    pytest.importorskip("cv2")
    plain_jpeg(tmp_path / "a.jpg", PIL.Image.fromarray(getattr(skimage.data, name)()[:300, :400]))
    for size in ((330, 500), (224, 224), (160, 290), (140, 90), (60, 32)):
        pillow, other = (first(tmp_path, size=size, resize=resize, resampling=by) for by in ("pillow", "opencv"))
        apart = np.square(pillow.astype(float) - other).mean()
        assert 10 * np.log10(255**2 / apart) > 33
        assert np.abs(pillow.mean((0, 1)) - other.mean((0, 1))).max() < 0.5


@pytest.mark.parametrize("size", [222, 260, 310, 360])
def test_opencv_leaves_no_pattern_where_lines_are_too_fine(tmp_path, size):
    pytest.importorskip("cv2")
    lines = np.zeros((400, 400), np.uint8)
    lines[:, ::2] = 255  # as fine as can be
    PIL.Image.fromarray(lines).save(tmp_path / "a.png")
    pillow, other = (
        first(tmp_path, size=size, gray=True, resampling=by).astype(float)[8:-8, 8:-8] for by in ("pillow", "opencv")
    )
    assert other.std() <= 1.25 * pillow.std() + 1
    assert abs(other.mean() - 127.5) < 2


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("options", [{}, {"gray": True}, {"augment": True}])
def test_opencv_turns_and_mirrors_as_pillow_does(tmp_path, decoder, turn, options):
    pytest.importorskip("cv2")
    exif = PIL.Image.Exif()
    exif[0x0112] = turn
    plain_jpeg(tmp_path / "a.jpg", photo("chelsea", slice(0, 120)), exif=exif)
    for seed in range(4):
        pillow, other = (
            first(tmp_path, seed, size=(50, 40), resampling=by, **options).astype(float) for by in ("pillow", "opencv")
        )
        assert np.abs(pillow - other).mean() < 6


def test_opencv_is_asked_for_by_name_and_is_other_data(folder, monkeypatch):
    pytest.importorskip("cv2")
    prints = {image_folder(folder, resampling=by).training.fingerprint()["data"] for by in ("pillow", "opencv")}
    assert len(prints) == 2
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"resampling='opencv' needs cv2: pip install 'hydrax-toolkit\[opencv\]'"):
        image_folder(folder, resampling="opencv")


def test_an_image_of_one_pixel_fills_any_size(tmp_path, decoder):
    pytest.importorskip("cv2")
    save(tmp_path / "a.jpg", (10, 200, 30), (1, 1))
    for by in ("pillow", "opencv"):
        assert np.ptp(first(tmp_path, 3, size=(5, 7), augment=True, resampling=by), (0, 1)).max() == 0


# --- random changes


def test_a_part_is_made_of_what_is_decoded_around_it_only():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 80, 3), np.uint8)
    image = PIL.Image.fromarray(pixels)
    for _ in range(50):
        left, right = np.sort(rng.uniform(0, 80, 2))
        top, bottom = np.sort(rng.uniform(0, 60, 2))
        part, size = (left, top, max(right, left + 1e-3), max(bottom, top + 1e-3)), (int(rng.integers(1, 90)), 17)
        inner, within = image_decoding._around(pixels, part, size)
        found, whole = (
            np.asarray(each.resize(size, PIL.Image.Resampling.BILINEAR, box)).astype(int)
            for each, box in ((PIL.Image.fromarray(np.ascontiguousarray(inner)), within), (image, part))
        )
        assert np.abs(found - whole).max() <= 1


def test_random_crops_come_from_the_seed_and_not_in_validation(tmp_path, decoder):
    plain_jpeg(tmp_path / "a.jpg", photo())
    crops = [first(tmp_path, seed, size=32, augment=True) for seed in (1, 1, 2, None)]
    assert (crops[0] == crops[1]).all()
    assert (crops[0] != crops[2]).any()
    assert (crops[3] == first(tmp_path, size=32)).all()


def test_random_parts_lie_within_the_image_and_have_the_area_asked_for():
    augment, whole = Augment(area=(0.25, 0.5), flip=True), slice(0, 8)
    boxes = [image_decoding._random_box(300, 400, augment, seed, whole, whole) for seed in range(300)]
    shares = [(box.right - box.left) * (box.bottom - box.top) / (300 * 400) for box in boxes]
    assert min(shares) >= 0.2499
    assert max(shares) <= 0.5001
    assert all(0 <= box.left < box.right <= 400 and 0 <= box.top < box.bottom <= 300 for box in boxes)
    assert 100 < sum(box.flipped for box in boxes) < 200


def test_a_flipped_image_is_mirrored(tmp_path):
    PIL.Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(tmp_path / "a.png")
    whole = Augment(area=(1, 1), ratio=(1, 1))
    found = {first(tmp_path, seed, size=4, augment=whole).tobytes() for seed in range(20)}
    image = first(tmp_path, size=4)
    assert found == {image.tobytes(), image[:, ::-1].tobytes()}


# --- training and validation


def names_of(group):
    return [path for path, _ in group]


def test_a_share_of_each_label_is_for_validation(folder):
    for number in range(3, 20):
        save(folder / "cat" / f"{number}.png")
    source = image_folder(folder, split=0.3, batch_size=2)
    assert len(source.validation) == 6 + 1
    assert sorted(names_of(source.training) + names_of(source.validation)) == sorted(
        names_of(image_folder(folder, batch_size=2).training)
    )
    again = image_folder(folder, split=0.3, batch_size=2)
    assert names_of(again.validation) == names_of(source.validation)
    assert names_of(image_folder(folder, split=0.3, seed=1).validation) != names_of(source.validation)


def test_a_list_says_what_is_for_validation(folder):
    source = image_folder(folder, split=["cat/1.png", "dog/0.png"], batch_size=2)
    assert list(source.validation) == [("cat/1.png", 0), ("dog/0.png", 1)]
    assert len(source.training) == 4
    with pytest.raises(ValueError, match=r"there is no 'cat/9\.png'"):
        image_folder(folder, split=["cat/9.png"])


def test_sub_folders_train_and_val_are_the_split_with_one_numbering(tmp_path):
    for path in ("train/cat/0.png", "train/dog/0.png", "val/dog/0.png", "val/emu/0.png", "test/dog/0.png"):
        save(tmp_path / path)
    source = image_folder(tmp_path, batch_size=1)
    assert source.classes == ("cat", "dog", "emu")
    assert list(source.training) == [("train/cat/0.png", 0), ("train/dog/0.png", 1)]
    assert list(source.validation) == [("val/dog/0.png", 1), ("val/emu/0.png", 2)]
    with pytest.raises(ValueError, match="leave split out"):
        image_folder(tmp_path, split=0.5)


@pytest.mark.parametrize("name", ["val", "valid", "Validation", "dev", "EVAL"])
@pytest.mark.parametrize("train", ["train", "Training"])
def test_sides_of_any_usual_name_are_no_labels(tmp_path, train, name):
    for path in (f"{train}/cat/0.png", f"{name}/cat/0.png", "test/cat/0.png", "testing/cat/0.png"):
        save(tmp_path / path)
    (tmp_path / "notes").mkdir()
    source = image_folder(tmp_path, batch_size=1)
    assert source.classes == ("cat",)
    assert list(source.training) == [(f"{train}/cat/0.png", 0)]
    assert list(source.validation) == [(f"{name}/cat/0.png", 0)]


@pytest.mark.parametrize("test", ["test", "Testing"])
def test_images_for_the_test_are_never_trained_on(tmp_path, test):
    for number in range(4):
        save(tmp_path / "train" / "cat" / f"{number}.png")
        save(tmp_path / test / "cat" / f"{number}.png")
    with pytest.raises(ValueError, match=rf"has train/, {test}/, and none for validation; split=0\.1 .*or give"):
        image_folder(tmp_path)
    source = image_folder(tmp_path, split=0.25, batch_size=1)
    assert source.classes == ("cat",)
    assert sorted(names_of(source.training) + names_of(source.validation)) == [f"train/cat/{n}.png" for n in range(4)]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (("train/0.png", "val/0.png", "cat/0.png"), "and images in cat beside them"),
        (("train/0.png", "test/0.png", "0.png"), r"and images in 0\.png beside them"),
        (("train/0.png", "val/0.png", "dev/0.png"), "at most one for validation"),
        (("val/0.png", "test/0.png"), "expected one folder for training"),
    ],
)
def test_sides_that_are_not_clear_are_refused(tmp_path, paths, message):
    for path in paths:
        save(tmp_path / path)
    with pytest.raises(ValueError, match=message):
        image_folder(tmp_path)


def test_a_train_among_other_things_is_a_label(tmp_path):
    for path in ("bus/0.png", "train/0.png"):
        save(tmp_path / path)
    assert image_folder(tmp_path, batch_size=1).classes == ("bus", "train")


def test_folders_share_a_numbering_by_classes(folder):
    source = image_folder(folder, classes=("emu", "dog", "cat"), batch_size=1)
    assert {label for path, label in source.training if path.startswith("cat")} == {2}
    with pytest.raises(ValueError, match="the sub-folder 'dog' is none of them"):
        image_folder(folder, classes=("cat",))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"split": 1.5}, ValueError, "split: expected a share"),
        ({"split": "cat"}, TypeError, "split: expected a share"),
        ({"split": 0.01}, ValueError, "nothing for validation"),
        ({"bits": 12}, ValueError, "bits: expected 8 or 16"),
        ({"resize": "zoom"}, ValueError, "resize: expected one of"),
        ({"resampling": "best"}, ValueError, "resampling: expected one of"),
        ({"classes": "cat"}, TypeError, "classes: expected a tuple"),
    ],
)
def test_wrong_arguments_are_named(folder, options, error, message):
    with pytest.raises(error, match=message):
        image_folder(folder, **options)


# --- in a loader


@pytest.fixture
def photos(tmp_path):
    """Squares cut out of scikit-image's photos: their names are the labels."""
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(5):
            crop = slice(30 * number, 30 * number + 90), slice(40 * number, 40 * number + 120)
            photo(name, crop).save(tmp_path / "photos" / name / f"{number}.jpg", quality=90)
    return tmp_path / "photos"


def test_photos_are_told_apart_and_come_as_promised(photos):
    source = image_folder(photos, size=48, batch_size=8, augment=True)
    arrays, more = epoch(source.training)
    assert [each["path"].partition("/")[0] for each in more] == [source.classes[label] for label in arrays["label"]]
    check_promises(source.training)


def test_two_folders_in_one_loader_and_a_cache_of_one(photos, tmp_path):
    def make(**options):
        return image_folder(photos, size=16, batch_size=8, **options).training

    check_two_groups(make(split=0.5), make(resize="stretch"))
    check_cache(make, lambda: touch(photos / "coffee" / "0.jpg"), tmp_path / "cache")


def test_another_way_of_reading_is_other_data(photos):
    prints = {
        image_folder(photos, size=16, **options).training.fingerprint()["data"]
        for options in ({}, {"resize": "pad"}, {"augment": True}, {"background": (0, 0, 0)})
    }
    assert len(prints) == 4


# --- Oklab


def test_oklab_is_that_of_the_paper_and_comes_back():
    table = {
        (1.0, 1.0, 1.0): (1.0, 0.0, 0.0),
        (1.0, 0.0, 0.0): (0.628, 0.225, 0.126),
        (0.0, 0.0, 1.0): (0.452, -0.032, -0.312),
    }
    for colour, expected in table.items():
        np.testing.assert_allclose(oklab(np.array(colour)), expected, atol=1e-3)
    image = skimage.data.astronaut()
    np.testing.assert_array_equal(srgb(oklab(image)), image)
    assert oklab(image).dtype == np.float32


def epochs_of(group, count):
    """The images of each epoch, in the order of their paths."""
    found = [{} for _ in range(count)]
    with Dataloader(group, loader_kind="inline", end_at=("epoch", count)) as loader:
        for batch in loader:
            for row in range(batch.size):
                found[batch.epoch][batch.get_additional("path", row)] = np.array(batch.arrays["image"][row])
    return [[images[path] for path in sorted(images)] for images in found]


@pytest.mark.parametrize("cache_by", ["batch", "item"])
def test_decoded_images_are_kept_once_and_cut_anew_in_every_epoch(photos, tmp_path, cache_by):
    source = image_folder(photos, size=16, augment=True, decoded_size=(40, 48), batch_size=4, split=0.2)
    group = source.training.replace(cache_location=tmp_path / "cache", cache_by=cache_by)
    first, second = epochs_of(group, 2)
    assert first[0].shape == (16, 16, 3)
    assert all((a != b).any() for a, b in zip(first, second, strict=True))
    (again,) = epochs_of(group.replace(cache_readonly=True), 1)
    assert np.array_equal(again, first)
    assert group.cache_layouts["image"].shape[1:] == (40, 48, 3)
    with Dataloader(source.training, validation=("epoch", 1, source.validation), end_at=("epoch", 1)) as loader:
        assert {batch.arrays["image"].shape for batch in loader} == {(4, 16, 16, 3)}


@pytest.mark.parametrize("options", [{}, {"gray": True}, {"gray": True, "bits": 16}, {"bits": 16}])
def test_the_whole_of_a_decoded_image_is_what_is_decoded_to_the_size(tmp_path, options):
    save(tmp_path / "a.png", shape=(64, 64))
    whole = Augment(area=(1, 1), ratio=(1, 1), flip=False)
    group = image_folder(tmp_path, size=16, augment=whole, decoded_size=32, batch_size=1, **options).training
    ((cut,),) = epochs_of(group, 1)
    assert np.array_equal(cut, first(tmp_path, size=16, **options))


def test_a_cache_that_would_keep_the_crops_of_one_epoch_is_refused(photos, tmp_path):
    source = image_folder(photos, size=16, augment=True, split=0.2)
    for options in ({}, {"cache_by": "item"}, {"cache_by": "item", "shuffle_later": "itemwise"}):
        with pytest.raises(ValueError, match="decoded_size=256"):
            source.training.replace(cache_location=tmp_path / "cache", **options)
    for later in ("itemwise", "batchwise", "repeat"):
        source.training.replace(cache_location=tmp_path / "cache", shuffle_later=later)
    source.validation.replace(cache_location=tmp_path / "cache")


def test_a_decoded_size_of_no_use_is_refused(folder):
    for options, text in (
        ({}, "give augment"),
        ({"augment": True, "resize": "pad"}, "leaves borders"),
        ({"augment": True, "decoded_size": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=text):
            image_folder(folder, **{"decoded_size": 64, **options})
