"""Positions in checkpoints: of orbax's two APIs, and in words."""

import asyncio
import json
import threading

import numpy as np
import pytest

from hydrax_core import DataGroup, Dataloader, StateMismatchError, state

ARRAYS = {"x": ((), np.int32)}


def load(item, arrays, seed):
    arrays["x"][...] = item


def loader(**more):
    settings = {"seed": 0, "size": 20, **more}
    train = DataGroup(4, range(settings["size"]), loader_arrays=ARRAYS, shuffle_first=True, seed=settings["seed"])
    valid = DataGroup(4, range(6), loader_arrays=ARRAYS, remainder="pad")
    return Dataloader(load, train, validation=("epoch", 1, valid), loader_kind="inline", end_at=("epoch", 2))


def rest(running):
    with running:
        return [(str(batch.address), batch.indices) for batch in running]


@pytest.fixture
def stopped():
    running = loader()
    with running:
        for _ in range(3):
            next(running)
        yield running


def test_a_loader_saves_and_loads_itself_as_orbax_v1_asks(stopped, tmp_path):
    async def save():
        writing = await stopped.save(tmp_path)
        next(stopped)  # the position saved is that of the call
        await writing

    async def read(other):
        await (await other.load(tmp_path))

    asyncio.run(save())
    other = loader()
    asyncio.run(read(other))
    assert rest(other) == rest(loader())[3:]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 4096


def test_a_save_does_not_wait_for_a_batch_that_another_thread_waits_for(tmp_path):
    begun, go = threading.Event(), threading.Event()

    def slow(item, arrays, seed):
        begun.set()
        assert go.wait(60)

    async def save(running):
        await (await running.save(tmp_path))

    with Dataloader(slow, DataGroup(4, range(8), loader_arrays=ARRAYS), loader_kind="thread") as running:
        waiting = threading.Thread(target=next, args=(running,))
        waiting.start()
        assert begun.wait(60)
        asyncio.run(save(running))
        assert waiting.is_alive(), "it was saved while there was no batch"
        go.set()
        waiting.join()


def test_orbax_v1(stopped, tmp_path):
    pytest.importorskip("orbax.checkpoint")
    v1 = pytest.importorskip("orbax.checkpoint.experimental.v1")
    v1.save_checkpointables(tmp_path / "c", {"loader": stopped, "params": {"w": np.ones(3)}})
    other = loader()
    v1.load_checkpointables(tmp_path / "c", {"loader": other})
    assert rest(other) == rest(loader())[3:]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_orbax_v0(stopped, tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    import hydrax_core.checkpoint as checkpoint  # noqa: PLC0415, PLR0402  as a module, where orbax is

    with ocp.CheckpointManager(tmp_path / "c") as manager:
        parts = {"params": ocp.args.StandardSave({"w": np.ones(3)}), "loader": checkpoint.LoaderSave(stopped)}
        manager.save(1, args=ocp.args.Composite(**parts))
        next(stopped)
        manager.wait_until_finished()
        other = loader()
        manager.restore(1, args=ocp.args.Composite(loader=checkpoint.LoaderRestore(other)))
        assert rest(other) == rest(loader())[3:]
        alone = manager.restore(1, args=ocp.args.Composite(loader=checkpoint.LoaderRestore()))
        assert alone.loader["training_batches"] == 3
        with pytest.raises(StateMismatchError, match="seed"):
            manager.restore(1, args=ocp.args.Composite(loader=checkpoint.LoaderRestore(loader(seed=5))))


def test_a_state_in_words(stopped):
    saved = json.loads(json.dumps(stopped.state_dict()))
    text = state.explain(saved)
    assert text.splitlines()[0] == "after 3 training batches of the run"
    assert "training group 0: items: 20, items a batch: 4, seed: 0, first epoch shuffled: True" in text
    assert "validation every 5 training batches" in text
    assert state.compare(saved, saved) == "equal"
    other = loader(seed=7, size=24).state_dict()
    lines = state.compare(saved, other).splitlines()
    assert "training_batches: 3 in the first, 0 in the second" in lines
    assert "training.groups[0].seed: 0 in the first, 7 in the second" in lines
    assert "validation.interval: 5 in the first, 6 in the second" in lines


def test_a_checkpoint_reads_no_data_set_whole_and_a_damaged_item_does_not_prevent_it():
    class Decoded:
        read = 0

        def __len__(self):
            return 5000

        def __getitem__(self, index):
            type(self).read += 1
            if index % 5 == 0:
                raise OSError("damaged")
            return index

    train = DataGroup(4, Decoded(), loader_arrays=ARRAYS)
    with Dataloader(load, train, loader_kind="inline", on_error="skip", end_at=("epoch", 1)) as running:
        next(running)
        before = Decoded.read
        saved = running.state_dict()
        assert Decoded.read - before < 300
        again = Dataloader(load, train.replace(data=Decoded()), loader_kind="inline", end_at=("epoch", 1))
        again.load_state_dict(saved)
    assert again.state_dict() == saved


@pytest.mark.parametrize("bad", [{}, {"training": 1}, 5, None, {"training_batches": 1}])
def test_what_is_no_state_is_refused(bad):
    for use in (lambda: state.explain(bad), lambda: state.compare(bad, bad)):
        with pytest.raises(TypeError, match=r"expected what state_dict\(\) returned"):
            use()
