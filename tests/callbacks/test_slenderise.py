"""Slenderisation on the trainer: a tiny multi-exit model, random rows, a few steps."""

import copy
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from callbacks import Resume, Slenderise
from callbacks.tier_export import exported
from dial.losses import task_loss
from dial.models import MultiExitConfig, MultiExitForSequenceClassification
from dial.models.slender.encoder import make_room
from dial.models.slender.importance import importance
from dial.models.slender.structures import masks, structures
from dial.stages.task import task_of
from lightning_modules.policies import GradientEquilibrium, JointSum, LayerWeighted, TwoStage
from lightning_modules.policies.policy import Parts

ENCODER = {
    "model_type": "bert", "vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 12, "max_position_embeddings": 16, "initializer_range": 0.3,
}  # fmt: skip
SIZES = {"heads": 2, "intermediate": 3, "embedding_rank": 5}


class Rows(LightningDataModule):
    """Random rows; `train_batches` as the real data module has it."""

    def __init__(self, rows: int = 40, batch_size: int = 4, world_size: int = 1) -> None:
        super().__init__()
        self.size, self.batch_size, self.world_size = rows, batch_size, world_size

    def train_batches(self) -> int:
        return self.size // (self.batch_size * self.world_size)

    def rows(self, rank: int = 0) -> list[dict[str, Any]]:
        generator = torch.Generator().manual_seed(5)
        ids = torch.randint(1, 30, (self.size, 6), generator=generator)
        labels = torch.randint(0, 2, (self.size,), generator=generator)
        encoded = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]
        every = [{"encodings": row, "label": label} for row, label in zip(encoded, labels, strict=True)]
        return every[rank :: self.world_size]

    def train_dataloader(self) -> DataLoader:
        rank = self.trainer.global_rank if self.trainer else 0
        return DataLoader(self.rows(rank), batch_size=self.batch_size)

    val_dataloader = train_dataloader


TASK = task_of(["no", "yes"])


