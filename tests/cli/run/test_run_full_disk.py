"""``hydrax run --cache`` where the disk is full or may not be written: the run goes on, and says so once."""

import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import hydrax_core.cache.format.arrays
from hydrax_cli.main import run_command_line
from hydrax_core.cache import info, verify

MAIN = "import sys; from hydrax_cli.main import main; main()"
NO_MOUNTS = "this machine lets nobody mount"


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.random.default_rng(0).random((256, 1024), np.float32))  # batches of 64: 256 KiB each
    return path


@pytest.fixture(scope="module")
def in_mounts():
    """Runs a shell script whose mounts nobody else sees, and which are gone with it."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip(NO_MOUNTS)

    def run(script, *arguments):
        command = [unshare, "--mount", "sh", "-ec", script, "sh", *map(str, arguments)]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    if run("mount -t tmpfs none /mnt").returncode:
        pytest.skip(NO_MOUNTS)
    return run


def test_an_error_of_the_disk_is_said_once_and_told_at_the_end(tmp_path, rows, monkeypatch, capsys, caplog):
    class FullOs:
        def __getattr__(self, name):
            return getattr(os, name)

        @staticmethod
        def pwrite(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    arguments = ["run", str(rows), "--cache", str(tmp_path / "c"), "--kind", "thread", "--digest"]
    monkeypatch.setattr(hydrax_core.cache.format.arrays, "os", FullOs())
    assert run_command_line(arguments) == 0
    out = capsys.readouterr().out
    assert "cache: 0 hits, 4 misses; not all is stored: No space left on device\n" in out
    assert caplog.text.count("No space left on device") == 1
    assert run_command_line([*arguments, "--json", "-"]) == 0
    full = json.loads(capsys.readouterr().out)
    assert full["cache_error"] == "No space left on device"
    monkeypatch.undo()
    assert run_command_line([*arguments, "--json", "-"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert ("cache_error" in whole, whole["digest"]) == (False, full["digest"])


def test_a_small_file_system_fills_up_and_keeps_what_fits(tmp_path, rows, in_mounts):
    (tmp_path / "small").mkdir()
    script = """
        mount -t tmpfs -o size=700k none "$2/small"
        for kind in inline thread; do
            "$0" -c "$3" run "$1" --cache "$2/small" --kind $kind --digest --json "$2/$kind.json"
        done
        cp -r "$2/small/." "$2/after"
        df --output=avail "$2/small" | tail -1 > "$2/room"
    """
    done = in_mounts(script.replace("$0", sys.executable), rows, tmp_path, MAIN)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{kind}.json").read_text()) for kind in ("inline", "thread"))
    assert first["cache_error"] == "No space left on device"
    assert done.stderr.count("caching is off") == 2
    assert (first["cache_hits"], second["cache_hits"]) == (0, 2)
    assert first["digest"] == second["digest"]
    assert info(tmp_path / "after" / "training-0").entries == 2
    assert list(verify(tmp_path / "after" / "training-0")) == []
    assert int((tmp_path / "room").read_text()) > 100  # KiB: what did not fit gave its part back


def test_a_file_system_without_room_for_an_index_is_done_without(tmp_path, rows, in_mounts):
    (tmp_path / "small").mkdir()
    script = """
        mount -t tmpfs -o size=4k none "$2/small"
        "$0" -c "$3" run "$1" --cache "$2/small" --kind inline
        "$0" -c "$3" cache info "$2/small"
        "$0" -c "$3" cache verify "$2/small"
    """
    done = in_mounts(script.replace("$0", sys.executable), rows, tmp_path, MAIN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "there is no caching in this run" in done.stderr
    assert "0 hits, 4 misses; not all is stored: " in done.stdout
    assert "clean" in done.stdout


def test_a_read_only_file_system_is_read(tmp_path, rows, in_mounts):
    (tmp_path / "place").mkdir()
    assert run_command_line(["run", str(rows), "--cache", str(tmp_path / "place"), "--kind", "inline", "--quiet"]) == 0
    script = """
        mount --bind "$2/place" "$2/place"
        mount -o remount,bind,ro "$2/place"
        "$0" -c "$3" run "$1" --cache "$2/place" --kind inline --json "$2/run.json"
        for command in "info" "verify" "clear --dry-run"; do "$0" -c "$3" cache $command "$2/place"; done
        for command in "verify --repair" "clear --yes"; do
            if "$0" -c "$3" cache $command "$2/place"; then exit 9; fi
        done
    """
    done = in_mounts(script.replace("$0", sys.executable), rows, tmp_path, MAIN)
    assert done.returncode == 0, done.stdout + done.stderr
    values = json.loads((tmp_path / "run.json").read_text())
    assert (values["cache_hits"], values["cache_misses"]) == (4, 0)
    assert done.stderr.count("this cache cannot be written, so it is only read") == 1
    assert done.stderr.count("this cache cannot be changed: Read-only file system") == 2
    assert "clean" in done.stdout
