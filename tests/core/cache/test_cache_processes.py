"""Real processes: several at once, and killed at any moment."""

import os
import random
import shutil
import subprocess

import cachekit as kit
import pytest

from hydrax_core.cache import clear, info, verify
from hydrax_core.cache.format import folder
from hydrax_core.errors import CacheBusyError

KILLS = int(os.environ.get("HYDRAX_CACHE_KILLS", "4"))  # `make faults` asks for more

WRITE = """
    import random
    import hydrax_core.cache.store.writer as writer
    folder, seed, salt = arguments[0], arguments[1], int(arguments[2])
    source = random.Random(seed)
    writer._GROUP_SECONDS = source.choice([0, 0.001, 0.02])
    print("ready"); sys.stdin.readline()
    store = kit.open_store(folder, shuffle_later="itemwise", cacher_count=source.randint(1, 3))
    places = [(epoch, number) for epoch in range(int(arguments[3])) for number in range(kit.BATCHES)]
    source.shuffle(places)
    for epoch, number in places:
        store.write(epoch, number, kit.batch(number, epoch, salt), None if salt else kit.additional(number, epoch))
        print(epoch, number)
    store.close()
    print("written", store.counters().written, store.counters().error)
"""


def check_served(folder, epochs):
    served = 0
    with kit.open_store(folder, shuffle_later="itemwise") as store:
        for epoch in range(epochs):
            served += sum(kit.serve(store, number, epoch) for number in range(kit.BATCHES))
        assert store.counters().corrupt == 0
    return served


@pytest.mark.timeout(60 + 5 * KILLS)
def test_killed_writers_leave_only_whole_entries(tmp_path):
    folder, epochs, before = tmp_path / "c", 30, 0
    for number in range(KILLS):
        source = random.Random(number)
        children = [kit.start(WRITE, folder, f"{number} {child}", 0, epochs) for child in range(2)]
        for child in children:
            child.line()
            child.tell("go")
        for child in children:
            for _ in range(source.randrange(80)):
                child.line()
            child.kill()
        if not folder.exists():
            continue
        bad = {finding.what for finding in verify(folder)} - {"unfinished", "orphaned"}
        assert not bad
        served = check_served(folder, epochs)
        assert served >= before
        before = served
    list(verify(folder, repair=True))
    assert list(verify(folder)) == []
    assert check_served(folder, epochs) == before
    child = kit.start(WRITE, folder, "last", 0, epochs)
    child.tell("go")
    child.result()
    assert check_served(folder, epochs) == epochs * kit.BATCHES


def test_several_processes_fill_one_cache_and_write_each_entry_once(tmp_path):
    epochs = 6
    children = [kit.start(WRITE, tmp_path / "c", seed, 0, epochs) for seed in range(4)]
    for child in children:
        assert child.line() == "ready"
    for child in children:
        child.tell("go")
    last = [child.result().splitlines()[-1].split() for child in children]
    assert all(words[0] == "written" for words in last)
    assert sum(int(words[1]) for words in last) == epochs * kit.BATCHES
    assert check_served(tmp_path / "c", epochs) == epochs * kit.BATCHES
    assert list(verify(tmp_path / "c")) == []


def test_entries_of_writers_that_disagree_are_wholly_of_one_of_them(tmp_path):
    children = [kit.start(WRITE, tmp_path / "c", salt, salt, 4) for salt in (1, 2, 3)]
    for child in children:
        child.line()
        child.tell("go")
    for child in children:
        child.result()
    with kit.open_store(tmp_path / "c", shuffle_later="itemwise") as store:
        for epoch in range(4):
            for number in range(kit.BATCHES):
                found = store.read(epoch, number).arrays
                assert sum(kit.equal(found, kit.batch(number, epoch, salt)) for salt in (1, 2, 3)) == 1


def test_a_reader_beside_a_writer_sees_entries_appear_and_never_a_wrong_one(tmp_path):
    kit.fill(tmp_path / "c", epochs=(), shuffle_later="itemwise")
    child = kit.start(WRITE, tmp_path / "c", 0, 0, 8)
    child.line()
    child.tell("go")
    seen = 0
    with kit.open_store(tmp_path / "c", shuffle_later="itemwise", cache_readonly=True) as store:
        while not (line := child.line()).startswith("written"):
            epoch, number = map(int, line.split())
            seen += kit.serve(store, number, epoch)
        assert store.counters().corrupt == 0
        assert [kit.serve(store, number, 7) for number in range(kit.BATCHES)] == [True] * kit.BATCHES
    child.result()


def test_clear_and_repair_refuse_while_a_run_uses_the_cache_and_work_when_it_was_killed(tmp_path):
    script = """
        store = kit.open_store(arguments[0])
        store.write(0, 1, kit.batch(1)); store.flush()
        print("open"); sys.stdin.readline()
    """
    child = kit.start(script, tmp_path)
    assert child.line() == "open"
    before = kit.snapshot(tmp_path)
    for act in (lambda: clear(tmp_path), lambda: clear(tmp_path, epoch=0), lambda: verify(tmp_path, repair=True)):
        with pytest.raises(CacheBusyError, match="a run is using"):
            act()
    assert info(tmp_path).in_use
    assert clear(tmp_path, dry_run=True).entries == 1
    assert list(verify(tmp_path)) == []
    assert kit.snapshot(tmp_path) == before
    child.kill()
    assert not info(tmp_path).in_use
    assert clear(tmp_path).entries == 1


