import copy

import pytest
import torch
from transformers import AutoModel, BertConfig

from dial.models.slender.embeddings import factorise
from dial.models.slender.encoder import cut
from dial.models.slender.plan import Schedule, Sizes, Target, to_steps
from dial.models.slender.structures import attach_masks, masks
from tests.models.encoders import CONFIGS, encoder


@pytest.fixture(scope="module")
def bert_base():
    with torch.device("meta"):
        return AutoModel.from_config(BertConfig(), add_pooling_layer=False)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("rank", [None, 3])
def test_counted_parameters_are_those_of_the_cut_model(name: str, rank: int | None) -> None:
    model = encoder(name)
    target = Target(1, 5, rank)
    expected = Sizes(model).parameters(target)
    slender = copy.deepcopy(model)
    if rank:
        factorise(slender, rank)
    attach_masks(slender)
    for mask in masks(slender):
        mask[target.neurons if len(mask) == 12 else target.heads :] = 0
    assert sum(p.numel() for p in cut(slender).parameters()) == expected


def test_the_papers_sizes_have_the_papers_factor(bert_base) -> None:
    """Table 2 and 3: 2 heads and 256 neurons are 7.9 times smaller than BERT-base (with pooler, 109.5 million)."""
    sizes = Sizes(bert_base)
    assert round(109_482_240 / sizes.parameters(Target(2, 256, 128)), 1) == 7.9
    assert round(109_482_240 / sizes.parameters(Target(6, 1536, 384)), 1) == 2.0
    assert sizes.target(8) == Target(2, 240, 128)
    assert sizes.target(2) == Target(6, 1504, 384)


@pytest.mark.parametrize("factor", [1.02, 1.3, 2, 3.3, 4, 8, 16, 21])
def test_a_factor_is_reached_and_hardly_passed(bert_base, factor: float) -> None:
    sizes = Sizes(bert_base)
    target = sizes.target(factor)
    sizes.check(target)
    assert factor <= sizes.total / sizes.parameters(target) <= 1.03 * factor


@pytest.mark.parametrize("name", CONFIGS)
def test_factors_of_tiny_models(name: str) -> None:
    sizes = Sizes(encoder(name))
    for factor in (1.1, 1.5, 2.0):
        target = sizes.target(factor)
        sizes.check(target)
        assert sizes.total / sizes.parameters(target) >= factor


def test_targets_that_cannot_be(bert_base) -> None:
    sizes = Sizes(bert_base)
    for factor, message in ((1.0, "above 1"), (500, "`compression` must be at most 38.03 for this model")):
        with pytest.raises(ValueError, match=message):
            sizes.target(factor)
    for target, message in (
        (Target(13, 3072, None), "`heads` must lie between 1 and 12, the model's own, but got 13"),
        (Target(0, 3072, None), "`heads` must lie between 1 and 12"),
        (Target(12, 4000, None), "`intermediate` must lie between 1 and 3072"),
        (Target(12, 3072, 800), "`embedding_rank` must lie between 1 and 768"),
    ):
        with pytest.raises(ValueError, match=message):
            sizes.check(target)


def test_uneven_models_are_refused() -> None:
    model = encoder("bert")
    attach_masks(model)
    masks(model)[0][2] = 0
    with pytest.raises(ValueError, match=r"equally many heads in all layers, but has \[3, 4\]"):
        Sizes(cut(model))


@pytest.mark.parametrize("course", ["linear", "cubic"])
@pytest.mark.parametrize(("start", "stop", "prunings"), [(0, 10, 10), (3, 50, 7), (5, 6, 1)])
def test_schedules_fall_to_the_target(course: str, start: int, stop: int, prunings: int) -> None:
    schedule = Schedule(start, stop, prunings, course)
    steps = [schedule.step(i) for i in range(1, prunings + 1)]
    assert steps == sorted(set(steps)) and steps[0] > start and steps[-1] == stop
    for count, target in ((12, 2), (3072, 256), (4, 4), (5, 1)):
        kept = [count, *(schedule.kept(i, count, target) for i in range(1, prunings + 1))]
        assert kept == sorted(kept, reverse=True) and kept[-1] == target
    if course == "linear" and prunings == 10:
        assert [schedule.kept(i, 12, 2) for i in range(1, 11)] == list(range(11, 1, -1))


def test_schedules_that_cannot_be() -> None:
    for settings in ((0, 5, 6), (5, 5, 1), (-1, 5, 1), (0, 5, 0)):
        with pytest.raises(ValueError, match="`stop` must lie at least `prunings`"):
            Schedule(*settings)
    for value in (100, 1.0, -1, 2.0):
        with pytest.raises(ValueError, match="`stop` must lie before the end of the run of 100 steps"):
            to_steps(value, 100, "stop")
