"""Train on the handwritten digits with equinox: a batch goes into ``filter_jit`` as it is, compiled once.

Run it with ``python docs/examples/train_equinox.py``.
"""

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from hydrax_core import Dataloader
from hydrax_core.sources import uci_digits


def loss(model, batch):
    logits = jax.vmap(model)(batch.arrays["image"].reshape(-1, 64) / 16)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch.arrays["label"]).mean()


@eqx.filter_jit
def accuracy(model, batch):
    right = jax.vmap(model)(batch.arrays["image"].reshape(-1, 64) / 16).argmax(1) == batch.arrays["label"]
    return jnp.sum(right & batch.mask)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()

    model = eqx.nn.MLP(64, 10, width_size=128, depth=1, key=jax.random.key(0))
    optimizer = optax.adam(1e-3)
    state = optimizer.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def step(model, state, batch):
        updates, state = optimizer.update(eqx.filter_grad(loss)(model, batch), state)
        return eqx.apply_updates(model, updates), state

    digits = uci_digits(batch_size=32)
    valid = digits.validation.replace(remainder="pad")
    end = ("epoch", options.epochs)
    with Dataloader(digits.loader_func, digits.training, validation=("epoch", 1, valid), end_at=end) as loader:
        for epoch in loader.epochs():
            for batch in epoch:
                model, state = step(model, state, batch)
            right = sum(int(accuracy(model, batch)) for batch in epoch.validation)
            print(f"epoch {epoch.number}: {right / len(valid):.1%} of {len(valid)} digits right")


if __name__ == "__main__":
    main()
