import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrax_cli.shared.units import many, rate, ratio, share, size, span


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (3e-7, "0.3 µs"),
        (81e-6, "81 µs"),
        (0.0041, "4.1 ms"),
        (0.39, "390 ms"),
        (2.345, "2.3 s"),
        (75, "75 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_times_have_two_or_three_figures_and_a_unit(seconds, text):
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5 * 2**20, "5.0 MiB"),
        (384 * 2**10, "384 KiB"),
        (2**50, "1,024 TiB"),
    ],
)
def test_sizes_are_in_binary_units(count, text):
    assert size(count) == text


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_a_larger_size_never_reads_smaller(one, other):
    units = ["B", "KiB", "MiB", "GiB", "TiB"]

    def value(text):
        number, unit = text.split()
        return float(number.replace(",", "")) * 1024 ** units.index(unit)

    small, large = sorted([one, other])
    assert value(size(small)) <= value(size(large))


def test_what_cannot_be_divided_is_a_dash():
    assert rate(5, 0) == "-"
    assert share(0, 0) == "-"


def test_rates_shares_ratios_and_counts():
    assert rate(118_320, 1) == "118,320"
    assert rate(1, 2) == "0.5"
    assert share(1, 8) == "12 %"
    assert share(1.001, 1) == "100 %"
    assert ratio(4.66) == "4.7"
    assert ratio(5000) == "over 1,000"
    assert many(1, "batch", "batches") == "1 batch"
    assert many(1200, "batch", "batches") == "1,200 batches"
    assert many(2, "item") == "2 items"