def test_a_reader_keeps_clear_away_too(tmp_path):
    kit.fill(tmp_path)
    with kit.open_store(tmp_path, cache_readonly=True) as store:
        assert kit.serve(store, 0)
        with pytest.raises(CacheBusyError):
            clear(tmp_path)


def test_two_stores_in_one_process_exclude_each_other_like_processes(tmp_path):
    with kit.open_store(tmp_path) as one, kit.open_store(tmp_path) as two:
        for number in range(kit.BATCHES):
            one.write(0, number, kit.batch(number), kit.additional(number))
            two.write(0, number, kit.batch(number), kit.additional(number))
        one.flush()
        two.flush()
        assert one.counters().written + two.counters().written == kit.BATCHES
        with pytest.raises(CacheBusyError):
            clear(tmp_path)
    assert len(kit.served(tmp_path)[0]) == kit.BATCHES


def test_a_cache_that_was_cleared_while_others_waited_for_it_is_made_anew(tmp_path):
    kit.fill(tmp_path)
    clear(tmp_path)
    assert list(tmp_path.iterdir()) == []
    kit.fill(tmp_path)
    assert len(kit.served(tmp_path)[0]) == kit.BATCHES


def namespace(command):
    """The arguments that run a shell command where it may mount; skips the test where that is not allowed."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("this machine lets nobody make a mount namespace")
    return ["unshare", "-rm", "sh", "-ec", command]


def run_within(tmp_path, mount, script):
    """Run a script with ``tmp_path`` as argument after a mount that ends with it."""
    path = tmp_path / "script.py"
    head = f"import sys; sys.path.insert(0, {str(kit.HERE)!r}); import cachekit as kit; folder = sys.argv[1]\n"
    path.write_text(head + kit.textwrap.dedent(script))
    command = namespace(f'{mount} && exec "{kit.sys.executable}" "{path}" "{tmp_path}/c"')
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)


def test_a_cache_on_a_read_only_file_system_is_read(tmp_path):
    kit.fill(tmp_path / "c")
    before = kit.snapshot(tmp_path / "c")
    script = """
        import logging; logging.basicConfig()
        with kit.open_store(folder) as store:
            print(store.readonly, sum(kit.serve(store, number) for number in range(kit.BATCHES)))
            store.write(0, 0, kit.batch(0))
        print(len(list(kit.verify(folder))), kit.info(folder).entries)
        try:
            kit.clear(folder)
        except kit.HydraxError as error:
            print(type(error).__name__)
    """
    place = tmp_path / "c"
    ended = run_within(tmp_path, f'mount --bind "{place}" "{place}" && mount -o remount,ro,bind "{place}"', script)
    assert ended.stdout.split() == ["True", "12", "0", "12", "CacheError"], ended.stderr
    assert "cannot be written" in ended.stderr
    assert kit.snapshot(place) == before


def test_a_full_file_system_ends_caching_with_one_line_and_nothing_wrong(tmp_path):
    (tmp_path / "c").mkdir()
    script = """
        import logging, numpy as np; logging.basicConfig()
        arrays = {"x": ((256, 256), "float32")}
        batch = lambda number: {"x": np.full((kit.BATCH, 256, 256), number + 1, np.float32)}
        with kit.open_store(folder, loader_arrays=arrays) as store:
            for number in range(kit.BATCHES):
                store.write(0, number, batch(number))
                if number == 2: store.flush()
            store.flush()
            print(store.writing, bool(store.counters().error))
        with kit.open_store(folder, loader_arrays=arrays) as store:
            found = [store.read(0, number) for number in range(kit.BATCHES)]
            print(sum(entry is not None for entry in found), store.counters().corrupt)
            print(all(entry is None or (entry.arrays["x"] == number + 1).all() for number, entry in enumerate(found)))
    """
    place = tmp_path / "c"
    ended = run_within(tmp_path, f'mount -t tmpfs -o size=12m none "{place}"', script)
    writing, error, served, corrupt, right = ended.stdout.split()
    assert (writing, error, corrupt, right) == ("False", "True", "0", "True"), ended.stderr
    assert 3 <= int(served) < kit.BATCHES
    assert ended.stderr.count("caching is off") == 1
    assert "No space left" in ended.stderr


def test_a_manifest_that_another_process_puts_in_place_meanwhile_is_seen(tmp_path, monkeypatch):
    (tmp_path / "hydrax-cache.lock").touch()
    look = folder.is_regular

    def late(path):
        there = look(path)
        (tmp_path / "hydrax-cache.json").touch()
        return there

    monkeypatch.setattr(folder, "is_regular", late)
    assert folder.is_cache(tmp_path)
