"""Rivals of a Super: transformers' pipeline and other libraries, which answer as it does."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import pipeline

from dial.study import rivals as of_study
from dial.study.inductor import COMPILERS
from dial.study.rivals import Pipeline, check_names, names_of_rivals, rivals
from dial.study.timing import Contender
from dial.tiers.backends.names import installed
from dial.tiers.loading import load_tier
from dial.tiers.tier import Tier

TEXTS = ["a good film", "the plot was dull and the cast is not so great", "fine", "very poor"]


@pytest.fixture
def tier(make_tiny_bert) -> Tier:
    """The model's labels are in another order than the data's."""
    folder: Path = make_tiny_bert(labels=("positive", "negative"), seed=5)
    return load_tier(str(folder), "super", ["negative", "positive"]).eval()


def test_a_pipeline_answers_texts_and_pairs_as_the_tier(tier: Tier) -> None:
    units = [*TEXTS, ("a film", "it was good")]
    contender = Pipeline("super-pipeline", tier, units)
    timed = contender.time([3, 0, 4])
    assert timed.milliseconds.shape == (1,) and timed.milliseconds[0] > 0
    plain = pipeline("text-classification", model=tier.model, tokenizer=tier.tokenizer, top_k=None, device="cpu")
    scores = {each["label"]: each["score"] for each in plain([TEXTS[0]])[0]}
    found = torch.from_numpy(timed.outputs[1, 0]).softmax(0)  # in the data's order
    assert found.tolist() == pytest.approx([scores["negative"], scores["positive"]], abs=1e-5)
    with torch.inference_mode():
        own = np.stack([tier(Contender("super", tier, units).encode([row]))[0].numpy() for row in (3, 0, 4)])
    np.testing.assert_allclose(timed.outputs, own, atol=1e-5)


def test_every_installed_backend_takes_part_and_answers_alike(tier: Tier) -> None:
    found, missing = rivals(tier, TEXTS, 12)
    by_name = {contender.name: contender for contender in found}
    assert set(by_name) | set(missing) == {"super-padded", "super-pipeline", *names_of_rivals(tier)}
    assert "super-float32" not in by_name and by_name["super-pipeline"].backend == "transformers"
    own = Contender("super", tier, TEXTS).time(range(4)).outputs
    for backend in installed():
        contender = by_name[f"super-{backend}-float32"]
        assert contender.backend == contender.tier.parts[0].backend == backend
        np.testing.assert_allclose(contender.time(range(4)).outputs, own, atol=1e-5)


def test_no_tier_is_called_as_a_backend_s_rival_is(tier: Tier) -> None:
    for name in ("super-pipeline", *names_of_rivals(tier)):
        other = load_tier(tier.view, name, ["negative", "positive"])
        with pytest.raises(ValueError, match=f"`names` must differ .* but got {name};"):
            check_names([other, tier])
    assert "super-bfloat16" in names_of_rivals(tier) and "super-float32" not in names_of_rivals(tier)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="there is no C++ compiler")
def test_a_model_compiled_ahead_of_time_answers_alike(tier: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_study, "DTYPES", ("float32",))
    monkeypatch.setattr(of_study, "installed", list)
    found, missing = rivals(tier, TEXTS, 12, compiled=True)
    contender = {each.name: each for each in found}["super-inductor-float32"]
    assert contender.backend == "inductor" and not missing
    own = Contender("super", tier, TEXTS)
    for rows in (range(4), [1]):
        np.testing.assert_allclose(contender.time(rows).outputs, own.time(rows).outputs, atol=1e-5)


def test_without_a_compiler_it_is_left_out_and_named(tier: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(of_study, "installed", list)
    _, missing = rivals(tier, TEXTS, 12, compiled=True)
    assert "needs a C++ compiler" in missing["super-inductor-float32"]
