"""A tested cascade or multi-exit model as a function from texts to predictions."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lightning_modules.adaptive.commands import macs_of
from lightning_modules.inference.batch_size import best_batch_size
from lightning_modules.inference.compaction import Policy
from lightning_modules.inference.epsilon import Epsilon, measure_epsilon
from lightning_modules.inference.executor import Answer, Executor
from lightning_modules.inference.machine import describe_machine
from lightning_modules.inference.operating_point import OperatingPoint, Sweep, Timed
from lightning_modules.inference.row_costs import RowCosts
from lightning_modules.inference.staged import StagedModel
from lightning_modules.inference.tier import Tier
from lightning_modules.inference.tiers import load_tier
from lightning_modules.inference.tokens import Tokeniser, Unit
from lightning_modules.inference.views import View

BatchSizes = int | Mapping[str, int] | None
logger = logging.getLogger(__name__)


class Prediction(NamedTuple):
    """What a text got.

    Attributes:
        label: position of the class among the data's labels; for regression the value.
        label_name: its name; None for regression.
        probability: of the class, at the temperature of the stage; None for regression.
        stage: name of the stage that answered.
        score: of the rule, at that stage; None where the last stage has none.
        macs: spent on the text, earlier stages included.
    """

    label: int | float
    label_name: str | None
    probability: float | None
    stage: str
    score: float | None
    macs: float | None


class AdaptiveClassifier:
    """Answers texts with the stages that ``dial test`` measured, at one operating point.

    Args:
        network: the tiers.
        point: the rule, chosen for exactly these tiers.
        costs: what rows cost, if that is to be known.
        check: whether to compare the tiers' fingerprints with the point's.
        settings: ``batch_sizes``, ``max_pending``, ``group_by_length``, ``compaction`` of :class:`Executor`.

    Raises:
        ValueError: the point was chosen for another model.
    """

    def __init__(
        self,
        network: StagedModel,
        point: OperatingPoint,
        costs: RowCosts | None = None,
        check: bool = True,
        **settings: Any,
    ) -> None:
        if check:
            point.check(network)
        self.network, self.point = network, point
        self.label_names = list(point.label_names)
        self.stages = point.decision.stages
        self.executor = Executor(network, point.decision, costs=costs, **settings)

    @classmethod
    def from_run(
        cls,
        run: str | Path,
        target: float | None = None,
        reading: str = "expected",
        *,
        threshold: float | Sequence[float] | None = None,
        score: str | None = None,
        rule: str = "threshold",
        budget: float | str | None = None,
        ms: float | None = None,
        point: OperatingPoint | None = None,
        split: str | None = None,
        tiers: Mapping[str, str] | None = None,
        device: str = "cpu",
        batch_sizes: BatchSizes = None,
        max_pending: int = 8192,
        group_by_length: bool = True,
        compaction: Policy = "measured",
    ) -> AdaptiveClassifier:
        """Load the tiers of a run folder, with a rule for them.

        Args:
            run: folder that ``dial test`` left.
            target: share of the Super's quality to keep; default 0.99, where nothing else says what to do.
            reading: of ``target``: ``expected``, ``confident`` or ``per_stage``.
            threshold: of ``score`` (stay if it is reached), for all stages or one each; with ``rule: patience`` the
                number of agreements.
            score: what decides; see :meth:`Sweep.for_target` for what is taken otherwise.
            rule: ``threshold`` or ``patience``.
            budget: mean cost per row: MACs, or FLOPs as in ``4e9flop``.
            ms: mean milliseconds per row, by the times measured on this machine.
            point: an operating point, for example of an earlier prediction's manifest.
            split: reported split whose points to read, where there are several.
            tiers: folders of tiers by name, where they are no longer where they were tested.
            device: where to run.
            batch_sizes: see :class:`Executor`; where times were measured the best ones are the default.
            max_pending: see :class:`Executor`.
            group_by_length: see :class:`Executor`.
            compaction: see :class:`Executor`.

        Raises:
            ValueError: no such run, a rule that it does not know, a target that it cannot reach, or tiers that are not
                those that were tested.
        """
        sweep = Sweep(run)
        values = {"target": target, "threshold": threshold, "budget": budget, "ms": ms, "point": point}
        chosen = choose_point(sweep, values, reading, score, rule, split, batch_sizes)
        network = load_network(sweep, tiers or {}, device)
        if sweep.times is not None:
            known = {tier.name: sweep.times.batch_sizes.get(tier.name) for tier in network.tiers}
            best = {name: size for name, size in known.items() if size is not None}
            batch_sizes = best if batch_sizes is None else batch_sizes
            if ms is not None:
                warn_of_other_machine(sweep.times.machine, device)
        return cls(
            network,
            chosen,
            row_costs(sweep, network),
            batch_sizes=batch_sizes,
            max_pending=max_pending,
            group_by_length=group_by_length,
            compaction=compaction,
        )

    def __call__(self, texts: str | Iterable[Unit]) -> list[Prediction]:
        """Predictions in the order of the texts.

        Args:
            texts: strings, or pairs of strings; a single string is one text.

        Raises:
            ValueError: one is neither.
        """
        return list(self.stream([texts] if isinstance(texts, str) else texts))

    def stream(self, texts: Iterable[Unit], prefetch: bool = False) -> Iterator[Prediction]:
        """Predictions in the order of the texts, as they are known; for more texts than memory holds.

        Args:
            texts: strings, or pairs of strings.
            prefetch: read and tokenise ahead in another thread.
        """
        for answer in self.executor.run(texts, prefetch):
            yield self.prediction(answer)

    def tune(self, texts: Sequence[Unit], cache_dir: str | Path) -> dict[str, int]:
        """Search the batch size at which each tier answers most rows per second here, and use it from now on.

        Args:
            texts: some that are like those to come; a few hundred.
            cache_dir: where results are kept for the next time on a machine of this kind.

        Returns:
            Rows per batch by tier.
        """
        for tier in self.network.tiers:
            found = best_batch_size(tier, Tokeniser(tier)(texts), cache_dir)
            self.executor.batch_sizes[tier.name] = found.best
        return dict(self.executor.batch_sizes)

    def epsilon(self, texts: Sequence[Unit]) -> Epsilon:
        """How far scores depend on the batch, and how many of the texts that can send to another stage.

        Args:
            texts: some that are like those to come.
        """
        return measure_epsilon(self.network, self.point.decision, texts)

    def prediction(self, answer: Answer) -> Prediction:
        """An executor's answer in the data's terms."""
        stage, score, macs = self.stages[answer.stage], _known(answer.score), _known(answer.macs)
        if not self.label_names:
            return Prediction(answer.prediction, None, None, stage, score, macs)
        label = int(answer.prediction)
        return Prediction(label, self.label_names[label], answer.probability, stage, score, macs)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def choose_point(
    sweep: Sweep,
    values: Mapping[str, Any],
    reading: str,
    score: str | None,
    rule: str,
    split: str | None,
    batch_sizes: BatchSizes = None,
) -> OperatingPoint:
    """The operating point that a user asks for.

    Args:
        sweep: of the run.
        values: ``target``, ``threshold``, ``budget``, ``ms``, ``point``; at most one of them is not None.
        reading: of ``target``.
        score: what decides.
        rule: ``threshold`` or ``patience``.
        split: reported split.
        batch_sizes: at which ``ms`` is meant; default: those that were measured to be best.

    Raises:
        ValueError: several values, or one that cannot be had.
    """
    given = [name for name, value in values.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"`{given[0]}` and `{given[1]}` both say what to do; give one of {', '.join(values)}.")
    if values["point"] is not None:
        point: OperatingPoint = values["point"]
        return point
    if values["threshold"] is not None:
        return sweep.at_threshold(values["threshold"], score, rule)
    if values["budget"] is not None:
        return sweep.for_budget(macs_of(str(values["budget"])), score, rule, split)
    if values["ms"] is not None:
        return sweep.for_budget(float(values["ms"]), score, rule, split, timed(sweep, batch_sizes))
    if len(sweep.stages) == 1 and values["target"] is None:
        return sweep.point("threshold", "random", ())
    return sweep.for_target(0.99 if values["target"] is None else values["target"], reading, score, rule, split)


def timed(sweep: Sweep, batch_sizes: BatchSizes) -> Timed:
    """Puts measured milliseconds in place of a table's MACs.

    Args:
        sweep: of the run.
        batch_sizes: for all tiers, or by name; None: the best.

    Raises:
        ValueError: nothing was measured.
    """
    times = sweep.times
    if times is None:
        raise ValueError(
            f"`ms` needs measured times, but {sweep.run} has no study; run `dial test --study.rows 500` on this "
            "machine, or give a `target` or a `budget`."
        )
    sizes = batch_sizes if isinstance(batch_sizes, int) else {**times.batch_sizes, **(batch_sizes or {})}
    return lambda table: times.timed(table, sizes)


def warn_of_other_machine(measured: Mapping[str, Any], device: str) -> None:
    """Say what differs between the machine that times were measured on and this one."""
    here = describe_machine(device)
    other = [f"{k} {v} there and {here[k]} here" for k, v in measured.items() if k in here and here[k] != v]
    if other:
        logger.warning("The times behind `ms` were measured elsewhere: %s.", ", ".join(other))


def load_network(sweep: Sweep, places: Mapping[str, str], device: str) -> StagedModel:
    """The tiers that a sweep was made of, found by their fingerprints.

    A tier's folder is looked for where it was tested, then relative to the run folder and the folders above it, then as
    the ``tier/`` that the run itself left.

    Args:
        sweep: of the run.
        places: folders by tier name, which are taken instead.
        device: where to put them.

    Raises:
        ValueError: an unknown tier, or one that is not found or not the one that was tested.
    """
    known = sweep.settings["tiers"]
    unknown = [name for name in places if name not in known]
    if unknown:
        raise ValueError(f"`tiers` allows {', '.join(known)}, but got {', '.join(unknown)}.")
    loaded = [_load(sweep, name, about, places.get(name)) for name, about in known.items()]
    return StagedModel(loaded).to(torch.device(device)).eval()


def _load(sweep: Sweep, name: str, about: Mapping[str, Any], place: str | None) -> Tier:
    view = View.parse(dict(about["view"]), f"tiers.{name}")
    failure: ValueError | None = None
    for folder in [place] if place is not None else _places(view.path, sweep.run):
        try:
            tier = load_tier(replace(view, path=folder), name, sweep.label_names, f"tiers.{name}")
        except ValueError as error:
            failure = failure or error
            continue
        if tier.fingerprint == about["fingerprint"]:
            return tier
        failure = ValueError(
            f"`tiers.{name}` must be the model that was tested, with the fingerprint {about['fingerprint']}, but "
            f"{folder} has {tier.fingerprint}; name its folder, or run `dial test` again."
        )
    assert failure is not None
    raise failure


def _places(path: str, run: Path) -> list[str]:
    """Where a tier may be: as it was written, relative to the run or above it, as the run's own tier."""
    found = [path]
    if not Path(path).expanduser().is_absolute():
        bases = [run.resolve(), *run.resolve().parents]
        found += [str(base / path) for base in bases if (base / path / "config.json").is_file()]
    found.append(str(run / "tier"))
    first = [place for place in found if (Path(place).expanduser() / "config.json").is_file()]
    return list(dict.fromkeys(first or [path]))


def row_costs(sweep: Sweep, network: StagedModel) -> RowCosts:
    """Costs of single rows by the cost functions and the length convention of a sweep."""
    table, settings = sweep.table, sweep.settings
    reference = settings.get("reference") or network.tiers[-1].name
    first, other = (table.lengths.get(name) for name in (network.tiers[0].name, reference))
    longer = float(other.sum() / first.sum()) if first is not None and other is not None and first.sum() else 1.0
    return RowCosts(list(network.tiers), sweep.costs, settings.get("length", "true"), reference, longer)
