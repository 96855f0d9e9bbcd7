"""A loader's position in checkpoints of orbax's v0 API; of v1, a ``Dataloader`` is a checkpointable by itself.

Promise: one small file, equal on all hosts and written by one of them. The position is that at the call of ``save()``,
also where orbax writes later; a save never waits for the loader. Needs ``pip install 'hydrax-toolkit[orbax]'``::

    import orbax.checkpoint as ocp
    from hydrax_core import checkpoint

    manager.save(step, args=ocp.args.Composite(
        params=ocp.args.StandardSave(params), loader=checkpoint.LoaderSave(loader)))
    manager.restore(step, args=ocp.args.Composite(
        params=ocp.args.StandardRestore(params), loader=checkpoint.LoaderRestore(loader)))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydrax_core.loader.dataloader import Dataloader
from hydrax_core.state import FILE_NAME

try:
    import orbax.checkpoint as ocp
except ImportError as missing:
    raise ImportError(
        "hydrax_core.checkpoint needs orbax-checkpoint: pip install 'hydrax-toolkit[orbax]'; without it, save "
        "loader.state_dict(), which is a few JSON values"
    ) from missing

__all__ = ["LoaderCheckpointHandler", "LoaderRestore", "LoaderSave"]


class LoaderCheckpointHandler(ocp.JsonCheckpointHandler):  # type: ignore[misc,unused-ignore]  # orbax has no types
    """Saves and restores the position of a ``Dataloader``."""

    def __init__(self, **more: Any) -> None:
        super().__init__(FILE_NAME, **more)

    async def async_save(self, directory: Any, item: Any = None, args: LoaderSave | None = None) -> Any:
        """Save the position that the loader has now."""
        loader = item if args is None else args.item
        return await super().async_save(directory, args=ocp.args.JsonSave(loader.state_dict()))

    def restore(self, directory: Any, item: Any = None, args: LoaderRestore | None = None) -> Any:
        """Have the loader go on behind the saved position; without one, return the saved state.

        Raises:
            StateMismatchError: The state belongs to other data or settings.
        """
        loader = item if args is None else args.item
        state = super().restore(directory)
        if loader is None:
            return state
        loader.load_state_dict(state)
        return loader


@ocp.args.register_with_handler(LoaderCheckpointHandler, for_save=True)
@dataclass
class LoaderSave(ocp.args.CheckpointArgs):  # type: ignore[misc,unused-ignore]  # orbax has no types
    """What to save.

    Attributes:
        item: The loader.
    """

    item: Dataloader[Any]


@ocp.args.register_with_handler(LoaderCheckpointHandler, for_restore=True)
@dataclass
class LoaderRestore(ocp.args.CheckpointArgs):  # type: ignore[misc,unused-ignore]  # orbax has no types
    """What to restore.

    Attributes:
        item: A loader of the same data and settings, which goes on where the saved one was; ``None`` for its state.
    """

    item: Dataloader[Any] | None = None
