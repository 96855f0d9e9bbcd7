"""Whatever is in a text, what leaves the command is harmless."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrax_cli.shared.text import clean, clean_lines, to_json

TEXTS = st.text(st.characters(codec=None)) | st.text(st.sampled_from("\x1b[]\x07\x9b\n\r\t\u202e\u2066\udce9a"))


DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def harmless(text):
    """No control, no half of a character, no separator and no direction."""
    return not any(
        unicodedata.category(one) in {"Cc", "Cs", "Zl", "Zp"} or unicodedata.bidirectional(one) in DIRECTIONS
        for one in text.replace("\n", "")
    )


@given(TEXTS)
def test_a_line_is_harmless_and_every_character_keeps_its_place(text):
    assert harmless(clean(text))
    assert "\n" not in clean(text)
    assert len(clean(text)) == len(text)
    assert clean(clean(text)) == clean(text)


@given(TEXTS)
def test_lines_stay_lines(text):
    assert harmless(clean_lines(text))
    assert clean_lines(text).count("\n") == text.count("\n")


def test_texts_have_a_bound_and_say_what_is_left_out():
    assert len(clean("x" * 10**6)) == 2000
    cut = clean_lines("first\n" + "x" * 10**7 + "\nlast")
    assert len(cut) < 10**5
    assert cut.startswith("first\n")
    assert cut.endswith("\nlast")
    assert "characters left out" in cut


@given(
    st.recursive(
        TEXTS | st.floats() | st.integers() | st.none() | st.booleans(),
        lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    )
)
def test_json_is_ascii_and_json_for_every_reader(values):
    def refuse(name):
        raise AssertionError(name)

    text = to_json(values)
    assert text.isascii()
    assert harmless(text)
    json.dumps(json.loads(text, parse_constant=refuse), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("value", "written"),
    [(float("nan"), None), (float("-inf"), None), (0.5, 0.5), ("caf\udce9", "caf\\udce9"), ("µs", "µs"), ((1,), [1])],
)
def test_json_keeps_what_it_can(value, written):
    assert json.loads(to_json({"a": value})) == {"a": written}
