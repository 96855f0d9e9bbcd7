"""Other files never come out of the first ones' cache, and a state of the first ones is refused."""

import json
import os
import shutil

import numpy as np
import PIL.Image
import pytest

from hydrax_cli.main import run_command_line
from hydrax_core import Dataloader
from hydrax_core.errors import CacheMismatchError, StateMismatchError
from hydrax_core.sources import image_folder, numpy_rows


def write(path, number):
    np.save(path, np.full((8, 3), number, np.float32))


def images(folder, colour):
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number in range(2):
            PIL.Image.new("RGB", (4, 4), (colour, number, 0)).save(folder / name / f"{number}.bmp")


def npy(tmp_path):
    write(tmp_path / "a.npy", 1)
    write(tmp_path / "b.npy", 2)
    return lambda name: numpy_rows(tmp_path / f"{name}.npy", batch_size=4)


def folders(tmp_path):
    images(tmp_path / "a", 1)
    images(tmp_path / "b", 2)
    return lambda name: image_folder(tmp_path / name, size=4, batch_size=4)


def first_value(source, cache=None):
    group = source.training if cache is None else source.training.replace(cache_location=cache)
    with Dataloader(source.loader_func, group, loader_kind="inline", end_at=("epoch", 1)) as loader:
        batch = next(loader)
        return float(next(iter(batch.arrays.values())).ravel()[0]), batch.from_cache, loader.state_dict()


@pytest.mark.parametrize("make", [npy, folders])
def test_a_cache_and_a_state_of_other_files_are_refused(tmp_path, make):
    open_source = make(tmp_path)
    value, _, state = first_value(open_source("a"), tmp_path / "cache")
    assert value == 1
    assert first_value(open_source("a"), tmp_path / "cache")[:2] == (1, True)
    with pytest.raises(CacheMismatchError, match=r"settings\.data"):
        first_value(open_source("b"), tmp_path / "cache")
    other = open_source("b")
    group = other.training.replace(cache_location=tmp_path / "another")
    with pytest.raises(StateMismatchError, match=r"(?s)training\.groups\[0\]\.data.*path, size and time"):
        Dataloader(other.loader_func, group).load_state_dict(state)


def test_a_file_rewritten_in_place_is_other_data(tmp_path):
    open_source = npy(tmp_path)
    before = (tmp_path / "a.npy").stat()
    first_value(open_source("a"), tmp_path / "cache")
    write(tmp_path / "a.npy", 5)
    os.utime(tmp_path / "a.npy", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(CacheMismatchError):
        first_value(open_source("a"), tmp_path / "cache")


def test_a_folder_moved_as_a_whole_is_the_same_data(tmp_path):
    open_source = folders(tmp_path)
    first_value(open_source("a"), tmp_path / "cache")
    shutil.rmtree(tmp_path / "b")
    (tmp_path / "a").rename(tmp_path / "b")
    assert first_value(open_source("b"), tmp_path / "cache")[:2] == (1, True)


@pytest.mark.parametrize("make", [npy, folders])
def test_validation_reads_its_own_files_whoevers_loader_is_given(tmp_path, make):
    open_source = make(tmp_path)
    training, validation = open_source("a"), open_source("b")
    runs = ("epoch", 1, validation.training)
    seen = {}
    for loader_func in (None, training.loader_func):
        with Dataloader(
            loader_func, training.training, validation=runs, loader_kind="inline", end_at=("epoch", 1)
        ) as loader:
            for batch in loader:
                seen[batch.is_training] = float(next(iter(batch.arrays.values())).ravel()[0])
        assert seen == {True: 1, False: 2}


def test_the_command_refuses_the_cache_of_another_file(tmp_path, capsys):
    npy(tmp_path)
    digests = []
    for name, cache, code in (("a", "c", 0), ("b", "c", 1), ("b", "d", 0)):
        arguments = [str(tmp_path / f"{name}.npy"), "--cache", str(tmp_path / cache), "--digest", "--json", "-"]
        assert run_command_line(["run", *arguments]) == code
        captured = capsys.readouterr()
        if code:
            assert "settings.data" in captured.err
        else:
            digests.append(json.loads(captured.out)["digest"])
    assert len(set(digests)) == 2
