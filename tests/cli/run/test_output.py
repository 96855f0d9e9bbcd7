import dataclasses
import io
import json

import pytest
from rich.console import Console
from rich.text import Text

from hydrax_cli.run.render.json import result_json
from hydrax_cli.run.render.terminal import plan_view, result_view
from hydrax_cli.run.render.text import pass_line, plan_lines, result_lines
from hydrax_cli.run.reporters import PlainReporter, SilentReporter, TerminalReporter, choose_reporter
from hydrax_cli.run.summary import CachePlan, RunResult, describe
from hydrax_cli.shared.target import Target
from hydrax_core import DataGroup, Dataloader, FirstBatch, GroupShare, Stats
from hydrax_core.monitor import Pass, Passes


def fill(item, arrays, seed):
    arrays["image"][...] = item


def make(**options):
    arrays = {"image": ((4, 4, 3), "uint8", "float32"), "label": ((), "int32")}
    train = DataGroup(4, range(32), loader_arrays=arrays, seed=3, shuffle_first=True)
    valid = DataGroup(4, range(10), loader_arrays=arrays, remainder="pad")
    options = {"validation": ("epoch", 1, valid), "end_at": ("epoch", 2), "loader_kind": "inline"} | options
    return Dataloader(fill, train, **options)


@pytest.fixture
def plan():
    return describe(Target("a/loader.py:make", make(loader_count=2, loader_kind="process")))


def result(passes=(), **changes):
    counts = dict.fromkeys((field.name for field in dataclasses.fields(Stats)), 0)
    counts |= {"slots": (), "groups": (), "workers": (), "running": False, "first_batch": FirstBatch(0.1, 0.02, 0.08)}
    counts |= {"seconds": 2.0, "items": 84, "bytes": 4_000_000, "training_batches": 16, "validation_batches": 6}
    stats = Stats(**{**counts, **changes.pop("stats", {})})
    values = {
        "target": "a/loader.py:make",
        "passes": passes,
        "stats": stats,
        "interrupted": False,
        "resume": "2:0",
        "digest": None,
        "verdict": "the training step is the limit",
        "findings": None,
        "classes": {},
    }
    return RunResult(**{**values, **changes})


PASSES = (
    Pass("training", 0, 8, 32, 1_500_000, 1.0, 0.5),
    Pass("validation", 0, 3, 10, 500_000, 0.25, 0.0),
    Pass("training", 1, 8, 32, 1_500_000, 0.5, 0.1),
)


def shown(view, width=80):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, highlight=False)
    console.print(view)
    text = console.file.getvalue()
    return text, [Text.from_ansi(line).plain.rstrip() for line in text.splitlines()]


def test_the_plan_in_plain_lines(plan):
    assert plan_lines(plan) == [
        "hydrax run: a/loader.py:make",
        "training 0: 32 items in 8 batches of 4; seed 3, items shuffled anew every epoch, the first shuffled",
        "  image (4, 4, 3) uint8 -> float32, 192 B a batch",
        "  label () int32, 16 B a batch",
        "validation 0: 10 items in 3 batches of 4; in the order of the data",
        "  the same arrays",
        "epoch: 8 training batches, then 3 validation batches",
        "run: epochs 0 to 1: 16 training batches, 6 validation batches",
        "workers: 2 processes; 3 batches ahead",
        "memory: 5 slots x 4.0 KiB = 20 KiB",
    ]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"validation": None}, "epoch: 8 training batches"),
        ({"start_at": (1, 2)}, "run: epoch 1 from batch 2: 6 training batches, 3 validation batches"),
        ({}, "workers: none, the loader runs in line"),
        ({"loader_kind": "thread"}, "workers: 1 thread; 3 batches ahead"),
        (
            {"loader_kind": "thread", "deterministic": False},
            "workers: 1 thread; 3 batches ahead, handed out as they become ready",
        ),
    ],
    ids=str,
)
def test_the_plan_tells_what_is_particular(options, line):
    assert line in plan_lines(describe(Target("x", make(**options))))


def test_the_plan_tells_what_is_not_shuffled_and_what_is_left_out():
    def group(**options):
        return DataGroup(64, range(100), loader_arrays={"x": ((), "int32")}, remainder="drop", **options)

    loader = Dataloader(fill, group(shuffle_first=False), validation=("epoch", 1, group()), end_at=("epoch", 1))
    part, order = "100 items in 1 batch of 64, 36 items left out", "seed 0, items shuffled anew every epoch"
    assert plan_lines(describe(Target("x", loader)))[1:4:2] == [
        f"training 0: {part} an epoch (remainder: drop); {order}, first epoch: in the order of the data",
        f"validation 0: {part}, the same ones each time (remainder: drop); in the order of the data",
    ]


