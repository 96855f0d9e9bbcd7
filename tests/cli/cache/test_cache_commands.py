import io
import json
import os
import sqlite3
import subprocess
import sys

import click
import numpy as np
import pytest

from hydrax_cli.cache.render import info_lines
from hydrax_core import DataGroup, Dataloader
from hydrax_core.cache import CacheStore, info

ARRAYS = {"x": ((4, 4), "float32"), "label": ((), "int32")}


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path / "c", range(10))


def fill(folder, batches, **changes):
    with open_store(folder, **changes) as store:
        for number in batches:
            batch = {"x": np.full((8, 4, 4), number, np.float32), "label": np.full(8, number, np.int32)}
            store.write(0, number, batch)
    return folder


def open_store(folder, **changes):
    group = DataGroup(8, range(100), loader_arrays=ARRAYS, cache_location=folder, **changes)
    return CacheStore.open(group, kind="training", group_index=0)


def damage(folder, number):
    with (folder / "epoch-0" / "x.npy").open("r+b") as file:
        file.seek(4096 + number * 512 + 9)
        file.write(b"\x5a\xa5")


def values(result, code=0):
    assert result[0] == code, result
    return json.loads(result[1])


# info


def test_info_shows_arrays_coverage_and_maker(run, folder):
    code, out, err = run("info", folder)
    assert (code, err) == (0, "")
    for text in (
        str(folder),
        "training 0: 12 batches of 8 from 100 items",
        "(8, 4, 4)",
        "float32",
        "512 B each",
        "10 of 12 (83 %)",
        "on disk   10 batches",
        "made      2",
        "━",
        "╌",
    ):
        assert text in out, text
    assert "in use" not in out
    assert max(map(len, out.splitlines()[1:])) <= 80


def test_info_of_a_cache_in_use_or_empty_or_with_many_epochs_says_so(run, tmp_path):
    with open_store(tmp_path / "c", shuffle_later="itemwise") as store:
        assert "empty     ╌" in run("info", tmp_path / "c")[1]
        assert "in use    by a run" in run("info", tmp_path / "c")[1]
        for epoch in range(20):
            store.write(epoch, 0, {"x": np.zeros((8, 4, 4), np.float32), "label": np.zeros(8, np.int32)})
    assert "8 epochs more, 8 batches" in run("info", tmp_path / "c")[1]


def test_info_as_json_has_the_same_as_values(run, folder):
    (found,) = values(run("info", folder, "--json"))["caches"]
    assert (found["entries"], found["entries_per_epoch"], found["coverage"]) == (10, 12, 10 / 12)
    assert [array["name"] for array in found["arrays"]] == ["label", "x"]
    assert found["disk_bytes"] == info(folder).disk_bytes
    assert found["epochs"][0]["entries"] == 10


def test_info_and_verify_take_a_folder_of_caches(run, tmp_path):
    fill(tmp_path / "all" / "b", [1])
    fill(tmp_path / "all" / "a", [1, 2])
    damage(tmp_path / "all" / "b", 1)
    found = values(run("info", tmp_path / "all", "--json"))["caches"]
    assert [(one["path"], one["entries"]) for one in found] == [
        (str(tmp_path / "all" / "a"), 2),
        (str(tmp_path / "all" / "b"), 1),
    ]
    code, out, _ = run("verify", tmp_path / "all")
    assert code == 1
    assert "b: corrupt" in out
    assert "2 caches" in out


def test_a_bar_is_full_or_empty_only_when_the_cache_is(tmp_path):
    for batches, text in ((range(12), "━" * 20), ([3], "━━╌"), (range(11), "━╌")):
        folder = fill(tmp_path / str(len(batches)), batches)
        assert text in click.unstyle("\n".join(info_lines(info(folder))))


@pytest.mark.parametrize("command", ["info", "verify", "clear"])
def test_what_is_no_cache_is_wrong_usage(run, tmp_path, command):
    (tmp_path / "thesis.tex").write_text("years")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "thesis.tex"):
        code, _, err = run(command, path)
        assert code == 2
        assert "PATH" in err
    assert (tmp_path / "thesis.tex").read_text() == "years"


# verify


def test_verify_of_a_sound_cache_ends_with_0(run, folder):
    assert run("verify", folder) == (0, "made with cache_version 0\nclean; read 5.3 KiB of arrays in 1 cache\n", "")
    found = values(run("verify", folder, "--json"))
    loaders = [{"path": str(folder), "version": 0, "code": {}, "code_digest": ""}]
    assert found == {
        "clean": True,
        "read_bytes": 10 * (512 + 32),
        "compared_batches": 0,
        "loaders": loaders,
        "findings": [],
    }


