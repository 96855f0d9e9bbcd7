"""``track``: the loader's own batches, and how far they are, wherever it is shown."""

import io
import re
import subprocess
import sys

import pytest

from hydrax_core import DataGroup, Dataloader
from hydrax_core.progress import track


class Terminal(io.StringIO):
    def isatty(self):
        return True


def fill(item, arrays, seed):
    arrays["x"][...] = item


def make(**options):
    arrays = {"x": ((2,), "int32")}
    group = DataGroup(4, range(12), loader_arrays=arrays, shuffle_first=False)
    valid = DataGroup(4, range(6), loader_arrays=arrays, remainder="pad")
    options = {"loader_kind": "inline", "end_at": ("epoch", 2), "validation": ("epoch", 1, valid), **options}
    return Dataloader(fill, group, **options)


@pytest.mark.parametrize("style", ["auto", "terminal", "notebook", "lines"])
@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_the_batches_are_those_of_the_loader(style, kind):
    if style == "notebook":
        pytest.importorskip("tqdm")
    shown = kind()
    with make() as loader:
        batches = [batch.address for batch in track(loader, style=style, file=shown)]
    assert batches == [batch.address for batch in make()]
    assert re.search("epoch 0.*epoch 1", shown.getvalue(), re.DOTALL)
    assert "items/s, idle" in shown.getvalue()


def test_a_line_says_what_was_handed_out_of_each_pass():
    shown = io.StringIO()
    for _ in track(make(), file=shown):
        pass
    said = [re.sub(r"in [\d.,]+ s, .*", "", line).strip() for line in shown.getvalue().splitlines()]
    assert said == [
        "epoch 0: 3 batches, 12 items",
        "validation 0: 2 batches, 6 items",
        "epoch 1: 3 batches, 12 items",
        "validation 1: 2 batches, 6 items",
    ]


def test_no_batch_is_kept_and_leaving_the_loop_leaves_nothing():
    with make(depth=1) as loader:
        tracked = track(loader, file=Terminal())
        for count, batch in enumerate(tracked, 1):
            del batch
            assert loader.stats().held_batches <= 1
            if count == 2:
                break
        tracked.close()
        assert next(loader).address.epoch_batch == 2


def test_a_batch_that_fails_ends_the_bars_with_its_error():
    def bad(item, arrays, seed):
        raise ValueError("bad")

    shown = Terminal()
    loader = Dataloader(bad, make().training[0], loader_kind="inline")
    with pytest.raises(Exception, match="bad"):
        list(track(loader, file=shown))
    assert shown.getvalue().count("\x1b[?25h") == shown.getvalue().count("\x1b[?25l") == 1  # the cursor is back


def test_a_style_that_there_is_not_is_refused_at_the_call():
    with pytest.raises(ValueError, match="style: expected one of auto, terminal, notebook, lines; got 'bars'"):
        track(make(), style="bars")


def test_nothing_is_imported_before_it_is_used_and_lines_need_no_library():
    program = (
        "import sys, io; sys.modules['rich'] = sys.modules['tqdm'] = None\n"
        "from hydrax_core.progress import track\n"
        "from types import SimpleNamespace\n"
        "class File(io.StringIO):\n    isatty = lambda self: True\n"
        "print(list(track([], file=File())), 'jax' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert found.stdout == "[] False\n"
