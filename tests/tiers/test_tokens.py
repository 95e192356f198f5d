"""Tokens at work against those that data modules keep, and padding on either side."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules.encoding import encode
from datamodules.rows import Rows
from dial.tiers.tokens import Tokeniser, check_unit
from tests.tiers import small


@pytest.mark.parametrize("model_type", ["bert", "bilstm"])
@pytest.mark.parametrize("pairs", [False, True])
def test_are_those_of_the_data_modules(model_type: str, pairs: bool, tmp_path: object) -> None:
    tier = small.plain_tier("tier", model_type=model_type, max_length=9)
    units = small.texts(60, pairs=pairs)
    text, second = map(list, zip(*units, strict=True)) if pairs else (units, None)
    rows = Rows(text, second, np.zeros(60, dtype=np.int64), np.arange(60))
    kept = encode(rows, tier.tokenizer, 9, "key", tmp_path)  # type: ignore[arg-type]
    found = Tokeniser(tier)(units)
    assert sum(row.truncated for row in found) == kept.truncated > 0
    for index, row in enumerate(found):
        part = slice(kept.offsets[index], kept.offsets[index + 1])
        assert row.ids == kept.ids[part].tolist()
        assert (row.types is None) == (kept.types is None)
        if row.types is not None and kept.types is not None:
            assert row.types == kept.types[part].tolist()


@pytest.mark.parametrize("side", ["right", "left"])
def test_collates_on_the_tokenizer_s_side(side: str) -> None:
    tier = small.plain_tier("tier")
    tier.tokenizer.padding_side = side
    units = ["good", "a very good film", ""]
    encoding = Tokeniser(tier).collate(Tokeniser(tier)(units))
    expected = tier.tokenizer(units, padding=True, return_tensors="pt")
    assert set(encoding) == set(expected)
    for key, value in expected.items():
        torch.testing.assert_close(encoding[key], value)


def test_there_is_a_mask_only_where_something_is_padded() -> None:
    tier = small.plain_tier("tier")
    tokeniser = Tokeniser(tier)
    for units, padded in ((["a very good film"], False), (["good", "film"], False), (["good", "good film"], True)):
        encoding = tokeniser.collate(tokeniser(units))
        expected = tier.tokenizer(units, padding=True, return_tensors="pt")
        assert ("attention_mask" in encoding) == padded == (not bool(expected["attention_mask"].all()))
        torch.testing.assert_close(tier(encoding), tier(dict(expected)))


def test_a_slow_tokenizer_gives_the_same() -> None:
    tier = small.plain_tier("tier")
    units = [*small.texts(20), *small.texts(20, pairs=True)]
    tokeniser = Tokeniser(tier)
    assert tokeniser._slow(units) == tokeniser._fast(units)


def test_others_may_use_the_tokenizer_in_between() -> None:
    tier = small.plain_tier("tier", max_length=5)
    tokeniser = Tokeniser(tier)
    units = small.texts(20)
    before = tokeniser(units)
    tier.tokenizer(units, padding=True, truncation=True, max_length=3)
    assert tokeniser(units) == before


@pytest.mark.parametrize("unit", [None, 3, b"good", ("a",), ("a", None), ["a", "b", "c"], {"text": "a"}])
def test_refuses_what_is_no_text(unit: object) -> None:
    with pytest.raises(ValueError, match="row 5 must be a text or a pair of texts, but got"):
        check_unit(unit, "row 5")


def test_refuses_half_of_a_surrogate_pair() -> None:
    for unit in ("good \ud800", ("good", "\udfff")):
        with pytest.raises(ValueError, match="row 5 must be a text or a pair of texts, but has half of a surrogate"):
            check_unit(unit, "row 5")
