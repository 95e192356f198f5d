"""Optimiser groups, schedule, precision, clipping and distillation, against plain loops."""

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from dial.tiers.embeddings import principal_components
from dial.tiers.tier import Tier
from lightning_modules import Classifier, Distillation, LengthAdaptive, MultiExit
from lightning_modules.training import LearningRate, decay_groups, training_steps

NAMES = ["negative", "positive"]


class Watching(Classifier):
    """Keeps what every training step saw and gave."""

    def training_step(self, batch, batch_idx):
        self.before = {name: p.detach().clone() for name, p in self.named_parameters()}
        self.logits = self(batch["encodings"])[:, -1]
        self.batch = batch
        self.loss = super().training_step(batch, batch_idx)
        return self.loss


class Watched(Watching):
    """Labels alone."""


class WatchedStudent(Watching, Distillation):
    """With a teacher."""


def watched(path, **settings) -> Any:
    """Without dropout, so that a second forward gives the same logits."""
    module = (WatchedStudent if "teacher" in settings else Watched)(
        path=str(path), label_names=NAMES, max_length=32, **settings
    )
    for layer in module.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    return module


def test_matrices_decay_and_vectors_do_not(tiny_bert) -> None:
    module = Classifier(path=str(tiny_bert), label_names=NAMES)
    module.tier.model.bert.embeddings.word_embeddings.weight.requires_grad = False
    matrices, vectors = decay_groups(module.network)
    assert "weight_decay" not in matrices and vectors["weight_decay"] == 0.0
    decayed, plain = ({id(p) for p in group["params"]} for group in (matrices, vectors))
    for name, parameter in module.network.named_parameters():
        kind = name.rsplit(".", 1)[1]
        no_decay = kind == "bias" or "LayerNorm" in name
        assert (id(parameter) in plain) == (no_decay and parameter.requires_grad), name
        assert (id(parameter) in decayed) == (not no_decay and parameter.requires_grad), name


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0]),
        ("cosine", [1 / 3, 2 / 3, *((1 + math.cos(math.pi * k / 8)) / 2 for k in range(9))]),
        ("constant", [1 / 3, 2 / 3, *[1.0] * 9]),
    ],
)
def test_learning_rate_by_hand(schedule, expected) -> None:
    """Ten steps of which two warm up."""
    factor = LearningRate(10, 2, schedule)
    assert [factor(step) for step in range(11)] == pytest.approx(expected)


def test_learning_rates_of_a_fit(fit, tiny_bert) -> None:
    rates: list[float] = []

    class Rates(Watched):
        def training_step(self, batch, batch_idx):
            rates.append(self.optimizers().param_groups[0]["lr"])
            return super().training_step(batch, batch_idx)

    module = Rates(
        path=str(tiny_bert), label_names=NAMES, max_length=32, warmup=0.4,
        optimizer=partial(torch.optim.AdamW, lr=0.1, weight_decay=0.3),
    )  # fmt: skip
    trainer = fit(module, steps=5)
    assert rates == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, 0.1 * 2 / 3, 0.1 / 3])
    (optimizer,) = trainer.optimizers
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, 3 * 11),
        ({"accumulate_grad_batches": 4}, 3 * 3),
        ({"limit_train_batches": 5}, 3 * 5),
        ({"limit_train_batches": 0.5}, 3 * 5),
        ({"overfit_batches": 2}, 3 * 2),
        ({"max_steps": 7}, 7),
        ({"max_epochs": -1, "max_steps": 7}, 7),
    ],
)
def test_number_of_steps(settings, steps) -> None:
    defaults = {"limit_train_batches": 1.0, "overfit_batches": 0.0, "accumulate_grad_batches": 1}
    data = SimpleNamespace(train_batches=lambda: 11)
    trainer = SimpleNamespace(**{**defaults, "max_epochs": 3, "max_steps": -1, "datamodule": data, **settings})
    assert training_steps(trainer) == steps


@pytest.mark.parametrize("kind", [Classifier, LengthAdaptive, MultiExit])
def test_answers_that_are_texts_are_no_labels(kind: Any, tiny_bert) -> None:
    """Also of a model with a head of spans, which loads, and would be trained on the numbers of its rows."""
    with pytest.raises(ValueError, match=r"`data` must have classes or numbers .* answers are texts; .*span.yaml"):
        kind(path=str(tiny_bert), label_names=["*"])


def test_a_schedule_without_end_is_refused() -> None:
    trainer = SimpleNamespace(
        limit_train_batches=1.0, overfit_batches=0.0, accumulate_grad_batches=1, max_epochs=-1, max_steps=-1,
        datamodule=SimpleNamespace(train_batches=lambda: 11),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"`trainer\.max_epochs` or `trainer\.max_steps` must be given"):
        training_steps(trainer)