def test_verify_lists_findings_ends_with_1_and_repair_mends_them(run, folder):
    damage(folder, 3)
    (folder / "notes.txt").write_text("mine")
    code, out, _ = run("verify", folder)
    assert code == 1
    assert "corrupt     epoch 0, batch 3: wrong checksum (written 2" in out
    assert "foreign     notes.txt" in out
    assert "2 findings" in out
    found = values(run("verify", folder, "--repair", "--json"), code=1)
    assert sorted((one["what"], one["number"], one["repaired"]) for one in found["findings"]) == [
        ("corrupt", 3, True),
        ("foreign", None, False),
    ]
    (folder / "notes.txt").unlink()
    assert run("verify", folder)[0] == 0
    assert info(folder).entries == 9


def test_what_is_wrong_with_entry_after_entry_is_one_line(run, folder):
    for number in (1, 2, 3, 6, 8, 9):
        damage(folder, number)
    lines = [line.partition(" (")[0] for line in run("verify", folder)[1].splitlines()]
    assert lines[:3] == [
        "corrupt     epoch 0, batches 1 to 3: wrong checksum",
        "corrupt     epoch 0, batch 6: wrong checksum",
        "corrupt     epoch 0, batches 8 to 9: wrong checksum",
    ]
    assert lines[4].startswith("6 findings; ")
    assert lines[5].endswith(f"hydrax cache verify {folder} --repair")
    assert len(values(run("verify", folder, "--json"), code=1)["findings"]) == 6
    lines = run("verify", folder, "--repair")[1].splitlines()
    assert lines[0].endswith(", repaired")
    assert lines[-1].startswith("6 findings, 6 repaired; ")


def test_a_cache_that_cannot_be_read_does_not_hide_the_others(run, tmp_path):
    fill(tmp_path / "a", [1])
    (tmp_path / "a" / "hydrax-cache.json").write_text("{")
    fill(tmp_path / "b", [1, 2])
    code, out, err = run("info", tmp_path)
    assert code == 1
    assert "2 of 12" in out
    assert "hydrax-cache.json is damaged" in err
    assert [one["entries"] for one in values(run("info", tmp_path, "--json"), code=1)["caches"]] == [2]


def test_an_empty_index_is_a_finding_and_a_repaired_cache_has_none(run, folder):
    os.truncate(folder / "index.sqlite", 0)
    for options in ([], ["--repair"]):
        found = values(run("verify", folder, *options, "--json"), code=1)["findings"]
        assert ("corrupt", "index.sqlite") in [(one["what"], one["where"]) for one in found]
    assert run("verify", folder)[0] == 0
    (folder / "index.sqlite").unlink()  # what holds nothing needs none
    assert run("verify", folder)[0] == 0
    assert "see hydrax cache verify" not in run("info", folder)[1]


def test_a_damaged_index_is_told_once(folder):
    os.truncate(folder / "index.sqlite", 4097)
    for command in ("info", "verify"):
        done = subprocess.run(
            [sys.executable, "-c", CACHE_MAIN, command, folder], check=False, capture_output=True, text=True
        )
        assert done.stderr == ""
        assert "malformed" in done.stdout


def test_findings_go_to_standard_output_while_a_bar_is_shown_elsewhere(folder):
    import pty  # noqa: PLC0415  only here

    damage(folder, 3)
    main, worker = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", CACHE_MAIN, "verify", str(folder)], stdin=worker, stdout=subprocess.PIPE, stderr=worker
    )
    os.close(worker)
    out, _ = process.communicate(timeout=100)
    bar = os.read(main, 1 << 16)
    os.close(main)
    assert out.decode().startswith("corrupt     epoch 0, batch 3: wrong checksum")
    assert b"reading" in bar
    assert b"corrupt" not in bar


def test_names_of_foreign_files_cannot_control_the_terminal(run, folder):
    (folder / "a\x1b[2J\nb").write_text("")
    assert "foreign     a·[2J·b: " in run("verify", folder)[1]


def test_repair_of_a_cache_in_use_is_refused(run, folder):
    with open_store(folder):
        code, _, err = run("verify", folder, "--repair")
    assert code == 1
    assert "a run is using this cache" in err


# clear


def test_clear_shows_and_removes_everything_with_yes(run, folder):
    code, out, _ = run("clear", folder, "--yes")
    assert code == 0
    assert "10 entries, 5 whole files" in out
    assert "freed" in out
    assert list(folder.iterdir()) == []


