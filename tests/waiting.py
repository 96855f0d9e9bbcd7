"""Waiting for what another thread or process does: for a condition, never for a time."""

import time


def wait_until(condition, seconds=40.0, why=lambda: "it did not come about"):
    """What ``condition`` gives once that is true; after so many seconds the test fails with the text of ``why``."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, why()
        time.sleep(0.002)
    return found
