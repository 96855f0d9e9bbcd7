"""The benchmarks' own bookkeeping, which needs no peers and no clock: figures, marks, and the page made of them."""

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests/benchmarks"
PAGE, FIGURES = ROOT / "docs/performance.md", ROOT / "docs/performance.json"
ROOMS = ("job", "loads", "system", "measuring", "works", "report", "page", "inputs", "short")


@pytest.fixture(scope="module")
def rooms():
    """The files of the benchmarks import one another as scripts do; their short names must not stay behind."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in ROOMS}
    finally:
        sys.path.remove(str(FOLDER))
        for name in ROOMS:
            sys.modules.pop(name, None)


def test_the_page_says_what_its_figures_say(rooms):
    works = json.loads(FIGURES.read_text())["works"]
    assert rooms["page"].filled(PAGE.read_text(), works) == PAGE.read_text(), "run make bench-docs, or page.py"


def test_the_page_has_a_place_for_every_block_and_the_figures_a_work_for_every_mark(rooms):
    text = PAGE.read_text()
    assert all(f"<!-- figures: {name} -->" in text for name in rooms["page"].BLOCKS)
    works = json.loads(FIGURES.read_text())["works"]
    assert list(works) == [work.name for work in rooms["works"].WORKS]
    for work in rooms["works"].WORKS:
        assert [mark["bound"] for mark in works[work.name]["marks"]] == [mark.bound for mark in work.marks], work.name


def test_every_side_of_a_mark_is_measured(rooms):
    for work in rooms["works"].WORKS:
        for mark in work.marks:
            assert {*mark.tops, *mark.bottoms} <= {*work.cases, *rooms["works"].PEERS}, (work.name, mark.text)


def test_the_short_version_measures_both_sides_of_its_references(rooms):
    short = [rooms["short"].shortened(work) for work in rooms["works"].WORKS if work.name in rooms["short"].REFERENCES]
    assert len(short) == len(rooms["short"].REFERENCES)
    for work in short:
        assert {*work.marks[0].tops, *work.marks[0].bottoms} == {*work.cases}
        assert all(job.peer not in rooms["works"].PEERS for job in work.cases.values())


def mark_of(rooms, **changes):
    return rooms["works"].Mark(**{"text": "", "tops": ("ours",), "bottoms": ("a", "b"), "bound": 2.0, **changes})


def test_a_ratio_takes_the_best_of_the_others_in_the_sense_of_the_mark(rooms):
    one = {"ours": {"value": 8.0}, "a": {"value": 2.0}, "b": {"value": 4.0}}
    assert rooms["report"].figure(mark_of(rooms), one) == 2.0
    assert rooms["report"].figure(mark_of(rooms, sense="at most"), one) == 4.0
    assert rooms["report"].figure(mark_of(rooms, how="difference"), one) == 4.0
    assert rooms["report"].figure(mark_of(rooms, how="value"), one) == 8.0


def test_what_is_missing_makes_no_figure_and_what_failed_is_no_peer(rooms):
    figure = rooms["report"].figure
    assert figure(mark_of(rooms), {"ours": {"value": 8.0}, "a": {"error": "x"}}) is None
    assert figure(mark_of(rooms), {"ours": {"unsupported": "x"}, "a": {"value": 2.0}}) is None
    assert figure(mark_of(rooms), {"ours": {"value": 8.0}, "a": {"error": "x"}, "b": {"value": 4.0}}) == 2.0


def test_quiet_rounds_decide_where_there_are_any(rooms):
    quiet = {"ours": {"value": 4.0, "others": 0.0}, "a": {"value": 2.0, "others": 0.0}}
    busy = {"ours": {"value": 9.0, "others": 0.5}, "a": {"value": 2.0, "others": 0.0}}
    assert rooms["report"].median_figure(mark_of(rooms), [quiet, busy, busy]) == (2.0, 1)
    assert rooms["report"].median_figure(mark_of(rooms), [busy, busy]) == (4.5, 0)


def test_a_mark_is_reached_at_its_bound_and_grossly_lost_only_beyond_its_half(rooms):
    more, less = mark_of(rooms), mark_of(rooms, sense="at most")
    assert more.holds(2.0)
    assert not more.holds(1.9)
    assert more.holds(1.0, slack=2)
    assert not more.holds(0.9, slack=2)
    assert less.holds(2.0)
    assert not less.holds(2.1)
    assert less.holds(4.0, slack=2)
    assert not less.holds(4.1, slack=2)


def test_a_measurement_that_hangs_is_ended_with_all_its_processes(rooms, tmp_path, monkeypatch):
    child = tmp_path / "child.py"
    child.write_text(
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'], check=True)\n"
    )
    monkeypatch.setattr(rooms["measuring"], "CHILD", child)
    # Both hold the pipes that are read to their end: to come back at all, each of them has to be gone.
    found = rooms["measuring"].run_child(rooms["job"].Job("hydrax", "tiny", limit=1.0), str(tmp_path))
    assert found == {"error": "no result in 1 s"}
