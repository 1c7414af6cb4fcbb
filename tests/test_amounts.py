"""How counts and numbers are written."""

import pytest

from fanogan.amounts import counted, number, percent, plural, share


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (number, 0.0711, "0.07110"),
        (number, 1234.0, "1234"),
        (number, float("inf"), "–"),
        (share, 0.91, "0.910"),
        (share, float("nan"), "–"),
        (percent, 0.0834, "8.3 %"),
        (percent, None, "–"),
    ],
)
def test_numbers_have_the_digits_that_mean_something(write, value, text):
    assert write(value) == text


@pytest.mark.parametrize(
    ("noun", "many"), [("image", "images"), ("B-scan", "B-scans"), ("patch", "patches")]
)
def test_counts_come_with_their_noun(noun, many):
    assert plural(noun) == many
    assert counted(1, noun) == f"1 {noun}"
    assert counted(1200, noun) == f"1,200 {many}"
    assert counted(0, noun) == f"0 {many}"
