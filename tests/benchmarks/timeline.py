"""``timeline.py PICTURE`` draws who waits for whom: three short runs, what the workers load and when the step has it.

Each item brings the time at which its loading began and ended, and the process, along as additional data; ``next()``
and the step are timed in the loop. All processes read one clock (CLOCK_MONOTONIC).
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import matplotlib.pyplot as plt
import peers
import plots
from inputs import make_inputs
from loads import FOLDER, load_named

SKIPPED, SHOWN = 12, 8
"""Batches before the window that is drawn, and in it."""
RUNS = 7
GAP = 100e-6
"""Shorter gaps between two items of one batch are not drawn."""
COLOURS = ("#33658a", "#86bbd8")
WAIT, STEP = "#c0504d", "#2a7f62"


@dataclass(frozen=True)
class Scene:
    """A run to draw: the work, its batch, seconds of a step (0 for none) and the batch the window begins with."""

    title: str
    load: str
    batch: int
    step: float
    first: int = SKIPPED


SCENES = (
    Scene("loading takes longer than the step: the step waits", "image", 16, 0.004),
    Scene("the step takes longer than loading: the workers wait", "small", 8, 0.002),
    # Item 1499 takes 100 times as long; it lies in batch 23.
    Scene("one item takes 100 times as long: the others are loaded meanwhile", "slow", 64, 0.001, 20),
)


def timed(load: str) -> Any:
    """A loader function that brings along which process loaded an item, from when to when."""
    fill = load_named(load).fill

    def load_item(item: int, arrays: Any, seed: int | None) -> dict[str, Any]:
        start = time.monotonic()
        fill(item, arrays, seed)
        return {"span": (os.getpid(), start, time.monotonic())}

    return load_item


def record(scene: Scene) -> tuple[list[tuple[int, int, float, float]], list[tuple[int, float, float, float]]]:
    """Spans (batch, process, begin, end) of the workers, and (batch, asked, got, done) of the loop."""
    import jax  # noqa: PLC0415
    from consume import step_of  # noqa: PLC0415

    from hydrax_core import DataGroup, Dataloader  # noqa: PLC0415

    specs = load_named(scene.load).specs
    arrays = {name: (shape, dtype, dtype) for name, (shape, dtype) in specs.items()}
    example = tuple(jax.device_put(peers.aligned((scene.batch, *shape), dtype)) for shape, dtype in specs.values())
    step = step_of(scene.step, example)
    group = DataGroup(scene.batch, range(10**6), loader_arrays=arrays)
    loaded, consumed = [], []
    with Dataloader(timed(scene.load), group, loader_count=2) as loader:
        for number in range(scene.first + SHOWN + 6):
            asked = time.monotonic()
            batch = next(loader)
            got = time.monotonic()
            step(tuple(batch.arrays.values())).block_until_ready()
            consumed.append((number, asked, got, time.monotonic()))
            loaded.extend((number, *span) for span in batch.additional["span"])
            batch.close()
    return sorted(loaded, key=lambda one: one[1:]), consumed


def merged(spans: list[tuple[int, int, float, float]]) -> list[tuple[int, int, float, float]]:
    """Neighbouring items of one batch as one span."""
    found: list[tuple[int, int, float, float]] = []
    for batch, process, begin, end in spans:
        if found and found[-1][:2] == (batch, process) and begin - found[-1][3] < GAP:
            found[-1] = (batch, process, found[-1][2], end)
        else:
            found.append((batch, process, begin, end))
    return found


def _window(scene: Scene, loaded: Any, consumed: Any) -> tuple[float, float, Any, Any]:
    return consumed[scene.first][1], consumed[scene.first + SHOWN - 1][3], loaded, consumed


def _length(window: tuple[float, float, Any, Any]) -> float:
    return window[1] - window[0]


def draw(scene: Scene, axes: Any) -> None:
    # What disturbs a run makes it longer: the shortest one shows the loader best.
    start, end, loaded, consumed = min((_window(scene, *record(scene)) for _ in range(RUNS)), key=_length)
    processes = sorted({process for _, process, _, _ in loaded})
    for batch, process, begin, done in merged(loaded):
        if done > start and begin < end:
            lane = 1 + processes.index(process)
            axes.barh(lane, (done - begin) * 1e3, left=(begin - start) * 1e3, color=COLOURS[batch % 2], height=0.7)
    for number, asked, got, done in consumed:
        if done > start and asked < end:
            axes.barh(0, (got - asked) * 1e3, left=(asked - start) * 1e3, color=WAIT, height=0.7)
            axes.barh(0, (done - got) * 1e3, left=(got - start) * 1e3, color=STEP, height=0.7)
            axes.text((got + done - 2 * start) * 5e2, 0, str(number), ha="center", va="center", color="white", size=7)
    axes.set_yticks(range(1 + len(processes)), ["loop", *(f"worker {lane}" for lane in range(len(processes)))])
    axes.set_ylim(len(processes) + 0.5, -0.5)
    axes.set_xlim(0, (end - start) * 1e3)
    axes.grid(visible=False, axis="y")
    axes.set_title(scene.title, loc="left", size=9)


@click.command()
@click.argument("picture", type=click.Path(dir_okay=False, path_type=Path))
def main(*, picture: Path) -> None:
    """Draw who waits for whom."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with tempfile.TemporaryDirectory(prefix="hydrax-bench-") as folder, plots.mpl.rc_context(plots.STYLE):
        make_inputs(Path(folder))
        os.environ[FOLDER] = folder
        figure, panels = plt.subplots(len(SCENES), 1, figsize=(9, 1.45 * len(SCENES)))
        for scene, axes in zip(SCENES, panels, strict=True):
            draw(scene, axes)
        panels[-1].set_xlabel("ms")
        meaning = {
            STEP: "step, number of the batch",
            WAIT: "waits for a batch",
            COLOURS[0]: "loads a batch",
            COLOURS[1]: "loads the next",
        }
        figure.legend(
            [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in meaning],
            meaning.values(),
            ncols=len(meaning),
            loc="lower right",
            bbox_to_anchor=(0.99, 1.0),
            frameon=False,
        )
        figure.tight_layout()
        plots.save(figure, picture)


if __name__ == "__main__":
    main()
