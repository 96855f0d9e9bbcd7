"""Whatever happens to the files of a cache: what is served is the truth, the rest loads anew, nothing raises."""

import contextlib
import os
import random
import shutil
import sqlite3

import cachekit as kit
import pytest

from hydrax_core.cache import clear, verify
from hydrax_core.cache.format.folder import INDEX, LOCK, OLD_INDEX

ROUNDS = int(os.environ.get("HYDRAX_CACHE_ROUNDS", "30"))  # `make faults` asks for more


def flip(path, source):
    data = bytearray(path.read_bytes())
    for _ in range(source.choice([1, 1, 1, 5])):
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)
    path.write_bytes(data)


def cut(path, source):
    os.truncate(path, source.randrange(path.stat().st_size))


def overwrite(path, source):
    data = bytearray(path.read_bytes())
    start = source.randrange(len(data))
    length = source.randint(1, 5000)
    data[start : start + length] = source.randbytes(min(length, len(data) - start))
    path.write_bytes(data)


def shift(path, source):
    """A byte more or less in the middle, so that all behind it lies elsewhere."""
    data = path.read_bytes()
    at = source.randrange(len(data))
    path.write_bytes(data[:at] + (b"?" + data[at:] if source.random() < 0.5 else data[at + 1 :]))


def delete(path, source):
    path.unlink()


def old_bytes(path, source):
    """Zeros, as after a loss of power on a careless disk."""
    data = bytearray(path.read_bytes())
    start = source.randrange(len(data)) // 512 * 512
    data[start : start + 4096] = bytes(len(data[start : start + 4096]))
    path.write_bytes(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return kit.fill(tmp_path_factory.mktemp("whole") / "c")


def damaged_copy(whole, place, source):
    shutil.copytree(whole, place)
    damage = source.choice([flip, flip, flip, cut, cut, overwrite, shift, delete, old_bytes])
    path = source.choice(kit.files_of(place))
    before = path.read_bytes()
    damage(path, source)
    changed = not path.exists() or path.read_bytes() != before
    return f"{damage.__name__} {path.name}", path.name, changed


@pytest.mark.timeout(60 + ROUNDS)
def test_no_damage_anywhere_makes_anything_wrong_be_served(whole, tmp_path, caplog):
    for number in range(ROUNDS):
        source = random.Random(f"damage {number}")
        place = tmp_path / str(number)
        what, name, changed = damaged_copy(whole, place, source)

        before = kit.snapshot(place)
        read, _ = kit.served(place, cache_readonly=True)
        assert kit.snapshot(place) == before, what
        findings = list(verify(place))
        found, counters = kit.served(place)
        assert set(read) <= set(found), what
        missing = sorted({*range(kit.BATCHES)} - set(found))
        # What was lost shows in the findings; a byte that nobody reads may be neither lost nor found.
        assert not missing or findings, what
        assert not changed or findings or name == INDEX, what
        if name.endswith(".npy") and findings:
            assert counters.corrupt == len(missing), what

        # Damage to the index may turn up in the middle, and take rows of batches that were served before it, or that
        # were just written.
        for _ in range(3 if name == INDEX else 1):
            with kit.open_store(place) as store:
                for batch in missing:
                    store.write(0, batch, kit.batch(batch), kit.additional(batch))
            again, counters = kit.served(place)
            missing = sorted({*range(kit.BATCHES)} - set(again))
        assert (len(again), counters.corrupt) == (kit.BATCHES, 0), what
        list(verify(place, repair=True))
        assert list(verify(place)) == [], what
        assert name == INDEX or len(kit.served(place)[0]) == kit.BATCHES, what
        shutil.rmtree(place)


@pytest.mark.timeout(60 + ROUNDS)
def test_repair_alone_leaves_a_clean_cache_of_true_entries(whole, tmp_path):
    for number in range(ROUNDS // 3):
        source = random.Random(f"repair {number}")
        place = tmp_path / str(number)
        what, name, _ = damaged_copy(whole, place, source)
        findings = list(verify(place, repair=True))
        left = list(verify(place))
        assert [finding.where for finding in left] == [f.where for f in findings if not f.repaired], what
        if not left:
            bad = {finding.number for finding in findings if finding.number is not None}
            found, counters = kit.served(place)
            assert counters.corrupt == 0, what
            assert name == INDEX or set(found) == {*range(kit.BATCHES)} - bad, what
        shutil.rmtree(place)


def test_damage_while_the_cache_is_open_is_found_before_the_first_use(whole, tmp_path):
    source = random.Random(5)
    for number in range(10):
        place = tmp_path / str(number)
        shutil.copytree(whole, place)
        with kit.open_store(place) as store:
            assert kit.serve(store, 0)
            path = place / "epoch-0" / source.choice(["x.npy", "label.npy", "half.npy"])
            entry = (path.stat().st_size - 4096) // kit.BATCHES
            with path.open("r+b") as file:
                file.seek(4096 + 7 * entry + source.randrange(entry))
                byte = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte[0] ^ 4]))
            assert [kit.serve(store, batch) for batch in (6, 7, 8)] == [True, False, True]
            assert store.counters().corrupt == 1
            store.write(0, 7, kit.batch(7), kit.additional(7))
            store.flush()
            assert kit.serve(store, 7)


