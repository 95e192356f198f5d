"""Training of multi-exit encoders on a tiny BERT of four layers, without the command line."""

import copy
import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor
from transformers import AutoModel

from callbacks import TierExport
from datamodules import GLUEDataModule
from dial.costs.counting import network_costs
from dial.tiers.backends.names import missing_package
from dial.tiers.layers import all_layers
from dial.tiers.loading import load_tier, save_tier
from lightning_modules import MultiExit
from lightning_modules.policies import GradientEquilibrium, LayerWeighted, TwoStage
from lightning_modules.training import StagedRate
from tests.cli.glue_files import sentences

LABELS = ["negative", "positive"]
SGD = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1)


@pytest.fixture(scope="session")
def encoder(make_tiny_bert) -> Path:
    return make_tiny_bert(layers=4, seed=1)


@pytest.fixture(scope="session")
def other(make_tiny_bert) -> Path:
    return make_tiny_bert(layers=4, seed=2, hidden_dropout_prob=0.0)


@pytest.fixture
def make(encoder) -> Callable[..., MultiExit]:
    """Function: a module, attached to a stand-in for a trainer, that keeps what it logs in `logged`."""

    def build(**settings: object) -> MultiExit:
        module = MultiExit(**{"path": str(encoder), "max_length": 32, "label_names": LABELS, **settings})
        module._trainer = SimpleNamespace(world_size=1, datamodule=None, callbacks=[])
        module.logged = {}
        module.log = lambda name, value, **_: module.logged.update({name: value.item()})
        module.on_fit_start()
        return module.eval()

    return build


@pytest.fixture
def batch(make) -> dict:
    ids = torch.randint(5, 20, (5, 8))
    mask = (torch.arange(8) < torch.tensor([[8], [8], [5], [3], [2]])).long()
    key = make().tier.encoding_key
    return {
        "sample_id": torch.arange(5),
        "label": torch.randint(2, (5,)),
        "encodings": {key: {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}},
    }


def cross_entropy(logits: Tensor, target: Tensor) -> float:
    """Of class indices, or of the logits of a teacher, by a loop."""
    total = 0.0
    for row, wanted in zip(logits.tolist(), target.tolist(), strict=True):
        norm = math.log(sum(math.exp(z) for z in row))
        if isinstance(wanted, int):
            total -= row[wanted] - norm
        else:
            other = math.log(sum(math.exp(z) for z in wanted))
            total -= sum(math.exp(p - other) * (q - norm) for p, q in zip(wanted, row, strict=True))
    return total / len(logits)


def test_the_loss_is_the_sum_of_all_exits(make, batch) -> None:
    module = make()
    logits = module(batch["encodings"])
    assert logits.shape == (5, 4, 2) and module.tier.exits == ["layer1", "layer2", "layer3", "layer4"]
    expected = sum(cross_entropy(logits[:, e], batch["label"]) for e in range(4))
    assert module.training_step(batch, 0).item() == pytest.approx(expected, rel=1e-5)


def test_the_policy_weighs_by_layer(make, batch) -> None:
    module = make(exits=[2, 4], policy=LayerWeighted())
    logits = module(batch["encodings"])
    expected = (2 * cross_entropy(logits[:, 0], batch["label"]) + 4 * cross_entropy(logits[:, 1], batch["label"])) / 6
    assert module.training_step(batch, 0).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("exits", [None, [2, 4], [4]])
def test_equilibrium_divides_the_gradient_of_a_real_encoder(make, batch, exits) -> None:
    plain, balanced = make(exits=exits), make(exits=exits, policy=GradientEquilibrium())
    balanced.load_state_dict(plain.state_dict())
    separate = []
    for index in range(len(plain.tier.exits)):
        plain.zero_grad()
        torch.nn.functional.cross_entropy(plain(batch["encodings"])[:, index], batch["label"]).backward()
        separate.append({n: p.grad for n, p in plain.tier.model.named_parameters()})
        separate[-1] = {n: None if g is None else g.clone() for n, g in separate[-1].items()}
    balanced.training_step(batch, 0).backward()
    balanced.on_before_optimizer_step(None)
    layers = plain.tier.model.config.exits
    for name, parameter in balanced.tier.model.named_parameters():
        layer = int(name.split("layer.")[1].split(".")[0]) + 1 if "layer." in name else 1
        share = 1 if name.startswith("heads") else sum(e >= layer for e in layers)
        expected = sum(g[name] / share for g in separate if g[name] is not None)
        torch.testing.assert_close(parameter.grad, expected, atol=1e-6, rtol=1e-4, msg=name)


