"""What is used of jaxlib that is not public, each with the versions that it was seen in.

Promise: a jaxlib that lacks it, or gives it another form, costs speed or early warnings and never correctness: each
name is ``None`` or refuses by returning ``None``, and its users have another way.
"""

from __future__ import annotations

from typing import Any

import jax

__all__ = ["batched_device_put", "coordination_client", "copied_during_call"]

try:
    # jaxlib 0.4.35 to 0.10: (aval, sharding, one array a device, devices, committed) -> jax.Array
    from jaxlib.xla_client import batched_device_put
except ImportError:
    batched_device_put = None

try:
    # jaxlib 0.4.35 to 0.10: what follows `committed`, of NumPy arrays that are copied before it returns
    from jaxlib.xla_client import HostBufferSemantics

    copied_during_call: tuple[Any, ...] | None = (False, HostBufferSemantics.IMMUTABLE_ONLY_DURING_CALL)
except (ImportError, AttributeError):
    copied_during_call = None


def coordination_client() -> Any:
    """The client of ``jax.distributed``'s key-value store, ``None`` where there is none (jax 0.4.35 to 0.10)."""
    try:
        from jax._src import distributed  # noqa: PLC0415  only where there are several hosts

        client = distributed.global_state.client
    except (ImportError, AttributeError):
        return None
    usable = all(hasattr(client, name) for name in ("key_value_set", "blocking_key_value_get", "key_value_delete"))
    return client if usable and jax.process_count() > 1 else None
