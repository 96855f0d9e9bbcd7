"""``hydrax run --cache`` on real input: the second run is the first one, served from the cache."""

import json
import subprocess
import sys

import pytest

from hydrax_core.cache import caches, info, verify

TARGET = """
import threading
from hydrax_core import DataGroup, Dataloader

def load(item, arrays, seed):
    arrays["x"][...] = (item, item % 3)

def group(count=16, **options):
    return DataGroup(4, range(count), loader_arrays={"x": ((2,), "int32")}, **options)

def make(folder: str, shuffle: str = "default"):
    groups = [group(shuffle_later=shuffle), group(shuffle_later=shuffle, cache_location=folder, cache_by="item")]
    return Dataloader(load, groups, validation=("epoch", 1, group(8)), loader_kind="thread", end_at=("epoch", 3))

unsendable = Dataloader(
    load, DataGroup(1, [threading.Lock()], loader_arrays={"x": ((2,), "int32")}), loader_kind="inline"
)
"""


@pytest.fixture
def run(hydrax):
    def run(*arguments, code=0):
        found, out, err = hydrax("run", *arguments, "--digest", "--json", "-")
        assert found == code
        return json.loads(out) if out else None, err.splitlines()

    return run


@pytest.fixture
def target(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "target.py").write_text(TARGET)
    return f"{tmp_path}/target.py:make"


def counts(values):
    return values["cache_hits"], values["cache_misses"]


def test_a_second_run_of_the_digits_is_served_from_the_cache(run, tmp_path):
    folder = str(tmp_path / "caches")
    first, told = run("--cache", folder, "--workers", "2")
    assert sum(counts(first)) == 84
    assert first["cache_misses"] >= 28
    assert f"  cache {folder}/training-0: batches that serve every epoch, 0 of 22 held" in told
    second, told = run("--cache", folder)
    assert second["digest"] == first["digest"]
    assert counts(second) == (84, 0)
    assert f"  cache {folder}/training-0: batches that serve every epoch, 22 of 22 held" in told
    assert f"  cache {folder}/validation-0: batches that serve every epoch, 6 of 6 held" in told
    assert "cache: 84 hits, 0 misses" in told
    passes = [line for line in told if line.startswith(("epoch ", "validation ")) and "idle" in line]
    assert [line.rpartition("idle ")[2].partition(", ")[2] for line in passes] == [
        f"cache {hits} hits, 0 misses" for hits in (22, 6, 22, 6, 22, 6)
    ]
    assert "from the cache" in second["verdict"]
    found = caches(folder)
    assert [path.name for path in found] == ["training-0", "validation-0"]
    assert [info(path).entries for path in found] == [22, 6]
    assert [finding for path in found for finding in verify(path)] == []


def test_a_second_run_of_a_folder_of_images_is_served_from_the_cache(run, tmp_path, images):
    arguments = (images, "--cache", str(tmp_path / "caches"), "--batch", "4", "--size", "8x6", "--epochs", "2")
    first, _ = run(*arguments)
    for kind in ("process", "thread", "inline"):
        again, _ = run(*arguments, "--kind", kind)
        assert counts(again) == (6, 0)
        assert again["digest"] == first["digest"]


def test_the_cache_changes_no_batch_of_the_first_epoch(run, tmp_path, images):
    arguments = (images, "--batch", "4", "--size", "8", "--kind", "thread", "--epochs", "1")
    plain, told = run(*arguments)
    assert counts(plain) == (0, 0)
    assert not any(line.startswith(("  cache ", "cache: ")) for line in told)
    cached, _ = run(*arguments, "--cache", str(tmp_path / "caches"))
    assert (counts(cached), cached["digest"]) == ((0, 3), plain["digest"])


@pytest.mark.parametrize(("shuffle", "entries"), [("default", 4), ("itemwise", 12)])
def test_a_loader_with_a_cache_of_its_own_keeps_it(run, tmp_path, target, shuffle, entries):
    own, below = tmp_path / "own", tmp_path / "below"
    arguments = (target, "-p", f"folder={own}", "-p", f"shuffle={shuffle}", "--cache", str(below))
    first, told = run(*arguments)
    assert f"  cache {own}: items that serve every epoch, 0 of 16 held" in told
    assert sum(counts(first)) == 3 * (4 + 4 + 2)
    second, _ = run(*arguments)
    assert second["digest"] == first["digest"]
    assert second["cache_misses"] == 0
    assert [path.name for path in caches(below)] == ["training-0", "validation-0"]
    assert [info(path).entries for path in (own, *caches(below))] == [16, entries, 2]


def test_other_settings_are_refused_with_what_differs(run, tmp_path):
    folder = str(tmp_path / "caches")
    run("--cache", folder, "--batches", "2", "--kind", "inline")
    _, told = run("--cache", folder, "--batches", "2", "--kind", "inline", "--seed", "1", code=1)
    assert any(line.split() == ["settings.seed", "0", "1"] for line in told)
    assert any("hydrax cache clear" in line for line in told)


def test_the_folder_of_a_single_cache_or_a_file_is_wrong_usage(run, tmp_path):
    folder = str(tmp_path / "caches")
    run("--cache", folder, "--batches", "1", "--kind", "inline")
    before = sorted(tmp_path.rglob("*"))
    _, told = run("--cache", f"{folder}/training-0", code=2)
    assert "is the cache of one group; give the folder above it" in told[-1]
    _, told = run("--cache", f"{folder}/training-0/hydrax-cache.json", code=2)
    assert "is a file" in told[-1]
    assert sorted(tmp_path.rglob("*")) == before


def test_items_that_no_cache_can_tell_apart_are_the_targets_fault(run, tmp_path, target):
    _, told = run(target.replace(":make", ":unsendable"), "--cache", str(tmp_path / "caches"), code=1)
    error = next(line for line in told if line.startswith("Error: "))
    assert "data: item 0 (<unlocked _thread.lock" in error
    assert "cannot be pickled" in error
    assert not any("Traceback" in line for line in told)


def test_looking_into_a_cache_imports_no_jax(run, tmp_path):
    folder = str(tmp_path / "caches")
    run("--cache", folder, "--batches", "30", "--kind", "inline")
    program = (
        "import sys\nfrom hydrax_cli.main import run_command_line\n"
        f"code = run_command_line(['cache', 'info', {folder!r}])\nprint(code, *sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    text, _, modules = output.rpartition("\n0 ")
    assert "22 of 22" in text
    assert not {"jax", "jaxlib", "textual", "hydrax_core.loader.dataloader"} & set(modules.split())


SCRIPT = """
import dataclasses, sys
from hydrax_core import DataGroup, Dataloader

@dataclasses.dataclass
class Item:
    number: int

def load(item, arrays, seed):
    arrays["x"][...] = item.number

def make():
    group = DataGroup(2, [Item(n) for n in range(4)], loader_arrays={"x": ((2,), "int32")}, cache_location="cache")
    return Dataloader(load, group, loader_kind="inline", end_at=("epoch", 1))

if __name__ == "__main__":
    with make() as loader:
        print(*[batch.from_cache for batch in loader])
"""


def test_the_script_itself_gets_what_its_loader_cached_in_the_command(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(SCRIPT)
    assert counts(run("mine.py:make")[0]) == (0, 2)
    done = subprocess.run([sys.executable, "mine.py"], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("True True\n", 0), done.stderr