def test_layers_teach_layers(make, batch, other, tmp_path) -> None:
    from dial.tiers.loading import save_tier

    assistant = make(path=str(other))
    save_tier(tmp_path / "ta", assistant.tier, {})
    module = make(
        exits=[2, 4], teacher=str(tmp_path / "ta"), distillation_weight=0.75, hidden_weight=0.5, policy=LayerWeighted()
    )
    torch.nn.init.normal_(module.tier.model.heads[0].linear.weight)
    encoding = next(iter(batch["encodings"].values()))
    own, states = all_layers(module.tier, encoding)
    taught, of_teacher = all_layers(load_tier(str(tmp_path / "ta"), "ta", LABELS), encoding)
    if missing_package("openvino") is None:  # a backend gives no hidden states: torch computes them
        by_backend = load_tier({"path": str(tmp_path / "ta"), "backend": "openvino"}, "ta", LABELS)
        again = all_layers(by_backend, encoding)
        torch.testing.assert_close([again[0], *again[1]], [taught, *of_teacher])
        assert by_backend.computed_by == "openvino float32"
    assert own.shape == (5, 2, 2) and taught.shape == (5, 4, 2) and len(states) == len(of_teacher) == 5
    terms = [
        0.25 * cross_entropy(own[:, e], batch["label"]) + 0.75 * cross_entropy(own[:, e], taught[:, k])
        for e, k in ((0, 1), (1, 3))
    ]
    hidden = 0.0
    for a, b in zip(states, of_teacher, strict=True):
        real = [
            (a[r, t] - b[r, t]).square().mean().item()
            for r in range(5)
            for t in range(8)
            if encoding["attention_mask"][r, t]
        ]
        hidden += sum(real) / len(real)
    expected = (2 * terms[0] + 4 * terms[1]) / 6 + 0.5 * hidden
    assert module.training_step(batch, 0).item() == pytest.approx(expected, rel=1e-4)


def test_each_term_can_be_left_out(make, batch, other) -> None:
    hidden_only = make(teacher=str(other), distillation_weight=0.0, hidden_weight=1.0)
    without = make()
    without.load_state_dict(hidden_only.state_dict())
    loss = hidden_only.training_step(batch, 0).item()
    assert hidden_only.logged["train/hidden"] > 0.1
    assert loss == pytest.approx(without.training_step(batch, 0).item() + hidden_only.logged["train/hidden"], rel=1e-5)
    encoding = next(iter(batch["encodings"].values()))
    both = make(teacher=str(other), distillation_weight=1.0, hidden_weight=1e-9)
    taught = load_tier(str(other), "teacher", LABELS)(encoding)[:, 0]
    expected = sum(cross_entropy(both(batch["encodings"])[:, e], taught) for e in range(4))  # one exit teaches all
    assert both.training_step(batch, 0).item() == pytest.approx(expected, rel=1e-4)


def test_a_teacher_beside_the_student_is_neither_trained_nor_saved(make, batch, other) -> None:
    module = make(teacher=str(other), hidden_weight=1.0).train()
    (teacher,) = module._beside
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    module.training_step(batch, 0).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert set(module.state_dict()) == set(make().state_dict())
    assert list(module.tokenizers()) == [module.tier.encoding_key]


def test_hidden_states_are_those_of_transformers(make, batch, encoder) -> None:
    module = make()
    encoding = next(iter(batch["encodings"].values()))
    stock = AutoModel.from_pretrained(encoder, add_pooling_layer=False).eval()
    expected = stock(**encoding, output_hidden_states=True).hidden_states
    for own, wanted in zip(all_layers(module.tier, encoding)[1], expected, strict=True):
        torch.testing.assert_close(own, wanted)


