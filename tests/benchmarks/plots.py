"""The plots of docs/performance.md, from the figures that ``run.py`` wrote: pictures only, nothing is measured here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import report

mpl.use("svg")
import matplotlib.pyplot as plt

Works = Mapping[str, Mapping[str, Any]]
REACHED, MISSED, PLAIN = "#2a7f62", "#c0504d", "#33658a"
FAR = 16
STYLE = {
    "svg.fonttype": "none",  # text stays text: small files, and one can search them
    "svg.hashsalt": "hydrax",  # the same figures give the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
}


def draw(works: Works, folder: Path) -> None:
    """Write all plots into ``folder``."""
    with mpl.rc_context(STYLE):
        save(_marks(works), folder / "bench-marks.svg")
        save(_growth(works), folder / "bench-growth.svg")


def save(figure: Any, file: Path) -> None:
    """Write a figure as SVG, on white, so that it can be read on a dark page; no date, so that it stays the same."""
    figure.savefig(file, format="svg", bbox_inches="tight", facecolor="white", metadata={"Date": None})
    plt.close(figure)
    file.write_text("\n".join(line.rstrip() for line in file.read_text().splitlines()) + "\n")


def _marks(works: Works) -> Any:
    """How far each figure is from its mark: 1 is the mark, longer is better; beyond ``FAR`` bars are cut."""
    bars = []
    for name, work in works.items():
        for mark in work["marks"]:
            found, bound = mark["figure"], mark["bound"]
            if found is not None and bound is not None:
                ahead = found / bound if mark["sense"] == "at least" else bound / max(found, bound / FAR)
                bars.append((f"{name}: {mark['text']}", math.log2(min(max(ahead, 1 / FAR), FAR)), mark))
    figure, axes = plt.subplots(figsize=(8, 0.26 * len(bars) + 0.8))
    heights = [height for _, height, _ in bars]
    axes.barh(range(len(bars)), heights, color=[REACHED if height >= 0 else MISSED for height in heights], height=0.7)
    for row, (_, height, mark) in enumerate(bars):
        left = height < 0
        axes.text(height, row, f" {report.mark_texts(mark)[0]} ", ha="right" if left else "left", va="center", size=8)
    axes.set_yticks(range(len(bars)), [report.powers(text) for text, _, _ in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    low, high = math.floor(min([-1.0, *heights])), math.ceil(max([1.0, *heights]))
    names = [f"{2**power}" if power >= 0 else f"1/{2**-power}" for power in range(low, high + 1)]
    axes.set_xticks(range(low, high + 1), [f"{name} x" for name in names])
    axes.set_xlim(low - 0.8, high + 0.8)
    axes.axvline(0, color="black", linewidth=1)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("figure over mark, or mark over figure where less is better: 1 x is the mark")
    return figure


def _growth(works: Works) -> Any:
    """Cost against size, a panel a work: bars span the rounds."""
    shown = {name: work for name, work in works.items() if work["along"]}
    figure, panels = plt.subplots(1, max(1, len(shown)), figsize=(2.7 * max(1, len(shown)), 2.6), squeeze=False)
    for axes, work in zip(panels[0], shown.values(), strict=False):
        measured = {int(label): case["values"] for label, case in work["cases"].items() if case["values"]}
        items = work["unit"] == "k items/s"
        each = work["along"].startswith("arrays")
        costs = {
            size: sorted(1e3 / value / (size if each else 1) if items else value for value in values)
            for size, values in measured.items()
        }
        middle = [values[len(values) // 2] for values in costs.values()]
        spread = [
            [at - values[0] for at, values in zip(middle, costs.values(), strict=True)],
            [values[-1] - at for at, values in zip(middle, costs.values(), strict=True)],
        ]
        axes.errorbar(list(costs), middle, yerr=spread, marker="o", markersize=4, capsize=2, color=PLAIN)
        axes.set_xscale("log", base=10 if max(costs, default=1) > 1000 else 2)
        if max(costs, default=1) <= 1000:
            axes.set_xticks(list(costs), [str(size) for size in costs])
        axes.minorticks_off()
        axes.set_ylim(0, 1.15 * max((values[-1] for values in costs.values()), default=1))
        axes.set_xlabel(work["along"])
        axes.set_ylabel(("µs an array of an item" if each else "µs an item") if items else work["unit"])
    figure.tight_layout()
    return figure
