"""``depth="auto"`` and ``loader_count="auto"``: the least of both that keeps the consumer from waiting.

Promise: what was given as a number stays; what is tuned stays within its bounds. A step that does not shorten the waits
is taken back and not tried again for a while, longer each time, so that nothing swings to and fro. Which batches come,
and in which order, does not depend on it.

How: a run is looked at in windows. Where the consumer waited for more than ``_WAITING`` of one, there are more workers
if those at hand are busy, as many as their load and the consumer's own time per batch say, and more depth if they are
not: then the batches come unevenly, or too short after one another to be handed over one by one.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, replace
from typing import NamedTuple

__all__ = ["Bounds", "Load", "Setting", "Tuner"]

_WAITING = 0.02
"""Share of the time that the consumer may wait before something is done about it."""
_BUSY = 0.75
"""Share of the time that workers are busy from which on there are too few of them."""
_MAYBE_BUSY = 0.4
"""The same, once more depth did not help."""
_SATURATED = 0.9
"""Share from which on they have no pause that a deeper queue could fill."""
_WINDOW_SECONDS = 0.25
_TRIAL_SECONDS = 0.5
"""Windows for a look, and for the judgement of a step, which has to separate a gain from noise."""
_WINDOW_BATCHES = 6
_GAIN = 1.05
"""What a step, or the next of its kind with it, has to gain in batches a second over the windows before, to be kept."""
_WINDOWS_BEFORE = 3
"""Windows to compare more depth with, as one says little: those of one setting differ by 1 % (decoding images) to 9 %
(tiny items; standard deviations, measured). A lack of workers shows in one."""
_SPARE = 1.1
_PAUSE_SECONDS = 30.0


class Bounds(NamedTuple):
    """The least and the most of a setting; equal where it is fixed."""

    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Setting:
    """What is in use.

    Attributes:
        why: The reason in words; empty while nothing was looked at.
    """

    depth: int
    workers: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class Load:
    """What has happened since the start.

    Attributes:
        now: Seconds of a monotonic clock.
        waited: Seconds that the consumer has waited.
        busy: Seconds that workers have spent in the loader, all together.
    """

    now: float
    batches: int
    waited: float
    busy: float


class _Window(NamedTuple):
    rate: float
    waiting: float
    load_seconds: float
    step_seconds: float
    busy: float


class Tuner:
    """Chooses depth and workers while a run goes on."""

    def __init__(self, depth: Bounds, workers: Bounds) -> None:
        self._depth = depth
        self._workers = workers
        self.setting = Setting(depth.least, workers.least)
        self._begin: Load | None = None
        self._tried: tuple[Setting, float] | None = None
        """The setting before the steps that are being tried, and the rate that it had."""
        self._rates: deque[float] = deque(maxlen=2 * _WINDOWS_BEFORE)
        """Of the last windows with the present setting."""
        self._useless = {"depth": 0.0, "workers": 0.0}
        """Until when it is known that more of it does not help."""
        self._pause = _PAUSE_SECONDS

    @property
    def tunes(self) -> bool:
        return self._depth.least < self._depth.most or self._workers.least < self._workers.most

    def restart(self) -> None:
        """Forget what was seen so far: a worker is still starting, or the consumer has not begun."""
        self._begin = None

    def confine(self, workers: int) -> None:
        self._workers = Bounds(min(self._workers.least, workers), workers)
        self._tried = None
        self.setting = replace(self.setting, workers=workers, why=f"no more than {workers} workers can be started")

    def look(self, load: Load) -> Setting | None:
        """The setting to use from now on, or ``None`` to leave things as they are."""
        if self._begin is None:
            self._begin = load
            return None
        begin = self._begin
        seconds, batches = load.now - begin.now, load.batches - begin.batches
        least = _WINDOW_SECONDS if self._tried is None else _TRIAL_SECONDS
        if seconds < least or batches < _WINDOW_BATCHES:
            return None
        self._begin = load
        waited = min(load.waited - begin.waited, seconds)
        busy = load.busy - begin.busy
        seen = _Window(
            rate=batches / seconds,
            waiting=waited / seconds,
            load_seconds=busy / batches,
            step_seconds=(seconds - waited) / batches,
            busy=busy / seconds / max(1, self.setting.workers),
        )
        before = self.setting
        if seen.waiting > _WAITING:
            self._rates.append(seen.rate)
        else:  # that is the consumer's rate, not the setting's
            self._rates.clear()
        self.setting = self._choose(seen, load.now)
        if (self.setting.depth, self.setting.workers) != (before.depth, before.workers):
            self._rates.clear()
        return self.setting if self.setting != before else None

    def _choose(self, seen: _Window, now: float) -> Setting:
        setting = self.setting
        if self._tried is not None:
            origin, then = self._tried
            eased = seen.waiting <= _WAITING
            if seen.rate >= (then if eased else _GAIN * then):
                self._tried = None
            elif eased:  # it is the consumer that has become slower
                return replace(setting, why=_keeps_up(setting, seen))
            elif setting.depth < self._depth.most and origin.workers == setting.workers and _one_step(origin, setting):
                return replace(setting, depth=self._deeper(setting.depth))  # one step may be too small to show
            else:
                return self._take_back(origin, seen, now)
        if seen.waiting <= _WAITING:
            self._pause = _PAUSE_SECONDS
            return replace(setting, why=_keeps_up(setting, seen))
        changed = self._more(setting, seen, now)
        if changed is None:
            return replace(setting, why=self._why_no_more(seen, now))
        self._tried = (setting, statistics.median(self._rates))
        return changed

    def _more(self, setting: Setting, seen: _Window, now: float) -> Setting | None:
        can_deepen = setting.depth < self._depth.most and now >= self._useless["depth"]
        can_employ = setting.workers < self._workers.most and now >= self._useless["workers"]
        if can_employ and seen.busy > (_MAYBE_BUSY if not can_deepen else _BUSY):
            needed = math.ceil(_SPARE * seen.load_seconds / max(seen.step_seconds, 1e-6))
            count = min(max(setting.workers + 1, min(needed, 2 * setting.workers)), self._workers.most)
            return replace(setting, workers=count, why=f"{_load(seen)}: more workers are tried")
        if can_deepen and seen.busy <= _SATURATED and len(self._rates) >= _WINDOWS_BEFORE:
            return replace(setting, depth=self._deeper(setting.depth), why=f"{_load(seen)}: more depth is tried")
        return None

    def _deeper(self, depth: int) -> int:
        return min(math.ceil(1.5 * depth), self._depth.most)

    def _take_back(self, origin: Setting, seen: _Window, now: float) -> Setting:
        what = "workers" if origin.workers != self.setting.workers else "depth"
        self._tried = None
        self._useless[what] = now + self._pause
        self._pause *= 2
        return replace(origin, why=f"{_load(seen)}: more {what} did not help")

    def _why_no_more(self, seen: _Window, now: float) -> str:
        setting = self.setting
        deepens = self._depth.most > setting.depth and now >= self._useless["depth"] and seen.busy <= _SATURATED
        if deepens and len(self._rates) < _WINDOWS_BEFORE:
            return f"{_load(seen)}: a few looks more decide"
        if seen.busy > _BUSY and setting.workers >= self._workers.most:
            return f"{_load(seen)}, with as many workers as there may be ({setting.workers})"
        return f"{_load(seen)}, and neither more workers nor more depth helps"


def _one_step(origin: Setting, setting: Setting) -> bool:
    return setting.depth <= math.ceil(1.5 * origin.depth)


def _load(seen: _Window) -> str:
    return (
        f"the consumer waits {seen.waiting:.0%} of the time (a batch takes {_time(seen.load_seconds)} of loading, "
        f"{_time(seen.step_seconds)} of its own)"
    )


def _keeps_up(setting: Setting, seen: _Window) -> str:
    workers = f"{setting.workers} worker{'s' if setting.workers != 1 else ''}"
    return (
        f"{workers}, depth {setting.depth} keep up: a batch takes {_time(seen.load_seconds)} of loading and "
        f"{_time(seen.step_seconds)} of the consumer"
    )


def _time(seconds: float) -> str:
    for unit, scale in (("us", 1e-6), ("ms", 1e-3)):
        if seconds < 1000 * scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds:.3g} s"
