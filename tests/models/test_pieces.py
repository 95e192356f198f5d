"""Tokenizers that are built from the text: their pieces join to the text again, and equal texts give equal ones."""

from __future__ import annotations

import pytest

from dial.models.pieces import build_piece_tokenizer

TEXTS = ["the film was good", "der Film war gut", ("a pair of", "two texts"), "Über  Maß\nund mehr"]


@pytest.mark.parametrize("kind", ["pieces", "characters"])
def test_pieces_join_to_the_text_again(kind) -> None:
    tokenizer = build_piece_tokenizer(TEXTS, kind, 60, 64)
    for text in ("the film was good", "der gute Film", "two  texts"):
        ids = tokenizer(text)["input_ids"]
        assert ids[-1] == tokenizer.eos_token_id == 1 and tokenizer.pad_token_id == 0
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer) <= 60


@pytest.mark.parametrize("kind", ["pieces", "characters"])
def test_the_same_texts_give_the_same_tokenizer(kind) -> None:
    first, second = (build_piece_tokenizer(TEXTS, kind, 40, 64) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()


def test_rare_characters_are_unknown_and_case_counts() -> None:
    tokenizer = build_piece_tokenizer(["aaa bb", "A"], "characters", 6, 8)
    assert tokenizer("abA")["input_ids"][:3] == [3, 4, 2]  # three places beside the special ones: a, b and the space


def test_pairs_end_twice() -> None:
    tokenizer = build_piece_tokenizer(["ab"], "characters", 8, 8)
    assert tokenizer("a", "b")["input_ids"] == [3, 1, 4, 1]


def test_what_gives_no_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="`vocab_size` must be above 3"):
        build_piece_tokenizer(TEXTS, "pieces", 3, 8)
    with pytest.raises(ValueError, match="must hold the training text"):
        build_piece_tokenizer([], "characters", 30, 8)
    with pytest.raises(
        ValueError, match="`tokenizer` must be a folder, a hub id, pieces or characters, but got 'word'"
    ):
        build_piece_tokenizer(TEXTS, "word", 30, 8)  # type: ignore[arg-type]
