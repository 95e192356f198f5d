"""`dial sweep` and `dial compare`: results from saved tables, without any model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from datamodules.labels import check_label_names
from dial.cli.arguments import Command
from dial.costs.functions import macs_of
from dial.report.settings import SweepSettings
from dial.stages.parquet import load_table

if TYPE_CHECKING:
    from dial.costs.functions import ModelCosts
    from dial.stages.table import StageTable


@dataclass(kw_only=True)
class SweepCommand(Command):
    """Exact curves, operating points and figures from a table of logits or scores.

    Attributes:
        table: stages.parquet of a run, or a table of your own (output_<stage>, macs_<stage>, label, ...)
        tiers: of those that `dial test` ran, the ones to cascade, with the last: one test of several first tiers and
            their Super serves every pair (default: all)
        scores: scores to route by; missing ones are computed from the logits
        targets: shares of the last stage's quality
        metrics: metrics, the primary first
        label_names: names of the classes of a foreign table, in the order of its logits
        range: what a statistic (stat_<NAME>_<stage>) can be at least and at most; default: 0 to 1
        costs: what macs_<stage> of a foreign table is: of the stage's own model alone, or with all that ran before it
        stages: of a foreign table with cumulative costs and no macs_reference: models one after the other, the last of
            which costs the difference, or exits of one model, whose last cost is that of the whole
        budgets: mean MACs per row, or FLOPs as in 4e9flop
        confidence: one-sided, of the confident operating points
        calibration: auto: the calibration split if there is one, else cross-fitting
        patience: numbers of agreeing exits (PABEE) to report as they are
        tolerance: for regression: answers that differ by less agree; without it no patience
        times: times.json of a study: choose for measured milliseconds instead of MACs; budgets are ms then
        batch_size: with --times: of all tiers; default: the best of each
        folds: of cross-fitting
        bootstrap: resamples behind each interval
        seed: of the resamples and of random routing
        out: folder for the results; default: <table>-sweep beside the table
    """

    PROGRAM = "dial sweep"
    PARAMETERS: ClassVar = {"ranges": "range"}

    table: str = field(kw_only=False)
    tiers: Sequence[str] = ()
    scores: Sequence[str] = ()
    targets: Sequence[float] = SweepSettings.targets
    metrics: Sequence[str] | None = None
    label_names: Sequence[str] | None = None
    range: Annotated[Sequence[tuple[str, str, str]], "NAME LOW HIGH"] = ()
    costs: Literal["own", "cumulative"] | None = None
    stages: Literal["tiers", "exits"] | None = None
    budgets: Sequence[str] = ()
    confidence: float = SweepSettings.confidence
    calibration: Literal["auto", "split", "crossfit"] = "auto"
    patience: Sequence[int] = ()
    tolerance: float | None = None
    times: str | None = None
    batch_size: int | None = None
    folds: int = SweepSettings.folds
    bootstrap: int = SweepSettings.bootstrap
    seed: int = SweepSettings.seed
    out: str | None = None

    def __call__(self) -> int:
        """Run the command; returns the exit code."""
        from dial.report.report import check_folder, prepare

        path = Path(self.table)
        out = Path(self.out) if self.out else path.with_name(f"{path.stem}-{'times' if self.times else 'sweep'}")
        check_label_names(self.label_names or [], "--label-names")
        names = ("targets", "confidence", "bootstrap", "seed", "folds", "patience", "tolerance", "scores")
        given = {name: getattr(self, name) for name in names}
        settings = SweepSettings(**given, budgets=[macs_of(budget) for budget in self.budgets])
        table = self._read(path)
        calibration = self.calibration
        if calibration == "auto":
            calibration = "split" if "calibration" in table.splits else "crossfit"
        settings = dataclasses.replace(settings, calibration=calibration)
        if (out / "stages.parquet").resolve() == path.resolve():
            raise ValueError(
                f"`--out` must be another folder than the table's, but got {out}. Leave it out or name a new one."
            )
        prepared = prepare(table, settings)
        check_folder(out, prepared.configuration, prepared.partial, "--out")  # before the work, not after it
        costs = None if self.times else costs_of(path)
        report = prepared.report(costs.of_tiers(self.tiers) if costs is not None and self.tiers else costs)
        report.write(out)
        print(report.text())
        print(f"written to {out}")
        return 0

    def _read(self, path: Path) -> StageTable:
        """The table with metrics, label names and costs as they are asked for."""
        given = {name: getattr(self, name) for name in ("metrics", "label_names", "seed", "costs", "stages")}
        table = load_table(path, **given, ranges=ranges_of(self.range))
        if not len(table):
            raise ValueError(f"`table` must have at least one row, but {str(path)!r} has none. Give one with rows.")
        table = self._override(table.of_tiers(self.tiers) if self.tiers else table)
        if self.times is None:
            if self.batch_size is not None:
                raise ValueError(f"`--batch-size` needs `--times`, but got {self.batch_size} alone; give both.")
            return table
        from dial.costs.times import TimeTable

        return TimeTable.load(self.times).timed(table, self.batch_size)

    def _override(self, table: StageTable) -> StageTable:
        """Metrics and label names as typed, also for a table that has its own."""
        changes: dict[str, Any] = {}
        if self.metrics:
            changes["metrics"] = tuple(self.metrics)
        if self.label_names:
            if table.outputs is not None and table.outputs.shape[-1] not in (1, len(self.label_names)):
                raise ValueError(
                    f"`label_names` must name the {table.outputs.shape[-1]} classes of the table, but got "
                    f"{len(self.label_names)}: {', '.join(self.label_names)}."
                )
            changes["label_names"] = tuple(self.label_names)
        table = dataclasses.replace(table, **changes) if changes else table
        for name in self.scores:
            if name not in table.scores:
                table.task.check_score(name, "--scores", tuple(table.scores))
        return table


def ranges_of(given: Sequence[Sequence[str]]) -> dict[str, tuple[float, float]]:
    """Ranges of statistics by name.

    Raises:
        ValueError: an end that is no number.
    """
    try:
        return {name: (float(low), float(high)) for name, low, high in given}
    except ValueError:
        typed = " ".join(word for words in given for word in words)
        raise ValueError(f"`--range` must be a name and two numbers, such as `em 0 1`, but got {typed}.") from None


def costs_of(table: Path) -> ModelCosts | None:
    """Cost functions that a table holds, or that a run left beside it."""
    from dial.costs.functions import ModelCosts
    from dial.files import read_json
    from dial.stages.parquet import load_costs

    if (inside := load_costs(table)) is not None:
        return inside
    path = table.with_name("costs.json")
    if not path.is_file() or "answer" not in read_json(path, "table"):
        return None
    return ModelCosts.load(path)


@dataclass(kw_only=True)
class CompareCommand(Command):
    """Several runs on one plot and in one table, with the Pareto hull.

    Attributes:
        runs: run folders (or their sweep/ folders), with @SCORE for a score of one's own: a@patience
        points: CSV or JSON of published points: name, quality, cost, convention (mac, flop, flop_without_attention,
            flop_without_attention_with_norm), and for the last two if known length and hidden
        published: papers whose printed numbers are laid over: e-lang, tangobert, cost-eff, or a table, such as e-lang:4
        task: whose numbers these are; default: the runs' own
        split: reported split; default: each run's first
        score: score of the curves; default: each run's first
        out: folder for the results
    """

    PROGRAM = "dial compare"

    runs: Sequence[str] = field(kw_only=False)
    points: str | None = None
    published: Annotated[Sequence[str], "PAPER[:TABLE]"] = ()
    task: str | None = None
    split: str | None = None
    score: str | None = None
    out: str = "runs/compare"

    def __call__(self) -> int:
        """Run the command; returns the exit code."""
        from dial.costs.printed import select
        from dial.costs.published import read_points
        from dial.report.compare import Comparison, read_run

        points = read_points(self.points) if self.points else []
        if self.task is not None and not self.published:
            raise ValueError(f"`--task` says whose numbers `--published` are, but got {self.task} alone; give both.")
        runs = [read_run(folder, self.split, self.score) for folder in self.runs]
        printed = select(self.published, self.task or runs[0].results.task) if self.published else []
        comparison = Comparison(runs, points, printed)
        out = comparison.write(self.out, "--out")
        print(comparison.text())
        print(f"written to {out}")
        return 0
