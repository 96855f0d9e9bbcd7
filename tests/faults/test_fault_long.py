"""What costs minutes, with ``make faults`` only: every format of files flipped, other data against a cache, workers of
groups of sources killed, signals, edits and handlers of logs at random moments. All rounds are seeded.
"""

import contextlib
import dataclasses
import io
import json
import logging
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import tarfile
import wave

import numpy as np
import pytest
from faultkit import KINDS, LONG, collect, contents, damaged, group, python, start_python
from faultloads import fill

from hydrax_core import CacheMismatchError, Dataloader, LoaderError, StateMismatchError
from hydrax_core.sources import arrow, image_folder, jsonl, numpy_rows, tar

pytestmark = [pytest.mark.timeout(1800), pytest.mark.skipif(not LONG, reason="HYDRAX_FAULTS=long")]

ROWS = 60
NUMBERS = np.arange(ROWS, dtype="int32")
IMAGES = np.random.default_rng(5).integers(0, 256, (ROWS, 6, 6), np.uint8)


# --- hostile inputs: the bytes of every format


def write_csv(path):
    path.write_text("number,share\n" + "".join(f"{n},{n / 7:.3f}\n" for n in NUMBERS))


def write_jsonl(path):
    path.write_text("".join(json.dumps({"number": int(n), "list": [1, int(n)]}) + "\n" for n in NUMBERS))


def write_tar(path):
    with tarfile.open(path, "w") as archive:
        for n in NUMBERS:
            buffer = io.BytesIO()
            np.save(buffer, IMAGES[n])
            for suffix, content in (("npy", buffer.getvalue()), ("cls", b"%d" % n)):
                member = tarfile.TarInfo(f"{n:04}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def arrow_table():
    import pyarrow as pa  # noqa: PLC0415  an extra

    return pa.table({"number": NUMBERS, "pixels": [image.ravel().tolist() for image in IMAGES]})


def write_parquet(path):
    import pyarrow.parquet as pq  # noqa: PLC0415  same

    pq.write_table(arrow_table(), path, row_group_size=16)


def write_feather(path):
    import pyarrow as pa  # noqa: PLC0415  same

    table = arrow_table()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=16)


def write_sqlite(path):
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE digits (label INTEGER, ink REAL)")
        database.executemany("INSERT INTO digits VALUES (?, ?)", [(int(n), n / 7) for n in NUMBERS])


def write_hdf5(path):
    import h5py  # noqa: PLC0415  same

    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=IMAGES, chunks=(16, 6, 6), compression="gzip")
        file.create_dataset("number", data=NUMBERS)


def write_records(path):
    from array_record.python.array_record_module import ArrayRecordWriter  # noqa: PLC0415  same

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for image in IMAGES:
        writer.write(image.tobytes())
    writer.close()


def write_lmdb(path):
    import lmdb  # noqa: PLC0415  same

    with lmdb.open(str(path), map_size=1 << 20, subdir=False) as environment, environment.begin(write=True) as change:
        for n in NUMBERS:
            change.put(b"%05d" % n, IMAGES[n].tobytes())


def write_sound(path):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(np.arange(8000, dtype="<i2").tobytes())


def write_tokens(path):
    np.save(path, np.arange(4000, dtype="uint16"))


FORMATS = {
    "csv": (write_csv, "csv({path!r}, batch_size=4).training"),
    "jsonl": (write_jsonl, "jsonl({path!r}, batch_size=4).training"),
    "txt": (write_csv, "text_lines({path!r}, length=16, batch_size=4).training"),
    "tar": (write_tar, "tar({path!r}, batch_size=4).training"),
    "parquet": (write_parquet, "arrow({path!r}, batch_size=4).training"),
    "arrow": (write_feather, "arrow({path!r}, batch_size=4).training"),
    "db": (write_sqlite, "sqlite({path!r}, 'digits', batch_size=4).training"),
    "h5": (write_hdf5, "hdf5({path!r}, batch_size=4).training"),
    "array_record": (write_records, "array_record({path!r}, batch_size=4).training"),
    "lmdb": (write_lmdb, "lmdb({path!r}, batch_size=4).training"),
    "wav": (write_sound, "audio_folder(os.path.dirname({path!r}), seconds=0.1, batch_size=1).training"),
    "npy": (write_tokens, "tokens({path!r}, 8, batch_size=4).training"),
}
MAY_CRASH = {"lmdb", "h5"}
"""Their C libraries read what a file says of itself without a doubt: see docs/reliability.md."""

