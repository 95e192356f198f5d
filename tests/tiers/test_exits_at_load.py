"""Tiers with exits as they are loaded: what their exits rest on is proved, or the tier is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dial.models import MultiExitConfig, MultiExitForSequenceClassification
from dial.tiers.layers import check_same_layers, tier_with_exits
from dial.tiers.loading import build_tier, load_tier, save_tier
from dial.tiers.multi_exit import MultiExitTier
from tests.models.families import FAMILIES, classifier, tokens

DATA = ["negative", "positive"]
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def make_folder(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Function: folder of a classifier of a family, or of any model."""

    def make(model: Any) -> Path:
        if isinstance(model, str):
            model = classifier(
                model, id2label=dict(enumerate(DATA)), label2id={"negative": 0, "positive": 1}, num_labels=2
            )
        folder = tmp_path_factory.mktemp("family")
        model.save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    return make


def put_exits(folder: Path, **settings: Any) -> MultiExitTier:
    given = {"exits": None, "pooler": False, "layers": None, "max_length": None, "label_names": DATA, **settings}
    return tier_with_exits(str(folder), **given)[0]  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
@torch.no_grad()
def test_a_decoder_s_tier_answers_as_its_classifier(name: str, make_folder: Make, tmp_path: Path) -> None:
    folder = make_folder(name)
    tier = put_exits(folder)
    tier.eval()
    save_tier(tmp_path / "exits", tier, {})
    loaded, stock = load_tier(str(tmp_path / "exits"), "exits", DATA), load_tier(str(folder), "stock", DATA)
    inputs = tokens(6, 9)
    torch.testing.assert_close(loaded(inputs)[:, -1], stock(inputs)[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["bert", "gpt2", "qwen2"])
@torch.no_grad()
def test_a_tokenizer_that_pads_on_the_left_changes_no_answer(name: str, make_folder: Make, tmp_path: Path) -> None:
    folder = make_folder(name)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "padding_side": "left"}))
    save_tier(tmp_path / "exits", put_exits(folder), {})
    for tier in (put_exits(folder).eval(), load_tier(str(tmp_path / "exits"), "exits", DATA)):
        texts = ["a great film", "the plot was not so good and the cast is poor", "dull"]
        together = tier(dict(tier.tokenizer(texts, padding=True, return_tensors="pt")))
        for text, logits in zip(texts, together, strict=True):
            alone = tier(dict(tier.tokenizer(text, return_tensors="pt")))[0]
            torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["flaubert", "xlm", "squeezebert", "longformer", "bloom", "xlnet", "funnel"])
def test_exits_where_they_cannot_be_are_refused_before_training(name: str, make_folder: Make) -> None:
    with pytest.raises(ValueError, match=r"`path`.* take another encoder") as error:
        put_exits(make_folder(name))
    assert "\n" not in str(error.value)


def test_layers_that_an_encoder_cannot_have_are_refused(make_folder: Make) -> None:
    """Longformer has a window for each layer."""
    with pytest.raises(ValueError, match=r"`path` must be an encoder that exits can be put on.*`layers`") as error:
        put_exits(make_folder("longformer"), layers=2)
    assert "\n" not in str(error.value)


def test_the_first_token_of_a_decoder_is_refused_at_load(make_folder: Make) -> None:
    folder = make_folder("gpt2")
    with pytest.raises(ValueError, match=r"`path`: `pooling` must be a token that sees the others.*take last"):
        put_exits(folder, pooling="first")
    encoder = {**FAMILIES["gpt2"], "vocab_size": 40, "model_type": "gpt2"}
    config = MultiExitConfig(encoder=encoder, id2label=dict(enumerate(DATA)), pooling="first")
    saved = make_folder(MultiExitForSequenceClassification(config))
    with pytest.raises(ValueError, match=r"`tiers\[0\]`: `pooling` must be a token that sees the others"):
        load_tier(str(saved), "swift", DATA, "tiers[0]")
    with pytest.raises(ValueError, match=r"`config`: `pooling` must be a token that sees the others"):
        build_tier({"model_type": "multi_exit", "encoder": encoder, "exits": [1, 3]}, str(folder), DATA)


@torch.no_grad()
def test_a_tier_in_low_precision_is_proved_before_it_is_cast(make_folder: Make) -> None:
    saved = make_folder(put_exits(make_folder("deberta-v2")).model)
    tier = load_tier({"path": str(saved), "dtype": "bfloat16"}, "swift", DATA)
    seen: list[Tensor] = []
    inputs = tokens(12, 6)  # as many rows as relative positions
    full = tier(inputs)

    def go_on(index: int, rows: Tensor, logits: Tensor) -> Tensor:
        seen.append((logits - full[rows, index]).abs().max())
        return rows % 2 == 0

    tier.run(inputs, go_on)
    assert len(seen) == 3 and max(seen) < 0.1  # of what two batches differ by in bf16; 3 and more if the table is cut


def test_a_teacher_whose_layers_are_none_is_refused(make_folder: Make) -> None:
    student, teacher = put_exits(make_folder("bert")), load_tier(str(make_folder("flaubert")), "teacher", DATA)
    with pytest.raises(ValueError, match=r"`teacher`: `encoder` must do nothing with the hidden states"):
        check_same_layers(student, teacher, "teacher")
    check_same_layers(student, load_tier(str(make_folder("bert")), "teacher", DATA), "teacher")
