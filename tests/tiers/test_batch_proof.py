"""Answers that do not depend on the batch: many families against transformers, a row at a time without padding."""

from __future__ import annotations

import copy
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from datamodules.encoding import encode
from datamodules.loading import EncodedRows
from datamodules.rows import Rows
from dial.inference.executor import Executor
from dial.inference.staged import StagedModel
from dial.tiers import batch_proof
from dial.tiers.batching import Batching
from dial.tiers.layers import tier_with_exits
from dial.tiers.loading import load_tier
from dial.tiers.tier import Tier
from dial.tradeoff.rules import rule_named
from tests.conftest import WORDS
from tests.tiers import families

EQUAL = Batching(equal_length=True)
NEEDS = {
    "bert": Batching(),
    "gpt2": Batching(),
    "opt": Batching(),
    "xlnet": Batching(),
    "flaubert": Batching(masked=True),
    "bart": Batching(end_id=3),
    "t5": Batching(end_id=3),
    "convbert": EQUAL,
    "mobilebert": EQUAL,
    "fnet": EQUAL,
    "funnel": Batching(equal_length=True, shortest=3),
    "canine": Batching(equal_length=True, shortest=4),
}


def units(rows: int, pairs: bool, seed: int = 0) -> list[Any]:
    random = np.random.default_rng(seed)

    def text() -> str:
        return " ".join(random.choice(WORDS[:-1], size=random.integers(2, 13)))

    return [(text(), text()) if pairs else text() for _ in range(rows)]


def load(folder: Path, **view: Any) -> Tier:
    return load_tier({"path": str(folder), "max_length": 28, **view}, "t", families.CLASSES, "tiers[0]")


def answers(tier: Tier, texts: list[Any], size: int, **settings: Any) -> np.ndarray:
    executor = Executor(
        StagedModel([tier]), rule_named("threshold", "random", stages=(tier.name,), thresholds=()), size, **settings
    )
    return np.stack([answer.outputs for answer in executor.run(texts)])


def batches(tier: Tier, texts: list[Any], folder: Path, size: int = 7) -> list[dict[str, torch.Tensor]]:
    """What a data module gives of the texts."""
    first, second = zip(*texts, strict=True) if isinstance(texts[0], tuple) else (texts, None)
    count = len(texts)
    rows = Rows(list(first), second and list(second), np.zeros(count, np.int64), np.arange(count))
    data = EncodedRows(rows, {"key": encode(rows, tier.tokenizer, tier.max_length, tier.encoding_key, folder)})
    starts = range(0, count, size)
    return [data.collate([data[i] for i in range(s, min(s + size, count))])["encodings"]["key"] for s in starts]


@pytest.mark.parametrize("model_type", NEEDS)
def test_every_family_answers_as_transformers_does_row_by_row(tiny_tokenizer, model_type: str, tmp_path: Path) -> None:
    folder = families.save(tmp_path / "model", model_type, tiny_tokenizer)
    tier = load(folder)
    assert tier.batching == NEEDS[model_type]
    for pairs in (False, True):
        texts = units(16, pairs)
        texts += [(f"a [SEP] {text[0]}", "good") if pairs else f"a [SEP] {text} [PAD] film" for text in texts[:3]]
        expected = families.one_by_one(folder, texts, max_length=28)
        assert expected.std(axis=0).min() > 0.05, "rows that are alike would hide a difference"
        for size in (1, 6, 32):
            np.testing.assert_allclose(answers(tier, texts, size), expected, atol=2e-5)
        with torch.no_grad():
            trained = torch.cat([tier(batch)[:, 0] for batch in batches(tier, texts, tmp_path)])
        np.testing.assert_allclose(trained.numpy(), expected, atol=2e-5)


