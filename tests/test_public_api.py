"""The public names are what ``__init__`` says, and the two reference pages find every handle under its name here."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import hydrax_core
import hydrax_core.monitor
import hydrax_core.sources
from hydrax_core import Batch, DataGroup, Dataloader, TrainingBatch, ValidationBatch, errors
from hydrax_core.data.checks import Kept

REFERENCE_MEMBERS = {  # hydrax.TrainingBatch, and ai.djl.training.dataset.Batch in Python's spelling
    TrainingBatch: """additional arrays batch_num cache data epoch epoch_batch get_additional get_array get_data
        is_training is_validation layouts seed seeds
        group_index size progress progress_total inputs labels close split indices""",
    ValidationBatch: "validation_epoch validation_epoch_batch validation_batch_num group uncached mask",
    DataGroup: "batch_size batch_count loader_layouts cache_layouts loader_size cache_size",
    Dataloader: """batches_per_epoch batches_per_validation first_batch last_batch deterministic interrupted interrupt
        idle_usec stats state_dict load_state_dict""",
}


def test_every_public_name_exists_and_is_listed():
    for name in hydrax_core.__all__:
        assert getattr(hydrax_core, name) is not None
    assert set(dir(hydrax_core)) == set(hydrax_core.__all__)
    assert sorted(hydrax_core.__all__) == sorted(set(hydrax_core.__all__))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = hydrax_core.nonsense


@pytest.mark.parametrize("package", [hydrax_core, hydrax_core.monitor, hydrax_core.sources])
def test_type_checkers_see_the_names_that_there_are(package):
    """What is imported under TYPE_CHECKING, by ``as`` or with ``*``, is what the table of the package has."""
    seen = set()
    for node in ast.walk(ast.parse(Path(package.__file__).read_text())):
        if isinstance(node, ast.ImportFrom):
            seen |= {alias.asname for alias in node.names if alias.asname}
            if node.names[0].name == "*":
                seen |= set(importlib.import_module(node.module).__all__)
    own = {name for name in package.__all__ if name in vars(package) and not hasattr(vars(package)[name], "__module__")}
    own |= {name for name in package.__all__ if getattr(getattr(package, name), "__module__", "") == package.__name__}
    assert seen - {"checkpoint", "state"} == set(package.__all__) - own


def test_every_error_is_public_and_drawn_in_the_tree():
    for name in errors.__all__:
        assert name in hydrax_core.__all__
        made = getattr(errors, name)
        if issubclass(made, Exception):
            assert issubclass(made, errors.HydraxError)
            assert name in errors.__doc__


@pytest.mark.parametrize(
    "module", ["", ".cache", ".checkpoint", ".errors", ".monitor", ".progress", ".sources", ".state", ".testing"]
)
def test_every_public_name_and_member_is_explained(module):
    public = hydrax_core if not module else getattr(hydrax_core, module[1:], None)
    public = public or importlib.import_module(f"hydrax_core{module}")
    unexplained = []
    for name in public.__all__:
        value = getattr(public, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            doc = inspect.getdoc(value) or ""
            made = doc.startswith(f"{name}(")  # by dataclass or NamedTuple
            unexplained += [name] if not doc or made else []
        if inspect.isclass(value) and value.__module__.startswith("hydrax_core"):
            members = {member for member in dir(value) if not member.startswith("_")}
            for member in members:
                handle = inspect.getattr_static(value, member)
                if isinstance(handle, property | staticmethod | classmethod | Kept) or inspect.isfunction(handle):
                    unexplained += [] if inspect.getdoc(getattr(value, member)) else [f"{name}.{member}"]
    assert not unexplained


@pytest.mark.parametrize("owner", REFERENCE_MEMBERS)
def test_the_members_of_the_reference_pages_exist_and_are_explained(owner):
    for name in REFERENCE_MEMBERS[owner].split():
        handle = inspect.getattr_static(owner, name)
        assert inspect.getdoc(handle), f"{owner.__name__}.{name}"


def test_the_batch_types_are_final_and_abstract_as_said():
    assert inspect.isabstract(Batch)
    for final in (TrainingBatch, ValidationBatch):
        assert not inspect.isabstract(final)
        assert final.__final__


def test_modules_that_are_public_are_modules_and_bring_neither_jax_nor_orbax():
    program = """if True:
        import sys, hydrax_core
        assert hydrax_core.state.__name__ == "hydrax_core.state"
        import hydrax_core.state
        from importlib.util import find_spec
        assert find_spec("hydrax_core.checkpoint") and not {"jax", "orbax"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_signatures_are_those_of_the_documentation():
    group = inspect.signature(DataGroup)
    assert list(group.parameters)[:2] == ["batch_size", "data"]
    defaults = {name: parameter.default for name, parameter in group.parameters.items()}
    assert defaults["shuffle_later"] == "default"
    assert defaults["remainder"] == "default"
    assert not defaults["shuffle_first"]
    loader = {name: p.default for name, p in inspect.signature(Dataloader).parameters.items()}
    assert (loader["depth"], loader["loader_count"], loader["timeout_sec"]) == (3, 1, 60)
    assert (loader["loader_kind"], loader["on_error"], loader["start_at"]) == ("process", "raise", (0, 0))
    assert all(p.kind is p.KEYWORD_ONLY for p in list(inspect.signature(Dataloader).parameters.values())[2:])


def test_what_a_group_keeps_can_only_be_read():
    group = DataGroup(2, range(4), loader_arrays={"x": ((), "int32")}, seed=3)
    kept = {name for name in vars(DataGroup) if isinstance(vars(DataGroup)[name], Kept)}
    assert {"batch_size", "seed", "labels", "cache_location"} <= kept
    for name in kept:
        before = getattr(group, name)
        with pytest.raises(AttributeError, match=rf"DataGroup\.{name} cannot be changed; replace\(\) makes another"):
            setattr(group, name, None)
        assert getattr(group, name) is before
