"""What of its kind came first or last: the built-in questions."""

import re

import pytest

from datamodules import FirstOrLastDataModule
from datamodules.first_or_last import KINDS, ROLES

KIND_OF = {word: kind for kind, words in KINDS.items() for word in words}


def test_answers_are_right_graded_and_the_same_for_a_seed(tmp_path) -> None:
    sizes = {f"{role}_rows": 80 for role in ROLES}
    data = FirstOrLastDataModule(**sizes, cache_dir=str(tmp_path))
    ids: set[int] = set()
    for role in ROLES:
        rows, levels = data.rows(role), data.levels(role)
        ids |= set(rows.sample_id.tolist())
        assert len(rows) == 80 and set(levels.values()) == {1, 2, 3}
        for (question, context), target, span, row in zip(
            rows.units(), data.references(role), rows.spans, rows.sample_id.tolist(), strict=True
        ):
            kind, end = re.fullmatch(r"which (\w+) came (first|last)", question).groups()
            words = [word for word in re.findall(r"\w+", context) if KIND_OF.get(word) == kind]
            assert target == (words[0 if end == "first" else -1],) and levels[row] == len(words)
            assert context[slice(*span)] == target[0]
    assert len(ids) == 320
    again = FirstOrLastDataModule(**sizes, cache_dir=str(tmp_path))
    assert [again.fingerprint(role) for role in ROLES] == [data.fingerprint(role) for role in ROLES]
    assert FirstOrLastDataModule(**sizes, data_seed=1).fingerprint("train") != data.fingerprint("train")


def test_no_word_is_of_two_kinds_or_part_of_another() -> None:
    words = [*KIND_OF, "first", "then"]
    assert len(KIND_OF) == sum(map(len, KINDS.values()))
    assert not [(a, b) for a in words for b in words if a != b and a in b]


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="`shares` must be 3 parts"):
        FirstOrLastDataModule(shares=[1.0])
    with pytest.raises(ValueError, match="`test_rows` must be at least 1"):
        FirstOrLastDataModule(test_rows=0)