def test_clear_without_a_terminal_and_yes_shows_and_refuses(run, folder, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    code, out, err = run("clear", folder)
    assert code == 2
    assert "would go" in out
    assert "--yes" in err
    assert info(folder).entries == 10


@pytest.mark.parametrize(("answer", "left"), [("y\n", 0), ("n\n", 5), ("\n", 5)])
def test_clear_asks_on_a_terminal(folder, answer, left):
    import pty  # noqa: PLC0415  only here

    main, worker = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", CACHE_MAIN, "clear", str(folder)], stdin=worker, stdout=subprocess.PIPE, stderr=worker
    )
    os.close(worker)
    try:
        os.write(main, answer.encode())
        out, _ = process.communicate(timeout=100)
    finally:
        process.kill()  # it must not outlive a time-out
        process.communicate()
        os.close(main)
    assert b"would go" in out
    assert process.returncode == (0 if left == 0 else 1)
    assert len([path for path in folder.rglob("*") if path.is_file()]) == left


CACHE_MAIN = "from hydrax_cli.cache.command import cache; cache(prog_name='hydrax cache')"


def test_clear_dry_run_removes_nothing(run, folder):
    code, out, _ = run("clear", folder, "--dry-run")
    assert code == 0
    assert "would go" in out
    found = values(run("clear", folder, "--dry-run", "--json"))
    assert found["removed"] is False
    assert found["caches"][0]["entries"] == 10
    assert info(folder).entries == 10


def test_clear_of_what_is_not_there_asks_nothing(run, folder):
    code, out, err = run("clear", folder, "--older-than", "1000w")
    assert (code, err) == (0, "")
    assert "nothing to remove" in out
    assert run("clear", folder, "--dry-run", "--yes")[1].startswith("would go")


def test_clear_with_conditions_removes_what_fits_all_of_them(run, folder):
    damage(folder, 4)
    assert values(run("clear", folder, "--corrupt", "--epoch", "1", "--yes", "--json"))["caches"][0]["entries"] == 0
    assert values(run("clear", folder, "--corrupt", "--yes", "--json"))["caches"][0]["entries"] == 1
    assert values(run("clear", folder, "--older-than", "7d", "--yes", "--json"))["caches"][0]["entries"] == 0
    assert values(run("clear", folder, "--older-than", "0s", "--yes", "--json"))["caches"][0]["entries"] == 9


def test_clear_of_a_cache_in_use_is_refused_before_anything_is_asked(run, folder):
    with open_store(folder):
        code, out, err = run("clear", folder)
        assert (code, out) == (1, "")
        assert "a run is using this cache" in err
        assert run("clear", folder, "--dry-run")[0] == 0


@pytest.mark.parametrize("age", ["7", "d", "-3d", "7 years"])
def test_an_age_without_a_unit_is_wrong_usage(run, folder, age):
    code, _, err = run("clear", folder, "--older-than", age, "--yes")
    assert code == 2
    assert "7d" in err


def test_the_commands_start_without_jax(folder):
    code = f"import sys; sys.argv[1:] = ['info', {str(folder)!r}]\nfrom hydrax_cli.cache.command import cache\n"
    code += "cache(standalone_mode=False); sys.exit(bool({'jax', 'rich'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_a_run_with_a_cache_and_the_commands_agree(run, tmp_path):
    def load(item, arrays, seed):
        arrays["x"][...] = item
        return {"name": str(item)}

    group = DataGroup(8, range(100), loader_arrays=ARRAYS, cache_location=tmp_path / "c")
    with Dataloader(load, group, loader_kind="inline", end_at=("epoch", 2)) as loader:
        assert sum(1 for _ in loader) == 24
    assert "12 of 12 (100 %)" in run("info", tmp_path / "c")[1]
    assert run("verify", tmp_path / "c")[0] == 0


# texts of others

ESCAPES = "\x1b]0;owned\x07\x9b31m[bold]"


def rename_in_schema(folder):
    """An index whose schema SQLite finds malformed; its error repeats the name that stands there."""
    connection = sqlite3.connect(folder / "index.sqlite", isolation_level=None)
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("INSERT INTO sqlite_master VALUES ('table', ?, ?, 2, 'CREATE NONSENSE')", (ESCAPES, ESCAPES))
    connection.close()


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize(
    "command",
    [["info"], ["verify"], ["verify", "--repair"], ["clear", "--dry-run"], ["clear", "--epoch", "0", "--yes"]],
)
def test_texts_of_a_cache_of_others_reach_no_terminal_raw(run, tmp_path, command, damaged):
    for name in ("a", "b"):
        folder = fill(tmp_path / f"{name}{ESCAPES}", range(3))
        if damaged:
            rename_in_schema(folder)
            damage(folder, 1)
    assert damaged == ("malformed database schema" in info(folder).problem)
    for more in ([], ["--json"]):
        _, out, err = run(command[0], tmp_path, *command[1:], *more)
        told = click.unstyle(out + err)
        assert "·]0;owned··31m[bold]" in told or "u001b]0;owned" in told
        assert not set(told) & {"\x1b", "\x07", "\x9b"}
