"""A digest of a loader's code changes with what it does, not with how it is written down."""

import functools
import subprocess
import sys
import textwrap
import types

import pytest

from hydrax_core.data.code_digest import changed_code, code_digests
from hydrax_core.sources import text_lines

LOADER = """
import functools

SIZE = 4
TABLE = {}

class Base:
    factor = 2
    def scale(self, value):
        return value * self.factor

class Load(Base):
    __slots__ = ("shift", "names")
    def __init__(self, shift):
        self.shift = shift
        self.names = {"b", "a"}
    def __call__(self, item, arrays, seed):
        arrays["x"][...] = self.scale(item) + self.shift
    @property
    def twice(self):
        return 2

def helper(value):
    return value + SIZE

@functools.lru_cache
def cached(value):
    return helper(value) in {"a", "b", "c"}

def load(item, arrays, seed, scale=3, *, bias=1):
    '''Text.'''
    result = [helper(value) * scale for value in (item.real, bias)]
    arrays["x"][...] = result[0] if cached(item) else TABLE

def make(factor):
    def inner(item, arrays, seed):
        arrays["x"][...] = helper(item) * factor
    return inner

partial = functools.partial(load, scale=5)
objects = Load(7)
method = Load(7).__call__
closure = make(2)
"""


def module(source, name="loaders"):
    made = types.ModuleType(name)
    exec(compile(source, f"{name}.py", "exec"), made.__dict__)
    return made


def changed(name, *edits):
    source = LOADER
    for old, new in edits:
        assert old in source
        source = source.replace(old, new)
    return changed_code(code_digests(getattr(module(LOADER), name)), code_digests(getattr(module(source), name)))


@pytest.mark.parametrize("name", ["load", "partial", "objects", "method", "closure"])
@pytest.mark.parametrize(
    "edit",
    [
        ("\nSIZE", "\n\n\n# a comment\nSIZE"),
        ("'''Text.'''", "'''Another text.'''"),
        ("result", "outcome"),
        ("TABLE = {}", "TABLE = {1: 2}"),
        ("    return value + SIZE", "    # a comment\n    return (\n        value + SIZE)"),
    ],
    ids=lambda edit: edit[1].strip()[:12],
)
def test_comments_lines_texts_and_names_of_variables_change_nothing(name, edit):
    assert changed(name, edit) == ()


@pytest.mark.parametrize(
    ("name", "edit", "named"),
    [
        ("load", ("* scale for", "+ scale for"), "load"),
        ("load", ("item.real", "item.imag"), "load"),
        ("load", ("SIZE = 4", "SIZE = 5"), "SIZE"),
        ("load", ("value + SIZE", "value - SIZE"), "helper"),
        ("load", ('"c"}', '"d"}'), "cached"),
        ("load", ("scale=3", "scale=4"), "load default 0"),
        ("load", ("bias=1", "bias=2"), "load default bias"),
        ("partial", ("scale=5", "scale=6"), "partial argument scale"),
        ("partial", ("value + SIZE", "value - SIZE"), "helper"),
        ("objects", ("+ self.shift", "- self.shift"), "Load.__call__"),
        ("objects", ("Load(7)", "Load(8)"), "Load.shift"),
        ("objects", ("value * self.factor", "value / self.factor"), "Base.scale"),
        ("objects", ("factor = 2", "factor = 3"), "Base.factor"),
        ("objects", ("return 2", "return 3"), "Load.twice"),
        ("method", ("+ self.shift", "- self.shift"), "Load.__call__"),
        ("method", ("Load(7)", "Load(8)"), "Load.shift"),
        ("closure", ("make(2)", "make(3)"), "make.<locals>.inner closure factor"),
        ("closure", ("value + SIZE", "value - SIZE"), "helper"),
    ],
)
def test_what_changed_is_named(name, edit, named):
    assert changed(name, edit) == (named,)


def test_processes_agree_whatever_their_hash_seed(tmp_path):
    (tmp_path / "loaders.py").write_text(LOADER)
    script = """
        import json, loaders
        from hydrax_core.data.code_digest import code_digests
        names = ("load", "partial", "objects", "method", "closure")
        print(json.dumps([code_digests(getattr(loaders, name)) for name in names]))
    """
    found = {
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join([str(tmp_path), *sys.path])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


class Exotic:
    def __getattr__(self, name):
        raise RuntimeError(name)

    def __call__(self, item, arrays, seed):
        pass


@pytest.mark.parametrize(
    "function", [print, functools.partial(print), Exotic(), len], ids=lambda value: type(value).__name__
)
def test_what_has_no_code_to_see_is_no_error(function):
    assert changed_code(code_digests(function), code_digests(function)) == ()


def test_code_of_another_version_of_python_cannot_be_told():
    now = code_digests(module(LOADER).load)
    other = dict.fromkeys(now, "0")
    assert changed_code({**other, "python": now["python"]}, now)
    assert changed_code({**other, "python": "2.7"}, now) == ()
    assert changed_code({}, now) == changed_code(now, {}) == ()


SOURCE = """
from hydrax_core import Source
from hydrax_core.sources import text_lines

class Own(Source):
    def __init__(self, decode):
        self.decode = decode
    def __len__(self):
        return 3
    def __getitem__(self, index):
        return self.decode(index) + 1
    def fingerprint(self):
        return "files"

def decode(index):
    return 2 * index

own = Own(decode)
"""


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("2 * index", "3 * index", ("Own.decode",)),
        ("self.decode(index) + 1", "self.decode(index)", ("Own.__getitem__",)),
        ("return 3", "return 3  # items", ()),
    ],
)
def test_code_that_makes_the_items_of_a_source_counts(old, new, changed):
    sources = [module(text).own for text in (SOURCE, SOURCE.replace(old, new))]
    assert changed_code(*(code_digests(len, source) for source in sources)) == changed


def test_what_a_source_of_files_was_given_counts(tmp_path):
    (tmp_path / "a.txt").write_text("a\nb\n")

    def digests(encode):
        return code_digests(len, text_lines(tmp_path / "a.txt", encode=encode, length=4).training.items)

    assert changed_code(digests(lambda line: [ord(line)]), digests(lambda line: [ord(line)])) == ()
    assert changed_code(digests(lambda line: [ord(line)]), digests(lambda line: [1])) == ("TextLines.encode",)
