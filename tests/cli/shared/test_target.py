import sys

import click
import cloudpickle
import numpy as np
import pytest

from hydrax_cli.shared.errors import TargetError
from hydrax_cli.shared.target import SourceOptions, load_target

LOADER = """
from hydrax_core import DataGroup, Dataloader

def load(item, arrays, seed):
    arrays["x"][...] = item

def make(items: int = 8, *, name="a", batch: int = 2):
    group = DataGroup(batch, range(items), loader_arrays={"x": ((), "int32")})
    return Dataloader(load, group, loader_kind="inline")

loader = make()
class Holder:
    make = staticmethod(make)
number = 5
def wrong():
    return 5
def needs(items, path):
    return make(items)
def anything(**options):
    return make(int(options["n"]))
"""


@pytest.fixture(autouse=True)
def _untouched_interpreter(monkeypatch, tmp_path):
    """Targets add to sys.path, sys.modules and to cloudpickle's registry."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("hydrax_target_") or str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            if name in cloudpickle.list_registry_pickle_by_value():
                cloudpickle.unregister_pickle_by_value(sys.modules[name])
            del sys.modules[name]


@pytest.fixture
def write(tmp_path):
    def write(name, text=LOADER):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def load(target, parameters=None, **options):
    return load_target(target, parameters or {}, SourceOptions(**options)).loader


def test_without_a_target_the_digits_run():
    found = load_target(None, {}, SourceOptions())
    assert found.name == "digits"
    assert found.loader.last_batch == 3 * found.loader.batches_per_epoch
    assert found.loader.batches_per_validation > 0


def test_a_file_and_an_attribute_of_it(write):
    file = write("my loader.py")
    assert len(load(f"{file}:loader").training[0]) == 8
    assert len(load(f"{file}:make").training[0]) == 8
    assert len(load(f"{file}:Holder.make", {"items": "4"}).training[0]) == 4


def test_a_module_of_the_current_folder(write):
    write("some_package/some_module.py")
    assert len(load("some_package.some_module:make", {"items": "6"}).training[0]) == 6


def test_arguments_come_as_the_annotations_say(write):
    loader = load(f"{write('a.py')}:make", {"items": "10", "batch": "5", "name": "x"})
    assert loader.batches_per_epoch == 2


def test_a_function_of_any_arguments_gets_texts(write):
    assert len(load(f"{write('a.py')}:anything", {"n": "6"}).training[0]) == 6


def test_what_a_file_defines_is_pickled_by_value(write):
    load(f"{write('a.py')}:loader")
    name = next(name for name in sys.modules if name.startswith("hydrax_target_a"))
    pickled = cloudpickle.dumps(sys.modules[name].load)
    cloudpickle.unregister_pickle_by_value(sys.modules.pop(name))  # as in a worker, which cannot import it
    arrays = {"x": np.zeros(1)}
    cloudpickle.loads(pickled)(5, arrays, None)
    assert arrays["x"].tolist() == [5]


def test_a_file_may_import_what_lies_beside_it(write):
    write("beside_it.py", "SIZE = 6")
    file = write("a.py", LOADER + "import beside_it\nloader = make(beside_it.SIZE)")
    assert len(load(f"{file}:loader").training[0]) == 6


def test_two_files_of_one_name_are_two_modules(write):
    first, second = write("one/a.py"), write("two/a.py", LOADER.replace("items: int = 8", "items: int = 4"))
    assert len(load(f"{first}:loader").training[0]) == 8
    assert len(load(f"{second}:loader").training[0]) == 4


@pytest.mark.parametrize(
    ("target", "parameters", "message"),
    [
        ("nothing", {}, "'nothing' is neither a file nor a folder, nor of the form"),
        ("a.py", {}, "is a file; name what in it to run, as in a.py:loader"),
        ("notes.xyz", {}, "is of no known format, by its content and its suffix '.xyz'; possible are"),
        ("missing.py:loader", {}, "there is no file missing.py"),
        ("no_such_module:x", {}, "there is no module 'no_such_module'"),
        ("os.no_such:x", {}, "there is no module 'os.no_such'"),
        ("a.py:lodaer", {}, "a.py has no 'lodaer'; did you mean loader?"),
        ("a.py:make", {"itmes": "1"}, "-p itmes: a.py:make has no such argument; it has items, name, batch"),
        ("a.py:make", {"items": "x"}, "-p items: expected int, got 'x'"),
        ("a.py:needs", {"items": "1"}, "needs path: add -p path=..."),
        ("a.py:loader", {"items": "1"}, "only a function takes arguments; a.py:loader is a Dataloader"),
        (None, {"items": "1"}, "only a function and files take arguments"),
        ("missing.npy", {}, "there is no file missing.npy"),
        ("gopher://ann:pw@host/a.parquet?b", {}, "gopher://host/a.parquet: gopher:// cannot be read; known are s3"),
        ("empty", {}, "holds no image"),
    ],
)
def test_what_is_not_there_is_wrong_usage(write, tmp_path, target, parameters, message):
    write("a.py")
    write("notes.xyz", "notes")
    (tmp_path / "empty").mkdir()
    with pytest.raises(click.UsageError) as raised:
        load(target, parameters)
    assert message in raised.value.message


def test_options_of_data_go_with_data_only(write):
    np.save("rows.npy", np.zeros((4, 2), np.float32))
    for target in (None, f"{write('a.py')}:loader"):
        with pytest.raises(click.UsageError, match="--size: it goes with files that a built-in source reads only"):
            load(target, size=(8, 8))
    with pytest.raises(click.UsageError, match="--size: TARGET is a NumPy file, which has no images"):
        load("rows.npy", size=(8, 8))


def test_options_of_the_built_in_sources():
    np.save("rows.npy", np.zeros((10, 2), np.float32))
    loader = load("rows.npy", batch_size=4, seed=7)
    assert (loader.training[0].batch_size, loader.training[0].seed) == (4, 7)
    assert loader.batches_per_epoch == 3


@pytest.mark.parametrize(
    ("attribute", "error", "kind"),
    [("number", click.UsageError, "is of type int"), ("wrong", TargetError, "returned 5")],
)
def test_what_is_no_dataloader_is_told(write, attribute, error, kind):
    with pytest.raises(error, match=f"{kind}; expected a Dataloader"):
        load(f"{write('a.py')}:{attribute}")


def frames(text):
    return [line.strip() for line in text.splitlines() if line.startswith('  File "')]


@pytest.mark.parametrize("form", ["file", "module"])
def test_a_target_that_fails_shows_its_own_frames_only(write, form):
    text = "def inner():\n    return 1 / 0\n\ndef make():\n    return inner()\n\nmake()\n"
    file = write("failing_target.py", text)
    with pytest.raises(TargetError) as raised:
        load(f"{file if form == 'file' else 'failing_target'}:make")
    message = str(raised.value)
    assert frames(message) == [
        f'File "{file}", line 7, in <module>',
        f'File "{file}", line 5, in make',
        f'File "{file}", line 2, in inner',
    ]
    assert message.endswith("ZeroDivisionError: division by zero")


def test_a_function_that_fails_in_hydrax_shows_the_line_that_called_it(write):
    file = write("a.py")
    with pytest.raises(TargetError) as raised:
        load(f"{file}:make", {"batch": "100"})
    message = str(raised.value)
    assert [frame.partition(", line")[0] for frame in frames(message)] == [f'File "{file}"']
    assert "batch_size: 100 is more than the 8 items" in message


def test_chained_causes_are_cut_too(write):
    text = (
        "try:\n    import no_such_thing\nexcept ImportError as error:\n    raise RuntimeError('no thing') from error\n"
    )
    file = write("a.py", text)
    with pytest.raises(TargetError) as raised:
        load(f"{file}:x")
    assert all(file in frame for frame in frames(str(raised.value)))
    assert "No module named 'no_such_thing'" in str(raised.value)
    assert "RuntimeError: no thing" in str(raised.value)


def test_a_module_that_lacks_another_module_is_no_missing_target(write):
    write("lacking_module.py", "import no_such_thing")
    with pytest.raises(TargetError, match="No module named 'no_such_thing'"):
        load("lacking_module:x")


def test_a_target_that_exits_is_told(write):
    with pytest.raises(TargetError, match="SystemExit: 3"):
        load(f"{write('a.py', 'import sys; sys.exit(3)')}:x")


def test_a_syntax_error_shows_its_line(write):
    with pytest.raises(TargetError, match="SyntaxError") as raised:
        load(f"{write('a.py', 'x = = 1')}:x")
    assert "x = = 1" in str(raised.value)


def test_pillow_is_asked_for_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    (tmp_path / "a.png").touch()
    with pytest.raises(TargetError, match="pip install"):
        load(str(tmp_path))


def test_a_partial_is_a_function_like_any_other(write):
    file = write("a.py", LOADER + "import functools\nsmall = functools.partial(make, items=4)\n")
    assert len(load(f"{file}:small").training[0]) == 4