READ = """
    import warnings
    from hydrax_core.sources import *
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        path = line.strip()
        try:
            with Dataloader({source}, loader_kind="inline", end_at=("epoch", 1), timeout_sec=20) as loader:
                rows = sum(batch.size for batch in loader)
            print("read", rows, flush=True)
        except (HydraxError, ValueError, OSError, MemoryError, TypeError) as error:
            # A header that claims rows of gigabytes ends as any group of such rows.
            named = os.path.basename(path) in str(error) or isinstance(error, MemoryError)
            print("refused", named, type(error).__name__, repr(str(error)[:300]), flush=True)
"""


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_of_every_format_are_read_or_refused_by_name(name, tmp_path, record_property):
    write, source = FORMATS[name]
    whole = tmp_path / f"whole.{name}"
    write(whole)
    data, count = whole.read_bytes(), 300
    record_property("rounds", count)
    paths = [whole]
    for number in range(count):
        folder = tmp_path / str(number)
        folder.mkdir()
        paths.append(folder / f"damaged.{name}")
        paths[-1].write_bytes(damaged(data, random.Random(number)))
    if name == "wav":
        (tmp_path / "whole").mkdir()
        paths[0] = shutil.move(whole, tmp_path / "whole" / "whole.wav")
    answers, crashes = [], []
    program = READ.replace("{source}", source.replace("{path!r}", "path"))
    while len(answers) < len(paths):
        lines = "".join(f"{path}\n" for path in paths[len(answers) :])
        process = start_python(program, stdin=subprocess.PIPE)
        output, errors = process.communicate(lines, timeout=900)
        answers += output.splitlines()
        if process.returncode:
            crashes.append((str(paths[len(answers)]), process.returncode, errors[-2000:]))
            answers.append("crashed")
    assert answers[0].startswith("read ")
    assert not [
        (path, answer) for path, answer in zip(paths, answers, strict=True) if answer.startswith("refused False")
    ]
    assert not crashes or name in MAY_CRASH, crashes
    assert sum(answer.startswith("refused") for answer in answers) > count / 20


# --- other data against a cache and a state


@dataclasses.dataclass
class Item:
    number: int
    name: str


def lists(folder):
    def change(items, chance):
        place = chance.randrange(ROWS)
        what = chance.choice(["value", "swap", "drop", "add", "type"])
        if what == "value":
            items[place] += 1000
        elif what == "swap":
            other = (place + chance.randrange(1, ROWS)) % ROWS
            items[place], items[other] = items[other], items[place]
        elif what == "drop":
            del items[place]
        elif what == "add":
            items.insert(place, 5000)
        else:
            items[place] = float(items[place])
        return items

    return lambda: [*range(ROWS)], change, by_number


def objects(folder):
    def change(items, chance):
        one = items[chance.randrange(ROWS)]
        if chance.random() < 0.5:
            one.number += 1
        else:
            one.name += "x"
        return items

    return (
        lambda: [Item(n, f"item {n}") for n in range(ROWS)],
        change,
        lambda item, arrays, seed: by_number(item.number, arrays, seed),
    )


def by_number(item, arrays, seed):
    arrays["x"][...] = item
    arrays["item"][...] = item
    arrays["seed"][...] = seed or 0


@pytest.mark.parametrize("cache_by", ["batch", "item"])
@pytest.mark.parametrize("kind", [lists, objects])
def test_other_items_are_never_served_from_a_cache_nor_gone_on_with(kind, cache_by, tmp_path, record_property):
    count = 150
    record_property("rounds", count)
    made, change, load = kind(tmp_path)

    def loader(items, **more):
        return Dataloader(load, group(items, cache_by=cache_by, **more), loader_kind="inline", end_at=("epoch", 2))

    with loader(made(), cache_location=tmp_path / "c") as first:
        expected = contents(first)
    with loader(made()) as plain:
        next(plain)
        state = plain.state_dict()
    with loader(made(), cache_location=tmp_path / "c") as again:
        assert contents(again) == expected
        assert again.stats().cache_misses == 0
    for number in range(count):
        items = change(made(), random.Random(number))
        with pytest.raises(CacheMismatchError), loader(items, cache_location=tmp_path / "c"):
            pass
        with pytest.raises(StateMismatchError):
            loader(items).load_state_dict(state)


