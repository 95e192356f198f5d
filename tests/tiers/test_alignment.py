"""Which token of a teacher is which of its student, against the pieces in words."""

import pytest
import torch

from dial.tiers.alignment import Alignment, align, at_pairs, at_places, longer_by
from tests.conftest import WORDS
from tests.tiers.mpnet import mpnet_tokenizer

ROLES = {"[CLS]": "<s>", "[SEP]": "</s>", "[PAD]": "<pad>", "[MASK]": "<mask>"}
SINGLES = [("the film was good",), ("a",), ("unheard of",)]
PAIRS = [("the film was good", "so was the cast"), ("a plot", "very dull and very poor and not great"), ("fine", "bad")]


def encode(tokenizer, texts, length=30):
    columns = [list(column) for column in zip(*texts, strict=True)]
    return dict(tokenizer(*columns, padding=True, truncation=True, max_length=length, return_tensors="pt"))


@pytest.mark.parametrize("texts", [SINGLES, PAIRS], ids=["singles", "pairs"])
@pytest.mark.parametrize("left", [False, True], ids=["padded right", "padded left"])
def test_each_token_finds_its_own(tiny_tokenizer, texts, left) -> None:
    teacher = mpnet_tokenizer()
    teacher.padding_side = "left" if left else "right"
    own, other = encode(tiny_tokenizer, texts), encode(teacher, texts)
    places, matched = Alignment(tiny_tokenizer, teacher)(own, other)
    assert torch.equal(matched, own["attention_mask"].bool())
    for row, ids in enumerate(own["input_ids"]):
        pieces = tiny_tokenizer.convert_ids_to_tokens(ids[matched[row]])
        found = teacher.convert_ids_to_tokens(other["input_ids"][row, places[row, matched[row]]])
        assert [ROLES.get(piece, piece) for piece in pieces] == found
        assert places[row, matched[row]].diff().min() > 0  # no place twice, and in order


def test_what_one_side_cut_off_is_left_out(tiny_tokenizer) -> None:
    """At one length a teacher with a separator more keeps a piece less."""
    teacher, texts = mpnet_tokenizer(), PAIRS[:2]
    alignment = Alignment(tiny_tokenizer, teacher)
    own, other = encode(tiny_tokenizer, texts, 8), encode(teacher, texts, 8)
    places, matched = alignment(own, other)
    assert (own["attention_mask"].bool() & ~matched).sum(1).tolist() == [1, 1]
    for row in range(2):
        pieces = tiny_tokenizer.convert_ids_to_tokens(own["input_ids"][row, matched[row]])
        found = teacher.convert_ids_to_tokens(other["input_ids"][row, places[row, matched[row]]])
        assert [ROLES.get(piece, piece) for piece in pieces] == found
    longer = encode(teacher, texts, 8 + longer_by(tiny_tokenizer, teacher))
    assert alignment(own, longer)[1].all()


def test_a_teacher_s_states_come_to_the_student_s_tokens() -> None:
    states, scores = torch.randn(2, 5, 3), torch.randn(2, 4, 5, 5)
    places = torch.tensor([[0, 2, 4], [1, 1, 3]])
    moved, pairs = at_places(states, places), at_pairs(scores, places)
    for row in range(2):
        for i in range(3):
            assert torch.equal(moved[row, i], states[row, places[row, i]])
            for j in range(3):
                assert torch.equal(pairs[row, :, i, j], scores[row, :, places[row, i], places[row, j]])


def test_one_tokenizer_needs_none(tiny_tokenizer) -> None:
    assert align(tiny_tokenizer, tiny_tokenizer, "teacher") is None


def test_other_pieces_are_refused(tiny_tokenizer) -> None:
    with pytest.raises(ValueError, match=r"`teacher` must cut .* lacks 1 of them, such as 'film'; .*Distillation"):
        align(tiny_tokenizer, mpnet_tokenizer([word for word in WORDS if word != "film"]), "teacher")


def test_another_cut_is_refused(tiny_tokenizer) -> None:
    """The vocabulary alone does not tell: this one keeps capitals, so that words become unknown."""
    from tokenizers import pre_tokenizers

    teacher = mpnet_tokenizer()
    teacher.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # "time," stays one word
    with pytest.raises(ValueError, match=r"it cuts .* otherwise"):
        Alignment(tiny_tokenizer, teacher)
