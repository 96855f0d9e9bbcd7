"""tar, on scikit-image's photos (CC0 and public domain) and Python's documentation (PSF licence)."""

import io
import json
import os
import pydoc_data.topics
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import skimage.data
from filekit import check_cache, check_promises, check_two_groups, epoch, touch
from hypothesis import given
from hypothesis import strategies as st

from hydrax_core import Dataloader
from hydrax_core.sources import tar, tar_members

TOPICS = list(pydoc_data.topics.topics.items())
PHOTO = skimage.data.chelsea()


def encoded(image, kind="JPEG"):
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, kind)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def write(path, members, **options):
    with tarfile.open(path, "w", **options) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def samples(count, start=0):
    """Members of samples with an image, a class, an array, a text and JSON."""
    for number in range(start, start + count):
        topic, text = TOPICS[number % len(TOPICS)]
        yield f"set/{number:04}.jpg", encoded(PHOTO[number : number + 60, number : number + 90])
        yield f"set/{number:04}.cls", str(number % 7).encode()
        yield f"set/{number:04}.npy", npy(np.full(3, number, np.float64))
        yield f"set/{number:04}.txt", text.encode()
        told = {"topic": topic, "size": len(text), "list": [1] * (number % 3)}
        yield f"set/{number:04}.json", json.dumps(told).encode()


# --- members


def test_a_missing_number_is_an_error_unless_it_is_said_what_it_is(tmp_path):
    told = {"0": {"id": 7}, "1": {"id": None}, "2": {"id": 1}}
    path = write(tmp_path / "a.tar", [(f"{name}.json", json.dumps(value).encode()) for name, value in told.items()])
    assert epoch(tar(path, missing={"json.id": -1}).training)[0]["json.id"].tolist() == [7, -1, 1]
    with pytest.raises(Exception, match=r"'json\.id' is missing; expected int32; missing=\{'json\.id': 0\}"):
        epoch(tar(path).training)


def walked(path):
    with path.open("rb") as file:
        return tar_members.walk(
            lambda start, size: os.pread(file.fileno(), size, start), path.stat().st_size, str(path)
        )


@given(
    st.lists(st.tuples(st.text("abcä/. ", min_size=1, max_size=300), st.integers(0, 5000)), max_size=6),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT]),
)
def test_members_are_those_of_the_standard_library(members, form):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tar"
        try:
            write(path, [(name, bytes(size)) for name, size in members], format=form)
        except (ValueError, UnicodeError):
            return  # USTAR cannot hold the name
        with tarfile.open(path) as archive:
            expected = [(info.name, info.offset_data, info.size) for info in archive if info.isfile()]
        found = walked(path)
    assert [name.decode().rstrip("/") for name in found.names] == [name.rstrip("/") for name, _, _ in expected]
    assert list(zip(found.offsets, found.sizes, strict=True)) == [(place, size) for _, place, size in expected]


def test_sizes_beyond_octal_digits_are_read(tmp_path):
    info = tarfile.TarInfo("big.bin")
    info.size = 9 << 30
    header = info.tobuf(tarfile.GNU_FORMAT)
    with (tmp_path / "a.tar").open("wb") as file:
        file.write(header)
        file.truncate(512 + info.size + 1024)
    assert walked(tmp_path / "a.tar").sizes == [9 << 30]


