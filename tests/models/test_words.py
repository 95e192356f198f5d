"""The word tokenizer: order, layout, round trip."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from dial.models import BiLSTMConfig, build_word_tokenizer

TEXTS = ["A good film!", "a Bad film, a good cast.", "bad"]


def words_of(tokenizer) -> list[str]:
    return tokenizer.convert_ids_to_tokens(range(len(tokenizer)))


def test_words_come_by_count_and_then_by_name() -> None:
    tokenizer = build_word_tokenizer(TEXTS, vocab_size=100, max_length=8)
    assert words_of(tokenizer) == ["[PAD]", "[UNK]", "a", "bad", "film", "good", "!", ",", ".", "cast"]
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id) == (0, 1)


def test_the_order_of_the_texts_does_not_matter() -> None:
    for size in (4, 7, 100):
        one = build_word_tokenizer(TEXTS, size, 8)
        other = build_word_tokenizer(reversed(TEXTS), size, 8)
        assert one.get_vocab() == other.get_vocab() and len(one) == min(size, 10)


def test_texts_are_lower_cased_and_split_at_each_mark() -> None:
    tokenizer = build_word_tokenizer(TEXTS, 100, 8)
    assert tokenizer.tokenize("  GOOD,bad!!\tdull") == ["good", ",", "bad", "!", "!", "[UNK]"]
    assert tokenizer("")["input_ids"] == []


def test_pairs_get_a_separator_within_the_vocabulary() -> None:
    tokenizer = build_word_tokenizer([("a film", "a cast"), ["one", "two"]], vocab_size=5, max_length=8)
    assert words_of(tokenizer) == ["[PAD]", "[UNK]", "[SEP]", "a", "cast"]
    assert tokenizer("a cast", "film")["input_ids"] == [3, 4, 2, 1]
    assert "token_type_ids" not in tokenizer("a cast", "film")
    short = tokenizer("a a a a a a", "cast", truncation=True, max_length=4)["input_ids"]
    assert short == [3, 3, 2, 4]


def test_encoders_get_the_layout_of_bert() -> None:
    tokenizer = build_word_tokenizer([("a film", "a cast")], 10, 8, for_encoder=True)
    encoded = tokenizer("a", "cast")
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"]) == ["[CLS]", "a", "[SEP]", "cast", "[SEP]"]
    assert encoded["token_type_ids"] == [0, 0, 0, 1, 1]
    assert tokenizer("a")["input_ids"] == [2, 4, 3]


@pytest.mark.parametrize("for_encoder", [False, True])
@pytest.mark.parametrize("texts", [TEXTS, [("a film", "a cast")]])
def test_it_goes_through_autotokenizer(texts: list, for_encoder: bool, tmp_path: Path) -> None:
    tokenizer = build_word_tokenizer(texts, 100, 8, for_encoder)
    tokenizer.save_pretrained(tmp_path)
    BiLSTMConfig().save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    arguments = (["A Film", "cast"], ["bad", "a dull one"])
    assert dict(again(*arguments)) == dict(tokenizer(*arguments))
    assert again.model_max_length == 8 and again.pad_token_id == 0


def test_too_small_or_no_text() -> None:
    with pytest.raises(ValueError, match="`vocab_size` must be above 2"):
        build_word_tokenizer(TEXTS, 2, 8)
    with pytest.raises(ValueError, match="`texts` must hold the training text"):
        build_word_tokenizer([], 10, 8)
