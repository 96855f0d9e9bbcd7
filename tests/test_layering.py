"""The house keeps its shape: a file imports only from files above it, and each of a few things has one home."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHAIN = ["errors", "data", "plan", "cache", "engine", "batch", "monitor", "loader", "sources"]
"""The rooms in the order of the flow: a file imports only from rooms left of its own."""

BESIDE = {"state": "errors", "testing": "sources", "progress": "monitor", "checkpoint": "loader"}
"""Public files beside the rooms, each with the last room that it may import from; those right of it may import it."""

LONGEST_FILE = 600
MOST_AT_THE_TOP = 10


def modules(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        yield path, ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path):
    """What a file imports when it is imported: names under TYPE_CHECKING are for readers only."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


CORE = list(modules("hydrax_core"))
ROOMS = [(path, module) for path, module in CORE if module != "hydrax_core"]


def room(module):
    return module.split(".")[1]


@pytest.mark.parametrize(("path", "module"), ROOMS, ids=[module for _, module in ROOMS])
def test_a_file_imports_only_from_rooms_before_its_own(path, module):
    own = CHAIN.index(BESIDE.get(room(module), room(module)))
    for name in imports(path):
        assert name != "hydrax_core", f"{module} imports from the package's top, which is for users"
        if name.startswith("hydrax_core."):
            assert CHAIN.index(BESIDE.get(room(name), room(name))) <= own, f"{module} imports {name}"


def homes(path):
    """The files of the core that a file imports."""
    known = {module for _, module in CORE}
    for name in imports(path):
        if name in known:
            yield name
        elif name.rpartition(".")[0] in known:
            yield name.rpartition(".")[0]


def circle(arrows):
    """Some way from a node back to itself, or ``None``."""
    done = set()

    def walk(node, way):
        if node in way:
            return [*way[way.index(node) :], node]
        if node in done:
            return None
        done.add(node)
        return next((found for after in sorted(arrows.get(node, ())) if (found := walk(after, [*way, node]))), None)

    return next((found for node in sorted(arrows) if (found := walk(node, []))), None)


def test_no_folder_has_a_circle_inside():
    """Neither its files, nor its folders seen as one: an arrow between two files is one between all that hold them."""
    arrows = {}
    for path, module in ROOMS:
        for name in homes(path):
            parts, others = module.split("."), name.split(".")
            for depth in range(2, min(len(parts), len(others)) + 1):
                start, end = ".".join(parts[:depth]), ".".join(others[:depth])
                if parts[: depth - 1] == others[: depth - 1] and start != end:
                    arrows.setdefault(start, set()).add(end)
    assert circle(arrows) is None
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


@pytest.mark.parametrize("package", ["hydrax_core", "hydrax_cli"])
def test_few_things_stand_at_the_top_of_a_package(package):
    names = {path.relative_to(ROOT / package).parts[0] for path, _ in modules(package)} - {"__init__.py"}
    assert len(names - {f"{door}.py" for door in BESIDE}) <= MOST_AT_THE_TOP
    if package == "hydrax_core":
        assert {name.removesuffix(".py") for name in names} == {*CHAIN, *BESIDE}


@pytest.mark.parametrize("package", ["hydrax_core", "hydrax_cli"])
def test_the_readme_of_a_package_names_its_folders(package):
    text = (ROOT / package / "README.md").read_text()
    assert text.count("\n") <= 30
    for folder in {path.parent for path, _ in modules(package)} - {ROOT / package}:
        assert f"{folder.name}/" in text, f"{package}/README.md does not know {folder}"


def test_only_batches_know_jax_and_not_when_they_are_imported():
    users = {module for path, module in CORE for name in imports(path) if name.split(".")[0] in {"jax", "jaxlib"}}
    assert {user.split(".")[1] for user in users} == {"batch"}
    assert not {"jax", "jaxlib"} & set(fresh("import sys, hydrax_core.batch.batch; print(*sys.modules)"))


def test_the_core_knows_neither_command_nor_screen():
    for path, module in CORE:
        for name in imports(path):
            screens = {"click", "rich", "textual", "tqdm"} - (
                {"rich", "tqdm"} if module == "hydrax_core.progress" else set()
            )
            assert name.split(".")[0] not in {"hydrax_cli", *screens}, f"{module} imports {name}"


