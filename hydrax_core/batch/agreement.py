"""What the hosts of a run say to one another, through the key-value store of ``jax.distributed``.

Promise: hosts that are about to do different things all hear so before the first batch, with the field, the hosts and
both values, instead of waiting for one another in a computation; where one fails, the others' ``next()`` raises within
about a second. Nothing here uses a device. A host that waits inside a computation for one that has failed is beyond
reach: jax ends it when it notices.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import jax
import numpy as np
import xxhash

from hydrax_core.batch import jaxlib_private
from hydrax_core.engine.jobs import HostBatch
from hydrax_core.errors import HostMismatchError

__all__ = ["Agreement"]

_POLL_SECONDS = 0.5
_LONGEST_WAIT = 24 * 3600
_LONGEST_TEXT = 2000
_serial = count()
"""Hosts run the same program, so that the n-th loader that one starts is the n-th of each."""


class Agreement:
    """One run's talk with the other hosts.

    Args:
        seconds: How long to wait for another host; ``None`` for a day.
        fail: Called from another thread with the error of a host that failed.
        every: After how many batches to compare; 0 for never.
    """

    def __init__(self, seconds: float | None, fail: Callable[[BaseException], None], every: int) -> None:
        self._client = jaxlib_private.coordination_client()
        self._index, self._count = jax.process_index(), jax.process_count()
        self._seconds = _LONGEST_WAIT if seconds is None else seconds
        self._fail = fail
        self._every = every
        self._batches = 0
        self._plan, self._data = xxhash.xxh3_128(), xxhash.xxh3_128()
        self._failure: HostMismatchError | None = None
        self._name = f"hydrax/{next(_serial)}"
        self._rounds = 0
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None

    def compare(self, values: Mapping[str, Any], when: str) -> None:
        """Exchange values with all hosts, and compare.

        Args:
            values: What this host has, JSON values by field; fields are joined by dots.
            when: For the text of an error, such as ``"before the first batch"``.

        Raises:
            HostMismatchError: They differ, or a host does not answer.
        """
        if self._client is None:
            return
        self._rounds += 1
        key = f"{self._name}/{self._rounds}"
        own = json.loads(json.dumps(values))
        self._client.key_value_set(f"{key}/{self._index}", json.dumps(own))
        deadline = time.monotonic() + self._seconds
        hosts = [own if host == self._index else self._hear(key, host, deadline, when) for host in range(self._count)]
        found = [
            f"  {field}: host {first} has {ours!r}, host {second} has {theirs!r}"
            for field, first, ours, second, theirs in _differences(hosts)
        ]
        if found:
            raise HostMismatchError(f"the hosts of this run differ {when}:\n" + "\n".join(found))
        if self._rounds > 2:  # noqa: PLR2004  all hosts have read what was said two rounds ago
            self._client.key_value_delete(f"{self._name}/{self._rounds - 2}/{self._index}")

    def _hear(self, key: str, host: int, deadline: float, when: str) -> Any:
        while (left := deadline - time.monotonic()) > 0:
            try:
                return json.loads(
                    self._client.blocking_key_value_get(f"{key}/{host}", int(1000 * min(left, 2 * _POLL_SECONDS)) + 1)
                )
            except Exception as error:
                if "DEADLINE" not in str(error):
                    raise
            self.check()
        raise HostMismatchError(
            f"host {host} of {self._count} said nothing {when} within {self._seconds:g} s (timeout_sec): it has "
            "failed, is behind, or starts other loaders than this one"
        )

    def watch(self) -> None:
        if self._client is not None and hasattr(self._client, "key_value_try_get"):
            self._watcher = threading.Thread(target=self._watch, name="hydrax-hosts", daemon=True)
            self._watcher.start()

    def _watch(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            try:
                text = self._client.key_value_try_get(f"{self._name}/failed")
            except Exception as error:  # noqa: BLE001  no such key, or a store that has ended with its host
                if "NOT_FOUND" in str(error):
                    continue
                return
            failed = json.loads(text)
            if failed["host"] != self._index:
                self._failure = HostMismatchError(f"host {failed['host']} of this run failed: {failed['error']}")
                self._fail(self._failure)
            return

    def check(self) -> None:
        """Raise the error of another host that failed."""
        if self._failure is not None:
            raise self._failure

    def handed_out(self, host: HostBatch, *, whole: bool) -> None:
        """This host got a batch; compare from time to time.

        Args:
            whole: Whether each host has loaded all its rows, so that their bytes can be compared, too.

        Raises:
            HostMismatchError: The hosts got different ones.
        """
        if not self._every:
            return
        self._batches += 1
        content = host.planned.content
        self._plan.update(f"{host.planned.number}".encode())
        for numbers in (content.indices, content.seeds):
            if numbers is not None:
                self._plan.update(np.ascontiguousarray(numbers).view(np.uint8).data)
        if whole:
            self._data.update(np.ascontiguousarray(host.indices).view(np.uint8).data)
            for array in host.arrays.values():
                self._data.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        if self._batches % self._every == 0:
            values = {
                "batch": str(host.planned.address),
                "digest of indices and seeds": self._plan.hexdigest(),
                "digest of items and bytes": self._data.hexdigest(),
            }
            self.compare(values, f"after {self._batches} batches")

    def failed(self, error: BaseException) -> None:
        if self._client is None or isinstance(error, HostMismatchError | StopIteration):
            return
        failed = {"host": self._index, "error": f"{type(error).__name__}: {error}"[:_LONGEST_TEXT]}
        try:
            self._client.key_value_set(f"{self._name}/failed", json.dumps(failed))
        except Exception:  # noqa: BLE001  another host was first, or the coordinator is gone
            return

    def close(self) -> None:
        self._stop.set()
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join()


def _differences(hosts: list[Any]) -> list[tuple[str, int, Any, int, Any]]:
    """Fields in which a host differs from the first one that has another value, once a field."""
    flat = [dict(_flattened("", host)) for host in hosts]
    found = []
    for field in dict.fromkeys(field for host in flat for field in host):
        first = flat[0].get(field)
        other = next((number for number, host in enumerate(flat) if host.get(field) != first), None)
        if other is not None:
            found.append((field, 0, first, other, flat[other].get(field)))
    return found


def _flattened(where: str, value: Any) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        for key, inner in value.items():
            pairs += _flattened(f"{where}.{key}" if where else str(key), inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            pairs += _flattened(f"{where}[{number}]", inner)
    else:
        pairs.append((where, value))
    return pairs
