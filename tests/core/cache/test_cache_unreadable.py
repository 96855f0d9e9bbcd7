"""What cannot be read just now is not bad: verify says so, repair and clear touch nothing."""

import errno
import gc
import os
import shlex
import subprocess
import sys

import cachekit as kit
import numpy as np
import pytest

from hydrax_core.cache import CacheEntries, clear, info, verify
from hydrax_core.cache.admin import survey
from hydrax_core.cache.format.arrays import EpochMap, array_files
from hydrax_core.cache.format.manifest import read_manifest
from hydrax_core.errors import CacheError

ERRORS = [errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE, errno.ENOMEM]


def fail_opening(monkeypatch, name, number):
    real = os.open

    def failing(path, *arguments, **options):
        if str(path).endswith(name):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", failing)


def fail_reading(monkeypatch, number):
    real = os.preadv

    def failing(descriptor, buffers, offset):
        if offset > 4096 + 3 * 512:  # entries behind the third
            raise OSError(number, os.strerror(number))
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)


def looked_at(folder):
    """Names and bytes, without the times that opening for writing changes."""
    return {name: data for name, (_, data) in kit.snapshot(folder).items()}


@pytest.mark.parametrize("number", ERRORS)
@pytest.mark.parametrize("what", ["x.npy", "epoch-0", "preadv"])
def test_no_entry_is_removed_that_could_not_be_read(tmp_path, monkeypatch, number, what):
    kit.fill(tmp_path)
    with (tmp_path / "epoch-0" / "half.npy").open("r+b") as file:  # one is bad indeed
        file.seek(4096)
        file.write(b"\xff\xff")
    before = looked_at(tmp_path)
    with monkeypatch.context() as patch:
        if what == "preadv":
            fail_reading(patch, number)
        else:
            fail_opening(patch, what, number)
        for repair in (False, True):
            try:
                findings = list(verify(tmp_path, repair=repair))
            except CacheError as error:
                assert "cannot be read" in str(error)  # noqa: PT017  either way of saying so is fine
                continue
            assert "unreadable" in {finding.what for finding in findings}
            assert not any(finding.repaired for finding in findings)
        with pytest.raises(CacheError, match=r"nothing is (removed|changed)"):
            clear(tmp_path, corrupt=True)
    assert looked_at(tmp_path) == before
    assert [finding.what for finding in verify(tmp_path, repair=True)] == ["corrupt"]
    assert kit.served(tmp_path)[0] == list(range(1, kit.BATCHES))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE])
def test_no_file_is_orphaned_by_an_index_that_could_not_be_read(tmp_path, number):
    kit.fill(tmp_path)
    script = """
        import errno, os, sqlite3
        import hydrax_core.cache.index.index as index
        def connect(path, mode):
            error = sqlite3.OperationalError("unable to open database file")
            error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
            raise error
        index.connect = connect
        found = list(kit.verify(arguments[0], repair=True))
        print([finding.what for finding in found], any(finding.repaired for finding in found))
    """
    before = looked_at(tmp_path)
    assert kit.start(script, tmp_path).result() == "['unreadable'] False\n"
    assert looked_at(tmp_path) == before