@pytest.mark.parametrize(
    ("cache", "line"),
    [
        (("batch", True, 8, 8, True), "  cache c/t: batches that serve every epoch, 8 of 8 held"),
        (("batch", False, 1000, 8, True), "  cache c/t: batches of each epoch, 1,000 held, 8 an epoch"),
        (("item", True, 0, 32, True), "  cache c/t: items that serve every epoch, 0 of 32 held"),
        (("batch", True, None, 8, False), "  cache c/t: batches that serve every epoch; this run only reads it"),
    ],
)
def test_the_plan_tells_of_a_cache(plan, cache, line):
    cached = dataclasses.replace(plan, caches=(CachePlan("c/t", *cache), None))
    lines = plan_lines(cached)
    assert [text for text in lines if "cache" in text] == [line]
    _, shown_lines = shown(plan_view(cached))
    assert line.replace("cache ", "cache  ") in shown_lines


@pytest.mark.parametrize(
    ("interval", "line"),
    [
        (("epoch", 2), "; after every 2 epochs 3 validation batches"),
        (("batch", 5), "; after every 5 of them 3 validation batches"),
    ],
)
def test_the_plan_tells_when_validation_runs(interval, line):
    valid = make().validation
    assert f"epoch: 8 training batches{line}" in plan_lines(describe(Target("x", make(validation=(*interval, valid)))))


def test_the_plan_on_a_terminal_says_the_same_within_80_columns(plan):
    _, lines = shown(plan_view(plan))
    assert "  image  (4, 4, 3)  uint8 → float32  192 B a batch" in lines
    assert "memory   5 slots x 4.0 KiB = 20 KiB" in lines
    assert max(map(len, lines)) <= 80


def test_a_pass_in_a_plain_line():
    assert pass_line(PASSES[0]) == "epoch 0: 8 batches, 32 items, 1.0 s, 32 items/s, 1.5 MB/s, idle 50 %"


def test_the_result_in_plain_lines():
    facts = {"errors": 3, "skipped_batches": 1, "substituted_items": 2, "worker_restarts": 1}
    lines = result_lines(result(PASSES, stats=facts, digest="ab" * 16, interrupted=True))
    assert lines == [
        "total: 22 batches, 84 items, 2.0 s, 42 items/s, 2.0 MB/s, idle 30 %",
        "first batch: 200 ms (start 100 ms, load 20 ms, place 80 ms)",
        "interrupted: --start 2:0 goes on from here",
        "errors: 3 items failed, 1 batch skipped, 2 items substituted",
        "restarts: 1 worker replaced",
        "digest: abababababababababababababababab",
        "verdict: the training step is the limit",
    ]


def test_the_result_on_a_terminal_has_a_row_for_each_pass():
    text, lines = shown(result_view(result(PASSES)))
    assert "\x1b[" in text
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["epoch", "0"],
        ["validation", "0"],
        ["epoch", "1"],
        ["total", "22"],
    ]
    assert lines[2].split() == ["validation", "0", "3", "10", "250", "ms", "40", "2.0", "0", "%"]
    assert lines[-1] == "●  the training step is the limit"


def test_hits_and_misses_are_told_where_there_is_a_cache():
    cached = (
        dataclasses.replace(PASSES[0], cache_misses=8),
        PASSES[1],
        dataclasses.replace(PASSES[2], cache_hits=7, cache_misses=1),
    )
    done = result(cached, stats={"cache_hits": 7, "cache_misses": 9})
    lines = [pass_line(done) for done in cached]
    assert [line.partition(", cache ")[2] for line in lines] == ["0 hits, 8 misses", "", "7 hits, 1 miss"]
    assert "cache: 7 hits, 9 misses" in result_lines(done)
    _, shown_lines = shown(result_view(done))
    assert [line.split()[-2:] for line in shown_lines[:5]] == [
        ["idle", "hits"],
        ["0", "%"],
        ["%", "-"],
        ["87", "%"],
        ["43", "%"],
    ]
    assert "cache        7 hits, 9 misses" in shown_lines
    for view in ("\n".join(result_lines(result(PASSES))), "\n".join(shown(result_view(result(PASSES)))[1])):
        assert "cache" not in view
        assert "hits" not in view


def test_only_all_hits_are_called_100_percent():
    almost = Pass("training", 0, 1000, 1, 1, 1.0, 0.0, cache_hits=999, cache_misses=1)
    _, lines = shown(result_view(result((almost,), stats={"cache_hits": 1000, "cache_misses": 0})))
    assert lines[1].endswith(" 99 %")
    assert lines[2].endswith(" 100 %")


def test_batches_that_only_the_cache_may_serve_are_told_when_they_are_dropped():
    lines = result_lines(result(stats={"cache_hits": 3, "cache_misses": 2, "dropped_batches": 2}))
    assert "cache: 3 hits, 2 misses; 2 batches dropped, as only the cache may serve them" in lines


