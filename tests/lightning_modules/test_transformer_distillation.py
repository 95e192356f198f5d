"""A transformer taught layer by layer: losses against stock models by hand, what is refused, and what is saved."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import AutoModel, AutoModelForSequenceClassification

from dial.losses import soft_cross_entropy, task_loss
from dial.tiers.loading import save_tier
from lightning_modules import Classifier, Distillation, TransformerDistillation
from tests.tiers.mpnet import write_mpnet

NAMES = ["negative", "positive"]
ALL = {"prediction_weight": 1.0, "cosine_weight": 1.0}


@pytest.fixture(scope="module")
def teacher(make_tiny_bert) -> Path:
    return make_tiny_bert(layers=4, seed=7)


@pytest.fixture(scope="module")
def mpnet(tmp_path_factory) -> Path:
    return write_mpnet(tmp_path_factory.mktemp("mpnet"))


def student(path, teacher, **settings) -> TransformerDistillation:
    settings = {"label_names": NAMES, "max_length": 24, **settings}
    module = TransformerDistillation(path=str(path), teacher=str(teacher), **settings)
    return module.eval()


def batch_for(module, texts) -> dict:
    encodings = {}
    for tier in module.tiers_at_work:
        columns = [list(column) for column in zip(*texts, strict=True)]
        settings = {"padding": True, "truncation": True, "max_length": tier.max_length, "return_tensors": "pt"}
        encodings[tier.encoding_key] = dict(tier.tokenizer(*columns, **settings))
    return encodings


PAIRS = [("the film was good", "so was the cast"), ("dull", "a very poor plot"), ("fine and great", "not bad")]
SINGLES = [("the film was good",), ("dull",), ("a very very fine cast",)]


def stock(folder, encoding) -> tuple[torch.Tensor, ...]:
    """Hidden states of the stock model."""
    return AutoModel.from_pretrained(folder).eval()(**encoding, output_hidden_states=True).hidden_states


@pytest.mark.parametrize("texts", [SINGLES, PAIRS], ids=["singles", "pairs"])
def test_losses_by_hand(tiny_bert, mpnet, texts) -> None:
    """A BERT taught by an MPNet: the losses are those of tokens picked one by one from stock models."""
    module = student(tiny_bert, mpnet, layer_map=[3, 4], attention_weight=0.0)
    with torch.no_grad():
        for linear in module.projections.values():
            linear.weight.normal_()
    encodings = batch_for(module, texts)
    own, other = (encodings[tier.encoding_key] for tier in module.tiers_at_work)
    with torch.no_grad():
        _, _, losses = module.inner_losses(encodings)
        states, taught = stock(tiny_bert, own), stock(mpnet, other)
    pair = len(texts[0]) == 2

    def at(row: int, token: int) -> int:
        """The teacher's place: one further behind the first [SEP] of a pair."""
        first = int((own["input_ids"][row] == 3).nonzero()[0])
        return token + (1 if pair and token > first else 0)

    real = [(row, token) for row, token in own["attention_mask"].nonzero().tolist()]

    def squares(layer: int, taught_by: int, name: str) -> float:
        project = module.projections[name]
        found = [project(states[layer][r, t]) - taught[taught_by][r, at(r, t)] for r, t in real]
        return torch.stack(found).square().mean().item()

    assert losses["embedding_weight"].item() == pytest.approx(squares(0, 0, "embedding"), rel=1e-4)
    expected = squares(1, 3, "hidden") + squares(2, 4, "hidden")
    assert losses["hidden_weight"].item() == pytest.approx(expected, rel=1e-4)


def test_a_student_that_is_its_teacher_loses_nothing(teacher) -> None:
    module = student(teacher, teacher, **ALL)
    assert module.layer_map == [1, 2, 3, 4]
    with torch.no_grad():
        _, _, losses = module.inner_losses(batch_for(module, PAIRS))
    assert set(losses) == {"embedding_weight", "hidden_weight", "attention_weight", "cosine_weight"}
    assert max(value.item() for value in losses.values()) < 1e-6


