"""A tested cascade or multi-exit model as a function from texts to predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dial.files import readable

if TYPE_CHECKING:
    from dial.costs.counting import RowCosts
    from dial.inference.compaction import Policy
    from dial.inference.epsilon import Epsilon
    from dial.inference.executor import Answer
    from dial.inference.routes import Routes
    from dial.inference.run import BatchSizes
    from dial.inference.staged import StagedModel
    from dial.inference.watch import Watch
    from dial.tiers.tokens import Unit
    from dial.tradeoff.point import OperatingPoint

# What loads and runs models takes seconds to import, most of them in transformers: each method imports what it needs,
# so that a program that may answer something pays when it does.


class Prediction(NamedTuple):
    """What a text got.

    Attributes:
        label: position of the class among the data's labels, -1 for a text that is no label word; for regression the
            value, None for a text that is no number; for free text None.
        label_name: its name; None where it has none.
        probability: of the class or span, at the temperature of the stage; None for regression, and where a decoder
            answered.
        stage: name of the stage that answered.
        score: of the rule, at that stage; None where the last stage has none.
        macs: spent on the text, earlier stages included.
        truncated: names of the tiers that read the text cut to their maximum length.
        text: that a decoder wrote, or would have: the name of a class; or that answers a question, empty for "no
            answer"; None where none writes.
        limited: whether the decoder stopped at its limit and not at the end of the text.
        span: first character of the text in the context and the one behind it; None for "no answer" and of a decoder.
    """

    label: int | float | None
    label_name: str | None
    probability: float | None
    stage: str
    score: float | None
    macs: float | None
    truncated: tuple[str, ...] = ()
    text: str | None = None
    limited: bool = False
    span: tuple[int, int] | None = None


class AdaptiveClassifier:
    """Answers texts, by classes, numbers or texts, with the stages that ``dial test`` measured, at one operating point.

    Args:
        network: the tiers.
        point: the rule, chosen for exactly these tiers.
        costs: what rows cost, if that is to be known.
        check: whether to compare the tiers' fingerprints with the point's.
        settings: ``batch_sizes``, ``max_pending``, ``group_by_length``, ``compaction`` of :class:`Executor`.

    Attributes:
        watch: compares the rows that are answered with those that the point was chosen on; None where these are not
            known.

    Raises:
        ValueError: the point was chosen for another model.
    """

    watch: Watch | None = None

    def __init__(
        self,
        network: StagedModel,
        point: OperatingPoint,
        costs: RowCosts | None = None,
        check: bool = True,
        **settings: Any,
    ) -> None:
        from dial.inference.executor import Executor
        from dial.inference.operating_point import check_point

        if check:
            check_point(point, network)
        self.network, self.point = network, point
        self.label_names = list(point.label_names)
        self.stages = point.rule.stages
        self.executor = Executor(network, point.rule, costs=costs, **settings)

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
        calibrated: bool = True,
    ) -> AdaptiveClassifier:
        """Load the tiers of a run folder, with a rule for them.

        Args:
            run: folder that ``dial test`` left.
            target: share of the Super's quality to keep; default 0.99, where nothing else says what to do.
            reading: of ``target``: ``expected``, ``confident`` or ``per_stage``
                (exploratory: nothing is promised of it).
            threshold: of ``score`` (stay if it is reached), for all stages or one each; with ``rule: patience`` the
                number of agreements.
            score: what decides; see :meth:`Sweep.for_target` for what is taken otherwise.
            rule: name of a rule with one dial, such as ``threshold`` or ``patience``.
            budget: mean cost per row: MACs, or FLOPs as in ``4e9flop``.
            ms: mean milliseconds per row, by the times measured on this machine.
            point: an operating point, for example of an earlier prediction's manifest.
            split: reported split whose points to read, where there are several.
            tiers: folders of tiers by name, where they are no longer where they were tested.
            device: where to run.
            batch_sizes: see :class:`Executor`; where times were measured on this machine the best are the default.
            max_pending: see :class:`Executor`.
            group_by_length: see :class:`Executor`.
            compaction: see :class:`Executor`.
            calibrated: whether points are chosen on the rows that ``dial calibrate`` left, where it did.

        Raises:
            ValueError: no such run, a rule that it does not know, a target that it cannot reach, or tiers that are not
                those that were tested.
        """
        from dial.inference.operating_point import Sweep
        from dial.inference.run import choose_point, load_network, measured_sizes, row_costs
        from dial.inference.watch import Watch

        sweep = Sweep(run, calibrated)
        values = {"target": target, "threshold": threshold, "budget": budget, "ms": ms, "point": point}
        with readable(sweep.folder, "run"):
            chosen = choose_point(sweep, values, reading, score, rule, split, batch_sizes)
        network = load_network(sweep, tiers or {}, device)
        if batch_sizes is None or ms is not None:
            best = measured_sizes(sweep, device, for_time=ms is not None)
            batch_sizes = best if batch_sizes is None else batch_sizes
        classifier = cls(
            network,
            chosen,
            row_costs(sweep, network),
            batch_sizes=batch_sizes,
            max_pending=max_pending,
            group_by_length=group_by_length,
            compaction=compaction,
        )
        if chosen.rule.reads_score and len(sweep.stages) > 1:
            classifier.watch = Watch(sweep.choosing_rows(split), chosen.rule)
        return classifier

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
            if self.watch is not None:
                self.watch.add(answer)
            yield self.prediction(answer)

    def take_fastest(self, texts: Callable[[], Sequence[Unit]], share: float | None = None) -> Routes | None:
        """Have each tier that was tested in float32 computed by what is fastest on this CPU and answers alike.

        Args:
            texts: gives some that are like those to come, a thousand or so; only asked for where nothing is remembered.
            share: of answers that must stay, by a lower bound of 90 %; default: 99.5 %.

        Returns:
            What was chosen; None where no tier can be computed otherwise, or there were too few texts to tell.
        """
        from dial.inference.routes import take_fastest
        from dial.tiers.backends.agreement import SHARE

        share = SHARE if share is None else share
        return take_fastest(self.network, self.point.rule, texts, share, self.executor.batch_sizes)

    def tune(self, texts: Sequence[Unit], cache_dir: str | Path) -> dict[str, int]:
        """Search the batch size at which each tier answers most rows per second here, and use it from now on.

        A tier that fewer threads compute as fast is computed by these.

        Args:
            texts: some that are like those to come; a few hundred.
            cache_dir: where results are kept for the next time on a machine of this kind.

        Returns:
            Rows per batch by tier.
        """
        from dial.inference.batch_size import best_batch_size

        for tier in self.network.tiers:
            found = best_batch_size(tier, tier.tokeniser()(texts), cache_dir)
            self.executor.batch_sizes[tier.name], self.executor.threads[tier.name] = found.best, found.threads
        return dict(self.executor.batch_sizes)

    def epsilon(self, texts: Sequence[Unit]) -> Epsilon:
        """How far scores depend on the batch, and how many of the texts that can send to another stage.

        Args:
            texts: some that are like those to come.
        """
        from dial.inference.epsilon import measure_epsilon

        return measure_epsilon(self.network, self.point.rule, texts)

    def prediction(self, answer: Answer) -> Prediction:
        """An executor's answer in the data's terms."""
        stage, score, macs = self.stages[answer.stage], _unless_nan(answer.score), _unless_nan(answer.macs)
        task = self.network.task
        label, name = (None, None) if task.written else task.answer(answer.prediction)
        text = name if answer.text is None and self.network.writes else answer.text
        known = _unless_nan(answer.probability)
        span = None if answer.span is None or answer.span[0] < 0 else answer.span
        return Prediction(label, name, known, stage, score, macs, answer.truncated, text, answer.limited, span)


AdaptiveModel = AdaptiveClassifier
"""The same, by a name that fits tiers that write as well."""


def _unless_nan(value: float) -> float | None:
    return None if np.isnan(value) else value