def test_a_long_result_leaves_out_the_middle():
    passes = tuple(Pass("training", epoch, 1, 1, 1, 1.0, 0.0) for epoch in range(1000))
    _, lines = shown(result_view(result(passes)))
    names = [line.partition("  ")[0] for line in lines[1:27]]
    assert names == [f"epoch {n}" for n in range(12)] + ["… 976 more"] + [f"epoch {n}" for n in range(988, 1000)] + [
        "total"
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_large_numbers_fit_a_terminal(width):
    large = Pass("validation", 123, 1_234_567, 79_012_288, 123_456_789_012, 7_500.0, 7_000.0, hits := 1_234_567)
    _, lines = shown(result_view(result((large,), verdict="word " * 60, stats={"cache_hits": hits})), width)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    assert "1,234,567  79,012,288  2 h 05 min" in lines[1]


def test_the_json_keys_are_exactly_these():
    facts = {
        "groups": (GroupShare(16, 1.0, 1.0, 2.0),),
        "errors": 1,
        "cache_hits": 5,
        "cache_misses": 17,
        "loader_count": 4,
        "depth": 3,
        "tuning": None,
    }
    values = json.loads(result_json(result(PASSES, digest="ab" * 16, stats=facts)))
    assert values == {
        "target": "a/loader.py:make",
        "epochs": 2,
        "training_batches": 16,
        "validation_batches": 6,
        "items": 84,
        "bytes": 4_000_000,
        "seconds": 2.0,
        "items_per_second": 42.0,
        "idle_seconds": 0.6,
        "first_batch_seconds": 0.2,
        "errors": 1,
        "loader_count": 4,
        "depth": 3,
        "tuning": None,
        "groups": [{"batches": 16, "share": 1.0, "expected": 1.0, "epochs": 2.0}],
        "shapes": 0,
        "tokens": 0,
        "token_places": 0,
        "cache_hits": 5,
        "cache_misses": 17,
        "digest": "abababababababababababababababab",
        "verdict": "the training step is the limit",
        "findings": None,
        "classes": {},
    }


def test_the_json_of_a_run_without_a_batch():
    values = json.loads(result_json(result(stats={"first_batch": None, "items": 0, "seconds": 0.0})))
    assert values["first_batch_seconds"] is None
    assert values["items_per_second"] == 0


def report(reporter, loader, run_result):
    reporter.start(describe(Target("x", loader)))
    passes = Passes(ordered=True)
    for batch in loader:
        reporter.batch(batch, passes, passes.add(batch, 0.1, 0.0))
    reporter.finish(dataclasses.replace(run_result, passes=passes.snapshot()), passes.end())
    reporter.abandon()


def test_a_stream_that_is_no_terminal_gets_plain_lines():
    stream = io.StringIO()
    reporter = choose_reporter(stream, quiet=False)
    assert isinstance(reporter, PlainReporter)
    report(reporter, make(end_at=("batch", 10)), result())
    lines = stream.getvalue().splitlines()
    names = [
        line.partition(":")[0] for line in lines if line.startswith(("epoch ", "validation 0: 3", "total", "verdict"))
    ]
    assert names == ["epoch 0", "validation 0", "epoch 1", "total", "verdict"]
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_gets_bars_that_make_way_for_the_result():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, highlight=False)
    report(TerminalReporter(console), make(), result())
    text = console.file.getvalue()
    assert "whole run" in text
    assert text.rindex("whole run") < text.index("total")
    last = Text.from_ansi(text.splitlines()[-1]).plain
    assert last.rstrip() == "●  the training step is the limit"
    assert max(len(Text.from_ansi(line).plain) for line in text.splitlines()) <= 80


def test_a_terminal_that_can_do_nothing_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(choose_reporter(io.StringIO(), quiet=False), PlainReporter)


def test_quiet_leaves_the_digest():
    stream = io.StringIO()
    reporter = choose_reporter(stream, quiet=True)
    assert isinstance(reporter, SilentReporter)
    report(reporter, make(), result(digest="ab" * 16))
    assert stream.getvalue() == "ab" * 16 + "\n"


def test_tokens_and_shapes_are_told_where_there_are():
    lines = result_lines(result(stats={"tokens": 990, "token_places": 1000, "shapes": 3}))
    assert "tokens: 990, 495 a second, 99.0 % of the places in their rows" in lines
    assert "shapes: 3 shapes of batches, each of which a compiled step is compiled for" in lines
    assert not any(line.startswith(("tokens", "shapes")) for line in result_lines(result(stats={"shapes": 1})))


def test_the_share_of_each_group_is_told_where_there_are_several():
    shares = (GroupShare(6, 0.6, 0.7, 1.5), GroupShare(4, 0.4, 0.3, 12.0))
    assert "groups: 60.0% (of 70.0%, 1.5 epochs), 40.0% (of 30.0%, 12.0 epochs)" in result_lines(
        result(PASSES, stats={"groups": shares})
    )
    assert not [line for line in result_lines(result(PASSES, stats={"groups": shares[:1]})) if "groups" in line]
