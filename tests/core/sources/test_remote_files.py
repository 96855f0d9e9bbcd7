"""Files elsewhere: found, read by ranges, tried again, refused when they change; against a local server and stores."""

import io
import pickle
import subprocess
import sys

import fsspec
import numpy as np
import obstore
import pytest
from hypothesis import given
from hypothesis import strategies as st
from remotekit import serving

from hydrax_core.sources import remote, stores
from hydrax_core.sources.remote import RemoteFile, Span, find_remote, list_remote, read_ranges, remote_fingerprint
from hydrax_core.sources.remote_files import RemoteReader, open_array

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()
SECRET = "s3cr3t-signature"


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "_FIRST_WAIT_SECONDS", 0.001)
    (tmp_path / "a.bin").write_bytes(CONTENT)
    with serving(tmp_path) as made:
        yield made


def found(address):
    (file,) = find_remote("paths", address, ())
    return file


def read(file, *spans):
    return [bytes(data) for data in read_ranges([Span(file, *span) for span in spans])]


@pytest.fixture(scope="module")
def memory():
    store = stores.store_at("memory://")
    obstore.put(store._store, "folder/a.bin", CONTENT)
    return found("memory:///folder/a.bin")


@given(
    spans=st.lists(st.tuples(st.integers(0, 299_000), st.integers(0, 1000)), max_size=20),
    near=st.sampled_from([0, 100, 1 << 14]),
    piece=st.sampled_from([1, 977, 4 << 20]),
)
def test_ranges_are_those_of_the_file(memory, spans, near, piece):
    piece = max(piece, sum(size for _, size in spans) // 50)
    before = remote._NEAR, remote._PIECE
    try:
        remote._NEAR, remote._PIECE = near, piece if near == 0 else max(piece, 977)
        assert read(memory, *spans) == [CONTENT[start : start + size] for start, size in spans]
    finally:
        remote._NEAR, remote._PIECE = before


def test_close_ranges_are_one_request_and_far_ones_go_out_together(server):
    file = found(f"{server.address}/a.bin")
    before = server.asked["all"]
    read(file, (0, 10), (20, 10), (5000, 10))
    assert server.asked["all"] == before + 1
    server.seconds = 0.2
    read(file, *((start, 10) for start in range(0, 300_000, 30_000)))
    assert server.asked["all"] == before + 11
    assert server.most > 5


@pytest.mark.parametrize("fault", [503, 500, 429, "cut"])
def test_a_request_that_fails_is_made_again(server, fault):
    file = found(f"{server.address}/a.bin")
    server.faults.extend([fault] * (remote.ATTEMPTS - 1))
    assert read(file, (1000, 500)) == [CONTENT[1000:1500]]
    assert not server.faults


def test_a_slow_answer_is_asked_for_again(server, monkeypatch):
    monkeypatch.setattr(stores, "TIMEOUT_SECONDS", 0.1)
    file = found(f"{server.address}/a.bin")
    server.faults.append("slow")
    assert read(file, (1000, 500)) == [CONTENT[1000:1500]]


def test_why_a_server_is_not_reached_is_said(monkeypatch):
    monkeypatch.setattr(stores.Store, "again_seconds", 0)
    with pytest.raises(
        OSError, match=r"^http://127\.0\.0\.1:1/a\.bin: failed: HTTP error: [^:]*\(Connection refused\)$"
    ):
        remote.remote_file("http://127.0.0.1:1/a.bin")


def test_no_request_is_made_again_when_its_time_is_over(server, monkeypatch):
    file = found(f"{server.address}/a.bin")
    monkeypatch.setattr(stores.Store, "again_seconds", 0)
    server.faults.extend([503] * 10)
    with pytest.raises(OSError, match=r"a\.bin: failed: .*503"):
        read(file, (1000, 500))
    assert len(server.faults) == 10 - 2  # what it is now is asked, too


def test_trying_again_has_an_end(server):
    file = found(f"{server.address}/a.bin")
    server.faults.extend([503] * 100)
    with pytest.raises(OSError, match=rf"a\.bin: failed {remote.ATTEMPTS} times, at last: .*503"):
        read(file, (0, 9))
    assert len(server.faults) == 100 - 2 * remote.ATTEMPTS  # what it is now is asked, too


@pytest.mark.parametrize("status", [401, 403])
def test_what_is_refused_is_an_error_at_once(server, status):
    file = found(f"{server.address}/a.bin")
    server.faults.extend([status, status])
    with pytest.raises(PermissionError, match=r"a\.bin"):
        read(file, (0, 9))


def test_what_is_not_there_is_told(server):
    with pytest.raises(FileNotFoundError, match=r"there is no file http://.*/b\.bin"):
        found(f"{server.address}/b.bin")
    with pytest.raises(OSError, match="does not tell which files it has; give the address of each"):
        find_remote("paths", f"{server.address}/*.bin", (".bin",))


@pytest.mark.parametrize("change", ["same size", "shorter", "gone"])
def test_a_file_that_changes_while_it_is_read_is_refused_by_name(server, tmp_path, change):
    file = found(f"{server.address}/a.bin")
    assert read(file, (0, 9)) == [CONTENT[:9]]
    if change == "gone":
        (tmp_path / "a.bin").unlink()
    else:
        (tmp_path / "a.bin").write_bytes(CONTENT[::-1] if change == "same size" else CONTENT[:100])
    with pytest.raises(
        ValueError, match=r"http://.*/a\.bin (changed: it had 300000|is no longer there).*make the source"
    ):
        read(file, (200_000, 9))


def test_a_server_without_etags_is_known_by_the_time_of_change_but_where_a_query_chooses(server):
    server.etags = False
    assert found(f"{server.address}/a.bin").version.startswith("changed 2026-11-02")
    with pytest.raises(ValueError, match="gives no ETag"):
        found(f"{server.address}/a.bin?id=1")


def test_a_server_without_ranges_is_refused(server):
    server.ranges = False
    with pytest.raises(OSError, match="sends whole files only"):
        found(f"{server.address}/a.bin")


def test_an_empty_file_is_a_file(server, tmp_path):
    (tmp_path / "empty.bin").touch()
    file = found(f"{server.address}/empty.bin")
    assert file.size == 0
    assert read(file, (0, 0)) == [b""]
    with pytest.raises(ValueError, match="it ends at byte 0"):
        read(file, (0, 1))


def test_names_with_spaces_and_signs_are_found(server, tmp_path):
    (tmp_path / "a b 50%.bin").write_bytes(b"12345")
    assert read(found(f"{server.address}/a%20b%2050%25.bin"), (1, 3)) == [b"234"]


def test_credentials_reach_the_server_and_no_text(server, caplog):
    caplog.set_level("DEBUG", "hydrax")
    host = server.address.removeprefix("http://")
    file = found(f"http://ann:{SECRET}@{host}/a.bin?sig={SECRET}&v=2")
    assert read(file, (0, 9)) == [CONTENT[:9]]
    path, headers = server.headers[-1]
    assert path.endswith(f"?sig={SECRET}&v=2")
    assert headers["authorization"].startswith("Basic ")
    assert str(file) == f"http://{host}/a.bin"
    assert remote_fingerprint([file]) == remote_fingerprint([found(f"http://{host}/a.bin?sig=another")])
    server.faults.extend([503] * remote.ATTEMPTS * 2 + [403, 403])
    told = []
    for _ in range(2):
        with pytest.raises(OSError, match=r"a\.bin") as raised:
            read(file, (0, 9))
        error = raised.value
        while error is not None:
            told.append(repr(error))
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert SECRET not in f"{told} {file!r} {caplog.text}"


def test_other_content_is_another_identity(server, tmp_path):
    first = remote_fingerprint([found(f"{server.address}/a.bin")])
    (tmp_path / "a.bin").write_bytes(CONTENT[::-1])
    assert remote_fingerprint([found(f"{server.address}/a.bin")]) != first


def test_a_file_travels(memory):
    copy = pickle.loads(pickle.dumps(memory))
    assert type(copy) is RemoteFile
    assert (copy, *vars(copy).values()) == (memory, *vars(memory).values())


def test_folders_and_patterns_of_a_store_that_lists(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_REGION", "somewhere")
    for name in ("b/x/part-1.csv", "b/x/part-0.csv", "b/x/other.txt", "b/x/.hidden/part-9.csv", "b/xy/part-7.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    with serving(tmp_path) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        wanted = ["s3://b/x/part-0.csv", "s3://b/x/part-1.csv"]
        assert find_remote("paths", "s3://b/x", (".csv",)) == wanted
        assert find_remote("paths", "s3://b/x/part-*.csv", ()) == wanted
        assert find_remote("paths", "s3://b/x/part-1.csv", ()) == wanted[1:]
        assert list_remote("s3://b/nothing") == []
        with pytest.raises(FileNotFoundError, match="s3://b/x/z is no file, nor a folder"):
            find_remote("paths", "s3://b/x/z", (".csv",))
        (listed, _), (single,) = find_remote("paths", "s3://b/x/", (".csv",)), find_remote("paths", wanted[0], ())
        assert remote_fingerprint([listed]) == remote_fingerprint([single])
        assert read(listed, (0, 6)) == [b"b/x/pa"]


def test_local_files_by_address(tmp_path):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    assert read(found(f"file://{tmp_path}/a.bin"), (7, 9)) == [CONTENT[7:16]]
    assert find_remote("paths", f"file://{tmp_path}", (".bin",)) == [f"file://{tmp_path}/a.bin"]


def test_a_file_system_of_fsspec_lists_and_reads(tmp_path):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    store = stores.FileSystem(fsspec.filesystem("file"))
    (seen,) = store.list(str(tmp_path))
    assert (seen.path, seen.size) == (str(tmp_path / "a.bin"), len(CONTENT))
    answer = store.get(seen.path, 5, 10)
    assert (bytes(answer.data), answer.version) == (CONTENT[5:10], seen.version)
    (tmp_path / "a.bin").write_bytes(b"other")
    assert store.status(seen.path).version != seen.version
    with pytest.raises(FileNotFoundError):
        store.status(str(tmp_path / "b.bin"))


def test_an_open_file_reads_like_a_local_one(memory):
    reader, local = RemoteReader(memory), io.BytesIO(CONTENT)
    rng = np.random.default_rng(1)
    reader.fetch([(100, 5000), (250_000, 900)])
    for _ in range(100):
        start, size = int(rng.integers(0, 300_500)), int(rng.choice([0, 1, 100, 300_000, -1]))
        assert reader.seek(start) == local.seek(start)
        assert reader.read(size) == local.read(size)
        assert reader.tell() == max(start, local.tell())


@pytest.mark.parametrize("array", [np.arange(12).reshape(4, 3), np.arange(5.0, dtype=">f4")])
def test_rows_of_an_array(array):
    file = io.BytesIO()
    np.save(file, array)
    obstore.put(stores.store_at("memory://")._store, "a.npy", file.getvalue())
    opened = open_array(RemoteReader(found("memory:///a.npy")))
    np.testing.assert_array_equal(opened[np.array([3, 0, 3])], array[[3, 0, 3]])
    np.testing.assert_array_equal(opened.windows(np.array([1]), 2), array[None, 1:3])


def test_unknown_kinds_and_missing_packages_are_told(monkeypatch):
    with pytest.raises(ValueError, match=r"gopher://host/a: gopher:// cannot be read; known are s3"):
        remote.is_remote("gopher://ann:pw@host/a?b=c")
    with pytest.raises(ValueError, match="take no '\\?"):
        found("s3://bucket/a?b=c")
    with pytest.raises(ValueError, match=r"take no '#'.*write %23"):
        found("s3://bucket/a#b")
    assert remote.shown_address("abfss://box@name.dfs.core.windows.net/a") == "abfss://box@name.dfs.core.windows.net/a"
    assert remote.shown_address("s3://key:secret@bucket/a") == "s3://bucket/a"
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ImportError, match=r"needs obstore: pip install 'hydrax-toolkit\[remote\]'"):
        found("http://127.0.0.1:9/a")


def test_nothing_remote_is_imported_for_files_of_this_machine(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 2), np.float32))
    program = (
        "import sys, numpy\nfrom hydrax_core.sources import numpy_rows\n"
        f"rows = numpy_rows({str(tmp_path / 'a.npy')!r})\nrows.training.items[0]\n"
        "print({'obstore', 'fsspec', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("address", ["s3://box/a.bin", "gs://box/a.bin", "az://box/a.bin", "abfs://box/a.bin"])
def test_each_store_reads_ranges_and_notices_a_change(tmp_path, monkeypatch, address):
    """Each speaks to the server of this machine, as the environment says."""
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "a.bin").write_bytes(CONTENT)
    monkeypatch.setattr(remote, "_FIRST_WAIT_SECONDS", 0.001)
    with serving(tmp_path) as server:
        for name, place in (("AWS", "ENDPOINT_URL"), ("GOOGLE", "BASE_URL"), ("AZURE", "STORAGE_ENDPOINT")):
            monkeypatch.setenv(f"{name}_{place}", server.address)
            monkeypatch.setenv(f"{name}_SKIP_SIGNATURE", "true")
            monkeypatch.setenv(f"{name}_ALLOW_HTTP", "true")
        monkeypatch.setenv("AWS_REGION", "somewhere")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
        file = found(address)
        server.faults.extend([503, "cut"])
        assert read(file, (100_000, 50)) == [CONTENT[100_000:100_050]]
        (tmp_path / "box" / "a.bin").write_bytes(CONTENT[::-1])
        with pytest.raises(ValueError, match=rf"{address} changed"):
            read(file, (0, 9))
