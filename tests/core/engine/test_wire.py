import os
import pickle
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrax_core.engine.workers.wire import Channel, Chunk, DescriptorEncoder


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    yield Channel(left), right
    left.close()
    right.close()


@given(st.lists(st.binary(max_size=2000), max_size=8), st.integers(1, 700))
def test_frames_arrive_whole_however_they_are_cut(payloads, cut):
    left, right = socket.socketpair()
    sender, receiver = Channel(left), Channel(right)
    right.setblocking(False)
    raw, check = socket.socketpair()
    recorder = Channel(raw)
    for payload in payloads:
        recorder.send(payload)
    raw.close()
    data = b""
    while part := check.recv(1 << 16):
        data += part
    check.close()
    found = []
    for start in range(0, len(data), cut):
        left.sendall(data[start : start + cut])
        found += receiver.receive_all()
    assert found == payloads
    sender.close()
    with pytest.raises(EOFError):
        receiver.receive_all()
    receiver.close()


def test_a_frame_cut_by_the_peers_end_is_an_end(pair):
    channel, peer = pair
    peer.sendall(b"\x10\0\0\0\0\0\0\0half")
    peer.close()
    with pytest.raises(EOFError):
        channel.receive()


def test_a_peer_that_does_not_read_blocks_nobody(pair):
    channel, peer = pair
    channel._socket.setblocking(False)
    payload = os.urandom(3_000_000)
    channel.queue(payload)
    channel.queue(b"next")
    assert channel.pending
    reader = Channel(peer)
    peer.setblocking(False)
    found = []
    while len(found) < 2:
        found += reader.receive_all()
        channel.flush()
    assert found == [payload, b"next"]
    assert not channel.pending


def test_plain_descriptors_need_no_definitions():
    seeds = np.array([1, 2, 2**32 - 1], np.uint32).tobytes()
    frame, definitions = DescriptorEncoder().encode(Chunk(1, 0, 0, 0, 3, ["a", 2, ("b", None)], seeds))
    assert definitions is None
    chunk = pickle.loads(frame)
    assert (chunk.descriptors(), chunk.unpacked_seeds()) == (["a", 2, ("b", None)], [1, 2, 2**32 - 1])


def test_descriptors_that_are_their_own_indices_arrive_as_numbers():
    chunk = Chunk(1, 0, 0, 0, 2, np.array([7, 2**40], np.int64).tobytes(), None)
    items = chunk.descriptors()
    assert items == [7, 2**40]
    assert type(items[0]) is int
    assert chunk.unpacked_seeds() is None


def test_frames_that_arrive_together_are_received_one_by_one(pair):
    writer, peer = pair
    reader = Channel(peer)
    for frame in (b"a", b"", b"b"):
        writer.queue(frame)
    writer.flush()
    assert [reader.receive() for _ in range(3)] == [b"a", b"", b"b"]


def test_classes_of_main_are_defined_once_in_a_process_that_has_no_such_main(tmp_path):
    (tmp_path / "train.py").write_text(
        textwrap.dedent(
            """
            import dataclasses, sys
            from hydrax_core.engine.workers.wire import Chunk, DescriptorEncoder

            @dataclasses.dataclass(frozen=True)
            class Item:
                path: str

            encoder = DescriptorEncoder()
            first, definitions = encoder.encode(Chunk(1, 0, 0, 0, 1, [Item("a")], None))
            second, nothing = encoder.encode(Chunk(2, 0, 0, 0, 1, [Item("b")], None))
            assert definitions is not None and nothing is None and len(second) < 400
            local = type("Local", (), {"__reduce__": lambda self: (type(self), ())})
            third, _ = encoder.encode(Chunk(3, 0, 0, 0, 1, [local()], None))
            for part in (definitions, first, second, third):
                print(part.hex())
            """
        )
    )
    output = subprocess.run([sys.executable, tmp_path / "train.py"], check=True, capture_output=True, text=True).stdout
    reader = textwrap.dedent(
        """
        import pickle, sys
        from hydrax_core.engine.workers.wire import define
        definitions, first, second, third = (bytes.fromhex(line) for line in sys.stdin)
        define(pickle.loads(definitions))
        a, b = pickle.loads(first).items[0], pickle.loads(second).items[0]
        print(a, b, type(a) is type(b), type(pickle.loads(third).items[0]).__name__)
        """
    )
    read = subprocess.run([sys.executable, "-c", reader], check=True, capture_output=True, text=True, input=output)
    assert read.stdout == "Item(path='a') Item(path='b') True Local\n"
