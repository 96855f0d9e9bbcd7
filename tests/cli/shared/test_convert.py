import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrax_cli.shared.convert import convert


def value_of(text, annotation=inspect.Parameter.empty, default=inspect.Parameter.empty, function=convert):
    parameter = inspect.Parameter("x", inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
    return convert(text, parameter, function)


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("5", int, 5),
        ("-5", "int", -5),
        ("1e-3", float, 0.001),
        ("5", str, "5"),
        ("5", Any, "5"),
        ("yes", bool, True),
        ("False", bool, False),
        ("a/b", Path, Path("a/b")),
        ("none", int | None, None),
        ("5", int | None, 5),
        ("5", str | int, 5),
        ("five", "str | int", "five"),
        ("none", Optional[float], None),  # noqa: UP045  the older form works, too
        ("adam", Literal["adam", "sgd"], "adam"),
        ("2", Literal[1, 2], 2),
        ("1,2,3", list[int], [1, 2, 3]),
        ("1, 2", tuple[int, float], (1, 2.0)),
        ("1,2,3", tuple[int, ...], (1, 2, 3)),
        ("a,b", Sequence[str], ["a", "b"]),
        ("a,b", list, ["a", "b"]),
        ("", list[int], []),
    ],
)
def test_a_text_becomes_what_the_annotation_says(text, annotation, value):
    converted = value_of(text, annotation)
    assert converted == value
    assert type(converted) is type(value)


@pytest.mark.parametrize(
    ("text", "annotation", "expected"),
    [
        ("five", int, "expected int, got 'five'"),
        ("5.5", int, "expected int"),
        ("maybe", bool, "expected true or false, got 'maybe'"),
        ("rmsprop", Literal["adam", "sgd"], "expected one of adam, sgd, got 'rmsprop'"),
        ("x", int | None, "expected int, got 'x'; expected none, got 'x'"),
        ("1,2,3", tuple[int, int], "expected 2 values"),
        ("x", dict[str, int], "no text can be turned into dict"),
        ("x", "Unknown", "the annotation 'Unknown' cannot be resolved"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_was_expected(text, annotation, expected):
    with pytest.raises(ValueError, match=expected):
        value_of(text, annotation)


def test_without_an_annotation_the_default_decides():
    assert value_of("5", default=1) == 5
    assert value_of("5", default=1.0) == 5.0
    assert value_of("no", default=True) is False
    assert value_of("5", default=None) == "5"
    assert value_of("5") == "5"


@given(st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.text()))
def test_what_a_value_is_printed_as_is_read_as_the_value(value):
    assert value_of(str(value), type(value)) == value
