"""Width- and depth-adaptive training: losses and importance against plain loops, order, what is saved and refused."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification

from dial.models import MultiExitForSequenceClassification
from dial.models.slender.structures import structures
from dial.models.slender.subnetworks import Subnetwork, cut_subnetwork, order_structures
from dial.tiers.loading import load_tier, save_tier
from lightning_modules import Classifier, DynaBERT
from tests.tiers.mpnet import write_mpnet

NAMES = ["negative", "positive"]
BOTH = {"widths": [0.5, 1.0], "depths": [0.5, 1.0]}
TEXTS = ["the film was good", "dull", "a very very fine cast"]


@pytest.fixture(scope="module")
def network(make_tiny_bert) -> Path:
    return make_tiny_bert(layers=4, seed=7, num_attention_heads=4, hidden_dropout_prob=0.0)


@pytest.fixture(scope="module")
def teacher(make_tiny_bert) -> Path:
    return make_tiny_bert(layers=4, seed=8, num_attention_heads=4)


def module_of(path, teacher, **settings) -> DynaBERT:
    module = DynaBERT(
        path=str(path), teacher=str(teacher), **{"label_names": NAMES, "max_length": 24, **BOTH, **settings}
    )
    module.log = lambda *args, **kwargs: None
    return module.eval()


def batch_for(module) -> dict:
    tier = module.tier
    encoding = dict(tier.tokenizer(TEXTS, padding=True, truncation=True, max_length=24, return_tensors="pt"))
    label = torch.tensor([1, 0, 1])
    return {"sample_id": torch.arange(3), "label": label, "encodings": {tier.encoding_key: encoding}}


def stock(model, encoding) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    output = model.eval()(**encoding, output_hidden_states=True)
    return output.logits, output.hidden_states


def expected_loss(model, teacher, encoding, kept: list[int], hidden_weight: float) -> torch.Tensor:
    """Soft cross-entropy plus the squared errors of embeddings, what enters each layer, and what leaves the last."""
    own, states = stock(model, encoding)
    with torch.no_grad():
        other, taught = stock(teacher, encoding)
    loss = -(other.softmax(-1) * own.log_softmax(-1)).sum(-1).mean()
    real = encoding["attention_mask"].bool()
    assert len(states) == len(kept) + 1
    for state, number in zip(states, [*kept, len(taught) - 1], strict=True):
        loss = loss + hidden_weight * (state[real] - taught[number][real]).square().mean()
    return loss


KEPT = {1.0: [0, 1, 2, 3], 0.5: [0, 2]}


def test_step_is_the_sum_over_cut_copies_and_so_are_its_gradients(network, teacher) -> None:
    module = module_of(network, teacher, hidden_weight=0.7)
    batch = batch_for(module)
    encoding = batch["encodings"][module.tier.encoding_key]
    other = AutoModelForSequenceClassification.from_pretrained(teacher)
    total, gradient = 0.0, torch.zeros_like(module.tier.model.bert.encoder.layer[2].attention.self.query.weight)
    outer = torch.zeros_like(module.tier.model.bert.encoder.layer[2].output.dense.weight)
    for width in (0.5, 1.0):
        for depth in (0.5, 1.0):
            model = AutoModelForSequenceClassification.from_pretrained(network)
            cut_subnetwork(model, Subnetwork(width, depth))
            loss = expected_loss(model, other, encoding, KEPT[depth], 0.7)
            loss.backward()
            total += loss.item()
            layer = model.bert.encoder.layer[KEPT[depth].index(2)]
            heads = layer.attention.self.query.weight.grad
            assert len(heads) == 16 * width
            gradient[: len(heads)] += heads  # accumulated one after the other, as in the paper
            neurons = layer.output.dense.weight.grad
            outer[:, : neurons.shape[1]] += neurons
    loss = module.training_step(batch, 0)
    assert loss.item() == pytest.approx(total, rel=1e-5)
    loss.backward()
    layer = module.tier.model.bert.encoder.layer[2]
    torch.testing.assert_close(layer.attention.self.query.weight.grad, gradient, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(layer.output.dense.weight.grad, outer, rtol=1e-4, atol=1e-6)


def test_a_teacher_trained_so_teaches_each_width_by_the_same(network, tmp_path) -> None:
    first = module_of(network, network, depths=[1.0])
    folder = save_tier(tmp_path / "tier", first.tier, {})
    module = module_of(folder, folder)
    losses = {
        str(subnetwork): loss.item() for subnetwork, loss in module.losses_of(batch_for(module), module.subnetworks)
    }
    with torch.no_grad():  # a width that is its own teacher loses the teacher's entropy, and nothing of hidden states
        for width in (0.5, 1.0):
            tier = load_tier({"path": str(folder), "width": width}, "part", NAMES)
            logits = stock(tier.model, batch_for(module)["encodings"][module.tier.encoding_key])[0]
            entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean().item()
            assert losses[f"width{width:g}-depth1"] == pytest.approx(entropy, rel=1e-5)
    assert losses["width0.5-depth0.5"] > losses["width0.5-depth1"]


def test_labels_alone_need_no_answer_of_the_teacher(network, teacher) -> None:
    module = module_of(network, teacher, distillation_weight=0.0, hidden_weight=0.0)
    module._beside = []
    batch = batch_for(module)
    encoding = batch["encodings"][module.tier.encoding_key]
    found = [loss.item() for _, loss in module.losses_of(batch, [Subnetwork()])]
    model = AutoModelForSequenceClassification.from_pretrained(network)
    assert found == pytest.approx([cross_entropy(stock(model, encoding)[0], batch["label"]).item()], rel=1e-5)


def test_sandwich_has_the_largest_and_the_smallest(network, teacher) -> None:
    module = module_of(network, teacher, per_step=3, widths=[0.25, 0.5, 0.75, 1.0])
    seen = [module.chosen() for _ in range(40)]
    assert all(len(names) == 3 and names[0] == (1.0, 1.0) and names[-1] == (0.25, 0.5) for names in seen)
    assert {names[1] for names in seen} == set(module.subnetworks[1:-1])


def importance_by_hand(folder: Path, data) -> list[list[float]]:
    """Mean over batches of what the loss would change, to first order, without a head or a neuron."""
    sums: list[list[float]] = [[0.0] * count for _ in range(4) for count in (4, 32)]
    batches = 0
    for batch in data.inference_loader("validation", shard=False):
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        (encoding,) = batch["encodings"].values()
        cross_entropy(model(**encoding).logits, batch["label"]).backward()
        for number, layer in enumerate(model.bert.encoder.layer):
            out = layer.attention.output.dense.weight
            for head in range(4):
                columns = slice(4 * head, 4 * head + 4)
                sums[2 * number][head] += abs((out.grad * out)[:, columns].sum().item())
            into, back = layer.intermediate.dense, layer.output.dense.weight
            for neuron in range(32):
                total = (into.weight.grad * into.weight)[neuron].sum() + into.bias.grad[neuron] * into.bias[neuron]
                sums[2 * number + 1][neuron] += abs((total + (back.grad * back)[:, neuron].sum()).item())
        batches += 1
    return [[value / batches for value in row] for row in sums]


def test_fit_orders_by_importance_and_leaves_the_function(fit, network, tmp_path) -> None:
    module = module_of(network, network)
    before = deepcopy(module.tier.model)
    trainer = fit(module, steps=1, limit_val_batches=2, max_epochs=1)
    ordered = AutoModelForSequenceClassification.from_pretrained(network)
    order_structures(ordered, [torch.tensor(row) for row in importance_by_hand(network, trainer.datamodule)])
    moved = module.tier.model.state_dict()
    stayed = 0
    for name, value in ordered.state_dict().items():  # one step of 5e-5 or so is smaller than what orders differ by
        torch.testing.assert_close(moved[name], value, atol=5e-3, rtol=0, msg=name)
        stayed += torch.allclose(value, before.state_dict()[name])
    assert len(moved) - stayed == 4 * 6  # all matrices of all layers are in another order; biases are 0 here
    encoding = batch_for(module)["encodings"][module.tier.encoding_key]
    torch.testing.assert_close(stock(ordered, encoding)[0], stock(before, encoding)[0], atol=1e-5, rtol=0)


def test_second_stage_keeps_the_order_of_the_first(fit, network, tmp_path) -> None:
    first = module_of(network, network, depths=[1.0])
    fit(first, steps=2, limit_val_batches=1)
    folder = save_tier(tmp_path / "tier", first.tier, {})
    trained = AutoModelForSequenceClassification.from_pretrained(folder).state_dict()
    second = module_of(folder, folder, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.0))
    fit(second, steps=1)
    assert all(torch.equal(value, trained[name]) for name, value in second.tier.model.state_dict().items())
    assert second.tier.model.config.subnetworks == BOTH


def test_resumed_fit_goes_on_as_if_undisturbed(fit, network, teacher, tmp_path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=4, save_top_k=-1)
    whole, again = (module_of(network, teacher) for _ in range(2))
    fit(whole, steps=8, callbacks=[keep], enable_checkpointing=True)
    fit(again, steps=8, ckpt_path=str(tmp_path / "step=4.ckpt"))
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, msg=name)


def test_validation_tells_of_every_subnetwork_and_chooses_by_the_mean(fit, network, teacher) -> None:
    module = module_of(network, teacher)
    del module.log
    trainer = fit(module, steps=3, limit_val_batches=3, val_check_interval=3)
    metrics = trainer.callback_metrics
    names = [f"width{width}-depth{depth}" for width in ("1", "0.5") for depth in ("1", "0.5")]
    values = [metrics[f"validation/accuracy/{name}"].item() for name in names]
    assert metrics["validation/quality"].item() == pytest.approx(sum(values) / 4)
    # The same numbers from parts that are cut for good.
    batches = list(trainer.datamodule.inference_loader("validation"))[:3]
    for name, value in zip(names, values, strict=True):
        width, depth = (float(word.strip("widthep")) for word in name.split("-"))
        model = deepcopy(module.tier.model).eval()
        cut_subnetwork(model, Subnetwork(width, depth))
        right = [
            (model(**encoding).logits.argmax(-1) == batch["label"]).float()
            for batch in batches
            for encoding in batch["encodings"].values()
        ]
        assert torch.cat(right).mean().item() == pytest.approx(value)


def test_an_mpnet_learns_and_a_plain_fit_forgets_its_widths(fit, tmp_path) -> None:
    folder = write_mpnet(tmp_path / "mpnet", num_attention_heads=4)
    module = module_of(folder, folder, optimizer=lambda groups: torch.optim.AdamW(groups, lr=3e-3))
    batch = batch_for(module)
    order_structures(module.tier.model, module_importance(module))
    before = dict(module.losses_of(batch, module.subnetworks))
    fit(module, steps=40)
    after = dict(module.eval().losses_of(batch, module.subnetworks))
    assert all(after[name] < before[name] for name in module.subnetworks[1:]), (before, after)
    saved = save_tier(tmp_path / "tier", module.tier, {})
    assert load_tier({"path": str(saved), "width": 0.5}, "part", NAMES).model.config.num_hidden_layers == 4
    exits = MultiExitForSequenceClassification.from_encoder(str(saved))
    assert "subnetworks" not in exits.config.encoder  # which says of another model what was trained
    plain = Classifier(path=str(saved), label_names=NAMES)
    again = save_tier(tmp_path / "plain", plain.tier, {})
    with pytest.raises(ValueError, match="needs a model that was trained at several widths"):
        load_tier({"path": str(again), "width": 0.5}, "part", NAMES)


def module_importance(module) -> list[torch.Tensor]:
    return [torch.rand(axis.count) for axis in structures(module.tier.model)]


def refused(**settings) -> str:
    with pytest.raises(ValueError, match="`") as caught:
        DynaBERT(**{"label_names": NAMES, "max_length": 24, **settings})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bad_input(network, teacher, tiny_bert, make_tiny_bert, tmp_path) -> None:
    common = {"path": str(network), "teacher": str(teacher)}
    message = refused(**common, widths=[0.3, 1.0])
    assert (
        "`widths` must divide the 4 attention heads of a layer, but 0.3 of them are 1.2; take multiples of 1/4"
        in message
    )
    assert "`depths` must drop a layer where it is below 1, but 0.9 keeps all 4" in refused(**common, depths=[0.9, 1.0])
    assert "`widths` must hold 1" in refused(**common, widths=[0.25, 0.5])
    assert "`depths` must hold 1, the full network, and nothing twice" in refused(**common, depths=[1.0, 0.5, 0.5])
    assert "`widths` must be above 0 and at most 1, but got 2" in refused(**common, widths=[1.0, 2.0])
    assert "`per_step` must be at least 2" in refused(**common, per_step=1)
    assert "`hidden_weight` must lie between 0 and inf" in refused(**common, hidden_weight=-1.0)
    assert "`teacher` must name a trained tier" in refused(path=str(network))
    assert "`teacher` must have the student's 4 layers" in refused(path=str(network), teacher=str(tiny_bert))
    message = refused(path=str(network), teacher={"path": str(teacher), "dtype": "int8"})
    assert "`teacher` must be computed by torch in float32 or bfloat16" in message
    from transformers import AutoModel, AutoTokenizer

    MultiExitForSequenceClassification.from_encoder(str(network)).save_pretrained(tmp_path / "exits")
    AutoTokenizer.from_pretrained(network).save_pretrained(tmp_path / "exits")
    message = refused(path=str(tmp_path / "exits"), teacher=str(teacher))
    assert "`path` must be a classifier without exits" in message and "has 4; take the model" in message

    AutoModel.from_pretrained(network).save_pretrained(tmp_path / "bare")
    AutoTokenizer.from_pretrained(network).save_pretrained(tmp_path / "bare")
    message = refused(path=str(tmp_path / "bare"), teacher=str(teacher))
    assert "`path` must name a tier that was trained on the task" in message
