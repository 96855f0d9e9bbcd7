"""``hydrax cache verify --against``: the loader that filled a cache is made again, or refused side by side."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hydrax_cli.main import run_command_line
from hydrax_core import DataGroup
from hydrax_core.cache import CacheStore

ARRAYS = {"x": ((4, 4), "float32"), "label": ((), "int32")}

TARGET = """
import numpy as np
from hydrax_core import DataGroup, Dataloader

def load(item, arrays, seed):
    random = np.random.default_rng((item, USES_SEED and seed or 0))
    arrays["x"][...] = random.random((4, 4))
    arrays["label"][...] = item + CHANGED
    return {"name": f"item {item}"}

def make(folder: str = "", by: str = "batch", **more):
    arrays = {"x": ((4, 4), "float32"), "label": ((), "int32")}
    def group(place, count, **settings):
        location = f"{folder}/{place}" if folder else None
        return DataGroup(4, range(count), loader_arrays=arrays, cache_location=location, cache_by=by, **settings)
    training = [group("a", 22, shuffle_later=LATER, shuffle_first=True, seed=5), group("b", 9)]
    validation = ("epoch", 1, [group("v", 9, remainder="pad")])
    return Dataloader(load, training, validation=validation, loader_kind="inline", end_at=("epoch", 2))
