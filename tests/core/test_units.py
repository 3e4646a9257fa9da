"""Counts, sizes and shares as people write them: exact, or refused by name."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlkit.core import units

WRITTEN = {
    "70B": 70 * 10**9,
    "1.4T": 14 * 10**11,
    "1.28M": 1_280_000,
    "124m": 124_000_000,
    "300e9": 300 * 10**9,
    "3e11": 3 * 10**11,
    "238.3k": 238_300,
    "1": 1,
    "1e30": 10**30,
    "123456789012345678901234567890": 123456789012345678901234567890,
    "6.738415616G": 6_738_415_616,
    "1.5e1": 15,
    ".5k": 500,
    "15.6 T": 156 * 10**11,
    "10Q": None,
}
REFUSED = [
    "0",
    "-1",
    "nan",
    "inf",
    "1.5",
    "3e-4",
    "1e31",
    "1e999",
    "",
    "B",
    "1,000",
    "1_000",
    "0x10",
    "七",
    "1.2.3",
    "1e",
]


@pytest.mark.parametrize("text", [text for text, value in WRITTEN.items() if value])
def test_counts(text):
    assert units.count(text) == WRITTEN[text]


@pytest.mark.parametrize("text", [*REFUSED, "10Q", "80GiB", "9" * 50])
def test_counts_refused(text):
    with pytest.raises(ValueError, match=r"whole number in the range \[1, 1e30\].*Got"):
        units.count(text)


@given(st.integers(1, 10**30))
def test_any_whole_number_is_read_and_written_exactly(value):
    assert units.count(str(value)) == value
    assert Decimal(units.exact(value)) == value


@given(st.integers(1, 10**6), st.integers(0, 24))
def test_scientific_form_is_the_same_number(digits, power):
    value = digits * 10**power
    assert Decimal(units.exact(value)) == value
    assert units.count(f"{digits}e{power}") == value


def test_quantities():
    assert [units.quantity(text) for text in ("30.84M", "12.5", "3e-4", "1e30")] == [30_840_000, 12.5, 3e-4, 1e30]
    for text in ("0", "-1", "nan", "inf", "1e31", "", "x", "0.0k"):
        with pytest.raises(ValueError, match=r"number above 0 and at most 1e30.*Got"):
            units.quantity(text)


def test_sizes_say_which_unit():
    assert units.size("80GB") == 80 * 10**9
    assert units.size("80GiB") == 80 << 30
    assert units.size("1.5 kib") == 1536
    assert units.size("640B") == 640
    for text in ("80", "80G", "-1GB", "0GB", "nan", "0.3B", "80GBs"):
        with pytest.raises(ValueError, match=r"80GB.*80GiB.*Got"):
            units.size(text)


def test_shares():
    assert units.share("0.4") == units.share("40%") == 0.4
    assert units.share("100%") == 1
    for text in ("0", "-0.1", "1.01", "101%", "nan", "inf", "x", ""):
        with pytest.raises(ValueError, match=r"share above 0 and at most 1.*Got"):
            units.share(text)


def test_written_for_people():
    assert units.binary(1342177280) == "1.25 GiB"
    assert units.binary(640) == "640 B"
    assert units.operations(24.3e9) == "24.3 G"
    assert units.operations(588 * 10**21) == "5.88e+23"
    assert units.exact(588 * 10**21) == "5.88e+23"
    assert units.exact(25_557_032) == "25557032"
    assert units.si(1e30) == "1 Q"
