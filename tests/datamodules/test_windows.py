"""Windows of questions and contexts, against transformers' own and plain loops."""

from __future__ import annotations

import unicodedata
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers.normalizers import BertNormalizer

from datamodules.row_tokens import UnreadableRowError
from datamodules.windows import (
    OUTSIDE,
    WindowTokeniser,
    _places,
    answer_tokens,
    check_reader,
    take_windows,
    window_batch,
)
from tests.tiers.readers import STRIDE, WINDOW, questions, tokenizer

UNITS = questions(40)


@pytest.fixture(scope="module")
def rows():
    return WindowTokeniser(tokenizer(), WINDOW, STRIDE)(UNITS)


@pytest.mark.parametrize("types", [True, False])
def test_windows_are_those_of_transformers(types: bool) -> None:
    known = tokenizer(types=types)
    rows = WindowTokeniser(known, WINDOW, STRIDE)(UNITS)
    assert max(len(row.sizes) for row in rows) > 3
    for row, (question, context) in zip(rows, UNITS, strict=True):
        expected = known(
            question, context, truncation="only_second", max_length=WINDOW, stride=STRIDE,
            return_overflowing_tokens=True, return_offsets_mapping=True,
        )  # fmt: skip
        assert row.sizes.tolist() == list(map(len, expected["input_ids"]))
        assert row.ids.tolist() == list(chain(*expected["input_ids"]))
        assert (row.types is None) if not types else row.types.tolist() == list(chain(*expected["token_type_ids"]))
        places = [
            place if of == 1 else (OUTSIDE, OUTSIDE)
            for window in range(len(row.sizes))
            for place, of in zip(expected["offset_mapping"][window], expected.sequence_ids(window), strict=True)
        ]
        assert list(zip(row.starts.tolist(), row.ends.tolist(), strict=True)) == places


def test_every_window_but_the_last_is_full_and_every_word_is_read(rows) -> None:
    for row, (_, context) in zip(rows, UNITS, strict=True):
        assert (row.sizes[:-1] == WINDOW).all() and 1 <= row.sizes[-1] <= WINDOW
        read = {place for s, e in zip(row.starts, row.ends, strict=True) for place in range(s, e)}
        assert {place for place, letter in enumerate(context) if not letter.isspace()} <= read


def test_a_batch_holds_the_characters_that_its_tokens_are_of(rows) -> None:
    batch = window_batch(rows, WindowTokeniser(tokenizer(), WINDOW).padding)
    assert batch["row"].tolist() == [i for i, row in enumerate(rows) for _ in row.sizes]
    assert torch.equal(batch["attention_mask"].sum(dim=1), torch.from_numpy(np.concatenate([r.sizes for r in rows])))
    for window, row in enumerate(batch["row"].tolist()):
        characters, origin = batch["characters"][window].tolist(), int(batch["origin"][window])
        for start, end in zip(batch["starts"][window].tolist(), batch["ends"][window].tolist(), strict=True):
            if start != OUTSIDE:
                text = "".join(map(chr, characters[start - origin : end - origin]))
                assert text == UNITS[row][1][start:end] and text.strip()


def test_tokens_without_a_character_are_nowhere_in_the_context() -> None:
    """Some tokenizers give spaces tokens of their own, which are of no character."""
    window = SimpleNamespace(
        offsets=[(0, 0), (0, 3), (0, 0), (0, 4), (4, 4), (5, 9)], sequence_ids=[None, 0, None, 1, 1, 1]
    )
    starts, ends = _places(window, "past days")
    assert starts.tolist() == [OUTSIDE] * 3 + [0, OUTSIDE, 5] and ends.tolist() == [OUTSIDE] * 3 + [4, OUTSIDE, 9]


def test_an_answer_ends_behind_the_accents_of_its_last_letter() -> None:
    """Tokenizers that strip accents keep nothing of them where they are characters of their own."""
    context = unicodedata.normalize("NFD", "le café ouvert ế")
    known = tokenizer()
    known.backend_tokenizer.normalizer = BertNormalizer(strip_accents=True)
    (row,) = WindowTokeniser(known, WINDOW, STRIDE)([("who", context)])
    ends = {int(end) for end in row.ends if end != OUTSIDE}
    assert {len("le"), len("le cafe") + 1, len(context)} <= ends
    for end in ends:
        assert end == len(context) or not unicodedata.combining(context[end])


def test_rows_are_taken_with_all_their_windows(rows) -> None:
    padding = WindowTokeniser(tokenizer(), WINDOW).padding
    chosen = [1, 5, 6]
    taken = take_windows(window_batch(rows, padding), torch.tensor(chosen))
    alone = window_batch([rows[i] for i in chosen], padding)
    assert torch.equal(taken["row"], alone["row"])
    width = alone["input_ids"].shape[1]
    assert torch.equal(taken["starts"][:, :width], alone["starts"]) and torch.equal(taken["origin"], alone["origin"])