def flipped(whole):
    place = whole.index(b"y.txt")
    return whole[:place] + b"z" + whole[place + 1 :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: whole[:1000], r"ends in the middle of 'x\.txt'"),
        (lambda whole: whole[:1536], r"end mark is missing behind 'x\.txt'"),
        (flipped, r"the header at byte 1536, behind 'x\.txt', is damaged"),
        (lambda whole: whole + whole, "goes on behind its end"),
        (lambda whole: b"a text that is long enough to be no header at all " * 30, "is no tar archive"),
        (lambda whole: b"\x1f\x8b" + whole[2:], r"is compressed by gzip; unpack it"),
        (lambda whole: b"", "is no tar archive"),
    ],
)
def test_damage_is_named(tmp_path, damage, message):
    path = write(tmp_path / "a.tar", [("x.txt", b"x" * 600), ("y.txt", b"y" * 600)])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        tar(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_are_refused_not_left_out(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("a.jpg")
        info.type, info.linkname = kind, "b.jpg"
        archive.addfile(info)
    with pytest.raises(ValueError, match=r"'a\.jpg' is a .* link"):
        tar(tmp_path / "a.tar")


# --- samples


def test_samples_become_arrays_by_suffix(tmp_path):
    write(tmp_path / "a-0.tar", samples(6))
    write(tmp_path / "a-1.tar", samples(4, 6))
    more = ["txt", "key", "json.topic"]
    source = tar(tmp_path / "a-*.tar", size=32, additional=more, labels=["cls"], batch_size=4)
    assert source.training.labels == ("cls",)
    arrays, more = epoch(source.training)
    assert set(arrays) == {"image", "cls", "npy", "json.size", "json.list", "json.list_length"}
    assert arrays["cls"].tolist() == [number % 7 for number in range(10)]
    np.testing.assert_array_equal(arrays["npy"], np.repeat(np.arange(10, dtype=np.float32), 3).reshape(10, 3))
    assert arrays["json.size"].tolist() == [len(text) for _, text in TOPICS[:10]]
    assert [each["txt"] for each in more] == [text for _, text in TOPICS[:10]]
    assert [each["key"] for each in more] == [f"set/{number:04}" for number in range(10)]
    assert [each["json.topic"] for each in more] == [topic for topic, _ in TOPICS[:10]]
    assert arrays["image"].shape == (10, 32, 32, 3)
    assert abs(arrays["image"][0].mean() - PHOTO[:60, 15:75].mean()) < 5
    check_promises(source.training)


def test_the_order_of_the_files_does_not_matter(tmp_path):
    members = sorted(samples(5), key=lambda member: member[0][::-1])
    write(tmp_path / "a.tar", members)
    arrays, more = epoch(tar(tmp_path / "a.tar", columns=["cls", "npy"], additional=["key"]).training)
    assert [int(each["key"][-4:]) % 7 for each in more] == arrays["cls"].tolist()
    assert [int(each["key"][-4:]) for each in more] == arrays["npy"][:, 0].tolist()


def test_several_images_a_sample_and_texts_alone(tmp_path):
    write(tmp_path / "a.tar", [(f"1.{side}.png", encoded(PHOTO[:9, :9], "PNG")) for side in ("left", "right")])
    assert set(epoch(tar(tmp_path / "a.tar", size=8).training)[0]) == {"left", "right"}
    write(tmp_path / "b.tar", [("1.txt", b"abc"), ("2.txt", b"")])
    arrays, _ = epoch(tar(tmp_path / "b.tar", length=4).training)
    assert arrays["txt"].tolist() == [[97, 98, 99, 0], [0] * 4]
    assert arrays["txt_length"].tolist() == [3, 0]


def test_a_split_changes_training_images_at_random_and_no_others(tmp_path):
    write(tmp_path / "a.tar", samples(8))
    sides, plain = (tar(tmp_path / "a.tar", size=16, augment=a, batch_size=1).split(0.5) for a in (True, False))
    assert (epoch(sides[0])[0]["image"] != epoch(plain[0])[0]["image"]).any()
    with Dataloader(sides[0], validation=("epoch", 1, sides[1]), loader_kind="inline", end_at=("epoch", 1)) as loader:
        found = {batch.indices[0]: np.asarray(batch.arrays["image"])[0] for batch in loader if not batch.is_training}
    for index, image in found.items():
        np.testing.assert_array_equal(image, plain[1].items[index]["image"])


def test_random_crops_come_from_the_seeds(tmp_path):
    write(tmp_path / "a.tar", samples(4))
    plain, one, two = (
        epoch(tar(tmp_path / "a.tar", size=16, augment=augment, seed=seed).training)[0]["image"]
        for augment, seed in ((False, 0), (True, 0), (True, 1))
    )
    assert (plain != one).any()
    assert (one != two).any()


def test_decoded_images_of_a_cache_are_cut_anew_in_every_epoch(tmp_path):
    write(tmp_path / "a.tar", samples(4))
    cached = {"cache_location": tmp_path / "cache", "cache_by": "item"}
    with pytest.raises(ValueError, match="decoded_size=256"):
        tar(tmp_path / "a.tar", size=16, augment=True).training.replace(**cached)
    rows = tar(tmp_path / "a.tar", size=16, augment=True, decoded_size=32, batch_size=4)
    with Dataloader(rows.training.replace(**cached), loader_kind="inline", end_at=("epoch", 2)) as loader:
        first, second = (
            {i: np.array(batch.arrays["image"][r]) for r, i in enumerate(batch.indices)} for batch in loader
        )
    assert first[0].shape == (16, 16, 3)
    assert any((first[index] != second[index]).any() for index in range(4))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.cls", b"1"), ("2.cls", b"x")], r"a\.tar: 2\.cls cannot be read"),
        ([("1.json", b"{"), ("2.json", b"{}")], r"a\.tar: 1\.json cannot be read"),
        ([("README", b"hello")], "'README' has no suffix"),
        ([("1.cls", b"1"), ("1.CLS", b"2")], "two files of one suffix"),
        ([("1.pkl", b"cos\nsystem\n(S'false'\ntR.")], "nothing can become an array"),
        ([(".hidden", b"")], "it has no files"),
    ],
)
def test_samples_that_are_none_are_refused_by_name(tmp_path, members, message):
    with pytest.raises(ValueError, match=message):
        tar(write(tmp_path / "a.tar", members))


