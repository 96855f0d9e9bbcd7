"""Train on the handwritten digits with flax and optax; orbax keeps weights and the loader's position together.

Run it with ``python docs/examples/train_flax.py --checkpoints FOLDER``; stopped anywhere, the next start goes on with
exactly the next batch.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
from flax import linen as nn
from flax.training.train_state import TrainState

from hydrax_core import Dataloader, checkpoint
from hydrax_core.sources import uci_digits


class Network(nn.Module):
    @nn.compact
    def __call__(self, image):  # noqa: D102  flax calls it
        hidden = nn.relu(nn.Dense(128)(image.reshape(len(image), -1) / 16))
        return nn.Dense(10)(hidden)


@jax.jit
def train_step(state, batch):  # a batch is a tree of its arrays: one compilation for all of them
    def loss(params):
        logits = state.apply_fn(params, batch.arrays["image"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.arrays["label"]).mean()

    return state.apply_gradients(grads=jax.grad(loss)(state.params))


@jax.jit
def count_right(state, batch):
    right = state.apply_fn(state.params, batch.arrays["image"]).argmax(1) == batch.arrays["label"]
    return (right & batch.mask).sum()  # rows of padding are no digits


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--checkpoints", type=Path, help="a folder to go on from, and to save to after each epoch")
    options = parser.parse_args()

    digits = uci_digits(batch_size=32)
    loader = Dataloader(
        digits.loader_func,
        digits.training,
        validation=("epoch", 1, digits.validation.replace(remainder="pad")),
        end_at=("epoch", options.epochs),
    )
    network = Network()
    params = network.init(jax.random.key(0), jnp.zeros((1, 8, 8)))
    state = TrainState.create(apply_fn=network.apply, params=params, tx=optax.adam(1e-3))
    manager = None
    if options.checkpoints:
        manager = ocp.CheckpointManager(options.checkpoints.resolve())
        if manager.latest_step() is not None:
            saved = manager.restore(
                manager.latest_step(),
                args=ocp.args.Composite(state=ocp.args.StandardRestore(state), loader=checkpoint.LoaderRestore(loader)),
            )
            state = saved.state

    with loader:
        for epoch in loader.epochs():
            for batch in epoch:
                state = train_step(state, batch)
            right = shown = 0
            for batch in epoch.validation:
                right += int(count_right(state, batch))
                shown += batch.size
            print(f"epoch {epoch.number}: {right / shown:.1%} of {shown} digits right")
            if manager:
                parts = {"state": ocp.args.StandardSave(state), "loader": checkpoint.LoaderSave(loader)}
                manager.save(epoch.number, args=ocp.args.Composite(**parts))
    if manager:
        manager.close()


if __name__ == "__main__":
    main()