@pytest.mark.parametrize(("model_type", "side", "wanted"), [("gpt2", "left", "right"), ("xlnet", "right", "left")])
def test_rows_are_padded_where_the_model_needs_it(
    tiny_tokenizer, model_type: str, side: str, wanted: str, tmp_path: Path
) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = side
    folder = families.save(tmp_path / "model", model_type, tokenizer)
    assert AutoTokenizer.from_pretrained(folder).padding_side == side
    tier, texts = load(folder), units(20, False)
    expected = families.one_by_one(folder, texts)
    assert tier.tokenizer.padding_side == wanted
    np.testing.assert_allclose(answers(tier, texts, 8), expected, atol=2e-5)
    found = torch.cat([tier(batch)[:, 0] for batch in batches(tier, texts, tmp_path)])
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=2e-5)
    tier.tokenizer.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").padding_side == wanted


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "roberta"])
def test_padding_ids_that_differ(tiny_tokenizer, model_type: str, tmp_path: Path) -> None:
    settings = {"type_vocab_size": 2} if model_type == "roberta" else {}
    folder = families.save(tmp_path / "model", model_type, tiny_tokenizer, pad_token_id=7, **settings)
    tier, texts = load(folder), [*units(20, False), "good plot plot"]
    assert tier.tokenizer.pad_token_id == 0 and tier.batching.pad_id == 7
    assert tiny_tokenizer("plot")["input_ids"][1] != 7 and tiny_tokenizer.convert_ids_to_tokens(7) in WORDS
    texts += [f"{text} {tiny_tokenizer.convert_ids_to_tokens(7)}" for text in texts]  # the id as a word, at the end
    expected = families.one_by_one(folder, texts)
    for size in (1, 8):
        np.testing.assert_allclose(answers(tier, texts, size), expected, atol=2e-5)
    found = torch.cat([tier(batch)[:, 0] for batch in batches(tier, texts, tmp_path)])
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=2e-5)


def test_block_sparse_attention(tiny_tokenizer, tmp_path: Path) -> None:
    folder = families.save(tmp_path, "big_bird", tiny_tokenizer)
    assert json.loads((folder / "config.json").read_text())["attention_type"] == "block_sparse"
    with pytest.raises(ValueError, match=r"`tiers\[0\]` must keep at most 28 tokens .*, but it keeps 29"):
        load(folder, max_length=29)
    texts = units(12, False)
    np.testing.assert_allclose(answers(load(folder), texts, 5), families.one_by_one(folder, texts), atol=2e-5)


# ---- what is refused ----


def test_a_model_that_reads_its_neighbours(make_tiny_bert, tmp_path: Path) -> None:
    tier = load(make_tiny_bert(labels=tuple(families.CLASSES)))
    tier.model.classifier.register_forward_hook(lambda module, args, output: output + output.mean(dim=0))
    with pytest.raises(
        ValueError, match=r"`tiers\[1\]` must answer a row alike in every batch, but BertFor.* does not"
    ):
        batch_proof.settle(tier, "tiers[1]", cache_dir=tmp_path)