def test_attention_of_an_mpnet_has_its_position_bias(mpnet, tmp_path) -> None:
    """A student without the bias differs by it alone, in each layer: one number for all pairs changes no softmax."""
    model = AutoModelForSequenceClassification.from_pretrained(mpnet)
    bias = model.mpnet.encoder.relative_attention_bias.weight
    with torch.no_grad():
        bias.copy_(torch.full_like(bias, 0.5))
    other = write_mpnet(tmp_path / "other")
    model.save_pretrained(other)
    with torch.no_grad():
        bias.zero_()
    model.save_pretrained(write_mpnet(tmp_path / "plain"))
    module = student(tmp_path / "plain", other, embedding_weight=0.0, hidden_weight=0.0)
    with torch.no_grad():
        _, _, losses = module.inner_losses(batch_for(module, PAIRS))
    assert losses["attention_weight"].item() == pytest.approx(4 * 0.5**2, rel=1e-4)


def test_the_step_s_loss_is_the_weighted_sum(teacher, tiny_bert) -> None:
    module = student(tiny_bert, teacher, prediction_weight=0.5, hidden_weight=2.0, cosine_weight=3.0)
    encodings = batch_for(module, PAIRS)
    label = torch.tensor([0, 1, 1])
    module.log = lambda *args, **kwargs: None
    batch = {"sample_id": torch.arange(3), "label": label, "encodings": encodings}
    loss = module.training_step(batch, 0)
    own, taught, losses = module.inner_losses(encodings)
    weights = {"embedding_weight": 1, "hidden_weight": 2, "attention_weight": 1, "cosine_weight": 3}
    expected = sum(weights[name] * value for name, value in losses.items())
    hard, soft = task_loss(own, label, module.task), soft_cross_entropy(own, taught, 2.0)
    torch.testing.assert_close(loss, expected + 0.5 * (0.5 * hard + 0.5 * soft))
    loss.backward()
    assert all(parameter.grad is not None for parameter in module.learner.parameters())
    assert all(parameter.grad is None for parameter in module.teacher.parameters())


@pytest.mark.parametrize("family", ["teacher", "mpnet"])
def test_a_student_starts_from_every_second_layer(request, family) -> None:
    folder = request.getfixturevalue(family)
    module = student(folder, folder, layers=2, start_layers="every_second")
    stock_model = AutoModel.from_pretrained(folder)
    for layer, number in zip(module.tier.model.base_model.encoder.layer, (1, 3), strict=True):
        for key, value in stock_model.encoder.layer[number - 1].state_dict().items():
            assert torch.equal(layer.state_dict()[key], value)
    assert module.layer_map == [2, 4]


def test_padding_changes_nothing(tiny_bert, mpnet) -> None:
    """Rows of one length alone, and beside a longer one: what is lost of them is the same."""
    module = student(tiny_bert, mpnet, cosine_weight=0.0)
    with torch.no_grad():
        alone, wide = (batch_for(module, texts) for texts in (PAIRS[:1], [*PAIRS[:1], ("a " * 9, "the " * 4)]))
        first = {key: {name: value[:1] for name, value in encoding.items()} for key, encoding in wide.items()}
        losses, padded = (module.inner_losses(encodings)[2] for encodings in (alone, first))
    assert next(iter(first.values()))["attention_mask"].min() == 0
    for name, value in losses.items():
        torch.testing.assert_close(padded[name], value, rtol=1e-4, atol=1e-6)


def test_regression_is_taught_by_the_teacher_s_number(make_tiny_bert) -> None:
    folder = make_tiny_bert(labels=("score",))
    settings = {"distillation": "logits_mse", "distillation_weight": 1.0, "prediction_weight": 2.0}
    module = student(make_tiny_bert(labels=("score",), seed=3), folder, label_names=[], **settings)
    module.log = lambda *args, **kwargs: None
    encodings = batch_for(module, SINGLES)
    batch = {"sample_id": torch.arange(3), "label": torch.tensor([9.0, 9.0, 9.0]), "encodings": encodings}
    own, taught, losses = module.inner_losses(encodings)
    expected = sum(losses.values()) + 2 * (own - taught).square().mean()
    torch.testing.assert_close(module.training_step(batch, 0), expected)
    assert "must be logits_mse for regression" in refused(
        path=str(folder), teacher=str(folder), label_names=[], prediction_weight=1.0
    )


