"""Numbers in words: the built-in texts."""

import pytest

from datamodules import NumberWordsDataModule
from datamodules.number_words import ROLES, SMALL, TENS, in_words

VALUE = {word: value for value, word in enumerate(SMALL)} | {word: 20 + 10 * i for i, word in enumerate(TENS)}


def read_back(words: str) -> int:
    """The value of number words, added up word by word."""
    total = group = 0
    for word in words.split():
        if word == "thousand":
            total, group = group * 1000, 0
        elif word == "hundred":
            group *= 100
        else:
            group += VALUE[word]
    return total + group


def test_words_mean_the_number() -> None:
    for number in (*range(1, 2_100), *range(99_000, 1_000_000, 977), 100_000, 999_999, 110_011):
        assert read_back(in_words(number)) == number


def test_rows_are_distinct_graded_and_the_same_for_a_seed(tmp_path) -> None:
    sizes = {f"{role}_rows": 60 for role in ROLES}
    data = NumberWordsDataModule(**sizes, cache_dir=str(tmp_path))
    texts = []
    for role in ROLES:
        rows, levels = data.rows(role), data.levels(role)
        texts += rows.text
        assert len(rows) == 60 and set(levels.values()) <= {3, 4, 5, 6}
        for text, target, sample_id in zip(rows.text, data.references(role), rows.sample_id.tolist(), strict=True):
            assert read_back(text) == int(target[0].replace(" ", "")) and levels[sample_id] == len(target[0].split())
    assert len(set(texts)) == 240
    again = NumberWordsDataModule(**sizes, cache_dir=str(tmp_path))
    assert [again.fingerprint(role) for role in ROLES] == [data.fingerprint(role) for role in ROLES]
    other = NumberWordsDataModule(**sizes, data_seed=1)
    assert other.fingerprint("train") != data.fingerprint("train")


def test_long_numbers_are_left_out_of_training_alone(tmp_path) -> None:
    sizes = {f"{role}_rows": 60 for role in ROLES}
    data, whole = (NumberWordsDataModule(**sizes, train_digits=digits, cache_dir=str(tmp_path)) for digits in (4, 6))
    kept = [text for text in whole.rows("train").text if read_back(text) < 10_000]
    assert 0 < len(kept) < 60 and data.rows("train").text == kept
    assert set(data.levels("train").values()) <= {3, 4}
    for role in ("validation", "calibration", "test"):
        assert data.rows(role).text == whole.rows(role).text


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 900 numbers of 3 digits, of which there are no more, but got 12400"):
        NumberWordsDataModule(shares=[1, 0, 0, 0])
    with pytest.raises(ValueError, match="`shares` must be 4 parts"):
        NumberWordsDataModule(shares=[1.0])
    with pytest.raises(ValueError, match="`test_rows` must be at least 1"):
        NumberWordsDataModule(test_rows=0)
    with pytest.raises(ValueError, match="`train_digits` must be 3 to 6, but got 7"):
        NumberWordsDataModule(train_digits=7)
    with pytest.raises(ValueError, match="`train_digits` must leave some of the training rows, but got 3"):
        NumberWordsDataModule(shares=[0, 0.4, 0.3, 0.3], train_digits=3)