class Toy(LightningModule):
    """Joint training of all exits; the validation quality is a list that the test gives."""

    def __init__(self, quality: list[float] | None = None, dropout: float = 0.1, family: str = "bert") -> None:
        super().__init__()
        torch.manual_seed(0)
        encoder = {
            **ENCODER,
            "model_type": family,
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
        }
        model = MultiExitForSequenceClassification(MultiExitConfig(encoder=encoder, dropout=dropout))
        self.tier = nn.Module()
        self.tier.model = model
        self.quality, self.task = quality or [0.5], TASK

    def forward(self, encodings: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.tier.model(**encodings).logits

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        logits = self(batch["encodings"])
        return sum(task_loss(logits[:, i], batch["label"], TASK) for i in range(logits.shape[1]))

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        quality = self.quality[min(self.current_epoch, len(self.quality) - 1)]
        self.log("validation/quality", torch.tensor(quality), batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class Widths(Callback):
    """Records what the masks leave at each step, after the pruning if there is one."""

    def __init__(self) -> None:
        self.seen: list[tuple[list[int], list[int]]] = []

    def on_train_batch_end(self, trainer, pl_module, *args) -> None:
        kept = [int(mask.sum()) for mask in masks(pl_module.tier.model)]
        self.seen.append((kept[::2], kept[1::2]))


def fit(
    folder: Path, slender: Slenderise, module: LightningModule | None = None, steps: int = 20, extra=(), ckpt_path=None,
    data: Rows | None = None, **settings: Any,
) -> Trainer:  # fmt: skip
    trainer = Trainer(
        **{
            "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
            "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in extra), "max_steps": steps,
            "max_epochs": 50, "default_root_dir": str(folder), "num_sanity_val_steps": 0, "limit_val_batches": 0,
            "use_distributed_sampler": False, "callbacks": [slender, *extra], **settings,
        }
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module or Toy(), datamodule=data or Rows(), ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_widths_follow_the_schedule_and_the_export_is_cut(tmp_path, family: str) -> None:
    module, widths = Toy(family=family), Widths()
    slender = Slenderise(**SIZES, start=2, stop=12, prunings=5, window=2)
    fit(tmp_path, slender, module, extra=[widths])
    heads = [4] * 4 + [4] * 2 + [3] * 2 + [3] * 2 + [2] * 10
    neurons = [12] * 4 + [10] * 2 + [8] * 2 + [7] * 2 + [5] * 2 + [3] * 8
    assert [n[0] for _, n in widths.seen] == neurons
    assert [h[0] for h, _ in widths.seen][-8:] == [2] * 8 and len(widths.seen) == len(heads)
    assert all(len(set(h)) == len(set(n)) == 1 for h, n in widths.seen)
    model = module.tier.model
    tier = exported(SimpleNamespace(model=model))
    assert (tier.model.config.heads, tier.model.config.intermediate) == ([2] * 3, [3] * 3)
    assert tier.model.config.embedding_rank == 5
    tier.model.save_pretrained(tmp_path / "tier")
    again = MultiExitForSequenceClassification.from_pretrained(tmp_path / "tier").eval()
    ids = torch.randint(1, 30, (5, 6))
    with torch.no_grad():
        expected = model.eval()(ids).logits
        torch.testing.assert_close(again(ids).logits, expected, atol=1e-5, rtol=0)
    assert sum(p.numel() for p in again.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("stop", [8, 12])
def test_structures_go_while_the_encoder_is_trained(tmp_path, stop) -> None:
    module = Toy()
    module.encoder_ends = 8
    with pytest.raises(ValueError, match=rf"`slenderise\.stop` must lie before step 8, .* but got step {stop}; end"):
        fit(tmp_path, Slenderise(**SIZES, stop=stop, prunings=2), module)
    fit(tmp_path, Slenderise(**SIZES, stop=7, prunings=2), module, steps=9)


def test_compression_of_all_parameters(tmp_path) -> None:
    module = Toy()
    before = sum(p.numel() for p in module.tier.model.parameters())
    fit(tmp_path, Slenderise(compression=1.5, stop=4, prunings=2), module, steps=6)
    after = sum(p.numel() for p in exported(module.tier).model.parameters())
    assert 1.5 <= before / after < 1.9


@pytest.mark.parametrize("exits", ["all", "last"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_what_goes_is_least_important_without_dropout(tmp_path, scope: str, exits: str) -> None:
    """One pruning after two steps with a learning rate of 0: the importance is that of the first two batches."""
    module = Toy(dropout=0.5)
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)
    reference = copy.deepcopy(module.tier.model).eval()
    slender = Slenderise(heads=2, intermediate=5, stop=2, prunings=1, scope=scope, exits=exits)
    fit(tmp_path, slender, module, steps=3)
    sums = [torch.zeros(axis.count, dtype=torch.float64) for axis in structures(reference)]
    for batch in list(Rows().train_dataloader())[:2]:
        logits = reference(**batch["encodings"]).logits
        losses = [task_loss(logits[:, i], batch["label"], TASK) for i in range(3)]
        for total, value in zip(sums, importance(reference, losses if exits == "all" else losses[-1:]), strict=True):
            total += value
    for kind, keep in ((0, 2), (1, 5)):
        values = sums[kind::2]
        flat = sorted(((-float(v), i, j) for i, row in enumerate(values) for j, v in enumerate(row)))
        if scope == "layer":
            expected = {(i, j) for layer in range(3) for _, i, j in [e for e in flat if e[1] == layer][:keep]}
        else:
            safe = [min(e for e in flat if e[1] == layer) for layer in range(3)]
            expected = {(i, j) for _, i, j in (safe + [e for e in flat if e not in safe])[: 3 * keep]}
        kept = masks(module.tier.model)[kind::2]
        assert {(i, j) for i, mask in enumerate(kept) for j in range(len(mask)) if mask[j]} == expected


def test_the_training_itself_is_left_alone(tmp_path) -> None:
    """Without any pruning yet, a fit with the callback is bit-equal to one without: dropout and gradients too."""
    plain, watched = Toy(), Toy()
    torch.manual_seed(1)
    fit(tmp_path, Callback(), plain, steps=6)
    torch.manual_seed(1)
    fit(tmp_path, Slenderise(heads=2, stop=7, prunings=1), watched, steps=8, extra=[Stop(6)])
    state = watched.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())


class Stop(Callback):
    """Ends the fit after so many steps, as a kill would."""

    def __init__(self, step: int, raises: bool = False) -> None:
        self.step, self.raises = step, raises

    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.global_step == self.step:
            if self.raises:
                raise KeyboardInterrupt
            trainer.should_stop = True


@pytest.mark.parametrize("first", ["slender", "resume"])
@pytest.mark.parametrize("step", [3, 4, 7, 9])
def test_a_run_resumes_in_the_middle(tmp_path, step: int, first: str) -> None:
    def run(folder: str, **settings: Any) -> Toy:
        module, slender, resume = Toy(), Slenderise(**SIZES, stop=8, prunings=2, window=3), Resume(1)
        order = [slender, resume] if first == "slender" else [resume, slender]
        torch.manual_seed(2)
        extra = [*order[1:], *settings.pop("extra", [])]
        fit(tmp_path / folder, order[0], module, steps=10, extra=extra, data=Rows(rows=80), **settings)
        return module

    whole = run("whole")
    run("part", extra=[Stop(step)], min_steps=None)
    last = tmp_path / "part/checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == step
    again = run("part", ckpt_path=str(last), extra=[Skip(step)])
    state = again.state_dict()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, state[name]), name


class Skip(Callback):
    """The toy's loader does not know where it was: give it the rows that are left."""

    def __init__(self, step: int) -> None:
        self.step = step

    def setup(self, trainer, pl_module, stage) -> None:
        rows = trainer.datamodule.rows()[4 * self.step :]
        trainer.datamodule.train_dataloader = lambda: DataLoader(rows, batch_size=4)


def test_another_schedule_is_refused(tmp_path) -> None:
    fit(tmp_path, Slenderise(**SIZES, stop=8, prunings=2), steps=10, extra=[Resume(1), Stop(5)])
    last = str(tmp_path / "checkpoints/last.ckpt")
    for changed, message in (
        ({**SIZES, "prunings": 4, "stop": 8}, "settings of the checkpoint, but it has prunings=2, now 4"),
        (
            {**SIZES, "embedding_rank": 6, "prunings": 2, "stop": 8},
            "sizes of the checkpoint, but .*word_embeddings.* differs",
        ),
        ({**SIZES, "heads": 3, "prunings": 2, "stop": 8}, "heads=2, now 3"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(tmp_path, Slenderise(**changed), steps=10, ckpt_path=last)
    fit(tmp_path / "share", Slenderise(**SIZES, stop=0.8, prunings=2), steps=10, extra=[Resume(1), Stop(5)])
    last = str(tmp_path / "share/checkpoints/last.ckpt")
    with pytest.raises(ValueError, match="schedule of the checkpoint, but it has stop=8, now 16"):
        fit(tmp_path, Slenderise(**SIZES, stop=0.8, prunings=2), steps=20, ckpt_path=last)


def test_a_checkpoint_loads_without_the_callback(tmp_path) -> None:
    module = Toy()
    fit(tmp_path, Slenderise(**SIZES, stop=4, prunings=2), module, steps=5, extra=[Resume(5)])
    state = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    fresh = Toy()
    make_room(fresh.tier.model, state)
    fresh.load_state_dict(state)
    assert exported(fresh.tier).model.config.heads == [2, 2, 2]
    plain = Toy()
    make_room(plain.tier.model, Toy().state_dict())
    assert plain.state_dict().keys() == Toy().state_dict().keys()
    fit(tmp_path / "plain", Callback(), steps=2, extra=[Resume(1)])
    with pytest.raises(ValueError, match="must be a checkpoint of a run with Slenderise"):
        fit(tmp_path, Slenderise(**SIZES), steps=9, ckpt_path=str(tmp_path / "plain/checkpoints/last.ckpt"))


def test_only_checkpoints_of_the_final_size_are_the_best(tmp_path) -> None:
    """Quality falls while structures go; epochs 0 to 3 of 5 steps, the last pruning within epoch 2."""
    best = ModelCheckpoint(tmp_path, "{epoch}", monitor="validation/quality", mode="max")
    stopping = EarlyStopping("validation/quality", mode="max", patience=1)
    module = Toy(quality=[0.9, 0.8, 0.6, 0.7])
    slender = Slenderise(**SIZES, stop=12, prunings=2)
    settings = {"max_epochs": 4, "limit_val_batches": 1}
    trainer = fit(tmp_path, slender, module, steps=-1, extra=[best, stopping], data=Rows(rows=20), **settings)
    assert trainer.global_step == 20 and slender.finished
    assert float(best.best_model_score) == pytest.approx(0.7) and best.best_model_path.endswith("epoch=3.ckpt")
    state = torch.load(best.best_model_path, weights_only=True)["state_dict"]
    assert all(int(v.sum()) in (2, 3) for name, v in state.items() if name.endswith("structure_mask"))


def test_a_trial_run_prunes_at_once(tmp_path) -> None:
    module = Toy()
    fit(tmp_path, Slenderise(**SIZES), module, steps=-1, fast_dev_run=True)
    assert exported(module.tier).model.config.intermediate == [3, 3, 3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prunings": 5}, "`slenderise.prunings` 5 needs a target, but there is none"),
        ({"stop": 0.7, "exits": "last"}, r"`slenderise.stop` 0\.7 needs a target"),
        ({"compression": 2.0, "heads": 2}, "`slenderise.compression` sets the sizes itself, but `slenderise.heads` 2"),
        ({"heads": 2, "prunings": 0}, "`slenderise.prunings` must be at least 1, but got 0"),
        ({"heads": 2, "window": 0}, "`slenderise.window` must be at least 1"),
        ({"heads": 5}, "`slenderise.heads` must lie between 1 and 4, the model's own, but got 5"),
        ({"heads": 0}, "`slenderise.heads` must lie between 1 and 4"),
        ({"intermediate": 13}, "`slenderise.intermediate` must lie between 1 and 12"),
        ({"embedding_rank": 17}, "`slenderise.embedding_rank` must lie between 1 and 16"),
        ({"compression": 99.0}, "`slenderise.compression` must be at most"),
        ({"heads": 2, "stop": 10}, "`slenderise.stop` must lie before the end of the run of 10 steps"),
        ({"heads": 2, "stop": 1.0}, "`slenderise.stop` must lie before the end of the run"),
        ({"heads": 2, "stop": 5, "prunings": 6}, "`slenderise.stop` must lie at least `slenderise.prunings` = 6 steps"),
    ],
)
def test_bad_input(tmp_path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, Slenderise(**settings), steps=10)


def test_without_a_target_it_does_nothing(tmp_path) -> None:
    plain, idle = Toy(), Toy()
    for name, callback, module in (("plain", Callback(), plain), ("idle", Slenderise(), idle)):
        torch.manual_seed(1)
        fit(tmp_path / name, callback, module, steps=4, extra=[Resume(2)], limit_val_batches=1)
    states = [torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in ("plain", "idle")]
    assert plain.state_dict().keys() == idle.state_dict().keys()
    assert all(torch.equal(value, idle.state_dict()[name]) for name, value in plain.state_dict().items())
    assert states[0]["callbacks"].keys() == states[1]["callbacks"].keys()
    fit(tmp_path / "slender", Slenderise(**SIZES, stop=8, prunings=2), steps=10, extra=[Resume(1), Stop(5)])
    module = Toy()
    module.on_load_checkpoint = lambda checkpoint: make_room(module.tier.model, checkpoint["state_dict"])
    last = str(tmp_path / "slender/checkpoints/last.ckpt")
    with pytest.raises(ValueError, match=r"`--ckpt_path` must be a checkpoint of a run without Slenderise"):
        fit(tmp_path, Slenderise(), module, steps=10, ckpt_path=last)


class Hooked(JointSum):
    """Divides the gradients of each layer as they arrive, as a policy may."""

    def attach(self, parts: Parts) -> None:
        for number, layer in enumerate(parts.layers, 1):
            for parameter in layer.parameters():
                parameter.register_hook(lambda gradient, number=number: gradient / (1 + number))


@pytest.mark.parametrize(
    ("policy", "stage"),
    [(Hooked(), 0), (GradientEquilibrium(), 0), (LayerWeighted(), 0), (TwoStage(0.5), 0), (TwoStage(0.5), 1)],
    ids=["hooks", "equilibrium", "weighted", "first-stage", "frozen"],
)
def test_the_importance_is_of_the_plain_sum_whatever_the_policy_weighs(tmp_path, policy, stage) -> None:
    """Eq. 2 by plain loops over entries, against what the callback sums beside a policy's hooks and frozen exits."""
    module = Toy(dropout=0.5)
    reference = copy.deepcopy(module.tier.model).eval()
    model = module.tier.model
    policy.attach(Parts.of(model.encoder, list(model.layers), list(model.heads), model.exits))
    policy.enter(stage)
    for parameter in policy.frozen():
        parameter.requires_grad_(False)
    module.training_step = lambda batch, batch_idx: policy.loss(
        torch.stack([task_loss(logits, batch["label"], TASK) for logits in module(batch["encodings"]).unbind(1)])
    )
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.configure_optimizers = lambda: torch.optim.SGD(trained, lr=0.0)
    slender = Slenderise(heads=2, stop=5, prunings=1, window=5)
    fit(tmp_path, slender, module, steps=8, extra=[Stop(1)])

    batch = Rows().rows()[:4]
    ids, labels = torch.stack([r["encodings"]["input_ids"] for r in batch]), torch.stack([r["label"] for r in batch])
    logits = reference(ids).logits
    sum(torch.nn.functional.cross_entropy(logits[:, exit_], labels) for exit_ in range(3)).backward()
    for layer in range(3):
        stock = reference.encoder.encoder.layer[layer]
        of_head = [products(m) for m in stock.attention.self.children() if isinstance(m, nn.Linear)]
        of_output, inner = products(stock.attention.output.dense), products(stock.intermediate.dense)
        outer = products(stock.output.dense)
        heads, neurons = (slender._importance.sums[2 * layer + kind].tolist() for kind in (0, 1))
        for head in range(4):
            total = 0.0
            for i in range(4 * head, 4 * head + 4):
                total += sum(bias[i] + sum(weight[i]) for weight, bias in of_head)
                total += sum(of_output[0][j][i] for j in range(16))
            assert heads[head] == pytest.approx(abs(total), rel=1e-3, abs=1e-6)
        for i in range(12):
            total = inner[1][i] + sum(inner[0][i]) + sum(outer[0][j][i] for j in range(16))
            assert neurons[i] == pytest.approx(abs(total), rel=1e-3, abs=1e-6)


def products(linear: nn.Linear) -> tuple[list[list[float]], list[float]]:
    """Gradient times value of every entry of weight and bias."""
    return tuple((p.grad.double() * p.detach().double()).tolist() for p in (linear.weight, linear.bias))


def test_stock_models_are_refused(tmp_path) -> None:
    module = Toy()
    module.tier.model = module.tier.model.encoder
    with pytest.raises(ValueError, match=r"must train a multi-exit model .* but Toy trains BertModel"):
        fit(tmp_path, Slenderise(heads=2), module)


class Report(Callback):
    """Every process writes its weights and masks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer, pl_module) -> None:
        torch.save(pl_module.state_dict(), self.folder / f"rank{trainer.global_rank}.pt")


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.0, 0.05])
def test_two_processes_keep_the_same_structures_and_weights(tmp_path, rate: float) -> None:
    module = Toy()
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=rate)
    reference = copy.deepcopy(module.tier.model).eval()
    slender = Slenderise(heads=2, intermediate=5, stop=3, prunings=1)
    fit(
        tmp_path, slender, module, steps=5, extra=[Report(tmp_path)], data=Rows(world_size=2),
        strategy="ddp_fork", devices=2,
    )  # fmt: skip
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    if rate:
        return
    axes = structures(reference)
    by_rank = [[torch.zeros(axis.count, dtype=torch.float64) for axis in axes] for _ in range(2)]
    for rank, sums in enumerate(by_rank):
        for batch in list(DataLoader(Rows(world_size=2).rows(rank), batch_size=4))[:3]:
            logits = reference(**batch["encodings"]).logits
            losses = [task_loss(logits[:, i], batch["label"], TASK) for i in range(3)]
            for total, value in zip(sums, importance(reference, losses), strict=True):
                total += value

    def kept(sums: list[torch.Tensor]) -> list[set[int]]:
        keep = {"heads": 2, "neurons": 5}
        pairs = zip(axes, sums, strict=True)
        return [set(torch.topk(value, keep[axis.kind]).indices.tolist()) for axis, value in pairs]

    both = kept([a + b for a, b in zip(*by_rank, strict=True)])
    assert both != kept(by_rank[0]) and both != kept(by_rank[1])
    names = [name for name in first if name.endswith("structure_mask")]
    assert [set(first[name].nonzero().flatten().tolist()) for name in names] == both