def test_bf16_gives_logits_in_fp32(fit, tiny_bert) -> None:
    inside = []
    module = watched(tiny_bert)
    module.tier.model.bert.encoder.layer[0].attention.self.query.register_forward_hook(
        lambda layer, inputs, output: inside.append(output.dtype)
    )
    fit(module, precision="bf16-mixed")
    assert inside and set(inside) == {torch.bfloat16}
    assert module.logits.dtype == module.loss.dtype == torch.float32
    assert {p.dtype for p in module.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_clipping_is_the_trainers(fit, tiny_bert, precision) -> None:
    """With SGD at rate 1 the step is the gradient: its norm is the clipping value, or more without it."""
    norms = []
    for clip in (0.01, None):
        module = watched(tiny_bert, optimizer=partial(torch.optim.SGD, lr=1.0), warmup=0.0)
        fit(module, gradient_clip_val=clip, precision=precision)
        moved = [(p.detach() - module.before[name]).flatten() for name, p in module.named_parameters()]
        norms.append(float(torch.cat(moved).norm()))
    assert norms[0] == pytest.approx(0.01, rel=1e-3) and norms[1] > 0.05


@pytest.fixture(scope="module")
def teacher(make_tiny_bert):
    """Folder of a teacher whose classes have the other order."""
    return make_tiny_bert(layers=3, seed=4, labels=("positive", "negative"))


def log_softmax(row: list[float]) -> list[float]:
    total = math.log(sum(math.exp(value) for value in row))
    return [value - total for value in row]


def naive_loss(module: Watched, teacher, kind: str, weight: float, temperature: float) -> float:
    """Mean over the batch of (1 - w) cross-entropy + w distillation, with the teacher alone on each row."""
    model = AutoModelForSequenceClassification.from_pretrained(teacher).eval()
    (encoding,) = module.batch["encodings"].values()
    losses = []
    for row in range(len(module.logits)):
        used = int(encoding["attention_mask"][row].sum())
        with torch.no_grad():
            target = model(**{key: value[row : row + 1, :used] for key, value in encoding.items()}).logits[0].tolist()
        target = target[::-1]  # the teacher's first class is positive
        student = module.logits[row].tolist()
        task = -log_softmax(student)[int(module.batch["label"][row])]
        if kind == "logits_mse":
            distilled = sum((s - t) ** 2 for s, t in zip(student, target, strict=True)) / 2
        else:
            soft = log_softmax([t / temperature for t in target])
            own = log_softmax([s / temperature for s in student])
            distilled = -(temperature**2) * sum(math.exp(p) * q for p, q in zip(soft, own, strict=True))
        losses.append((1 - weight) * task + weight * distilled)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("kind", ["soft_cross_entropy", "logits_mse"])
def test_distillation_equals_loops_and_the_teacher_reads_once(fit, tiny_bert, teacher, monkeypatch, kind) -> None:
    settings = {
        "teacher": str(teacher),
        "distillation": kind,
        "distillation_weight": 0.7,
        "distillation_temperature": 3.0,
    }
    first = watched(tiny_bert, **settings)
    fit(first, steps=2)
    assert first.loss.item() == pytest.approx(naive_loss(first, teacher, kind, 0.7, 3.0), rel=1e-5)
    assert not [name for name in first.state_dict() if "teacher" in name]

    def never(self, encoding):
        raise AssertionError("the teacher ran although its logits lie on disk")

    forward = Tier.forward
    monkeypatch.setattr(Tier, "forward", lambda self, e: never(self, e) if self.name == "teacher" else forward(self, e))
    second = watched(tiny_bert, **settings)
    fit(second, steps=2)
    assert torch.equal(second.loss, first.loss)
    with pytest.raises(AssertionError, match="teacher ran"):
        fit(watched(tiny_bert, **{**settings, "teacher": {"path": str(teacher), "max_length": 8}}))


def test_a_student_may_have_its_teachers_tokens_and_embeddings(fit, teacher) -> None:
    config = {"model_type": "bilstm", "embedding_size": 5, "hidden_size": 4}
    shared = {"tokenizer": "teacher", "embeddings": "teacher", "max_length": 32}
    module = WatchedStudent(config=config, label_names=NAMES, teacher={"path": str(teacher)}, **shared)
    assert list(module.tokenizers()) == [module.teacher.encoding_key]  # one for both
    source = AutoModelForSequenceClassification.from_pretrained(teacher).get_input_embeddings().weight
    ratio = module.tier.model.get_input_embeddings().weight[1:] / principal_components(source.detach(), 5)[1:]
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio))
    fit(module)
    assert torch.isfinite(module.loss)


def test_batches_hold_no_encoding_of_a_teacher_that_is_done(fit, tiny_bert, teacher) -> None:
    module = watched(tiny_bert, teacher={"path": str(teacher), "max_length": 8})
    assert len(module.tokenizers()) == 2
    fit(module)
    assert list(module.batch["encodings"]) == [module.tier.encoding_key]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": None}, r"`path`.*`config`.*exactly one.*path=None, config=None"),
        ({"config": {"model_type": "bert"}}, r"exactly one"),
        ({"tokenizer": "words"}, r"`tokenizer` and `embeddings` are for a model from `config`"),
        ({"warmup": 1.5}, r"`warmup` must lie between 0 and 1, but got 1\.5"),
        ({"distillation_weight": -0.1}, r"`distillation_weight` must lie between 0 and 1, but got -0\.1"),
        ({"distillation": "logits_mse"}, r"`teacher` must name a trained tier to distil from, but it was left out"),
        ({"distillation_temperature": 0.0}, r"`distillation_temperature` must be above 0, but got 0\.0"),
    ],
)
def test_bad_arguments(tiny_bert, settings, message) -> None:
    kind = Distillation if any("distil" in name for name in settings) else Classifier
    with pytest.raises(ValueError, match=message):
        kind(**{"path": str(tiny_bert), "label_names": NAMES, **settings})


def test_hyperparameters_are_plain_and_hold_no_thresholds(tiny_bert, tmp_path) -> None:
    module = Distillation(path=str(tiny_bert), label_names=NAMES, teacher={"path": str(tiny_bert)})
    assert module.hparams["teacher"] == {"path": str(tiny_bert)} and module.hparams["distillation_weight"] == 0.5
    torch.save(dict(module.hparams), tmp_path / "hparams.pt")
    assert torch.load(tmp_path / "hparams.pt", weights_only=True)["label_names"] == NAMES
    assert not [name for name in module.hparams if "threshold" in name or name == "optimizer"]