def test_a_file_cut_while_the_cache_is_open_is_noticed_at_the_next_read(whole, tmp_path):
    place = shutil.copytree(whole, tmp_path / "c")
    with kit.open_store(place) as store:
        assert all(kit.serve(store, number) for number in range(kit.BATCHES))
        os.truncate(place / "epoch-0" / "x.npy", 4096 + 5 * 8 * 64)
        assert [kit.serve(store, number) for number in range(kit.BATCHES)] == [True] * 5 + [False] * 7
        for number in range(5, kit.BATCHES):
            store.write(0, number, kit.batch(number), kit.additional(number))
        store.flush()
        assert all(kit.serve(store, number) for number in range(kit.BATCHES))


def test_files_deleted_while_the_cache_is_open_are_made_anew(whole, tmp_path):
    place = shutil.copytree(whole, tmp_path / "c")
    with kit.open_store(place) as store:
        assert kit.serve(store, 0)
        shutil.rmtree(place / "epoch-0")
        assert kit.serve(store, 1)  # the mapping still has the true bytes
    found, counters = kit.served(place)
    assert found == []
    assert counters.corrupt > 0


def test_an_index_damaged_while_the_cache_is_open_is_set_aside_without_an_error(whole, tmp_path, caplog):
    place = shutil.copytree(whole, tmp_path / "c")
    with kit.open_store(place) as store:
        (place / INDEX).write_bytes(b"no database " * 4000)
        for number in range(kit.BATCHES):
            if not kit.serve(store, number):
                store.write(0, number, kit.batch(number), kit.additional(number))
        store.flush()
        assert store.counters().error == ""
    assert (place / OLD_INDEX).exists()
    assert "set aside" in caplog.text
    with kit.open_store(place) as store:
        for number in range(kit.BATCHES):
            if not kit.serve(store, number):
                store.write(0, number, kit.batch(number), kit.additional(number))
    assert len(kit.served(place)[0]) == kit.BATCHES


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE entries SET number = number + 1 WHERE number >= 6",
        "UPDATE entries SET epoch = 1",
        "UPDATE entries SET checksum = (SELECT checksum FROM entries WHERE number = 0)",
        "UPDATE entries SET additional = (SELECT additional FROM entries WHERE number = 1) WHERE number % 2",
        "UPDATE entries SET additional = NULL",
        "UPDATE entries SET additional = x'00'",
        "UPDATE entries SET created = created + 1",
        "UPDATE entries SET size = 'many'",
        "UPDATE entries SET checksum = 'text'",
        "UPDATE entries SET additional = 17, checksum = 3.5",
        "INSERT INTO entries VALUES (0, 900, x'00', 0, 0, NULL)",
        "INSERT INTO entries VALUES (-5, -3, x'00', 0, 0, NULL)",
        "INSERT INTO entries VALUES ('a', 'b', x'00', 0, 0, NULL)",
        "CREATE VIEW more AS SELECT * FROM entries",
        "CREATE TRIGGER t AFTER DELETE ON entries BEGIN DELETE FROM entries; END",
        "DROP TABLE entries",
        "ALTER TABLE entries RENAME COLUMN created TO made",
        "PRAGMA user_version = 2",
        "PRAGMA application_id = 2",
        "PRAGMA journal_mode = WAL",
        "PRAGMA page_size = 512; VACUUM",
    ],
)
def test_rows_that_were_changed_serve_nothing_wrong(whole, tmp_path, change):
    place = shutil.copytree(whole, tmp_path / "c")
    connection = sqlite3.connect(place / INDEX, isolation_level=None)
    try:
        connection.executescript(change)
    except sqlite3.IntegrityError:
        connection.executescript("DELETE FROM entries WHERE number = 7; " + change.replace(">= 6", "= 6"))
    finally:
        connection.close()
    for readonly in (True, False):
        kit.served(place, cache_readonly=readonly)
    list(verify(place, repair=True))
    assert list(verify(place)) == []


