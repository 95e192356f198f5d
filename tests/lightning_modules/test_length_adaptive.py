"""Length-adaptive training against a plain loop over the models of a step."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, mse_loss
from transformers import AutoModelForSequenceClassification, BertForQuestionAnswering

from dial.models.lengths import LengthDrop, Lengths
from dial.models.token_dropping import TokenDropping
from dial.tiers.loading import load_tier
from lightning_modules import LengthAdaptive, LengthAdaptiveSpanQA, MultiExit
from tests.models.test_token_dropping import reference
from tests.tiers.readers import questions, save_reader

NAMES = ["negative", "positive"]


def without_dropout(module: LengthAdaptive) -> LengthAdaptive:
    for layer in module.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    return module


@pytest.mark.parametrize("names", [NAMES, []], ids=["classes", "numbers"])
def test_loss_and_gradient_by_a_plain_loop(
    make_tiny_bert: Callable[..., Path], names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_tiny_bert(layers=3, labels=names or ["score"], initializer_range=0.5)
    module = without_dropout(LengthAdaptive(path=str(path), label_names=names, length_drop=0.4, drawn=2, max_length=16))
    module.log = lambda *args, **settings: None  # type: ignore[method-assign]
    drawn: list[Lengths] = []
    usual = LengthDrop.draw
    monkeypatch.setattr(LengthDrop, "draw", lambda self: drawn.append(usual(self)) or drawn[-1])
    ids = torch.randint(5, 20, (6, 12))
    mask = torch.arange(12)[None] < torch.tensor([12, 9, 5, 12, 3, 7])[:, None]
    label = torch.tensor([0, 1, 1, 0, 1, 0]) if names else torch.randn(6)
    encoding = {"input_ids": ids * mask, "attention_mask": mask.long()}
    loss = module.training_step({"label": label, "encodings": {module.tier.encoding_key: encoding}}, 0)
    loss.backward()

    model = AutoModelForSequenceClassification.from_pretrained(path).train(False)
    whole = model(**encoding).logits
    losses = [cross_entropy(whole, label) if names else mse_loss(whole[:, 0], label)]
    for lengths in (Lengths((0.6, 0.36, 0.216)), *drawn):
        with TokenDropping(model.bert)(model.bert, lengths, mask.long(), (6, 12)):
            logits = model(**encoding).logits
        if names:
            teacher = log_softmax(whole.detach(), dim=1)
            divergence = kl_div(log_softmax(logits, dim=1), teacher, log_target=True, reduction="batchmean")
            losses.append(divergence - (teacher.exp() * teacher).sum(dim=1).mean())
        else:
            losses.append(mse_loss(logits, whole.detach()))
    expected = sum(losses) / len(losses)
    expected.backward()
    assert len(losses) == 4 and len(set(drawn)) == 2
    torch.testing.assert_close(loss, expected)
    for (name, own), other in zip(module.tier.model.named_parameters(), model.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(own.grad, other.grad, atol=1e-6, rtol=1e-3, msg=name)
    assert module.tier.lengths is None


def test_drawn_configurations_lie_between_the_shortest_and_all() -> None:
    choice = LengthDrop(3, 0.3, drawn=4)
    assert choice.shortest.values == (0.7, 0.49, 0.343) and choice.of_step()[0] == choice.shortest
    assert len(set(choice.of_step())) == 5
    drawn = [choice.draw().values for _ in range(300)]
    kept = torch.tensor([[b / a for a, b in pairwise((1.0, *values))] for values in drawn])
    assert kept.min() >= 0.7 - 1e-3 and kept.max() <= 1 + 1e-3
    torch.testing.assert_close(kept.mean(dim=0), torch.full((3,), 0.85), atol=0.02, rtol=0)


def test_deep_models_may_drop_much_in_each_layer() -> None:
    """Behind the last layers a share is left that is rounded to nothing: the first token alone."""
    choice = LengthDrop(24, 0.6, drawn=3)
    for lengths in choice.of_step():
        assert lengths.kept([500])[-1, 0] == 1
    assert choice.shortest.kept([500])[:3, 0].tolist() == [200, 80, 32]


def test_a_fit_tells_both_and_leaves_an_ordinary_tier(
    fit: Callable[..., Any], make_tiny_bert: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_tiny_bert(layers=2, labels=NAMES)
    module = LengthAdaptive(path=str(path), label_names=NAMES, max_length=16)
    before = module.tier.model.bert.encoder.layer[0].intermediate.dense.weight.detach().clone()
    trainer = fit(module, 3, limit_val_batches=2, val_check_interval=1, precision="bf16-mixed")
    assert not torch.equal(before, module.tier.model.bert.encoder.layer[0].intermediate.dense.weight)
    told = {name: float(value) for name, value in trainer.callback_metrics.items()}
    both = [told[f"validation/accuracy/{name}"] for name in ("shortest", "whole")]
    assert told["validation/quality"] == pytest.approx(sum(both) / 2)
    assert "shortest" in capsys.readouterr().out
    module.tier.save(tmp_path / "tier")
    assert load_tier({"path": str(tmp_path / "tier"), "lengths": [0.7, 0.2]}, "few", NAMES).lengths is not None


@pytest.mark.parametrize(("name", "value"), [("length_drop", 0.0), ("length_drop", 1.0), ("drawn", -1)])
def test_bad_arguments(make_tiny_bert: Callable[..., Path], name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^`{name}` must"):
        LengthAdaptive(path=str(make_tiny_bert(layers=2, labels=NAMES)), label_names=NAMES, **{name: value})


def test_exits_learn_their_own_answers_of_all_tokens(
    make_tiny_bert: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of :class:`MultiExit` with ``length_drop`` by the same plain loop, exit by exit."""
    path = make_tiny_bert(layers=3, labels=NAMES, initializer_range=0.5)
    module = MultiExit(path=str(path), label_names=NAMES, length_drop=0.4, max_length=16).eval()
    module._trainer = SimpleNamespace(world_size=1)  # type: ignore[assignment]
    module.log = lambda *args, **settings: None  # type: ignore[method-assign]
    drawn: list[Lengths] = []
    usual = LengthDrop.draw
    monkeypatch.setattr(LengthDrop, "draw", lambda self: drawn.append(usual(self)) or drawn[-1])
    ids, label = torch.randint(5, 20, (5, 11)), torch.tensor([0, 1, 1, 0, 1])
    mask = torch.arange(11)[None] < torch.tensor([11, 9, 5, 11, 3])[:, None]
    encoding = {"input_ids": ids * mask, "attention_mask": mask.long()}
    loss = module.training_step({"label": label, "encodings": {module.tier.encoding_key: encoding}}, 0)
    whole = module.tier.model(**encoding).logits
    expected = 0.0
    for exit_index in range(3):
        losses = [cross_entropy(whole[:, exit_index], label)]
        for lengths in (Lengths((0.6, 0.36, 0.216)), *drawn):
            logits = module.tier.model(**encoding, lengths=lengths).logits[:, exit_index]
            losses.append(cross_entropy(logits, whole[:, exit_index].detach().softmax(dim=1)))
        expected = expected + sum(losses) / 4
    torch.testing.assert_close(loss, expected)


