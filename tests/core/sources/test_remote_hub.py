"""hf:// addresses, by huggingface_hub's own client, against a server of this machine that speaks as the hub does."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from filekit import epoch

from hydrax_core.sources import jsonl, peek, remote, stores
from hydrax_core.sources.remote import find_remote, remote_fingerprint

huggingface_hub = pytest.importorskip("huggingface_hub")


class Hub(BaseHTTPRequestHandler):
    """One repository: its commits, and which of them is the branch ``main``."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        """Silent."""

    def entries(self, commit):
        files = self.server.commits[commit]
        folders = {path.rpartition("/")[0] for path in files} - {""}
        return [{"type": "directory", "path": path, "oid": "0"} for path in folders] + [
            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for path, data in files.items()
        ]

    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        paths = json.loads(asked)["paths"] if asked.startswith("{") else parse_qs(asked)["paths"]
        commit = unquote(self.path.rpartition("/")[2])
        self.answer(200, [entry for entry in self.entries(commit) if entry["path"] in paths])

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if "/resolve/" in path:
            self.server.reads.append(path)
            commit, _, name = path.partition("/resolve/")[2].partition("/")
            data = self.server.commits[commit][name]
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            self.answer(206, data[int(first) : int(last) + 1], {"Content-Range": f"bytes {first}-{last}/{len(data)}"})
        elif "/tree/" in path:
            commit, _, below = path.partition("/tree/")[2].partition("/")
            self.answer(200, [entry for entry in self.entries(commit) if entry["path"].startswith(below)])
        else:
            revision = path.rpartition("/revision/")[2] if "/revision/" in path else "main"
            commit = self.server.main if revision == "main" else revision
            self.answer(200, {"id": "ann/digits", "sha": commit, "siblings": [], "private": False})

    def answer(self, status, content, headers=()):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **dict(headers)}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    server.commits = {
        "a" * 40: {"data/x.jsonl": b'{"n": 1}\n' * 50, "README.md": b"of the data"},
        "b" * 40: {"data/x.jsonl": b'{"n": 2}\n' * 50, "README.md": b"of the data"},
    }
    server.main, server.reads = "a" * 40, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    place = f"http://127.0.0.1:{server.server_port}"
    system = huggingface_hub.HfFileSystem(endpoint=place, token=False, skip_instance_cache=True)
    made = stores.Hub(system, huggingface_hub.HfApi(endpoint=place, token=False))
    monkeypatch.setattr(remote, "store_at", lambda place: made)
    monkeypatch.setattr(remote, "_FIRST_WAIT_SECONDS", 0.001)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_repository_is_read_as_it_was_when_the_source_was_made(hub):
    rows = jsonl("hf://datasets/ann/digits/data/x.jsonl", batch_size=10)
    hub.main = "b" * 40
    assert set(epoch(rows.training)[0]["n"].tolist()) == {1}
    assert all("/resolve/" + "a" * 40 in path for path in hub.reads)
    later = jsonl("hf://datasets/ann/digits/data/x.jsonl", batch_size=10)
    assert set(epoch(later.training)[0]["n"].tolist()) == {2}
    assert rows.training.fingerprint() != later.training.fingerprint()


def test_another_commit_with_the_same_file_is_the_same_data(hub):
    (first,) = find_remote("paths", "hf://datasets/ann/digits/README.md", ())
    hub.main = "b" * 40
    (later,) = find_remote("paths", "hf://datasets/ann/digits/README.md", ())
    assert first.path != later.path
    assert remote_fingerprint([first]) == remote_fingerprint([later])


def test_folders_and_patterns_of_a_repository(hub):
    wanted = ["hf://datasets/ann/digits/data/x.jsonl"]
    assert find_remote("paths", "hf://datasets/ann/digits", (".jsonl",)) == wanted
    assert find_remote("paths", "hf://datasets/ann/digits/data/*.jsonl", ()) == wanted
    assert peek("hf://datasets/ann/digits").names == ("README.md", "data/x.jsonl")
    assert peek(wanted[0], 4).head == b'{"n"'
    with pytest.raises(FileNotFoundError, match="none is no file, nor a folder"):
        find_remote("paths", "hf://datasets/ann/digits/none", (".x",))
    with pytest.raises(ValueError, match="has no commits"):
        find_remote("paths", "hf://buckets/ann/digits/a.txt", ())