"""


def values(result, code=0):
    assert result[0] == code, result
    return json.loads(result[1])


def fill(*arguments):
    assert run_command_line(["run", *map(str, arguments), "--quiet"]) == 0


@pytest.fixture
def target(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)

    def target(later="batchwise", changed=0, uses_seed=True, **arguments):
        name = f"target_{later}_{changed}_{len(list(tmp_path.glob('target*')))}.py"
        text = (
            TARGET.replace("LATER", repr(later)).replace("CHANGED", str(changed)).replace("USES_SEED", str(uses_seed))
        )
        if arguments:
            defaults = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
            text = text.replace('folder: str = "", by: str = "batch"', defaults)
        (tmp_path / name).write_text(text)
        namespace = {}
        exec(text, namespace)
        return f"{name}:make", namespace["make"]

    return target


@pytest.mark.parametrize("later", ["batchwise", "itemwise"])
@pytest.mark.parametrize("by", ["batch", "item"])
def test_a_cache_that_fits_its_loader_is_not_stale_and_one_that_does_not_is(run, tmp_path, target, later, by):
    folder = tmp_path / "caches"
    uses_seed = by == "batch"  # items are kept as they were first loaded, in whatever epoch that was
    _, make = target(later, uses_seed=uses_seed)
    with make(str(folder), by) as loader:
        assert sum(1 for _ in loader) == 2 * (5 + 2 + 3)
    same, _ = target(later, uses_seed=uses_seed, folder=str(folder), by=by)
    code, out, err = run("verify", folder, "--against", same, "--sample", 100)
    assert code == 0, out + err
    other, _ = target(later, changed=1, uses_seed=uses_seed, folder=str(folder), by=by)
    found = values(run("verify", folder / "a", "--against", other, "--json"), code=1)["findings"]
    assert {one["what"] for one in found} == {"stale"}
    assert "'label' differs in" in found[0]["detail"]
    for name in ("b", "v"):
        assert run("verify", folder / name, "--against", other)[0] == 1


def test_a_loader_without_the_caches_group_is_refused_side_by_side(run, tmp_path, target):
    group = DataGroup(8, range(100), loader_arrays=ARRAYS, cache_location=tmp_path / "c")
    CacheStore.open(group, kind="training", group_index=0).close()
    folder = tmp_path / "c"
    path, _ = target()
    code, _, err = run("verify", folder, "--against", path)
    assert code == 1
    assert "settings.items" in err


def test_a_cache_of_what_the_training_loop_made_cannot_be_compared(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    arrays = {"cache_arrays": {"y": ((), "int32")}, "loader_arrays": ARRAYS}
    group = DataGroup(8, range(100), cache_location=tmp_path / "c", **arrays)
    CacheStore.open(group, kind="training", group_index=0).close()
    (tmp_path / "made.py").write_text(
        "from hydrax_core import DataGroup, Dataloader\n"
        "def make():\n"
        f"    group = DataGroup(8, range(100), cache_location='c', **{arrays!r})\n"
        "    return Dataloader(lambda item, arrays, seed: None, group)\n"
    )
    code, _, err = run("verify", tmp_path / "c", "--against", "made.py:make")
    assert code == 2
    assert "cache_arrays" in err


def test_the_digits_fill_a_cache_that_fits_them(run, tmp_path, capsys):
    arguments = ["run", "--cache", str(tmp_path), "--kind", "inline", "--epochs", "1", "--batch", "64", "--digest"]
    digests = []
    for _ in range(2):
        assert run_command_line([*arguments, "--quiet"]) == 0
        digests.append(capsys.readouterr().out)
    assert digests[0] == digests[1] != ""
    found = values(run("info", tmp_path, "--json"))["caches"]
    assert [(one["kind"], one["coverage"]) for one in found] == [("training", 1.0), ("validation", 1.0)]
    code, out, err = run("verify", tmp_path, "--against", "digits", "--sample", "3")
    assert (code, err) == (0, ""), out
    assert "2 caches" in out


def test_our_own_sources_take_what_is_not_given_from_the_cache(run, tmp_path, images):
    cache = tmp_path / "caches"
    fill(images, "--cache", cache, "--size", "8x6", "--batch", "4", "--seed", "3", "--kind", "thread")
    found = values(run("verify", cache, "--against", images, "--size", "8x6", "--sample", "1", "--json"))
    assert (found["clean"], found["compared_batches"]) == (True, 1)
    code, out, _ = run("verify", cache, "--against", images)
    assert (code, out.strip().rpartition(", ")[2]) == (0, "compared 3 batches with TARGET")
    (images / "dog" / "4.png").write_bytes((images / "cat" / "0.png").read_bytes())
    code, _, err = run("verify", cache, "--against", images)
    assert code == 1
    assert "settings.data" in err
    assert "path, size and time" in err


def test_other_options_than_those_of_the_cache_are_refused_with_the_ones_to_give(run, tmp_path, images):
    cache = tmp_path / "caches"
    fill(images, "--cache", cache, "--size", "8x6", "--batch", "4", "--kind", "thread")
    code, _, err = run("verify", cache, "--against", images, "--size", "9", "--batch", "5", "--seed", "2")
    assert code == 1
    assert ["arrays.image.shape", "[4,8,6,3]", "[5,9,9,3]"] in [
        line.replace(", ", ",").split() for line in err.splitlines()
    ]
    assert "give --size 8x6 --batch 4 --seed 0." in err
    assert "comes from TARGET" not in err


def test_a_loader_of_the_users_keeps_its_settings_unless_told_otherwise(run, tmp_path, target):
    path, _ = target()
    cache = tmp_path / "caches"
    fill(path, "--cache", cache, "--batch", "3", "--seed", "7")
    code, _, err = run("verify", cache / "training-0", "--against", path)
    assert code == 1
    assert "give --batch 3 --seed 7." in err
    assert "comes from TARGET" not in err
    assert values(run("verify", cache, "--against", path, "--batch", "3", "--seed", "7", "--json"))["clean"]
    code, _, err = run("verify", cache, "--against", target("itemwise")[0], "--batch", "3", "--seed", "7")
    assert code == 1
    assert "This comes from TARGET itself" in err


def test_arguments_of_a_function_reach_it(run, tmp_path, target):
    path, _ = target()
    fill(path, "-p", f"folder={tmp_path / 'own'}", "-p", "by=item")
    arguments = ("verify", tmp_path / "own", "--against", path, "-p", "by=item", "--json")
    assert values(run(*arguments, "-p", "folder=elsewhere"), code=0)["clean"]
    code, _, err = run(*arguments[:-3], "-p", "by=row")
    assert code == 1
    assert "cache_by" in err


@pytest.mark.parametrize("option", ["--sample 3", "--batch 4", "--seed 0", "--size 8", "-p a=1"])
def test_what_tells_of_a_loader_without_one_is_wrong_usage(run, tmp_path, option):
    CacheStore.open(
        DataGroup(8, range(100), loader_arrays=ARRAYS, cache_location=tmp_path / "c"), kind="training", group_index=0
    ).close()
    code, _, err = run("verify", tmp_path / "c", *option.split())
    assert code == 2
    assert f"{option.split()[0]}: it goes with --against" in err


PICKLES = """
from hydrax_core import DataGroup, Dataloader

