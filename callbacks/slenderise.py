"""Slenderisation during a fit (COST-EFF, Shen et al. 2022): importance, then fewer structures, step by step."""

from __future__ import annotations

from inspect import signature
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn
from torch.func import functional_call

from dial.losses import task_loss
from dial.models.multi_exit import MultiExitForSequenceClassification
from dial.models.slender.embeddings import factorise
from dial.models.slender.encoder import try_cut
from dial.models.slender.importance import HeadWeights, TaylorImportance, Variant, choose
from dial.models.slender.plan import Course, Schedule, Sizes, Target, to_steps
from dial.models.slender.structures import Kind, attach_masks, has_masks, masks, set_masks, structures
from dial.spelling import spelt
from lightning_modules.rows import gather
from lightning_modules.training import start_choosing, training_steps

TARGETS = ("compression", "heads", "intermediate", "embedding_rank")
TYPED = {name: f"slenderise.{name}" for name in (*TARGETS, "start", "stop", "prunings", "window")} | {
    "rank": "slenderise.embedding_rank"
}
"""Arguments in errors, as they are typed."""


def check_settings(
    sizes: dict[str, int | None], compression: float | None, plan: dict[str, Any], defaults: dict[str, Any]
) -> None:
    """Raise a ValueError where sizes, compression and schedule do not go together.

    Args:
        sizes: heads, intermediate, embedding_rank.
        compression: or this.
        plan: the other arguments.
        defaults: of the other arguments, which without a target must be left alone.
    """
    given = [f"`slenderise.{name}` {value}" for name, value in sizes.items() if value is not None]
    if compression is not None and given:
        raise ValueError(
            f"`slenderise.compression` sets the sizes itself, but {' and '.join(given)} came with it; set one of them "
            "to null."
        )
    if compression is None and not given:
        for name, value in plan.items():
            if value != defaults[name]:
                raise ValueError(
                    f"`slenderise.{name}` {value} needs a target, but there is none; give `slenderise.compression`, or "
                    "at least one of `slenderise.heads`, `slenderise.intermediate` and `slenderise.embedding_rank`."
                )
    for name in ("prunings", "window"):
        if plan[name] < 1:
            raise ValueError(f"`slenderise.{name}` must be at least 1, but got {plan[name]}.")


def check_encoder_trains(stop: int, ends: int) -> None:
    """Raise a ValueError if structures would go when the exits are trained alone.

    Args:
        stop: step before which the last structures go.
        ends: step from which on the policy leaves the encoder as it is.
    """
    if stop >= ends:
        raise ValueError(
            f"`stop` must lie before step {ends}, from which on the policy leaves the encoder as it is, which then "
            f"could not recover, but got step {stop}; end the schedule earlier, or make `policy.share` greater."
        )


def model_of(module: LightningModule) -> Any:
    """The multi-exit model that a module trains.

    Raises:
        ValueError: the module trains none; a stock model of other widths could be saved, but not loaded again.
    """
    model: Any = getattr(getattr(module, "tier", None), "model", None)
    if not isinstance(model, MultiExitForSequenceClassification):
        raise ValueError(
            f"`model` must train a multi-exit model to make it slender, but {type(module).__name__} trains "
            f"{type(model).__name__}; take MultiExit, with the last layer as its only exit if need be."
        )
    return model


