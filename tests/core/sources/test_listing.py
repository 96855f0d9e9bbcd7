"""Folders are walked once, and hidden files are none."""

import os
from collections import Counter

import numpy as np
import PIL.Image
import pytest

from hydrax_core.sources import image_folder, text_lines


@pytest.fixture
def walked(monkeypatch):
    """How often each folder is listed."""
    found, walk = Counter(), os.walk

    def watched(top, *arguments, **options):
        for parent, folders, names in walk(top, *arguments, **options):
            found[os.fspath(parent)] += 1
            yield parent, folders, names

    monkeypatch.setattr(os, "walk", watched)
    return found


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(path)


@pytest.mark.parametrize("sides", [(), ("train", "val")])
def test_a_folder_of_images_is_walked_once(tmp_path, walked, sides):
    for side in sides or ("",):
        for label in ("a", "b"):
            picture(tmp_path / side / label / "deep" / "0.png")
    assert len(image_folder(tmp_path, size=2, batch_size=1).training) == 2
    assert set(walked.values()) == {1}
    assert len(walked) == 4 * max(1, len(sides))


def test_files_of_a_folder_are_found_in_one_walk_without_the_hidden_ones(tmp_path, walked):
    for name in ("b/1.txt", "a.txt", ".hidden.txt", ".git/2.txt", "b/.c/3.txt", "d.md", "e.txt/4.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{name}\n")
    rows = text_lines(tmp_path, additional=True).training.items
    assert [rows[index]["line"] for index in range(len(rows))] == ["a.txt", "b/1.txt", "e.txt/4.txt"]
    assert set(walked.values()) == {1}
