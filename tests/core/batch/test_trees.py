"""A batch and its arrays are trees to jax: what takes a dict of arrays takes them."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hydrax_core import BatchClosedError, DataGroup, Dataloader, TrainingBatch, ValidationBatch

ARRAYS = {"y": ((), np.int32), "x": ((3,), np.float32)}


def load(item, arrays, seed):
    arrays["x"][...] = item
    arrays["y"][...] = item
    return {"text": str(item)}


def loader(size=16, **more):
    train = DataGroup(4, range(size), loader_arrays=ARRAYS, labels=("y",), **more)
    valid = DataGroup(4, range(6), loader_arrays=ARRAYS, labels=("y",), remainder="pad")
    return Dataloader(load, train, validation=("epoch", 1, valid), loader_kind="inline", end_at=("epoch", 2))


def batches(size=16, **more):
    with loader(size, **more) as running:
        return list(running)


def step(weights, batch):
    return jnp.sum(weights * batch.inputs["x"].sum(1)) + batch.labels["y"].sum()


def test_arrays_work_wherever_jax_takes_a_tree():
    batch = batches()[0]
    for mapping in (batch.arrays, batch.inputs, batch.labels):
        kind, names = type(mapping), list(mapping)
        assert list(jax.jit(lambda tree: tree)(mapping)) == names
        assert float(jax.tree.map(lambda array: array + 1, mapping)[names[0]].ravel()[0]) == float(
            mapping[names[0]].ravel()[0] + 1
        )
        for same in (
            jax.tree.map(lambda array: array, mapping),
            jax.device_put(mapping, jax.devices()[1]),
            jax.block_until_ready(mapping),
        ):
            assert type(same) is kind
            assert list(same) == names
    gradient = jax.grad(lambda arrays: (arrays["x"] ** 2).sum())(batch.inputs)
    assert gradient["x"].tolist() == (2 * batch.arrays["x"]).tolist()
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(batch.arrays)]
    assert paths == ["['y']", "['x']"]


def test_arrays_are_read_only_and_have_what_a_mappingproxy_has():
    arrays = batches()[0].arrays
    assert list(arrays) == ["y", "x"]
    assert list(reversed(arrays)) == ["x", "y"]
    assert arrays.copy() == dict(arrays.items())
    assert set(arrays | {"z": 1}) == {"x", "y", "z"} == set({"z": 1} | arrays)
    assert "x" in arrays
    assert arrays.get("none") is None
    assert "y" in repr(arrays)
    with pytest.raises(TypeError):
        arrays["x"] = 1
    with pytest.raises(AttributeError):
        arrays.other = 1


@pytest.mark.parametrize("remainder", ["drop", "pad"])
def test_a_jitted_step_over_batches_compiles_once_a_kind(remainder):
    traced = []

    @jax.jit
    def step(weight, batch):
        traced.append(type(batch))
        rows = (batch.inputs["x"].sum(1) * weight + batch.labels["y"]) * batch.mask if remainder == "pad" else 0
        return batch.arrays["x"].sum() + jnp.sum(rows)

    for batch in batches(14, remainder=remainder):
        if batch.is_training:
            total = sum(3 * index for index in batch.indices)
            extra = sum(3 * index * 2 + index for index in batch.indices) if remainder == "pad" else 0
            assert float(step(2.0, batch)) == total + extra
    assert traced == [TrainingBatch]


def test_equinox_compiles_once_too():
    eqx = pytest.importorskip("equinox")
    traced = []

    @eqx.filter_jit
    def step(weight, batch):
        traced.append(1)
        return jnp.sum(weight * batch.arrays["x"])

    for batch in batches():
        if batch.is_training:
            step(jnp.ones(3), batch)
            eqx.filter_grad(step)(jnp.ones(3), batch)
    assert len(traced) == 1


def test_what_a_batch_knows_stays_with_it_and_never_enters_a_compiled_function():
    first, second = [batch for batch in batches() if batch.is_training][:2]
    for same in (jax.tree.map(lambda array: array * 2, second), jax.device_put(second, jax.devices()[1])):
        assert type(same) is TrainingBatch
        assert (same.indices, same.seeds, same.address, same.size) == (
            second.indices,
            second.seeds,
            second.address,
            second.size,
        )
        assert same.get_additional("text") == second.get_additional("text")
    assert jax.tree.map(lambda array: array * 2, second).arrays["y"].tolist() == [2 * i for i in second.indices]
    identity = jax.jit(lambda batch: batch)
    for batch in (first, second):
        out = identity(batch)
        assert type(out) is TrainingBatch
        assert out.labels["y"].tolist() == list(batch.indices)
        assert list(out.inputs) == ["x"]
        with pytest.raises(RuntimeError, match="use the batch that the loader gave"):
            _ = out.indices
        assert "arrays of a batch" in repr(out)
    with pytest.raises(RuntimeError, match="pass the value as an argument"):
        jax.jit(lambda batch: batch.seed)(first)


def test_whatever_jax_puts_in_the_place_of_arrays_can_stand_there():
    first = batches()[0]
    leaves, tree = jax.tree.flatten(first)
    assert jax.tree.leaves(jax.tree.unflatten(tree, range(len(leaves)))) == list(range(len(leaves)))


def test_the_mask_is_a_leaf_where_the_group_pads():
    training, *_, validation = batches(remainder="drop")
    assert isinstance(validation, ValidationBatch)
    assert len(jax.tree.leaves(training)) == 2
    assert len(jax.tree.leaves(validation)) == 3
    assert training.mask.tolist() == [True] * 4
    assert validation.mask.tolist() == [True, True, False, False]
    out = jax.jit(lambda batch: batch)(validation)
    assert out.mask.tolist() == [True, True, False, False]
    assert isinstance(training.mask, jax.Array)


def test_a_compiled_function_keeps_no_batch_alive():
    compiled = jax.jit(lambda batch: batch.arrays["x"].sum())
    batch = batches()[0]
    compiled(batch)
    watched = weakref.ref(batch)
    del batch
    gc.collect()
    assert watched() is None


def test_a_closed_batch_is_no_tree():
    batch = batches()[0]
    batch.close()
    for use in (lambda: jax.tree.leaves(batch), lambda: batch.inputs, lambda: batch.mask, lambda: batch.indices):
        with pytest.raises(BatchClosedError):
            use()
