"""Whole runs over a cache on disk that is damaged, killed, shared, full: each serves what an undisturbed run serves."""

import os
import random
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from faultkit import PREAMBLE, contents, damaged, group, limit, python, rounds, start_python, undisturbed
from faultloads import fill

from hydrax_core import Dataloader
from hydrax_core.cache import clear, verify

pytestmark = limit(60, 1200)

EPOCHS = 2
SETTINGS = {"batch": {"shuffle_later": "itemwise"}, "item": {"shuffle_later": "repeat", "cache_by": "item"}}


def cached(folder, mode, **more):
    return group(cache_location=folder, **SETTINGS[mode], **more)


def truth(mode, epochs=EPOCHS):
    return undisturbed(group(shuffle_later=SETTINGS[mode]["shuffle_later"]), end_at=("epoch", epochs))


def served(training, epochs=EPOCHS):
    """The digests of a run, and its counts."""
    with Dataloader(fill, training, loader_kind="inline", end_at=("epoch", epochs)) as loader:
        return contents(loader), loader.stats()


def cut(data, chance):
    return data[: chance.randrange(len(data) + 1)]


def delete(data, chance):
    return None


@pytest.mark.parametrize("mode", SETTINGS)
def test_flips_and_cuts_anywhere_in_a_cache_change_nothing_of_a_run(mode, tmp_path, caplog, record_property):
    count = rounds(10, 500)  # of each mode
    record_property("rounds", count)
    expected = truth(mode)
    whole = tmp_path / "whole"
    assert served(cached(whole, mode))[0] == expected
    found, stats = served(cached(whole, mode))
    assert (found, stats.cache_misses) == (expected, 0)
    lost = 0
    for number in range(count):
        chance = random.Random(number)
        place = shutil.copytree(whole, tmp_path / "damaged")
        path = chance.choice(sorted(path for path in place.rglob("*") if path.is_file()))
        data = chance.choice([damaged, damaged, cut, delete])(path.read_bytes(), chance)
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
        found, stats = served(cached(place, mode))
        assert found == expected, f"round {number}: {path}"
        lost += stats.cache_misses > 0
        assert served(cached(place, mode))[0] == expected, f"round {number}, again: {path}"
        shutil.rmtree(place)
        caplog.clear()
    assert lost > count / 8


TRAIN = """
    epochs = int(sys.argv[2])
    training = group(cache_location=sys.argv[1], shuffle_later="itemwise")
    with Dataloader(fill, training, loader_kind=sys.argv[3], end_at=("epoch", epochs), loader_count=2) as loader:
        print("go", flush=True)
        sys.stdin.readline()
        print(xxhash.xxh3_64_hexdigest("".join(contents(loader)).encode()), flush=True)
"""


def train(folder, epochs, kind):
    return start_python(TRAIN, arguments=[str(folder), str(epochs), kind], stdin=subprocess.PIPE)


def test_runs_killed_while_they_cache_leave_nothing_but_the_truth(tmp_path, record_property):
    count, epochs = rounds(1, 50), 20
    record_property("rounds", 2 * count)
    expected = truth("batch", epochs)
    hits = 0
    for number in range(count):
        chance = random.Random(number)
        runs = [train(tmp_path / "c", epochs, kind) for kind in ("inline", "process")]
        for run in runs:
            assert run.stdout.readline() == "go\n"
            run.stdin.write("go\n")
            run.stdin.flush()
        for run in runs:
            time.sleep(chance.random() * 0.1)  # any moment of their caching
            run.kill()
            run.wait()
        found, stats = served(cached(tmp_path / "c", "batch", cache_readonly=True), epochs)
        assert found == expected, f"round {number}"
        assert stats.cache_hits >= hits
        hits = stats.cache_hits
    list(verify(tmp_path / "c", repair=True))
    assert list(verify(tmp_path / "c")) == []
    assert served(cached(tmp_path / "c", "batch"), epochs)[0] == expected


def test_four_runs_that_fill_one_cache_at_once_are_all_served_the_truth(tmp_path, record_property):
    count, epochs = rounds(1, 20), 10
    record_property("rounds", count)
    expected = truth("batch", epochs)
    for number in range(count):
        folder = tmp_path / str(number)
        runs = [train(folder, epochs, kind) for kind in ("inline", "process", "thread", "inline")]
        for run in runs:
            assert run.stdout.readline() == "go\n"
        for run in runs:
            run.stdin.write("go\n")
            run.stdin.flush()
        answers = {run.communicate()[0].strip() for run in runs}
        program = f"print(xxhash.xxh3_64_hexdigest({''.join(expected)!r}.encode()))"
        assert answers == {python(program).stdout.strip()}
        found, stats = served(cached(folder, "batch", cache_readonly=True), epochs)
        assert (found, stats.cache_misses) == (expected, 0)
        assert list(verify(folder)) == []


@pytest.mark.parametrize("mode", SETTINGS)
def test_a_clock_that_jumps_changes_nothing_that_a_cache_serves(mode, tmp_path, monkeypatch):
    expected = truth(mode)
    chance = random.Random(6)
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: chance.uniform(-1e9, 4e9))
        patch.setattr(time, "time_ns", lambda: chance.randrange(-(10**18), 4 * 10**18))
        assert served(cached(tmp_path / "c", mode))[0] == expected
    found, stats = served(cached(tmp_path / "c", mode))
    assert (found, stats.cache_misses) == (expected, 0)
    assert list(verify(tmp_path / "c")) == []
    clear(tmp_path / "c")
    assert list((tmp_path / "c").iterdir()) == []


FULL = """
    folder = sys.argv[1]
    while True:  # nothing but the cache's own first files finds room
        try:
            with open(f"{folder}/other", "ab") as other:
                other.write(bytes(4096))
        except OSError:
            break
    os.truncate(f"{folder}/other", os.stat(f"{folder}/other").st_size - 200_000)
    large = {"x": ((4096,), "float32"), "item": ((), "int32"), "seed": ((), "uint32")}
    plain = group(400, loader_arrays=large)
    with Dataloader(fill, group(400, loader_arrays=large, cache_location=folder + "/c", shuffle_later="itemwise"),
                    end_at=("epoch", 2), loader_count=2, timeout_sec=20) as loader:
        assert contents(loader) == undisturbed(group(400, loader_arrays=large), end_at=("epoch", 2))
    print(loader.stats().cache_misses)
"""


def test_a_full_disk_ends_the_caching_and_changes_nothing_of_the_run(tmp_path):
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    mount = 'mount -t tmpfs -o size=4m none "$1" && exec "$0" -c "$2" "$1"'
    program = PREAMBLE + textwrap.dedent(FULL)
    run = subprocess.run(
        [unshare, "-rm", "sh", "-c", mount, sys.executable, str(tmp_path), program],
        env={**os.environ, "HYDRAX_FAULTS_FOLDER": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 0
    assert run.stderr.count("caching is off") == 1