def test_teachers_that_do_not_fit_are_refused(make, make_tiny_bert, other, encoder, tmp_path) -> None:
    from transformers import AutoTokenizer

    from dial.tiers.loading import save_tier

    with pytest.raises(ValueError, match=r"`teacher` must have the student's 4 layers.* has 3"):
        make(teacher=str(make_tiny_bert(layers=3)), hidden_weight=1.0)
    with pytest.raises(ValueError, match=r"`teacher` must have the student's 16 hidden units.* has 8"):
        make(teacher=str(make_tiny_bert(layers=4, hidden_size=8)), hidden_weight=1.0)
    with pytest.raises(ValueError, match="`teacher` must have the data's 2 labels"):
        make(teacher=str(make_tiny_bert(layers=4, labels=("a", "b", "c"))))
    fewer = {"path": str(other), "lengths": [0.9, 0.8, 0.7, 0.6]}
    with pytest.raises(ValueError, match="`teacher` must keep all tokens where its layers are read"):
        make(teacher=fewer, hidden_weight=1.0)
    with pytest.raises(ValueError, match="`hidden_weight` 1 needs a `teacher`"):
        make(hidden_weight=1.0)
    stranger = make_tiny_bert(layers=4, vocab_size=40)
    tokenizer = AutoTokenizer.from_pretrained(stranger)
    tokenizer.add_tokens(["excellent"])
    tokenizer.save_pretrained(stranger)
    with pytest.raises(ValueError, match="`teacher` must have the student's vocabulary"):
        make(teacher=str(stranger), hidden_weight=1.0)
    few = make(exits=[3, 4])
    save_tier(tmp_path / "few", few.tier, {})
    with pytest.raises(
        ValueError, match=r"an exit at each of the student's layers \[2, 4\].* has \[3, 4\]; leave out 2"
    ):
        make(exits=[2, 4], teacher=str(tmp_path / "few"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exits": [1, 5]}, r"`exits` must be layers from 1 to 4"),
        ({"exits": [1, 2]}, r"`exits` must end with the last layer 4"),
        (
            {"quality_of": 3, "exits": [2, 4]},
            r"`quality_of` must be last, mean or a layer with an exit \[2, 4\], but got 3",
        ),
        ({"distillation_weight": 1.5}, r"`distillation_weight` must lie between 0 and 1"),
        ({"hidden_weight": -1.0}, r"`hidden_weight` must lie between 0 and inf"),
        ({"distillation_temperature": 0.0}, r"`distillation_temperature` must be above 0"),
        ({"label_names": [], "teacher": "any"}, r"`distillation` must be logits_mse for regression, .* add --model"),
    ],
)
def test_arguments_outside_their_range(make, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_a_classifier_in_another_order_of_labels_gives_its_head_in_the_data_s(make, make_tiny_bert, batch) -> None:
    swapped = make_tiny_bert(layers=4, labels=("positive", "negative"))
    module = make(path=str(swapped), pooler=True)
    stock = load_tier(str(swapped), "stock", LABELS)
    encoding = next(iter(batch["encodings"].values()))
    torch.testing.assert_close(module(batch["encodings"])[:, -1], stock(encoding)[:, 0])


def test_exits_that_are_there_get_no_pooler(make, tmp_path) -> None:
    save_tier(tmp_path / "tier", make().tier, {})
    with pytest.raises(ValueError, match=r"`pooler` is for new exits, but those of .*tier are there, without one"):
        make(path=str(tmp_path / "tier"), pooler=True)


@pytest.mark.parametrize(("policy", "ends"), [(None, 20), (GradientEquilibrium(), 20), (TwoStage(0.25), 5)])
def test_when_the_encoder_is_trained_no_more(make, policy, ends) -> None:
    module = make(policy=policy)
    module.learning_rate(20)
    assert module.encoder_ends == ends


def test_the_reference_is_the_encoder_without_exits(make) -> None:
    module, alone = make(exits=[1, 2, 4]), make(exits=[4])
    lengths = {"model": np.array([5])}
    costs, single = (network_costs(m.network.tiers, lengths) for m in (module, alone))
    one_exit = 16 * 2  # MACs
    assert costs.alone("model", [5]) == single.answer["model"][0]([5]) == single.alone("model", [5])
    assert costs.answer["model"][2]([5]) - costs.alone("model", [5]) == 2 * one_exit
    assert type(costs).from_json(costs.to_json()).alone("model", [5]) == costs.alone("model", [5])


def test_each_stage_has_its_own_learning_rate() -> None:
    rate = StagedRate([10, 30], 0.2, "linear")
    values = [rate(step) for step in range(30)]
    assert values[:2] == pytest.approx([1 / 3, 2 / 3]) and values[2] == 1.0 and values[9] == pytest.approx(1 / 8)
    assert values[10] == pytest.approx(1 / 5) and values[14] == 1.0 and values[29] == pytest.approx(1 / 16)
    single = StagedRate([7], 0.0, "linear")
    assert [single(step) for step in range(8)] == pytest.approx([(7 - step) / 7 for step in range(8)])


class Witness(Callback):
    """Keeps the weights as they are before every step, and what is logged at the end of every epoch."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.logged: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: MultiExit, batch: object, batch_idx: int) -> None:
        self.weights.append(copy.deepcopy(pl_module.tier.model.state_dict()))

    def on_train_end(self, trainer: Trainer, pl_module: MultiExit) -> None:
        self.weights.append(copy.deepcopy(pl_module.tier.model.state_dict()))

    def on_validation_end(self, trainer: Trainer, pl_module: MultiExit) -> None:
        if not trainer.sanity_checking:
            self.logged.append({k: float(v) for k, v in trainer.callback_metrics.items()})


@pytest.fixture
def fit(tmp_path, encoder) -> Callable[..., tuple[MultiExit, Witness, Trainer]]:
    """Function: fit a module on 48 rows, 4 epochs of few steps; settings of the module."""
    (tmp_path / "sst2").mkdir()
    sentences(60, 0).to_parquet(tmp_path / "sst2/train.parquet")
    sentences(20, 1).to_parquet(tmp_path / "sst2/validation.parquet")

    def run(callbacks: list[Callback] | None = None, **settings: object) -> tuple[MultiExit, Witness, Trainer]:
        data = GLUEDataModule(
            "sst2", source=str(tmp_path), cache_dir=str(tmp_path / "cache"), batch_size=16, calibration_fraction=0.2
        )
        module = MultiExit(
            **{"path": str(encoder), "max_length": 32, "label_names": LABELS, "optimizer": SGD, **settings}
        )
        witness = Witness()
        best = ModelCheckpoint(tmp_path / "best", monitor="validation/quality", mode="max")
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=4,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=str(tmp_path),
            callbacks=[witness, best, *(callbacks or [])],
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(module, datamodule=data)
        return module, witness, trainer

    return run


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_two_stages_leave_what_they_freeze_bit_identical(fit) -> None:
    _, witness, trainer = fit(policy=TwoStage(0.5))
    middle = trainer.global_step // 2
    start, half, end = witness.weights[0], witness.weights[middle], witness.weights[-1]
    backbone = {name for name in start if name.startswith("encoder") and start[name].is_floating_point()}
    last = {"heads.3.linear.weight", "heads.3.linear.bias"}
    assert changed(start, half) == backbone | last
    assert changed(half, end) == {name for name in start if name.startswith("heads")}


def test_no_checkpoint_of_the_first_stage_is_the_best_one(fit, monkeypatch) -> None:
    # Its exits are random, however good the last one is.
    quality = {0: 0.9, 1: 0.1}
    monkeypatch.setattr(
        MultiExit, "quality_of_exits", lambda self, rows: {"accuracy": [quality[int(bool(self._stage))]] * 4}
    )
    _, _, trainer = fit(policy=TwoStage(0.5), callbacks=[EarlyStopping("validation/quality", mode="max", patience=3)])
    best = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)
    assert best["global_step"] > trainer.global_step // 2


@pytest.mark.parametrize("stage", [0, 1])
def test_with_several_processes_every_parameter_has_a_gradient_until_the_step(make, batch, stage: int) -> None:
    # DDP waits for all gradients that it saw at the start, so nothing may be switched off; the step must not see them.
    policy = TwoStage()
    module = make(policy=policy)
    module._trainer.world_size = 2
    policy.enter(stage)
    module.training_step(batch, 0).backward()
    assert all(p.grad is not None for p in module.parameters())
    module.on_before_optimizer_step(None)
    names = {name for name, p in module.tier.model.named_parameters() if p.grad is not None}
    heads = {name for name, _ in module.tier.model.named_parameters() if name.startswith("heads")}
    last = {name for name in heads if name.startswith("heads.3")}
    everything = {name for name, _ in module.tier.model.named_parameters()}
    assert names == (everything - heads | last if stage == 0 else heads)


def test_early_stopping_before_the_exits_were_trained_is_an_error(fit) -> None:
    stopping = EarlyStopping("validation/quality", mode="max", patience=1, min_delta=2.0)
    with pytest.raises(ValueError, match=r"`early_stopping.patience` must let the policy come to its stage 2"):
        fit(policy=TwoStage(0.9), callbacks=[stopping])


def test_fit_logs_every_exit_and_leaves_a_tier(fit, tmp_path, batch) -> None:
    module, witness, _ = fit(exits=[1, 3, 4], quality_of=3, callbacks=[TierExport()])
    assert changed(witness.weights[0], witness.weights[-1]) >= {f"heads.{e}.linear.weight" for e in range(3)}
    for logged in witness.logged:
        each = [logged[f"validation/accuracy/layer{k}"] for k in (1, 3, 4)]
        assert logged["validation/quality"] == logged["validation/accuracy"] == each[1]
    tier = load_tier(str(tmp_path / "tier"), "again", LABELS)
    assert tier.exits == ["layer1", "layer3", "layer4"]
    encoding = next(iter(batch["encodings"].values()))
    torch.testing.assert_close(tier(encoding), module.eval()(batch["encodings"]))
    again = MultiExit(path=str(tmp_path / "tier"), max_length=32, label_names=LABELS)
    assert again._trained and again.tier.exits == tier.exits


def test_a_single_exit_teacher_teaches_from_its_cache(fit, other) -> None:
    module, _, _ = fit(teacher=str(other))
    data = module.trainer.datamodule
    teacher = load_tier(str(other), "teacher", LABELS)
    assert not module._beside and not module._teacher
    batch = next(iter(data.inference_loader("train", module.tier.encoding_key)))
    taught = module._teacher_of(batch, torch.zeros(1))
    own = dict(batch["encodings"])[module.tier.encoding_key]
    torch.testing.assert_close(taught, teacher(own)[:, 0], atol=1e-5, rtol=1e-4)
