"""Which files belong to a cache, and how they are opened."""

import errno
import gc
import os
import stat

import cachekit as kit
import pytest

from hydrax_core.cache.format import folder as folder_module
from hydrax_core.cache.format.folder import (
    INDEX,
    INDEX_SIDE_FILES,
    LOCK,
    MANIFEST,
    OLD_INDEX,
    array_file_name,
    caches,
    epoch_folder,
    epoch_of,
    epochs,
    is_cache,
    is_files_fault,
    is_regular,
    is_temporary,
    open_folder,
    open_regular,
    require_cache,
)
from hydrax_core.errors import NotACacheError

TEMPORARY = f"{MANIFEST}.0123abcd.tmp"


def descriptors():
    gc.collect()  # what others left may go at any moment
    return kit.descriptors()


def place(folder, *names):
    """Files of these names; folders, where they end with a slash."""
    folder.mkdir(exist_ok=True)
    for name in names:
        if name.endswith("/"):
            (folder / name).mkdir()
        else:
            (folder / name).touch()
    return folder


@pytest.mark.parametrize("epoch", [0, 1, 10, 10**17, 10**18 - 1])
def test_a_folder_of_an_epoch_tells_which(epoch):
    assert epoch_of(epoch_folder(epoch)) == epoch


@pytest.mark.parametrize(
    "name", ["epoch-", "epoch-01", "epoch--1", "epoch-1x", "xepoch-1", "epoch-1\n", f"epoch-{10**18}"]
)
def test_other_names_are_of_no_epoch(name):
    assert epoch_of(name) is None


def test_temporary_files_are_those_of_manifests():
    assert is_temporary(TEMPORARY)
    for name in (f"{TEMPORARY}x", f"x{TEMPORARY}", f"{MANIFEST}.0123ABCD.tmp", f"{MANIFEST}.0123abc.tmp", MANIFEST):
        assert not is_temporary(name)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([MANIFEST], True),
        ([MANIFEST, "thesis.tex"], True),
        ([LOCK], True),
        ([TEMPORARY], True),
        ([LOCK, INDEX, OLD_INDEX, *INDEX_SIDE_FILES, TEMPORARY, "epoch-0/", "epoch-12/"], True),
        ([LOCK, "thesis.tex"], False),
        ([TEMPORARY, "thesis.tex"], False),
        ([LOCK, "epoch-01/"], False),
        ([INDEX, "epoch-0/"], False),
        ([f"{MANIFEST}/"], False),
        ([f"{MANIFEST}/", LOCK], False),
        ([], False),
    ],
    ids=str,
)
def test_a_cache_is_told_by_what_lies_in_it(tmp_path, names, expected):
    folder = place(tmp_path / "c", *names)
    assert is_cache(folder) is expected
    if expected:
        assert require_cache(os.fspath(folder)) == folder
        assert caches(folder) == (folder,)
    else:
        for function in (require_cache, caches):
            with pytest.raises(NotACacheError, match="this is no hydrax cache"):
                function(folder)


def test_what_is_no_folder_is_no_cache(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / MANIFEST).symlink_to(tmp_path / "file")
    for name, text in (("missing", "there is no such folder"), ("file", "no hydrax cache"), ("c", "no hydrax cache")):
        assert not is_cache(tmp_path / name)
        with pytest.raises(NotACacheError, match=text):
            caches(tmp_path / name)


@pytest.mark.parametrize("there", [True, False])
def test_a_manifest_that_is_put_there_meanwhile_counts_where_it_is_a_file(tmp_path, monkeypatch, there):
    place(tmp_path, MANIFEST, "thesis.tex")
    answers = [False, there]
    monkeypatch.setattr(folder_module, "is_regular", lambda path: answers.pop(0))
    assert is_cache(tmp_path) is there


def test_caches_below_a_folder_are_those_with_a_manifest_in_order(tmp_path):
    for name in ("c", "a", "b"):
        place(tmp_path / name, MANIFEST)
    place(tmp_path / "locked", LOCK)
    assert [path.name for path in caches(tmp_path)] == ["a", "b", "c"]


def test_epochs_are_folders_in_order_of_their_numbers(tmp_path):
    place(tmp_path, "epoch-10/", "epoch-9/", "epoch-0/", "epoch-5", "epoch-x/")
    (tmp_path / "epoch-7").symlink_to(tmp_path / "epoch-9")
    assert epochs(tmp_path) == [0, 9, 10]


def test_only_plain_files_are_regular(tmp_path):
    place(tmp_path, "file", "folder/")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    found = [is_regular(tmp_path / name) for name in ("file", "folder", "link", "pipe", "missing", "file/x")]
    assert found == [True, *[False] * 5]


def test_which_errors_blame_the_file():
    blamed = [errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO]
    assert all(is_files_fault(OSError(number, "")) for number in blamed)
    assert is_files_fault(OSError("is no plain file"))
    for number in (errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE, errno.ENOMEM):
        assert not is_files_fault(OSError(number, ""))


def test_links_to_folders_are_followed_from_outside_only(tmp_path):
    place(tmp_path / "c", "epoch-0/", "file")
    (tmp_path / "c" / "epoch-1").symlink_to("epoch-0")
    (tmp_path / "link").symlink_to("c")
    outer = open_folder(tmp_path / "link")
    os.close(open_folder("epoch-0", within=outer))
    for name in ("epoch-1", "file", "missing"):
        with pytest.raises(OSError, match=name) as caught:
            open_folder(name, within=outer)
        assert is_files_fault(caught.value)
    os.close(outer)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR, os.O_WRONLY])
def test_what_is_no_plain_file_of_one_name_is_not_opened_and_nothing_waits(tmp_path, flags):
    place(tmp_path, "file", "other", "folder/")
    (tmp_path / "link").symlink_to("file")
    os.link(tmp_path / "other", tmp_path / "second")
    os.mkfifo(tmp_path / "pipe")
    within, before = open_folder(tmp_path), descriptors()
    for name in ("link", "folder", "pipe", "missing"):
        with pytest.raises(OSError, match=name):
            open_regular(name, flags, within=within)
        with pytest.raises(OSError, match=name):
            open_regular(tmp_path / name, flags)
    if flags == os.O_RDONLY:
        os.close(open_regular("second", flags, within=within))
    else:
        with pytest.raises(PermissionError, match="another name") as caught:
            open_regular("second", flags, within=within)
        assert (caught.value.errno, caught.value.filename) == (errno.EPERM, "second")
    assert descriptors() == before
    os.close(open_regular("file", flags, within=within))
    os.close(within)


def test_a_new_file_is_for_whom_the_umask_says(tmp_path):
    before = os.umask(0o002)
    try:
        os.close(open_regular(tmp_path / "new", os.O_RDWR | os.O_CREAT))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o664


def test_long_names_of_arrays_are_cut_and_told_apart_by_a_digest():
    assert array_file_name("x" * 100) == f"{'x' * 100}.npy"
    cut, other = array_file_name("x" * 101), array_file_name("x" * 102)
    assert cut != other
    assert cut.startswith(f"{'x' * 80}~")
    assert len(cut) == len(other) == 80 + 1 + 16 + 4
    assert array_file_name(".x~/") == "%2Ex%7E%2F.npy"
    assert array_file_name("a.b") == "a.b.npy"
