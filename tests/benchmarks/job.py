"""What one measurement is told: plain values that travel as JSON to a fresh process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True)
class Job:
    """One measurement of one peer.

    Attributes:
        peer: Name of the adapter, a key of ``peers.ADAPTERS``.
        load: Work on an item, see ``loads.load_named``.
        measure: What is measured: a key of ``child.MEASURES``.
        batch: Items a batch.
        items: Length of the data set.
        workers: Worker processes.
        batched: Whether the peer hands over runs of items.
        shuffle: Whether the first epoch is shuffled.
        start: Number of the batch to resume at, for ``resume``.
        warmup: Seconds before the measurement starts.
        seconds: Seconds it lasts.
        options: More arguments for the peer's loader or for the measurement, as JSON.
        limit: Seconds the whole measurement may take.
        package: Folder that ``hydrax_core`` is imported from, where it is not the installed one.
    """

    peer: str
    load: str
    measure: str = "throughput"
    batch: int = 256
    items: int = 10**6
    workers: int = 2
    batched: bool = False
    shuffle: bool = False
    start: int = 0
    warmup: float = 1.0
    seconds: float = 3.0
    options: str = "{}"
    limit: float = 150.0
    package: str = ""

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load_json(cls, text: str) -> Job:
        values = json.loads(text)
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})