def numbers_in_a_file(folder):
    np.save(folder / "a.npy", np.arange(ROWS * 4, dtype="float32").reshape(ROWS, 4))
    return [folder / "a.npy"], lambda: numpy_rows(folder / "a.npy", batch_size=8).training


def lines_of_json(folder):
    write_jsonl(folder / "a.jsonl")
    return [folder / "a.jsonl"], lambda: jsonl(folder / "a.jsonl", batch_size=8).training


def shards(folder):
    write_tar(folder / "a.tar")
    return [folder / "a.tar"], lambda: tar(folder / "a.tar", batch_size=8).training


def table(folder):
    write_feather(folder / "a.arrow")
    return [folder / "a.arrow"], lambda: arrow(folder / "a.arrow", batch_size=8).training


def pictures(folder):
    from PIL import Image  # noqa: PLC0415  an extra

    for n in range(12):
        (folder / f"class {n % 2}").mkdir(exist_ok=True)
        Image.fromarray(IMAGES[n]).save(folder / f"class {n % 2}" / f"{n}.png")
    return sorted(folder.rglob("*.png")), lambda: image_folder(folder, size=6, batch_size=2).training


FILES = [numbers_in_a_file, lines_of_json, shards, table, pictures]


@pytest.mark.parametrize("kind", FILES)
def test_files_rewritten_in_place_are_never_served_from_a_cache(kind, tmp_path, record_property):
    count = 40
    record_property("rounds", count)
    (tmp_path / "data").mkdir()
    paths, make = kind(tmp_path / "data")

    def served():
        cached = make().replace(cache_location=tmp_path / "c", shuffle_later="repeat")
        with Dataloader(cached, loader_kind="inline", end_at=("epoch", 1)) as loader:
            return contents(loader)

    expected = served()
    for number in range(count):
        chance = random.Random(number)
        path = chance.choice(paths)
        before, data = path.stat(), path.read_bytes()
        what = chance.choice(["same bytes", "longer", "other name"])
        if what == "same bytes":
            path.write_bytes(data)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + chance.choice([-1, 1, 10**9])))
        elif what == "longer":
            path.write_bytes(data + b"\n")
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        else:
            path.rename(path.with_name(f"other {path.name}"))
        with pytest.raises((CacheMismatchError, ValueError, OSError)):
            served()
        path.with_name(f"other {path.name}").unlink(missing_ok=True)
        path.write_bytes(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert served() == expected


# --- killed workers


def kill_at_random(loader, chance, every):
    """Kills a worker now and then while the loader is read; the digests of its batches."""
    found = []
    for batch in loader:
        found.append(xxhash_of(batch))
        if chance.random() < every:
            pids = [worker.pid for worker in loader.stats().workers if worker.pid]
            if pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(pids), signal.SIGKILL)
    return found


def xxhash_of(batch):
    return contents([batch])[0]


def test_killed_workers_change_nothing_of_groups_of_several_sources(tmp_path, record_property):
    count = 8
    record_property("rounds", count)
    groups = []
    for kind in FILES:
        (tmp_path / kind.__name__).mkdir()
        groups.append(kind(tmp_path / kind.__name__)[1]().replace(shuffle_first=True))
    training, validation = groups[:3], groups[3:]

    def loader(**more):
        return Dataloader(
            training,
            validation=("epoch", 1, validation),
            end_at=("epoch", 3),
            weights=[3, 1, 2],
            timeout_sec=60,
            **more,
        )

    with loader(loader_kind="inline") as plain:
        expected = contents(plain)
    restarts = 0
    for number in range(count):
        with loader(loader_count=2) as killed:
            assert kill_at_random(killed, random.Random(number), 0.15) == expected
            restarts += killed.stats().worker_restarts
    assert restarts > count


# --- signals, edits, handlers


class AlarmError(Exception):
    pass


