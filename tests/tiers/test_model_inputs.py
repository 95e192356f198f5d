"""Token types asked for where a model has them, and tokenizers that do not fit their models."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, processors
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from dial.inference.executor import Executor
from dial.inference.staged import StagedModel
from dial.tiers.loading import load_tier, save_tier
from dial.tiers.model_inputs import match_inputs
from dial.tiers.tier import Tier
from dial.tiers.tokens import Tokeniser
from dial.tradeoff.rules import rule_named
from tests.tiers import families

PAIRS = [("a film", "the plot was good"), ("the cast", "dull"), ("not bad but not fine", "a"), ("good", "bad")]
UNASKED = ["input_ids", "attention_mask"]


@pytest.fixture
def untyped(tiny_tokenizer) -> Any:
    """The tiny tokenizer, which tells two texts apart only where it is asked to."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.model_input_names = list(UNASKED)
    tokenizer.init_kwargs["model_input_names"] = list(UNASKED)
    return tokenizer


@pytest.fixture
def padless(tiny_tokenizer) -> Any:
    """The tiny tokenizer without a padding token, also where it has padded before."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.pad_token = None
    tokenizer.init_kwargs.pop("pad_token", None)
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def answers(tier: Tier, units: list[Any], size: int = 3) -> np.ndarray:
    decision = rule_named("threshold", "random", stages=(tier.name,), thresholds=())
    return np.stack([answer.outputs for answer in Executor(StagedModel([tier]), decision, size).run(units)])


@pytest.mark.parametrize("model_type", ["albert", "bert", "funnel", "xlnet", "big_bird"])
def test_types_are_asked_for_where_the_model_has_them(untyped, model_type: str, tmp_path: Path) -> None:
    folder = families.save(tmp_path / "model", model_type, untyped)
    assert "token_type_ids" not in AutoTokenizer.from_pretrained(folder)("a", "film")
    expected = families.one_by_one(folder, PAIRS, typed=True)
    assert np.abs(expected - families.one_by_one(folder, PAIRS, typed=False)).max() > 0.01
    tier = load_tier({"path": str(folder), "max_length": 24}, "t", families.CLASSES)
    np.testing.assert_allclose(answers(tier, PAIRS), expected, atol=1e-5)
    save_tier(tmp_path / "saved", tier, {})
    assert "token_type_ids" in AutoTokenizer.from_pretrained(tmp_path / "saved")("a", "film")
    again = load_tier(str(tmp_path / "saved"), "t", families.CLASSES)
    assert again.encoding_key == tier.encoding_key
    np.testing.assert_allclose(answers(again, PAIRS), expected, atol=1e-5)


@pytest.mark.parametrize(("model_type", "settings"), [("gpt2", {}), ("roberta", {}), ("bart", {})])
def test_types_are_not_asked_for_where_the_model_has_none(untyped, model_type: str, settings, tmp_path: Path) -> None:
    folder = families.save(tmp_path, model_type, untyped, **settings)
    tier = load_tier({"path": str(folder), "max_length": 24}, "t", families.CLASSES)
    assert Tokeniser(tier)(PAIRS)[0].types is None
    np.testing.assert_allclose(answers(tier, PAIRS), families.one_by_one(folder, PAIRS), atol=1e-5)


def test_types_are_not_asked_for_where_the_tokenizer_does_not_tell_texts_apart(untyped) -> None:
    untyped.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:0 [SEP]:0", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    config = AutoConfig.for_model("bert", vocab_size=len(untyped), **families.SIZES)
    assert match_inputs(untyped, AutoModelForSequenceClassification.from_config(config), "t", "here") == 0
    assert untyped.model_input_names == UNASKED


def refusal(folder: Path, **view: Any) -> str:
    with pytest.raises(ValueError, match=r"`tiers\[1\]`") as caught:
        load_tier({"path": str(folder), **view}, "super", families.CLASSES, "tiers[1]")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_types_beyond_the_embedding(tiny_tokenizer, tmp_path: Path) -> None:
    message = refusal(families.save(tmp_path, "roberta", tiny_tokenizer))
    assert "gives token types up to 1, but RobertaForSequenceClassification has an embedding of 1" in message


def test_ids_beyond_the_embedding(tiny_tokenizer, tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[NEW]"]})
    message = refusal(families.save(tmp_path, "bert", tokenizer, vocab_size=len(tiny_tokenizer)))
    size = len(tiny_tokenizer)
    assert f"gives ids up to {size} ('[NEW]'), but the embedding of BertForSequenceClassification ends at" in message
    assert f"resize_token_embeddings({size + 1})" in message


def test_no_padding_token_at_all(padless, tmp_path: Path) -> None:
    families.save(tmp_path, "gpt2", padless, pad_token_id=None)
    assert AutoTokenizer.from_pretrained(tmp_path).pad_token_id is None
    message = refusal(tmp_path)
    assert "must have a padding token" in message and str(tmp_path) in message
    assert "`pad_token` in tokenizer_config.json" in message and "`pad_token_id` in config.json" in message


def test_a_padding_token_of_the_tokenizer_alone(tiny_tokenizer, tmp_path: Path) -> None:
    message = refusal(families.save(tmp_path, "gpt2", tiny_tokenizer, pad_token_id=None))
    assert "set `pad_token_id` in its config.json, the tokenizer's is 0" in message
    assert "if no padding token is defined" in message


def test_a_padding_token_of_the_configuration_alone(padless, tmp_path: Path) -> None:
    families.save(tmp_path, "gpt2", padless)
    assert AutoTokenizer.from_pretrained(tmp_path).pad_token_id is None
    tier = load_tier({"path": str(tmp_path), "max_length": 24}, "t", families.CLASSES)
    np.testing.assert_allclose(answers(tier, PAIRS), families.one_by_one(tmp_path, PAIRS), atol=1e-5)


def test_a_padding_token_outside_the_embedding(tiny_tokenizer, tmp_path: Path) -> None:
    folder = families.save(tmp_path, "gpt2", tiny_tokenizer)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(re.sub(r'"pad_token_id": 0', '"pad_token_id": -1', config))
    assert "`pad_token_id` in" in (message := refusal(folder)) and "is -1, and the embedding has" in message


def test_ids_that_are_drawn_at_random(tmp_path: Path) -> None:
    vocabulary = {"[PAD]": 0, "A": 1, "t": 2, "e": 3, "x": 4, "te": 5, "xt": 6, "tex": 7, " ": 8}
    merges = [("t", "e"), ("x", "t"), ("te", "x")]
    backend = Tokenizer(models.BPE(vocabulary, merges, dropout=0.5, unk_token="[PAD]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[PAD]")
    assert "must give a text the same ids each time" in refusal(families.save(tmp_path, "bert", tokenizer))


def test_inputs_that_tiers_do_not_carry(tiny_tokenizer) -> None:
    class Positioned:
        def __getattr__(self, name: str) -> Any:
            return getattr(tiny_tokenizer, name)

        def __call__(self, *texts: Any, **options: Any) -> dict[str, Any]:
            encoded = tiny_tokenizer(*texts, **options)
            return {**encoded, "position_ids": [[0] * len(row) for row in encoded["input_ids"]], "length": [1]}

    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bert", **families.SIZES))
    with pytest.raises(ValueError, match="gives position_ids, which BertForSequenceClassification reads"):
        match_inputs(Positioned(), model, "tiers[1]", "here")


def test_positions_without_an_end(tiny_tokenizer, tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.model_max_length = 10**30
    folder = families.save(tmp_path, "xlnet", tokenizer)
    tier = load_tier(str(folder), "t", families.CLASSES)
    assert tier.max_length == 512 and load_tier({"path": str(folder), "max_length": 900}, "t", families.CLASSES)
    texts = ["good " * 20, "a film"]
    np.testing.assert_allclose(answers(tier, texts), families.one_by_one(folder, texts, max_length=512), atol=1e-5)
