"""The commands take an address where they take a path, and show it without credentials."""

import json
import re

import numpy as np
import pytest
from remotekit import serving

from hydrax_cli.main import run_command_line
from hydrax_cli.shared.recognise import SourceOptions, recognise
from hydrax_cli.shared.target import load_target


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path) as made:
        yield made


def run(capsys, *arguments):
    code = run_command_line(["run", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_run_takes_an_address_and_gives_what_the_file_gives(server, tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.arange(300, dtype=np.float32).reshape(100, 3))
    host = server.address[7:]
    _, here, _ = run(capsys, str(tmp_path / "a.npy"), "--digest", "--json", "-")
    code, there, told = run(capsys, f"http://ann:secret@{host}/a.npy?sig=secret", "--digest", "--json", "-")
    assert code == 0
    assert json.loads(there)["digest"] == json.loads(here)["digest"]
    assert json.loads(there)["target"] == f"http://{host}/a.npy"
    code, text, more = run(capsys, f"http://ann:secret@{host}/a.npy?sig=secret")
    assert f"hydrax run: http://{host}/a.npy (a NumPy file)" in text
    assert "secret" not in there + told + text + more


def test_a_cache_of_another_address_is_refused(server, tmp_path, capsys):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.full((100, 3), ord(name), np.float32))
    cache = str(tmp_path / "cache")
    assert run(capsys, f"{server.address}/a.npy", "--cache", cache)[0] == 0
    code, _, told = run(capsys, f"{server.address}/b.npy", "--cache", cache)
    assert code == 1
    assert "settings.data" in told


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.bin", b"12345678", {}, "--length: .*a.bin is a stream of tokens"),
        ("a.xyz", b"what?", {}, "a.xyz is of no known format"),
        ("a.gz", b"\x1f\x8b...", {}, "a.gz is compressed by gzip"),
        ("a.db", b"SQLite format 3\0", {}, "a.db is an SQLite database, which cannot be read elsewhere; copy it"),
        ("a.jpg", b"\xff\xd8\xff", {}, "is a single file; give a folder of images"),
        ("a.npy", b"\x93NUMPY\x01\x00v", {}, "cannot be read as a NumPy file"),
        (None, b"", {}, "there is no file http://127.0.0.1"),
    ],
)
def test_what_cannot_be_read_is_wrong_usage(server, tmp_path, capsys, name, content, options, message):
    if name is not None:
        (tmp_path / name).write_bytes(content)
    code, out, told = run(capsys, f"{server.address}/{name}?sig=secret", *options)
    assert code == 2
    assert re.search(message, told), told
    assert "secret" not in out + told


def test_a_folder_of_a_store_is_recognised_by_its_files(tmp_path):
    for name in ("a/cat/1.png", "a/dog/2.png", "b/x.jsonl", "b/README.md", "c/x.npy", "c/y.csv", "d/x.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b'{"a": 1}\n')
    place = f"file://{tmp_path}"
    assert recognise(f"{place}/a", SourceOptions()).kind == "a folder of images"
    assert recognise(f"{place}/b", SourceOptions()).kind == "JSON lines, 1 files"
    for folder, message in (("c", "c holds 1 files"), ("d", "d holds 1 files"), ("e", "no file, nor a folder")):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            recognise(f"{place}/{folder}", SourceOptions())


def test_what_an_address_is_taken_for(server, tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n" + "".join(f"{n},{n / 2}\n" for n in range(100)))
    found = load_target(f"{server.address}/a.csv?sig=secret", {}, SourceOptions(batch_size=10))
    assert (found.name, found.kind) == (f"{server.address}/a.csv", "CSV")
    with found.loader as loader:
        assert next(loader).arrays["x"].shape == (10,)