def told(batch):
    """A batch as values; the repr of a dataclass is a stub for good once an exception has cut it off."""
    arrays = {name: np.asarray(array).tobytes() for name, array in batch.arrays.items()}
    return str(batch.address), batch.indices, batch.seeds, arrays, batch.get_additional("name")


# A file whose opening was interrupted is closed by the garbage collector, with a warning.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_exceptions_of_a_signal_handler_at_any_moment_lose_at_most_the_batch_in_hand(kind, record_property):
    count = 30
    record_property("rounds", count)
    with Dataloader(fill, group(), loader_kind="inline", end_at=("epoch", 20)) as loader:
        expected = [told(batch) for batch in loader]
    chance = random.Random(4)

    def alarm(*_):
        raise AlarmError

    before = signal.signal(signal.SIGALRM, alarm)
    alarms = 0
    try:
        for _ in range(count):
            found, raised, whole = [], 0, False
            with (
                contextlib.suppress(AlarmError),
                Dataloader(fill, group(), loader_kind=kind, end_at=("epoch", 20), timeout_sec=30) as loader,
            ):
                try:
                    while True:
                        try:
                            signal.setitimer(signal.ITIMER_REAL, chance.random() * 0.02)
                            for batch in loader:
                                found.append(told(batch))  # noqa: PERF401  an exception must not lose the others
                            whole = True
                            break
                        except (AlarmError, LoaderError):  # inline, it may come out of the loader
                            raised += 1
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            places = [expected.index(entry) for entry in found]
            assert places == sorted(set(places))
            assert not whole or len(expected) - len(found) <= raised
            alarms += raised
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert alarms > count / 2


def test_edits_while_it_runs_change_nothing_whoever_dies(tmp_path, record_property):
    count = 25
    record_property("rounds", count)
    program = """
        import importlib, random
        sys.path.insert(0, sys.argv[1])
        import edited_loader
        chance = random.Random(int(sys.argv[2]))
        found = []
        with Dataloader(edited_loader.load, DataGroup(2, range(400), loader_arrays={"x": ((), "int32")}),
                        loader_count=2, end_at=("epoch", 1), timeout_sec=30) as loader:
            for batch in loader:
                found += batch.arrays["x"].tolist()
                if chance.random() < 0.1:
                    edit = chance.choice(["FACTOR = 7\\n", "FACTOR =", "raise SystemExit\\n", ""])
                    with open(f"{sys.argv[1]}/{chance.choice(['edited_helper', 'edited_loader'])}.py", "w") as file:
                        file.write(edit)
                if chance.random() < 0.03:
                    os.kill(chance.choice(loader.stats().workers).pid, signal.SIGKILL)
        assert found == [3 * n for n in range(400)], found
    """
    for number in range(count):
        (tmp_path / "edited_helper.py").write_text("FACTOR = 3\n")
        (tmp_path / "edited_loader.py").write_text(
            "import edited_helper\ndef load(item, arrays, seed):\n    arrays['x'][...] = edited_helper.FACTOR * item\n"
        )
        environment = {"PYTHONDONTWRITEBYTECODE": "1"}
        python(program, arguments=[str(tmp_path), str(number)], env=environment, seconds=120)


@pytest.mark.parametrize("kind", KINDS)
def test_handlers_of_logs_that_raise_now_and_then_end_nothing(kind, monkeypatch, record_property):
    count = 30
    record_property("rounds", count)

    class Sometimes(logging.Handler):
        def emit(self, _record):
            if chance.random() < 0.5:
                raise chance.choice([ZeroDivisionError, StopIteration, RecursionError, MemoryError])

    def failing(item, arrays, seed):
        if item % 7 == 3:
            raise ValueError(item)
        return fill(item, arrays, seed)

    logger = logging.getLogger("hydrax")
    for number in range(count):
        chance = random.Random(number)
        on_error = chance.choice(["skip", "substitute"])
        options = {"on_error": on_error, "end_at": ("epoch", 2), "timeout_sec": 30}
        with Dataloader(failing, group(), loader_kind="inline", **options) as plain:
            expected = collect(plain)
        with monkeypatch.context() as patch, Dataloader(failing, group(), loader_kind=kind, **options) as loader:
            patch.setattr(logger, "handlers", [Sometimes(level=logging.DEBUG)])
            patch.setattr(logging, "raiseExceptions", False)
            assert collect(loader) == expected
