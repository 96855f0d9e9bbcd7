"""Train on all devices of all hosts in plain jax: every host runs this same program.

On one machine: ``python docs/examples/train_devices.py``; on several hosts under a launcher that jax knows (Slurm, TPU
pods ...) with ``--hosts``. The batches, and the state in a checkpoint, are the same whatever the number of hosts.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hydrax_core import Dataloader
from hydrax_core.sources import uci_digits


def logits(weights, image):
    hidden = jax.nn.relu(image.reshape(len(image), -1) / 16 @ weights["in"])
    return hidden @ weights["out"]


@jax.jit
def train_step(weights, batch):
    def loss(weights):
        chosen = jnp.take_along_axis(
            jax.nn.log_softmax(logits(weights, batch.arrays["image"])), batch.arrays["label"][:, None], axis=1
        )
        return -chosen.mean()

    value, gradient = jax.value_and_grad(loss)(weights)
    return jax.tree.map(lambda w, g: w - 0.1 * g, weights, gradient), value


@jax.jit
def count_right(weights, batch):
    right = logits(weights, batch.arrays["image"]).argmax(1) == batch.arrays["label"]
    return (right & batch.mask).sum()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--hosts", action="store_true", help="join the other hosts first")
    options = parser.parse_args()
    if options.hosts:
        jax.distributed.initialize(heartbeat_timeout_seconds=30, shutdown_timeout_seconds=30)

    mesh = Mesh(np.array(jax.devices()), ("data",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    first, second = jax.random.split(jax.random.key(0))
    weights = {"in": jax.random.normal(first, (64, 128)) / 8, "out": jax.random.normal(second, (128, 10)) / 11}
    weights = jax.device_put(weights, everywhere)

    digits = uci_digits(batch_size=8 * len(jax.devices()))  # that of all devices together
    loader = Dataloader(
        digits.loader_func,
        digits.training,
        validation=("epoch", 1, digits.validation.replace(remainder="pad")),
        sharding=(mesh, "data"),
        end_at=("epoch", options.epochs),
    )
    with loader:
        for epoch in loader.epochs():
            for batch in epoch:
                weights, value = train_step(weights, batch)
            right = sum(int(count_right(weights, batch)) for batch in epoch.validation)
            if jax.process_index() == 0:
                share = right / len(digits.validation)
                print(
                    f"epoch {epoch.number}: loss {float(value):.3f}, {share:.1%} right on {len(jax.devices())} devices"
                )


if __name__ == "__main__":
    main()