def test_a_model_whose_large_batches_differ(tiny_tokenizer, tmp_path: Path) -> None:
    tier = load(families.save(tmp_path / "model", "fnet", tiny_tokenizer))
    tier.model.classifier.register_forward_hook(lambda module, args, output: output + 0.01 * (len(output) // 60))
    with pytest.raises(ValueError, match=r"`tiers\[1\]` must answer a row alike .* FNetFor.* of one length"):
        batch_proof.settle(tier, "tiers[1]", cache_dir=tmp_path)


def test_a_model_that_answers_at_random(tiny_tokenizer, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"`tiers\[0\]` must answer a row alike in every batch, but Reformer"):
        load(families.save(tmp_path, "reformer", tiny_tokenizer))
    assert torch.equal(torch.get_rng_state(), state)


def test_outputs_that_are_not_finite(make_tiny_bert, tmp_path: Path) -> None:
    tier = load(make_tiny_bert(labels=tuple(families.CLASSES)))
    tier.model.classifier.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"`tiers\[1\]` must give finite outputs"):
        batch_proof.settle(tier, "tiers[1]", cache_dir=tmp_path)


def test_a_model_that_computes_nothing(make_tiny_bert, tmp_path: Path) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("no\n  such kernel")

    tier = load(make_tiny_bert(labels=tuple(families.CLASSES)))
    tier.model.classifier.register_forward_pre_hook(fail)
    with pytest.raises(ValueError, match=r"`tiers\[1\]` must compute a row of 9 tokens, but .*: no such kernel\.$"):
        batch_proof.settle(tier, "tiers[1]", cache_dir=tmp_path)


def test_exits_where_padding_is_read(tiny_tokenizer, tmp_path: Path) -> None:
    folder = families.save(tmp_path, "convbert", tiny_tokenizer)
    with pytest.raises(ValueError, match=r"`path` must not read padding where rows leave at exits, but ConvBertModel"):
        tier_with_exits(str(folder), None, False, None, 28, families.CLASSES)


def test_rows_that_are_too_short(tiny_tokenizer, tmp_path: Path) -> None:
    tier = load(families.save(tmp_path / "model", "canine", tiny_tokenizer))
    texts = [*units(5, False), "good", "not good"]
    executor = Executor(StagedModel([tier]), rule_named("threshold", "random", stages=("t",), thresholds=()), 4)
    given = []
    with pytest.raises(ValueError, match="row 5 has 3 tokens, but `t` computes no rows of fewer than 4; leave it out"):
        given.extend(executor.run(texts))
    assert [answer.id for answer in given] == [0, 1, 2, 3, 4]


# ---- that it is a proof ----


def test_is_remembered_until_the_weights_change(
    make_tiny_bert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_tiny_bert(labels=tuple(families.CLASSES))
    tier, proofs = load(folder), []
    find = batch_proof._Proof.find

    def counted(proof: Any) -> Any:
        proofs.append(proof)
        return find(proof)

    monkeypatch.setattr(batch_proof._Proof, "find", counted)
    for expected in (1, 1):
        batch_proof.settle(tier, "t", cache_dir=tmp_path)
        assert len(proofs) == expected
    with torch.no_grad():
        tier.model.classifier.weight[0, 0] += 1
    batch_proof.settle(tier, "t", cache_dir=tmp_path)
    assert len(proofs) == 2 == len(list((tmp_path / "batching").iterdir()))
    for file in (tmp_path / "batching").iterdir():
        file.write_text("{")
    batch_proof.settle(tier, "t", cache_dir=tmp_path)
    assert len(proofs) == 3
    (tmp_path / "file").touch()
    batch_proof.settle(tier, "t", cache_dir=tmp_path / "file")  # a folder that cannot be written is no reason to fail
    assert len(proofs) == 4


def test_what_was_remembered_is_what_was_found(tiny_tokenizer, tmp_path: Path) -> None:
    folder = families.save(tmp_path, "xlnet", tiny_tokenizer)
    first, again = load(folder), load(folder)
    assert first.tokenizer.padding_side == again.tokenizer.padding_side == "left"
    assert first.batching == again.batching and first.encoding_key == again.encoding_key


def test_a_slow_machine_finds_the_same(tiny_tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = load(families.save(tmp_path / "model", "funnel", tiny_tokenizer))
    assert tier.batching.equal_length  # two short rows alone do not show it
    ticks = itertools.count()
    for clock in ("perf_counter", "monotonic", "process_time"):
        monkeypatch.setattr(time, clock, lambda: 10.0 * next(ticks))
    batching = tier.batching
    batch_proof.settle(tier, "t", cache_dir=tmp_path)
    assert tier.batching == batching


def test_mode_and_weights_are_left_alone(make_tiny_bert) -> None:
    folder = make_tiny_bert(labels=tuple(families.CLASSES), seed=5)
    tier = load_tier(str(folder), "t", families.CLASSES, train=True)
    assert all(module.training for module in tier.model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in tier.model.parameters())


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_close_by_what_rows_differ_by(scale: float) -> None:
    expected = scale * torch.tensor([[1.0, -2.0], [0.5, 0.0], [-1.0, 1.0]])
    assert batch_proof.close(expected * (1 + 1e-6), expected)
    assert not batch_proof.close(expected * (1 + 1e-3), expected)
    assert not batch_proof.close(expected.flip(0), expected)
    assert not batch_proof.close(expected * float("nan"), expected)


def test_gradients_are_those_of_the_rows_alone(tiny_tokenizer, tmp_path: Path) -> None:
    tier = load(families.save(tmp_path / "model", "convbert", tiny_tokenizer))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    texts = units(9, False)
    weights = torch.linspace(-1, 1, 9)
    (tier(batches(tier, texts, tmp_path, 9)[0])[:, 0, 0] * weights).sum().backward()
    found = {name: p.grad.clone() for name, p in tier.model.named_parameters() if p.grad is not None}
    tier.model.zero_grad()
    for text, weight in zip(texts, weights, strict=True):
        (tier.model(**tokenizer(text, return_tensors="pt")).logits[0, 0] * weight).backward()
    for name, parameter in tier.model.named_parameters():
        assert (parameter.grad is None) == (name not in found)
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, atol=1e-5, rtol=1e-4)


def test_examples_end_as_texts_end(tiny_tokenizer, tmp_path: Path) -> None:
    for model_type in ("bart", "t5", "gpt2"):
        tier = load(families.save(tmp_path / model_type, model_type, tiny_tokenizer))
        for length in (1, 6):
            example = tier.example(length)
            assert example["input_ids"].shape == (1, length) and (example["input_ids"] != 0).all()
            assert tier.path(0)(**example).shape == (1, 3)
            if tier.batching.end_id is not None:
                assert (example["input_ids"][0] == 3).nonzero().flatten().tolist() == [length - 1]
