"""The house keeps its shape: a file imports only from files above it, and each of a few things has one home."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST_FILE = 420
ROOMS = [  # from the top of the house to its bottom; a file imports only from earlier lines
    "_worker errors checks waker stats tuning",
    "layout fingerprint",
    "order",
    "group plan slots",
    "cache.*",
    "jobs workers.by_value",
    "workers.messages",
    "workers.body workers.protocol",
    "workers.child workers.process workers.thread workers.inline",
    "schedule handover hoarding shelf",
    "intake settings counts",
    "crew",
    "driver",
    "engine state",
    "arguments",
    "launch tally",
    "placement",
    "batch",
    "assembly",
    "references",
    "monitor.*",
    "dataloader",
    "testing",
    "sources.*",
]


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


def rank(module):
    name = module.removeprefix("hydrax_core.")
    for position, line in enumerate(ROOMS):
        for room in line.split():
            if name == room or (room.endswith(".*") and (name + ".").startswith(room[:-1])):
                return position
    return None


CORE = [(path, module) for path, module in modules("hydrax_core")]
INNER = [(path, module) for path, module in CORE if module not in {"hydrax_core", "hydrax_core.workers"}]


@pytest.mark.parametrize(("path", "module"), INNER, ids=[module for _, module in INNER])
def test_a_file_imports_only_from_files_above_it(path, module):
    own = rank(module)
    assert own is not None, f"{module} has no place in ROOMS"
    for name in imports(path):
        if name.startswith("hydrax_core.") and (found := rank(name)) is not None:
            same_room = found == own and name.split(".")[1] == module.split(".")[1]
            assert found < own or same_room, f"{module} imports {name}"


def test_only_placement_imports_jax():
    users = {module for path, module in CORE for name in imports(path) if name.split(".")[0] in {"jax", "jaxlib"}}
    assert users <= {"hydrax_core.placement", "hydrax_core.batch"}
    batch = ast.parse((ROOT / "hydrax_core/batch.py").read_text())
    at_import = [node for node in batch.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert "jax" not in {alias.name for node in at_import for alias in node.names}


def test_the_core_knows_neither_command_nor_screen():
    for path, module in CORE:
        for name in imports(path):
            assert name.split(".")[0] not in {"hydrax_cli", "click", "rich", "textual"}, f"{module} imports {name}"


def test_the_core_prints_nothing_and_handles_no_signal_of_the_user():
    for path, module in CORE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"print", "os._exit"}, f"{module} calls {called}"
                assert called != "signal.signal" or module == "hydrax_core.workers.child", f"{module} handles signals"


def test_the_commands_see_only_public_names_of_the_core():
    public = {"hydrax_core", "hydrax_core.stats", "hydrax_core.errors", "hydrax_core.cache", "hydrax_core.monitor"}
    for path, module in modules("hydrax_cli"):
        for name in imports(path):
            if name.startswith("hydrax_core."):
                home = ".".join(name.split(".")[:2])
                inner = home not in public and not home.startswith("hydrax_core.sources")
                assert not inner or hasattr(__import__("hydrax_core"), name.split(".")[1]), f"{module} imports {name}"


@pytest.mark.parametrize("package", ["hydrax_core", "hydrax_cli"])
def test_no_file_outgrows_a_reader(package):
    for path, module in modules(package):
        lines = path.read_text().count("\n")
        assert lines <= LONGEST_FILE, f"{module} has {lines} lines: it wants a second room"


def fresh(program):
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()


def test_importing_the_library_and_the_workers_body_imports_no_jax():
    program = "import sys, hydrax_core, hydrax_core.workers.child; print(*sys.modules)"
    assert not {"jax", "jaxlib"} & set(fresh(program))


def test_importing_the_library_costs_nothing_until_a_name_is_used():
    assert not {"numpy", "hydrax_core.dataloader"} & set(fresh("import sys, hydrax_core; print(*sys.modules)"))
    assert "hydrax_core.dataloader" in fresh("import sys; from hydrax_core import Dataloader; print(*sys.modules)")


def test_what_a_loader_function_needs_brings_nothing_of_the_consumers_side():
    modules = fresh("import sys; from hydrax_core import batched, is_worker; print(*sys.modules)")
    assert not {"numpy", "hydrax_core.dataloader"} & set(modules)
    modules = fresh("import sys, hydrax_core.sources.digits, hydrax_core.workers.child; print(*sys.modules)")
    assert "hydrax_core.workers.child" in modules
    assert not {"jax", "hydrax_core.dataloader", "hydrax_core.engine"} & set(modules)