def test_few_files_are_enough_for_many_arrays(tmp_path):
    arrays = {f"a{number:03}": ((2,), "int32") for number in range(200)}
    with kit.open_store(tmp_path, loader_arrays=arrays) as store:
        for number in range(3):
            store.write(0, number, {name: np.full((kit.BATCH, 2), number, np.int32) for name in arrays})
    before = looked_at(tmp_path)
    for command in ("verify --repair", "clear --corrupt --yes"):
        name, *options = command.split()
        start = "import sys; from hydrax_cli.main import main; sys.argv[0] = 'hydrax'; main()"
        program = shlex.join([sys.executable, "-c", start, "cache", name, str(tmp_path), *options])
        done = subprocess.run(
            ["sh", "-c", f"ulimit -n 100; exec {program}"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "clean" in done.stdout or "nothing to remove" in done.stdout
        assert looked_at(tmp_path) == before


def test_an_entry_that_cannot_be_read_is_shown_as_such(tmp_path, monkeypatch):
    kit.fill(tmp_path)
    fail_reading(monkeypatch, errno.EIO)
    with CacheEntries(tmp_path) as entries:
        assert entries.read(0, 5).fault == "unreadable"


def test_a_file_that_has_another_name_is_read_and_not_written(tmp_path, caplog):
    kit.fill(tmp_path / "c", batches=range(2))
    for name in ("epoch-0/x.npy", "index.sqlite"):
        (tmp_path / name.rpartition("/")[2]).hardlink_to(tmp_path / "c" / name)
    before = [(tmp_path / name).read_bytes() for name in ("x.npy", "index.sqlite")]
    with kit.open_store(tmp_path / "c") as store:
        assert kit.serve(store, 1)
        store.write(0, 5, kit.batch(5), kit.additional(5))
    assert "hard link" in caplog.text
    with pytest.raises(CacheError, match="hard link"):
        clear(tmp_path / "c", epoch=0, older_than=-1000)
    assert [(tmp_path / name).read_bytes() for name in ("x.npy", "index.sqlite")] == before
    assert info(tmp_path / "c").entries == 2


def test_a_folder_swapped_for_a_link_meanwhile_is_not_followed(tmp_path):
    kit.fill(tmp_path / "c")
    kit.fill(tmp_path / "other")
    others = looked_at(tmp_path / "other")

    def swap(_):
        if not (tmp_path / "mine").exists():
            (tmp_path / "c" / "epoch-0").rename(tmp_path / "mine")
            (tmp_path / "c" / "epoch-0").symlink_to(tmp_path / "other" / "epoch-0")

    with (tmp_path / "c" / "epoch-0" / "x.npy").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff\xff")
    with pytest.raises(CacheError):
        clear(tmp_path / "c", corrupt=True, on_read=swap)
    assert looked_at(tmp_path / "other") == others


def test_the_cache_itself_swapped_for_another_meanwhile_is_not_followed(tmp_path):
    kit.fill(tmp_path / "c")
    kit.fill(tmp_path / "other")
    others = looked_at(tmp_path / "other")
    findings = verify(tmp_path / "c", repair=True)
    (tmp_path / "c" / "index.sqlite-journal").write_bytes(b"")
    (tmp_path / "c").rename(tmp_path / "mine")
    (tmp_path / "c").symlink_to(tmp_path / "other")
    with pytest.raises(CacheError, match="another folder took its place"):
        list(findings)
    assert looked_at(tmp_path / "other") == others


@pytest.mark.parametrize("conditions", [{}, {"epoch": 0}])
def test_the_index_of_a_cache_that_took_anothers_place_is_not_changed(tmp_path, monkeypatch, conditions):
    kit.fill(tmp_path / "c")
    kit.fill(tmp_path / "other")
    mine, others = looked_at(tmp_path / "c"), looked_at(tmp_path / "other")

    class Swapping(survey.Survey):
        def __init__(self, folder):
            super().__init__(folder)
            folder.rename(tmp_path / "mine")
            folder.symlink_to(tmp_path / "other")

    monkeypatch.setattr("hydrax_core.cache.admin.clear.Survey", Swapping)
    with pytest.raises(CacheError, match="another folder took its place"):
        clear(tmp_path / "c", **conditions)
    assert (looked_at(tmp_path / "mine"), looked_at(tmp_path / "other")) == (mine, others)


def test_an_entry_of_a_mapping_that_cannot_be_read_is_not_served_and_not_dropped(tmp_path, monkeypatch, caplog):
    kit.fill(tmp_path)

    def fails(self, number):
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))

    with monkeypatch.context() as patch, kit.open_store(tmp_path) as store:
        patch.setattr(EpochMap, "read", fails)
        assert store.read(0, 1) is None
        assert store.read(0, 2) is None
        patch.undo()
        assert kit.serve(store, 1)
        assert store.counters().corrupt == 0
    assert ["cannot be read for now" in message for message in caplog.messages] == [True]
    assert info(tmp_path).entries == kit.BATCHES


def test_a_mapping_of_a_file_that_is_cut_meanwhile_is_an_error_not_the_end(tmp_path, monkeypatch):
    kit.fill(tmp_path)
    monkeypatch.setattr(EpochMap, "holds", lambda self, number: True)
    files = array_files(read_manifest(tmp_path))
    mapped = EpochMap(tmp_path, 0, files)
    mapped.read(kit.BATCHES - 1)
    os.truncate(tmp_path / "epoch-0" / "x.npy", 4096)
    with pytest.raises(OSError, match="address"):
        mapped.read(kit.BATCHES - 1)


def test_what_comes_and_goes_while_it_is_looked_at_is_no_error(tmp_path, monkeypatch):
    kit.fill(tmp_path)
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: [*real(folder), "index.sqlite-journal", "epoch-7"])
    assert list(verify(tmp_path)) == []
    assert info(tmp_path).entries == kit.BATCHES


def test_no_file_stays_open(tmp_path):
    kit.fill(tmp_path)
    before = kit.descriptors()
    verify(tmp_path)  # nobody asks it
    list(verify(tmp_path))
    list(verify(tmp_path, repair=True))
    next(iter(verify(tmp_path)), None)
    clear(tmp_path, corrupt=True)
    info(tmp_path)
    gc.collect()
    assert kit.descriptors() == before