def load(item, arrays, seed):
    arrays["x"][...] = item
    return {"kind": complex}

def make(folder: str, trust: bool):
    arrays = {"x": ((), "int32")}
    group = DataGroup(4, range(16), loader_arrays=arrays, cache_location=folder, cache_pickle=trust)
    return Dataloader(load, group, loader_kind="inline", end_at=("epoch", 1))
"""


def test_what_the_cache_does_not_serve_does_not_count_as_compared(run, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "pickles.py").write_text(PICKLES)
    path, cache = f"{tmp_path}/pickles.py:make", tmp_path / "c"
    fill(path, "-p", f"folder={cache}", "-p", "trust=yes")
    arguments = ("verify", cache, "--against", path, "-p", f"folder={cache}", "-p")
    assert "compared 4 batches with TARGET\n" in run(*arguments, "trust=yes")[1]
    caplog.clear()
    assert "compared 0 batches with TARGET (4 more could not be served)\n" in run(*arguments, "trust=no")[1]
    assert caplog.text.count("cache_pickle=True") == 1


def test_what_a_target_prints_is_not_among_the_json(tmp_path, monkeypatch):
    program = PICKLES.replace("def make", "print('hello')\n\ndef make").replace("complex", "1")
    (tmp_path / "noisy.py").write_text(program)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    fill("noisy.py:make", "-p", "folder=c", "-p", "trust=no")
    hydrax = [sys.executable, "-c", "from hydrax_cli.main import main; main()"]
    arguments = ["cache", "verify", "c", "--json", "--against", "noisy.py:make", "-p", "folder=c", "-p", "trust=no"]
    done = subprocess.run([*hydrax, *arguments], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)["compared_batches"] == 4
    assert "hello" in done.stderr


def test_what_is_wrong_with_the_target_is_told_before_anything_is_read(run, tmp_path):
    group = DataGroup(8, range(100), loader_arrays=ARRAYS, cache_location=tmp_path / "c")
    CacheStore.open(group, kind="training", group_index=0).close()
    (tmp_path / "c" / "notes.txt").write_text("a finding")
    code, out, err = run("verify", tmp_path / "c", "--against", tmp_path / "missing.py:make")
    assert (code, out) == (2, "")
    assert "there is no file" in err


def test_version_and_code_of_the_loader_are_shown_and_a_changed_one_is_named(run, tmp_path, target, caplog):
    path, _ = target()
    cache = tmp_path / "caches"
    fill(path, "--cache", cache)
    (found,) = values(run("info", cache / "training-0", "--json"))["caches"]
    assert found["version"] == 0
    assert "load" in found["code"]
    for command in ("info", "verify"):
        assert f"cache_version 0, code {found['code_digest']} (" in run(command, cache / "training-0")[1]
    file = Path(path.rpartition(":")[0])
    file.write_text(
        file.read_text().replace("def load(item, arrays, seed):", "def load(item, arrays, seed):\n    str()")
    )
    assert run("verify", cache / "training-0", "--against", path)[0] == 0
    assert ["(load)" in message for message in caplog.messages] == [True]


def test_a_strangers_cache_is_not_unpickled_unless_asked_for(run, tmp_path, target, capsys):
    path, _ = target()
    file = Path(path.rpartition(":")[0])
    file.write_text(file.read_text().replace("cache_by=by,", "cache_by=by, cache_pickle=True,"))
    cache = tmp_path / "caches"
    fill(path, "--cache", cache)  # there is nothing yet
    code, _, err = run("verify", cache / "training-0", "--against", path)
    assert code == 2
    assert "--allow-pickle" in err
    assert run("verify", cache / "training-0", "--against", path, "--allow-pickle")[0] == 0
    assert run_command_line(["run", path, "--cache", str(cache), "--quiet"]) == 2
    assert "--allow-pickle" in capsys.readouterr().err
    fill(path, "--cache", cache, "--allow-pickle")


def test_a_path_that_is_no_text_does_not_lose_the_result(run, tmp_path, target):
    path, _ = target()
    cache = tmp_path / os.fsdecode(b"caches-\xff")
    fill(path, "--cache", cache)
    for command in (["info"], ["verify"], ["clear", "--yes"]):
        assert values(run(command[0], cache, *command[1:], "--json"))