def test_the_core_prints_nothing_and_handles_no_signal_of_the_user():
    for path, module in CORE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"print", "os._exit"}, f"{module} calls {called}"
                assert called != "signal.signal" or module == "hydrax_core.engine.workers.child", (
                    f"{module} handles signals"
                )


DOORS = {"hydrax_core", *(f"hydrax_core.{name}" for name in ("errors", "sources", "cache", "monitor", *BESIDE))}
"""What is public: the names that ``__all__`` lists there."""


def test_the_commands_see_only_public_names_of_the_core():
    for path, module in modules("hydrax_cli"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                inside = {alias.name for alias in node.names if alias.name.startswith("hydrax_core")}
                assert inside <= DOORS, f"{module} imports {inside - DOORS}"
            elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "hydrax_core":
                assert node.module in DOORS, f"{module} imports from {node.module}"
                public = importlib.import_module(node.module).__all__
                doors = {door.rpartition(".")[2] for door in DOORS if door.rpartition(".")[0] == node.module}
                assert {alias.name for alias in node.names} <= {*public, *doors}, f"{module}, line {node.lineno}"


def test_every_public_name_is_there():
    for door in DOORS:
        module = importlib.import_module(door)
        assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("package", ["hydrax_core", "hydrax_cli"])
def test_no_file_outgrows_a_reader(package):
    for path, module in modules(package):
        lines = path.read_text().count("\n")
        assert lines <= LONGEST_FILE, f"{module} has {lines} lines: it wants a second room"


@pytest.mark.parametrize("package", ["hydrax_core", "hydrax_cli"])
def test_what_a_docstring_points_at_is_there(package):
    texts = {}
    for path, module in [*CORE, *modules("hydrax_cli")]:
        texts.setdefault(module.rpartition(".")[2], []).append(path.read_text())
    every = {module for _, module in CORE}
    for path, module in modules(package):
        for target in re.findall(r"(?i:see|as in) ``([a-z_]+\.[\w.]+)", path.read_text()):
            file, name = target.split(".")[:2]
            found = any(
                re.search(rf"(def|class) {name}\b|^{name}\b", text, re.MULTILINE) for text in texts.get(file, ())
            )
            assert found or target in every or file == "numpy", f"{module} points at {target}"


def fresh(program):
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()


def test_importing_the_library_and_the_workers_body_imports_no_jax():
    program = "import sys, hydrax_core, hydrax_core.engine.workers.child; print(*sys.modules)"
    assert not {"jax", "jaxlib"} & set(fresh(program))


def test_importing_the_library_costs_nothing_until_a_name_is_used():
    assert not {"numpy", "hydrax_core.loader.dataloader"} & set(fresh("import sys, hydrax_core; print(*sys.modules)"))
    assert "hydrax_core.loader.dataloader" in fresh(
        "import sys; from hydrax_core import Dataloader; print(*sys.modules)"
    )


def test_what_a_loader_function_needs_brings_nothing_of_the_consumers_side():
    modules = fresh("import sys; from hydrax_core import batched, is_worker; print(*sys.modules)")
    assert not {"numpy", "hydrax_core.loader.dataloader"} & set(modules)
    modules = fresh("import sys, hydrax_core.sources.digits, hydrax_core.engine.workers.child; print(*sys.modules)")
    assert "hydrax_core.engine.workers.child" in modules
    assert not {"jax", "hydrax_core.loader.dataloader", "hydrax_core.engine.engine"} & set(modules)


def test_the_tables_of_mutants_name_files_that_are_there():
    tables = [tomllib.loads((ROOT / "tests/mutants" / name).read_text()) for name in ("modules.toml", "survivors.toml")]
    tests = tables[0]["tests"]
    named = [word for command in tests.values() for word in command.split() if word.startswith("tests/")]
    assert [name for name in [*tests, *named, *tables[1]] if not (ROOT / name).is_file()] == []
    assert tables[1].keys() <= tests.keys()
    changes = [(name, change["change"].split(" -> ")[0]) for name, found in tables[1].items() for change in found]
    assert [line for name, line in changes if line not in (ROOT / name).read_text()] == []