def test_a_sample_that_lacks_a_file_or_has_a_damaged_image_fails_alone(tmp_path):
    members = [member for member in samples(3) if member[0] != "set/0001.cls"]
    members = [(name, data[:50] if name == "set/0002.jpg" else data) for name, data in members]
    members += [(f"set/3.{suffix}", encoded(PHOTO[:9, :9], suffix)) for suffix in ("jpeg", "png")] + [
        ("set/3.cls", b"1")
    ]
    columns = {"cls": ((), "int32"), "image": ((8, 8, 3), "uint8")}
    group = tar(write(tmp_path / "a.tar", members), columns=columns, size=8).training
    assert group.items[0]["cls"] == 0
    with pytest.raises(TypeError, match="'cls' is missing"):
        group.items[1]
    with pytest.raises(ValueError, match=r"a\.tar: set/0002: image: the image cannot be read"):
        group.items[2]
    with pytest.raises(ValueError, match=r"a\.tar: set/3: it has several images 'image'"):
        group.items[3]


def test_an_index_is_kept_and_the_archive_may_not_change(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tar", samples(3))
    options = {"columns": ["cls"], "index_folder": tmp_path / "index"}
    before = epoch(tar(path, **options).training)[0]
    with monkeypatch.context() as patch:
        patch.setattr("hydrax_core.sources.tar_files.walk", lambda *arguments: pytest.fail("walked again"))
        again = tar(path, **options)
    assert epoch(again.training)[0]["cls"].tolist() == before["cls"].tolist()
    source = tar(path, **options).training.items
    source.files._descriptors.clear()
    touch(path)
    with pytest.raises(ValueError, match=r"a\.tar changed after it was indexed"):
        source[0]


def test_two_archives_in_one_loader_and_a_cache_of_one(tmp_path):
    write(tmp_path / "one.tar", samples(9))
    write(tmp_path / "other.tar", samples(5, 20))

    def make(name="one"):
        return tar(tmp_path / f"{name}.tar", size=8, batch_size=4).training

    check_two_groups(make(), make("other"))
    check_cache(make, lambda: touch(tmp_path / "one.tar"), tmp_path / "cache")