def test_a_fit_that_goes_on_is_as_one_that_never_stopped(fit, teacher, tiny_bert, tmp_path) -> None:
    def made() -> TransformerDistillation:
        torch.manual_seed(1)
        return student(tiny_bert, teacher, optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-3))

    whole, again = made(), made()
    for part in (*whole.modules(), *again.modules()):
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=9, save_top_k=-1)
    fit(whole, steps=16, callbacks=[keep], enable_checkpointing=True)
    with torch.no_grad():
        again.projections["hidden"].weight.zero_()  # the checkpoint brings its own
    fit(again, steps=16, ckpt_path=str(tmp_path / "step=9.ckpt"))
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("head", [True, False], ids=["with head", "without"])
def test_fit_without_predictions_leaves_an_encoder(fit, mpnet, tiny_bert, tmp_path, head) -> None:
    folder = mpnet if head else write_mpnet(tmp_path / "encoder", head=False)
    module = student(tiny_bert, folder, optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-2))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer = fit(module, steps=40, limit_val_batches=2, check_val_every_n_epoch=2)
    assert "validation/accuracy" not in trainer.callback_metrics and trainer.callback_metrics["validation/quality"] < 0
    moved = [name for name, value in module.state_dict().items() if not torch.equal(value, before[name])]
    assert "projections.hidden.weight" in moved and not any("teacher" in name for name in before)
    saved = save_tier(tmp_path / "tier", module.tier, {})
    assert "ForSequenceClassification" not in str(AutoModel.from_pretrained(saved).config.architectures)
    assert not Classifier(path=str(saved), label_names=["a", "b", "c"])._trained


def test_training_lowers_every_loss(fit, teacher, make_tiny_bert) -> None:
    student_folder = make_tiny_bert(layers=2, seed=11)
    module = student(student_folder, teacher, **ALL, optimizer=lambda groups: torch.optim.AdamW(groups, lr=5e-3))
    encodings = batch_for(module, SINGLES)
    with torch.no_grad():
        before = module.inner_losses(encodings)[2]
    fit(module, steps=60)
    module.eval()
    with torch.no_grad():
        after = module.inner_losses(encodings)[2]
    assert all(after[name] < 0.95 * before[name] for name in before), (before, after)


def refused(**settings) -> str:
    with pytest.raises(ValueError, match="`") as caught:
        TransformerDistillation(**{"label_names": NAMES, "max_length": 24, **settings})
    message = " ".join(str(caught.value).split())
    assert "\n" not in str(caught.value)
    return message


def test_bad_input(tiny_bert, teacher, make_tiny_bert, mpnet, tiny_t5, tmp_path) -> None:
    common = {"path": str(tiny_bert), "teacher": str(teacher)}
    assert "`layer_map` must name one of the teacher's layers 1 to 4" in refused(**common, layer_map=[2, 5])
    assert "for each of the student's 2, but got [1]" in refused(**common, layer_map=[1])
    assert "`start_layers` must name" in refused(**common, start_layers=[0, 1])
    four = make_tiny_bert(num_attention_heads=4)
    message = refused(path=str(four), teacher=str(teacher))
    assert "layer 1 of the student has 4, and layer 2 of the teacher 2; take attention_weight 0" in message
    wide = refused(path=str(tiny_bert), teacher=str(mpnet), cosine_weight=1.0)
    assert "`cosine_weight` needs a student as wide as its teacher, but got 16 and 24" in wide
    assert "`start_layers` needs a student with layers like the teacher's" in refused(
        path=str(tiny_bert), teacher=str(mpnet), start_layers=[1, 3]
    )
    none = dict.fromkeys(("embedding_weight", "hidden_weight", "attention_weight"), 0.0)
    assert "take class_path: Distillation" in refused(**common, **none)
    assert "`teacher` must name a trained tier" in refused(path=str(tiny_bert))
    assert "`hidden_weight` must lie between 0 and inf" in refused(**common, hidden_weight=-1)
    words = {"config": {"model_type": "bert", "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}}
    assert "`tokenizer` must cut texts into the pieces of the teacher" in refused(**words, teacher=str(teacher))
    assert "leave them out" in refused(path=str(tiny_bert), teacher={"path": str(teacher), "dtype": "int8"})
    fewer = refused(path=str(tiny_bert), teacher={"path": str(teacher), "lengths": [0.5, 0.5]})
    assert "`teacher` must keep all tokens" in fewer


def test_another_tokenizer_teaches_predictions_alone(tiny_bert, tmp_path) -> None:
    from tests.tiers.mpnet import mpnet_tokenizer

    folder = write_mpnet(tmp_path / "other")
    mpnet_tokenizer(["words", "of", "its", "own", *map(str, range(16))]).save_pretrained(folder)
    message = refused(path=str(tiny_bert), teacher=str(folder))
    assert "`teacher` must cut texts into the student's pieces" in message and "class_path: Distillation" in message
    Distillation(path=str(tiny_bert), teacher=str(folder), label_names=NAMES)