def test_crafted_pickles_are_not_executed_by_reading_verifying_or_clearing(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    place = tmp_path / "c"
    with kit.open_store(place, cache_pickle=True) as store:  # checksums and all are right
        store.write(0, 0, kit.batch(0), {"bomb": [Bomb()] * kit.BATCH})
    with kit.open_store(place, cache_by="batch") as store:
        assert store.read(0, 0) is None
    assert list(verify(place)) == []
    assert list(verify(place, repair=True)) == []
    clear(place, corrupt=True)
    clear(place)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["epoch-0", "epoch-0/x.npy", INDEX, LOCK, "hydrax-cache.json", f"{INDEX}-journal"])
def test_links_are_neither_followed_nor_written_through(whole, tmp_path, name):
    place = shutil.copytree(whole, tmp_path / "c")
    outside = tmp_path / "outside"
    victim = place / name
    if victim.exists():
        shutil.move(victim, outside)
    else:
        outside.write_bytes(b"precious " * 2000)
    victim.symlink_to(outside)
    before = kit.snapshot(outside) or outside.read_bytes()
    for act in (
        lambda: kit.served(place, cache_readonly=True),
        lambda: kit.served(place),
        lambda: kit.fill(place, batches=range(2)),
        lambda: list(verify(place)),
        lambda: list(verify(place, repair=True)),
        lambda: clear(place, epoch=0),
        lambda: clear(place),
    ):
        with contextlib.suppress(OSError, ValueError, AssertionError, kit.HydraxError):
            act()  # an error is fine, a change outside is not
        assert (kit.snapshot(outside) or outside.read_bytes()) == before


@pytest.mark.parametrize("name", ["epoch-0/x.npy", INDEX, LOCK, "hydrax-cache.json"])
def test_a_pipe_in_place_of_a_file_does_not_hang(whole, tmp_path, name):
    place = shutil.copytree(whole, tmp_path / "c")
    (place / name).unlink()
    os.mkfifo(place / name)
    for act in (lambda: kit.served(place), lambda: list(verify(place)), lambda: list(verify(place, repair=True))):
        try:
            act()
        except (OSError, ValueError, kit.HydraxError):
            continue


def test_a_commit_cut_off_in_the_middle_is_undone_or_read_as_nothing(tmp_path):
    place = kit.fill(tmp_path / "c")
    connection = sqlite3.connect(place / INDEX, isolation_level=None)
    connection.executescript("PRAGMA cache_size = 1; PRAGMA synchronous = FULL; BEGIN IMMEDIATE")
    connection.execute("UPDATE entries SET checksum = x'00'")
    for number in range(3000):
        connection.execute("INSERT INTO entries VALUES (7, ?, zeroblob(16), 0, 0, zeroblob(500))", (number,))
    killed = shutil.copytree(place, tmp_path / "killed")  # what kill -9 leaves: a changed file and its journal
    connection.rollback()
    connection.close()
    assert (killed / f"{INDEX}-journal").stat().st_size > 4096
    readonly = shutil.copytree(killed, tmp_path / "readonly")
    before = kit.snapshot(readonly)
    with kit.open_store(readonly, cache_readonly=True) as store:
        for number in range(kit.BATCHES):
            kit.serve(store, number)
    assert kit.snapshot(readonly) == before
    assert kit.served(killed)[0] == list(range(kit.BATCHES))
    assert list(verify(killed)) == []