def test_answers_are_the_tokens_that_hold_them_in_the_windows_that_hold_them_whole(rows) -> None:
    random, padding = np.random.default_rng(3), WindowTokeniser(tokenizer(), WINDOW).padding
    batch = window_batch(rows, padding)
    spans = []
    for position, row in enumerate(rows):
        inside = np.flatnonzero(row.starts != OUTSIDE)
        first = random.choice(inside)
        last = min(first + int(random.integers(3)), inside[-1])
        between = (row.starts[first], row.ends[last]) if row.starts[last] >= row.starts[first] else (-1, -1)
        spans.append((-1, -1) if position % 7 == 0 else between)
    starts, ends = answer_tokens(spans, batch["row"], batch["starts"], batch["ends"])
    held = 0
    for window, row in enumerate(batch["row"].tolist()):
        places = list(zip(batch["starts"][window].tolist(), batch["ends"][window].tolist(), strict=True))
        first = next((t for t, (s, _) in enumerate(places) if s == spans[row][0] >= 0), None)
        last = next((t for t, (_, e) in enumerate(places) if e == spans[row][1] >= 0), None)
        expected = (0, 0) if first is None or last is None else (first, last)
        assert (int(starts[window]), int(ends[window])) == expected
        held += expected != (0, 0)
    assert held > 30


@pytest.mark.parametrize(("before", "after"), [("", ""), ("the old town " * 20, ""), ("", " the old town" * 20)])
@pytest.mark.parametrize("answer", ["king\u0301", "\u200bking", "\u200bold king\u0301\u200f"])
def test_characters_without_a_token_at_the_ends_of_an_answer_do_not_count(answer: str, before: str, after: str) -> None:
    """Else a window that ends, or begins, with the answer's last, or first, token would be taught that it has none."""
    known, context = tokenizer(), before + answer + after
    known.backend_tokenizer.normalizer = BertNormalizer()
    read = WindowTokeniser(known, WINDOW, STRIDE)
    batch = window_batch(read([("who won", "the king"), ("who", context)]), read.padding)
    spans = [[4, 8], [len(before), len(before) + len(answer)]]
    starts, ends = answer_tokens(spans, batch["row"], batch["starts"], batch["ends"])
    words = answer.replace("\u0301", "").replace("\u200b", "").replace("\u200f", "").split()
    for window, row in enumerate(batch["row"].tolist()):
        pieces = known.convert_ids_to_tokens(batch["input_ids"][window])
        mine = ["king"] if row == 0 else words
        places = [i for i in range(3, len(pieces)) if pieces[i : i + len(mine)] == mine]
        expected = (places[0], places[0] + len(mine) - 1) if places else (0, 0)
        assert (int(starts[window]), int(ends[window])) == expected
    assert (starts[batch["row"] == 1] > 0).any()


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        (("who", "  "), "row 1 has an empty context; fill it in"),
        (("", "the town"), "row 1 has an empty question"),
        ("the town", "row 1 is a single text"),
        (
            ("who " * 15, "the town"),
            r"row 1 has a question of 15 tokens, but windows of 24 .* share 6 leave room for 14",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(unit, message: str) -> None:
    with pytest.raises(UnreadableRowError, match=message) as raised:
        WindowTokeniser(tokenizer(), WINDOW, STRIDE)([("who", "the town"), unit])
    assert raised.value.place == 1


@pytest.mark.parametrize(("place", "what"), [(0, "question"), (1, "context")])
def test_texts_without_a_token_are_refused(place: int, what: str) -> None:
    """Spaces without width are text for Python, of which BERT's normalizer keeps nothing: there would be no span."""
    known = tokenizer()
    known.backend_tokenizer.normalizer = BertNormalizer()
    read = WindowTokeniser(known, WINDOW, STRIDE)
    unit = ["who", "the town"]
    unit[place] = "\u200b\u00ad"
    with pytest.raises(UnreadableRowError, match=f"row 1 has a {what} of which the tokenizer keeps nothing; fill it"):
        read([("who", "the town"), tuple(unit)])
    unit[place] = "\u200b?"  # a mark is a token
    assert len(read([tuple(unit)])[0].sizes) == 1


def test_the_longest_question_leaves_room_for_its_context() -> None:
    row = WindowTokeniser(tokenizer(), WINDOW, STRIDE)([("who " * 14, "the old town of the king " * 4)])[0]
    assert len(row.sizes) > 10 and (np.diff(np.unique(row.starts)) > 0).all()


def test_tokenizers_that_do_not_tell_where_tokens_stand_are_refused() -> None:
    from transformers import CanineTokenizer

    with pytest.raises(ValueError, match="`path`: the tokenizer in here must be a fast one"):
        check_reader(CanineTokenizer(), "path", "here")
    known = tokenizer()
    known.padding_side = "left"
    with pytest.raises(ValueError, match="special token first and padding last"):
        check_reader(known, "path", "here")