def test_readers_of_spans_learn_from_the_whole_one(tmp_path: Path) -> None:
    """The loss of :class:`LengthAdaptiveSpanQA` by a plain loop over windows, with dropped tokens put back."""
    path = save_reader(tmp_path / "reader", layers=3)
    module = LengthAdaptiveSpanQA(
        path=str(path), label_names=["*"], metrics=["token_f1"], length_drop=0.4, drawn=0, max_length=24, stride=6
    ).eval()
    units = questions(6, seed=3)
    encoding = dict(module.reader.tokeniser().collate(module.reader.tokeniser()(units)))
    windows = len(encoding["input_ids"])
    assert windows > 6
    encoding["answer_starts"] = encoding["answer_ends"] = torch.zeros(windows, dtype=torch.long)
    loss = module.loss({"encodings": {module.tier.encoding_key: encoding}, "label": torch.zeros(6)})
    model = BertForQuestionAnswering.from_pretrained(path).eval()
    naive = BertForQuestionAnswering.from_pretrained(path, attn_implementation="eager").eval()
    losses = []
    for window in range(windows):
        mask = encoding["attention_mask"][window] if "attention_mask" in encoding else torch.ones(24)
        own = int(mask.sum())
        ids = encoding["input_ids"][window, :own]
        types = encoding["token_type_ids"][window, :own]
        states, _ = reference(naive, ids, Lengths((0.6, 0.36, 0.216)), types)
        whole = model(input_ids=ids[None], token_type_ids=types[None])
        whole_logits = torch.stack([whole.start_logits[0], whole.end_logits[0]], dim=1)
        few_logits = naive.qa_outputs(states)
        possible = [0, *[place for place in range(own) if encoding["starts"][window, place] >= 0]]
        for side in (0, 1):
            mine, taught = few_logits[possible, side], whole_logits[possible, side]
            losses.append((cross_entropy(taught, torch.tensor(0)), cross_entropy(mine, taught.detach().softmax(dim=0))))
    expected = sum(a + b for a, b in losses) / len(losses) / 2
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-4)


def test_architectures_that_keep_all_tokens_are_told_what_trains_them(
    make_tiny_bert: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are no `lengths` in a fit that could be left out."""
    said = r"`path` must be an encoder whose layers allow tokens to be dropped .*; take another encoder, or "
    with pytest.raises(ValueError, match=said.replace("path", "config") + r"train .* by class_path: Classifier\.$"):
        LengthAdaptive(config={"model_type": "bilstm"}, label_names=NAMES)
    monkeypatch.setattr("dial.models.token_dropping.SEAMS", {})
    with pytest.raises(ValueError, match=said + r"leave `length_drop` out\.$"):
        MultiExit(path=str(make_tiny_bert()), length_drop=0.2, label_names=NAMES)
    with pytest.raises(ValueError, match=said + r"train this one with all tokens by class_path: SpanQA\.$"):
        LengthAdaptiveSpanQA(path=str(save_reader(tmp_path)), max_length=24, stride=6, label_names=["*"])
