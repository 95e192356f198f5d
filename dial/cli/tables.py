"""`dial sweep` and `dial compare`: results from saved tables, without any model."""

import argparse
import contextlib
import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from datamodules.labels import check_label_names
from dial.costs.functions import macs_of
from dial.stages.parquet import load_table

if TYPE_CHECKING:
    from dial.costs.functions import ModelCosts
    from dial.stages.table import StageTable

NEGATIVE = re.compile(r"-((\d+\.?\d*|\.\d+)(e[+-]?\d+)?(flop)?|inf(inity)?|nan)$", re.IGNORECASE)
SPELLING = {"ranges": "--range"}  # others: `--name`


class Parser(argparse.ArgumentParser):
    """Raises what argparse would print with a page of usage, so that the caller shows one line.

    A negative number is a value, also ``-inf`` and ``-1e3``, which argparse by itself takes for options.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._negative_number_matcher = NEGATIVE

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting."""
        message = re.sub(r"^argument (--?[\w-]+): must", r"`\1` must", message)
        raise ValueError(f"{message}; see `{self.prog} --help`.")


@contextlib.contextmanager
def as_typed(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Name options in errors raised within this context as they are typed: ``targets`` as ``--targets``.

    Args:
        parser: knows the options.
    """
    known = {action.dest: action.option_strings[0] for action in parser._actions if action.option_strings}
    known |= SPELLING
    try:
        yield
    except ValueError as error:
        message = re.sub(r"^`(\w+)`", lambda found: f"`{known.get(found[1], found[1])}`", str(error))
        raise ValueError(message) from error


def budget_of(text: str) -> float:
    """A budget as it is typed."""
    try:
        return macs_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("`budgets` ").rstrip(".")) from None


def seed_of(text: str) -> int:
    """A seed, as all generators take it.

    Example:
        >>> seed_of("7")
        7
    """
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2**63 - 1, but got {text!r}")
    return int(text)


def sweep_parser() -> Parser:
    """Arguments of `dial sweep`."""
    parser = Parser(
        prog="dial sweep", description="Exact curves, operating points and figures from a table of logits or scores."
    )
    parser.add_argument(
        "table", help="stages.parquet of a run, or a table of your own (output_<stage>, macs_<stage>, label, ...)"
    )
    parser.add_argument(
        "--scores", nargs="+", default=[], help="scores to route by; missing ones are computed from the logits"
    )
    parser.add_argument(
        "--targets", nargs="+", type=float, default=[1.0, 0.995, 0.99, 0.98], help="shares of the last stage's quality"
    )
    parser.add_argument("--metrics", nargs="+", help="metrics, the primary first")
    parser.add_argument(
        "--label-names", nargs="+", help="names of the classes of a foreign table, in the order of its logits"
    )
    parser.add_argument(
        "--range",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "LOW", "HIGH"),
        help="what a statistic (stat_<NAME>_<stage>) can be at least and at most; default: 0 to 1",
    )
    parser.add_argument(
        "--costs",
        choices=("own", "cumulative"),
        help="what macs_<stage> of a foreign table is: of the stage's own model alone, or with all that ran before it",
    )
    parser.add_argument(
        "--stages",
        choices=("tiers", "exits"),
        help="of a foreign table with cumulative costs and no macs_reference: models one after the other, the last of "
        "which costs the difference, or exits of one model, whose last cost is that of the whole",
    )
    parser.add_argument(
        "--budgets", nargs="+", type=budget_of, default=[], help="mean MACs per row, or FLOPs as in 4e9flop"
    )
    parser.add_argument("--confidence", type=float, default=0.9, help="one-sided, of the confident operating points")
    parser.add_argument(
        "--calibration",
        choices=("auto", "split", "crossfit"),
        default="auto",
        help="auto: the calibration split if there is one, else cross-fitting",
    )
    parser.add_argument(
        "--patience", nargs="+", type=int, default=[], help="numbers of agreeing exits (PABEE) to report as they are"
    )
    parser.add_argument(
        "--tolerance", type=float, help="for regression: answers that differ by less agree; without it no patience"
    )
    parser.add_argument(
        "--times", help="times.json of a study: choose for measured milliseconds instead of MACs; budgets are ms then"
    )
    parser.add_argument("--batch-size", type=int, help="with --times: of all tiers; default: the best of each")
    parser.add_argument("--folds", type=int, default=5, help="of cross-fitting")
    parser.add_argument("--bootstrap", type=int, default=1000, help="resamples behind each interval")
    parser.add_argument("--seed", type=seed_of, default=0, help="of the resamples and of random routing")
    parser.add_argument("--out", help="folder for the results; default: <table>-sweep beside the table")
    return parser


def sweep_command(argv: Sequence[str]) -> int:
    """Run `dial sweep`; returns the exit code.

    Raises:
        ValueError: bad input, in one line.
    """
    parser = sweep_parser()
    options = parser.parse_args(list(argv))
    with as_typed(parser):
        return _sweep(options)


def _sweep(options: argparse.Namespace) -> int:
    from dial.report.report import SweepSettings, build_report

    path = Path(options.table)
    out = Path(options.out) if options.out else path.with_name(f"{path.stem}-{'times' if options.times else 'sweep'}")
    check_label_names(options.label_names or [], "--label-names")
    given = {name: getattr(options, name) for name in ("metrics", "label_names", "seed", "costs", "stages")}
    table = load_table(path, **given, ranges=_ranges(options.range))
    if not len(table):
        raise ValueError(f"`table` must have at least one row, but {str(path)!r} has none. Give one with rows.")
    table = _timed(_override(table, options), options)
    calibration = options.calibration
    if calibration == "auto":
        calibration = "split" if "calibration" in table.splits else "crossfit"
    names = ("targets", "confidence", "budgets", "bootstrap", "seed", "folds", "patience", "tolerance")
    settings = SweepSettings(
        **{name: getattr(options, name) for name in names}, scores=options.scores, calibration=calibration
    )
    if (out / "stages.parquet").resolve() == path.resolve():
        raise ValueError(
            f"`--out` must be another folder than the table's, but got {out}. Leave it out or name a new one."
        )
    _refuse(out, table, settings)
    report = build_report(table, settings, costs=None if options.times else _costs_of(path))
    report.write(out)
    print(report.text())
    print(f"written to {out}")
    return 0


def _ranges(given: Sequence[Sequence[str]]) -> dict[str, tuple[float, float]]:
    """Ranges of statistics by name.

    Raises:
        ValueError: an end that is no number.
    """
    try:
        return {name: (float(low), float(high)) for name, low, high in given}
    except ValueError:
        typed = " ".join(word for words in given for word in words)
        raise ValueError(f"`--range` must be a name and two numbers, such as `em 0 1`, but got {typed}.") from None


def _override(table: "StageTable", options: argparse.Namespace) -> "StageTable":
    """Metrics and label names as typed, also for a table that has its own."""
    from dial.stages.scores import check_score

    changes: dict[str, Any] = {}
    if options.metrics:
        changes["metrics"] = tuple(options.metrics)
    if options.label_names:
        if table.outputs is not None and table.outputs.shape[-1] not in (1, len(options.label_names)):
            raise ValueError(
                f"`label_names` must name the {table.outputs.shape[-1]} classes of the table, but got "
                f"{len(options.label_names)}: {', '.join(options.label_names)}."
            )
        changes["label_names"] = tuple(options.label_names)
    table = dataclasses.replace(table, **changes) if changes else table
    for name in options.scores:
        if name not in table.scores:
            check_score(name, regression=not table.label_names, argument="--scores")
    return table


def _timed(table: "StageTable", options: argparse.Namespace) -> "StageTable":
    """The table with measured milliseconds as costs, where they are asked for."""
    if options.times is None:
        if options.batch_size is not None:
            raise ValueError(f"`--batch-size` needs `--times`, but got {options.batch_size} alone; give both.")
        return table
    from dial.costs.times import TimeTable

    return TimeTable.load(options.times).timed(table, options.batch_size)


def _refuse(out: Path, table: "StageTable", settings: Any) -> None:
    """Fail before the work, not after it, where the folder is taken."""
    from dial.report.report import check_folder, prepare

    prepared = prepare(table, settings)
    check_folder(out, prepared.configuration, prepared.partial, "--out")


def _costs_of(table: Path) -> "ModelCosts | None":
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


def compare_parser() -> Parser:
    """Arguments of `dial compare`."""
    parser = Parser(prog="dial compare", description="Several runs on one plot and in one table, with the Pareto hull.")
    parser.add_argument(
        "runs",
        nargs="+",
        help="run folders (or their sweep/ folders), with @SCORE for a score of one's own: a@patience",
    )
    parser.add_argument(
        "--points",
        help="CSV or JSON of published points: name, quality, cost, convention (mac, flop, "
        "flop_without_attention, flop_without_attention_with_norm), and for the last two if known length and hidden",
    )
    parser.add_argument("--split", help="reported split; default: each run's first")
    parser.add_argument("--score", help="score of the curves; default: each run's first")
    parser.add_argument("--out", default="runs/compare", help="folder for the results; default: %(default)s")
    return parser


def compare_command(argv: Sequence[str]) -> int:
    """Run `dial compare`; returns the exit code.

    Raises:
        ValueError: bad input, in one line.
    """
    parser = compare_parser()
    options = parser.parse_args(list(argv))
    with as_typed(parser):
        return _compare(options)


def _compare(options: argparse.Namespace) -> int:
    from dial.costs.published import read_points
    from dial.report.compare import Comparison, read_run

    points = read_points(options.points) if options.points else []
    runs = [read_run(folder, options.split, options.score) for folder in options.runs]
    comparison = Comparison(runs, points)
    out = comparison.write(options.out, "--out")
    print(comparison.text())
    print(f"written to {out}")
    return 0
