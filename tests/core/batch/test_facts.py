"""Facts about jax and NumPy that the design stands on; when one fails, the design has to be looked at again."""

import ctypes
import gc
import mmap
import weakref

import jax
import numpy as np
import pytest


@pytest.fixture
def block():
    return mmap.mmap(-1, 1 << 16)


def root_of(block):
    return (ctypes.c_char * 4096).from_buffer(block, 0)


def test_device_put_aliases_aligned_memory_on_the_cpu_backend(block):
    root = root_of(block)
    for offset, aliased in ((0, True), (64, True), (32, False)):
        host = np.ndarray((16,), np.float32, root, offset)
        placed = jax.device_put({"x": host})["x"]
        assert (placed.unsafe_buffer_pointer() == host.ctypes.data) == aliased


def test_each_aligned_shard_is_aliased_under_a_named_sharding(block):
    host = np.ndarray((4, 16), np.float32, root_of(block))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("batch",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    placed = jax.device_put(host, sharding)
    pointers = sorted(shard.data.unsafe_buffer_pointer() for shard in placed.addressable_shards)
    assert pointers == [host.ctypes.data + 64 * shard for shard in range(4)]


def test_the_root_under_a_numpy_view_outlives_the_view_and_dies_with_the_last_one(block):
    root = root_of(block)
    died = []
    _ = weakref.ref(root, died.append)
    keeper = weakref.ref(root, died.append)
    view = np.ndarray((16,), np.float32, root)[2:9]
    del root
    assert keeper() is not None
    del view
    assert died


def test_a_collection_of_the_youngest_generation_makes_jaxlib_drop_its_hold(block):
    root = root_of(block)
    watched = weakref.ref(root)
    placed = jax.device_put(np.ndarray((16,), np.float32, root))
    del root, placed
    gc.collect(0)
    assert watched() is None


def test_a_view_with_a_row_and_an_ellipsis_is_writable_also_for_scalars():
    array = np.zeros(3)
    array[1, ...][...] = 5
    assert array.tolist() == [0, 5, 0]
