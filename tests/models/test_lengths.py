"""Length configurations: what is kept of which row, and what is refused."""

import math
from fractions import Fraction

import numpy as np
import pytest

from dial.models.lengths import Lengths, check_asked


def test_shares_are_rounded_up_in_exact_arithmetic() -> None:
    shares = (0.97, 0.7, 0.33, 0.1, 0.001)
    tokens = np.arange(1, 513)
    kept = Lengths(shares).kept(tokens)
    for share, of_layer in zip(shares, kept, strict=True):
        exact = Fraction(str(share))
        assert of_layer.tolist() == [max(1, math.ceil(exact * int(n))) for n in tokens]


def test_numbers_of_tokens_are_upper_limits() -> None:
    assert Lengths((9, 5, 1)).kept([12, 7, 3]).tolist() == [[9, 7, 3], [5, 5, 3], [1, 1, 1]]
    assert not Lengths((9, 5, 1)).are_shares and Lengths((1, 0.5)).are_shares and not Lengths((1, 1)).are_shares


def test_what_a_row_keeps_does_not_depend_on_others() -> None:
    lengths = Lengths((0.8, 0.5))
    assert lengths.kept([30, 11, 4]).tolist() == np.hstack([lengths.kept([n]) for n in (30, 11, 4)]).tolist()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], "one number for each layer"),
        ([0.5, "0.4"], "one number for each layer"),
        ([True, 0.4], "one number for each layer"),
        ([0.5, float("nan")], "one number for each layer"),
        ([1.2, 0.5], "shares of a row's tokens above 0 up to 1"),
        ([0.5, 0.0], "shares of a row's tokens above 0 up to 1"),
        ([64, -1], "whole numbers of tokens from 1"),
        ([0.5, 0.6], "not rise from layer to layer.*layer 2 has 0.6 after 0.5"),
        ([64, 32, 33], "not rise from layer to layer.*layer 3 has 33 after 32"),
        ("0.5, 0.4", "a list"),
    ],
)
def test_bad_configurations(values, words: str) -> None:
    with pytest.raises(ValueError, match=f"^`lengths` must.*{words}") as error:
        Lengths.parse(values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.5, 0.4], "one number for each of the 3 layers, but got 2"),
        ([65, 30, 2], "longer than the input of at most 64 tokens"),
    ],
)
def test_configurations_of_another_model(values, words: str) -> None:
    with pytest.raises(ValueError, match=rf"^`tiers\[0\]`: `lengths` must.*{words}"):
        Lengths.parse(values).check(3, 64, "tiers[0]")


def test_a_share_of_the_macs() -> None:
    for good in (0.5, 1, None, [0.5, 0.5]):
        check_asked(good)
    for bad in (0, 1.5, True, "half"):
        with pytest.raises(ValueError, match=r"^`lengths` must be"):
            check_asked(bad)