def check_weights(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Refuse a checkpoint of other shapes in one line; Lightning gives the weights before the callbacks' states.

    Args:
        module: has masks already.
        state: weights that it is about to load.
        prefix: unused, as the others: the arguments of a hook.

    Raises:
        ValueError: the checkpoint has no masks, or other shapes.
    """
    if not has_masks(state):
        raise ValueError(
            "`--ckpt_path` must be a checkpoint of a run with Slenderise, but this one has no masks; to make its "
            "model slender, name the tier folder of that run as `--model.path`."
        )
    own = module.state_dict()
    changed = [name for name, value in state.items() if name in own and own[name].shape != value.shape]
    if changed or state.keys() != own.keys():
        name = (changed or sorted(state.keys() ^ own.keys()))[0]
        raise ValueError(
            f"Slenderise must resume with the sizes of the checkpoint, but {name} differs; restore the rank "
            "of the embeddings and the model, or start a new run."
        )


def compare(what: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise a ValueError if a run does not go on as a checkpoint began.

    Args:
        what: the word for it.
        before: names and values of the checkpoint.
        now: those of the run; empty where it is not to make anything slender.
    """
    changed = [f"{key}={before.get(key)!r}, now {now.get(key)!r}" for key in before if before.get(key) != now.get(key)]
    if changed:
        raise ValueError(
            f"Slenderise must resume with the {what} of the checkpoint, but it has {'; '.join(changed)}; restore "
            "them, or start a new run."
        )


def sums_of(state: dict[str, Any], rank: int, world_size: int) -> tuple[list[Tensor], int]:
    """One process's share of the importance in a checkpoint: sums of every axis, and batches.

    Where their number is another than it was, the first process takes all, so that every batch counts once.
    """
    sums, counts = state["sums"], state["batches"]
    if len(sums) == world_size:
        return sums[rank], counts[rank]
    totals = [torch.stack(values).sum(dim=0) for values in zip(*sums, strict=True)]
    return (totals, sum(counts)) if rank == 0 else ([torch.zeros_like(value) for value in totals], 0)


KINDS: tuple[Kind, Kind] = ("heads", "neurons")


class Slenderise(Callback):
    """Makes the model slender while it trains: word embeddings at once, heads and neurons on a schedule.

    Before each pruning the gradients of the labels' losses of all exits are taken over the last steps' batches, in a
    pass of its own without dropout: the training loss would not do where it is a distillation loss, whose gradient is
    zero as long as the student equals its teacher. What is removed is masked until the fit ends; ``cut`` removes it
    from the exported model. Every process adds its batches, so all keep the same structures.

    Until the last pruning early stopping waits, and only checkpoints after it count as the best. Without a target (a
    size or ``compression``) the callback does nothing.

    Args:
        heads: attention heads to keep per layer; None: all. This, ``intermediate`` and ``embedding_rank``, or
            ``compression``.
        intermediate: width of the feed-forward networks to keep per layer; None: all.
        embedding_rank: rank of the word embeddings; None: not factorised.
        compression: factor by which all parameters shrink, such as 8; sets the three sizes.
        start: when the schedule starts, as a step (integer) or share of the run (float).
        stop: when the last structures go; some steps must follow, in which the model recovers.
        prunings: how often structures are removed, at equal distances.
        course: ``linear``, or ``cubic``, which removes most at first.
        window: steps before each pruning whose batches the importance is averaged over.
        scope: ``layer``: equally many structures in each layer, as in the paper; ``global``: the most important ones
            of all layers, whose widths then differ.
        exits: losses of ``all`` exits, or of the ``last`` one only (the paper's ablation).
        variant: ``signed`` as in Eq. 2; ``absolute`` as in the authors' code.
        head_weights: ``all`` matrices of a head; ``output`` as in the authors' code.

    Raises:
        ValueError: sizes and a compression; a schedule without either; a number below 1.
    """

    def __init__(
        self,
        heads: int | None = None,
        intermediate: int | None = None,
        embedding_rank: int | None = None,
        compression: float | None = None,
        start: int | float = 0,
        stop: int | float = 0.5,
        prunings: int = 10,
        course: Course = "linear",
        window: int = 50,
        scope: Literal["layer", "global"] = "layer",
        exits: Literal["all", "last"] = "all",
        variant: Variant = "signed",
        head_weights: HeadWeights = "all",
    ) -> None:
        sizes = {"heads": heads, "intermediate": intermediate, "embedding_rank": embedding_rank}
        plan: dict[str, Any] = {"start": start, "stop": stop, "prunings": prunings, "course": course, "window": window}
        plan |= {"scope": scope, "exits": exits, "variant": variant, "head_weights": head_weights}
        defaults = {name: parameter.default for name, parameter in signature(Slenderise).parameters.items()}
        check_settings(sizes, compression, plan, defaults)
        self.sizes, self.compression = tuple(sizes.values()), compression
        self.start, self.stop, self.prunings, self.course = start, stop, prunings, course
        self.window, self.scope, self.exits = window, scope, exits
        self.variant, self.head_weights = variant, head_weights
        self.done = 0
        self._target: Target | None = None
        self._full: dict[Kind, int] = {}
        self._schedule: Schedule | None = None
        self._importance: TaylorImportance | None = None
        self._fitting = False
        self._loaded: dict[str, Any] | None = None
        self._hook: Any = None

    @property
    def active(self) -> bool:
        """Whether a target was given."""
        return self.compression is not None or any(size is not None for size in self.sizes)

    @property
    def finished(self) -> bool:
        """Whether the model has its final sizes."""
        return self.done >= (1 if self._schedule is None else self._schedule.prunings)

    @property
    def target(self) -> Target:
        """Sizes that the model ends up with."""
        if self._target is None:
            raise RuntimeError("The target is known once the fit has set up its model.")
        return self._target

    # Preparation: before Lightning restores weights and builds the optimiser.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Factorise the word embeddings and attach masks, so that the optimiser and a checkpoint find their places."""
        self._fitting = stage == "fit"
        if stage != "fit" or not self.active or self._target is not None:
            return
        model = model_of(pl_module)
        with spelt(TYPED):
            self._target = self._find_target(Sizes(model))
            if self._target.rank is not None:
                factorise(model, self._target.rank)
        attach_masks(model)
        try_cut(model, self._target)
        self._hook = pl_module.register_load_state_dict_pre_hook(check_weights)

    def _find_target(self, sizes: Sizes) -> Target:
        """How many heads, neurons and ranks stay, from the factor or from the sizes that were given."""
        self._full = dict(sizes.count)
        if self.compression is not None:
            return sizes.target(self.compression)
        heads, neurons, rank = self.sizes
        heads = self._full["heads"] if heads is None else heads
        target = Target(heads, self._full["neurons"] if neurons is None else neurons, rank)
        sizes.check(target)
        return target

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Turn shares of the run into steps, and take up what a checkpoint brought."""
        if self._hook is not None:  # from here on weights are restored
            self._hook.remove()
            self._hook = None
        if not self.active:
            return
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._schedule = None  # everything at once, on the first batch
        else:
            total = training_steps(trainer)
            with spelt(TYPED):
                steps = (to_steps(self.start, total, "start"), to_steps(self.stop, total, "stop"))
                self._schedule = Schedule(*steps, self.prunings, self.course)
                check_encoder_trains(self._schedule.stop, getattr(pl_module, "encoder_ends", total))
        self._importance = TaylorImportance(model_of(pl_module), self.variant, self.head_weights)
        if self._loaded is not None:
            self._take_up(self._loaded, trainer)
            self._loaded = None

    # During the fit.

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Prune if it is time, then take the batch's importance if the next pruning is near."""
        if not self.active or self.finished:
            return
        if self._schedule is None:
            self._add(trainer, pl_module, batch)
            self._prune(trainer, pl_module)
            return
        step = trainer.global_step
        if step >= self._schedule.step(self.done + 1):
            self._prune(trainer, pl_module)
        if (
            not self.finished
            and step >= self._schedule.step(self.done + 1) - self.window
            and step >= self._schedule.start
        ):
            self._add(trainer, pl_module, batch)

    def _add(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        """Add the importance under one batch; neither gradients nor the random state of the training are touched.

        The weights stand in for the parameters, whose hooks and freezing are those of the exit policy: Eq. 2 is of the
        plain sum of the exits' losses, whatever the policy weighs.
        """
        assert self._importance is not None
        training = [part for part in module.modules() if part.training]
        weights = {name: value.detach().requires_grad_() for name, value in module.named_parameters()}
        module.eval()
        try:
            with trainer.precision_plugin.forward_context():
                logits = functional_call(module, weights, (batch["encodings"],))
                task: Any = module.task
                first = 0 if self.exits == "all" else logits.shape[1] - 1
                losses = [task_loss(logits[:, stage], batch["label"], task) for stage in range(first, logits.shape[1])]
            stand_ins = {id(value): weights[name] for name, value in module.named_parameters()}
            self._importance.update(losses, stand_ins)
        finally:
            for part in training:
                part.training = True

    def _prune(self, trainer: Trainer, module: LightningModule) -> None:
        """Takes the least important structures of every kind, and starts importance anew."""
        assert self._importance is not None
        model, values = model_of(module), self._everywhere(self._importance)
        axes, alive = structures(model), masks(model)
        chosen = list(alive)
        self.done += 1
        kept: dict[Kind, int] = {}
        for kind in KINDS:
            which = [number for number, axis in enumerate(axes) if axis.kind == kind]
            kept[kind] = self._kept(kind)
            new = choose([values[i] for i in which], [alive[i] for i in which], kept[kind], self.scope)
            for number, mask in zip(which, new, strict=True):
                chosen[number] = mask
        set_masks(model, chosen)
        self._importance.reset()
        if self.finished:
            start_choosing(trainer)
        module.print(
            f"step {trainer.global_step}: {kept['heads']} heads and {kept['neurons']} neurons per layer "
            f"(pruning {self.done} of {1 if self._schedule is None else self._schedule.prunings})"
        )

    def _kept(self, kind: Kind) -> int:
        if self._schedule is None:
            return self.target.of(kind)
        return self._schedule.kept(self.done, self._full[kind], self.target.of(kind))

    @staticmethod
    def _everywhere(importance: TaylorImportance) -> list[Tensor]:
        """Mean importance over the batches of all processes, the same numbers in each."""
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized():
            counts = torch.full((1,), importance.batches, dtype=torch.float64, device=importance.sums[0].device)
            packed = torch.cat([*importance.sums, counts])
            distributed.all_reduce(packed)
            *sums, counts = packed.split([*(len(value) for value in importance.sums), 1])
            importance.sums, importance.batches = sums, int(counts.item())
        return importance.mean()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep early stopping from counting: quality falls while structures go."""
        if self.active and trainer.state.fn == "fit" and not self.finished:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, EarlyStopping):
                    callback.wait_count = -1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if the run ended before the schedule did, as with ``trainer.max_time``."""
        if self.active and not self.finished and self._schedule is not None:
            pl_module.print(
                f"stopped after {self.done} of {self._schedule.prunings} prunings: the model is not yet as slender as "
                "asked for; run the same command again to go on"
            )

    # Checkpoints.

    def _settings(self) -> dict[str, Any]:
        target = self.target
        names = ("start", "stop", "prunings", "course", "window", "scope", "exits", "variant", "head_weights")
        sizes = {"heads": target.heads, "intermediate": target.neurons, "embedding_rank": target.rank}
        return {**sizes, **{name: getattr(self, name) for name in names}}

    def state_dict(self) -> dict[str, Any]:
        """Settings, position and sums of every process; the masks are buffers of the model. Collective."""
        if self._importance is None or self._schedule is None:
            return {}
        sums = gather(([value.cpu() for value in self._importance.sums], self._importance.batches))
        return {
            "settings": self._settings(),
            "schedule": self._schedule.plain(),
            "done": self.done,
            "sums": [list(value) for value, _ in sums],
            "batches": [count for _, count in sums],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep the state until the length of the run is known.

        Raises:
            ValueError: it is of another target or schedule.
        """
        if not self._fitting:  # Lightning hands it over for a test, too
            return
        if not self.active:
            raise ValueError(
                "`--ckpt_path` must be a checkpoint of a run without Slenderise, as no target was given, but this one "
                "makes its model slender; give the arguments `--slenderise.…` of its run."
            )
        compare("settings", state["settings"], self._settings())
        self._loaded = state

    def _take_up(self, state: dict[str, Any], trainer: Trainer) -> None:
        assert self._importance is not None
        if self._schedule is not None:
            compare("schedule", state["schedule"], self._schedule.plain())
        self.done = state["done"]
        sums, self._importance.batches = sums_of(state, trainer.global_rank, trainer.world_size)
        self._importance.sums = [value.to(self._importance.sums[0].device) for value in sums]
