"""Arguments of `dial predict RUN INPUT`, and the classifier that they describe."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dial.cli.tables import Parser
from dial.files import readable

if TYPE_CHECKING:
    from dial.inference.classifier import AdaptiveClassifier
    from dial.inference.operating_point import OperatingPoint

BEST = "best"
STANDARD = "-"  # input or output
MOST_LOST_LINES = 10
DESCRIPTION = """\
Answer the texts of a file with the cheapest stage that is sure enough.

RUN is a folder that `dial test` left; its operating points, or its calibration rows, say what "sure enough" means:
give --target, --threshold, --budget, --ms or --point. A killed or interrupted command goes on when it is started again.
"""
ALSO = (
    "Without RUN, `dial predict --model ... --data ...` runs one tier on a data set, with arguments of `dial validate`."
)
SPELLING = {"run": "RUN", "batch_sizes": "--batch-size", "max_pending": "--max-pending"}  # others: `--name`
ARGUMENT = re.compile(
    r"`(target|reading|threshold|score|rule|budget|ms|point|split|tiers|run|batch_sizes|max_pending)`"
)


def parser() -> Parser:
    """Arguments of `dial predict RUN INPUT`."""
    made = Parser(
        prog="dial predict RUN INPUT",
        description=DESCRIPTION,
        epilog=ALSO,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.usage = "dial predict RUN INPUT --out FILE.jsonl|FOLDER [options]"
    made.add_argument("run", metavar="RUN", help="folder that `dial test` left")
    made.add_argument(
        *("input",), metavar="INPUT",
        help="file of texts: .csv, .tsv, .jsonl, .txt (one a line), these also with .gz behind it, or .parquet; "
        "- for standard input",
    )  # fmt: skip
    made.add_argument(
        *("--out",), required=True,
        help="FILE.jsonl, FILE.jsonl.gz, or a folder for parquet parts and _manifest.json; - writes JSON lines to "
        "standard output, and everything else to standard error",
    )  # fmt: skip
    made.add_argument("--columns", nargs="+", help="column of the text, or of both texts; default: text")
    made.add_argument(
        "--format",
        choices=("csv", "tsv", "jsonl", "txt"),
        help="of standard input; default: told from its first line",
    )
    made.add_argument("--on-error", choices=("fail", "skip"), default="fail", help="at a row that is no text")
    made.add_argument(
        *("--max-lost-lines",), type=int, default=MOST_LOST_LINES, metavar="N",
        help="with --on-error skip: stop where broken rows take more than N lines beside their first (a quote that is "
        "not closed swallows those behind it); default: %(default)s",
    )  # fmt: skip
    rule = made.add_argument_group("what to stop by (default: --target 0.99)")
    rule.add_argument("--target", type=float, help="share of the Super's quality to keep")
    rule.add_argument(
        "--reading",
        default="expected",
        help="of the target: expected, confident, or per_stage (exploratory)",
    )
    rule.add_argument("--threshold", type=float, nargs="+", help="of --score, for all stages or one each")
    rule.add_argument("--budget", help="mean cost per row: MACs such as 2e9, or FLOPs such as 4e9flop")
    rule.add_argument("--ms", type=float, help="mean milliseconds per row, where `dial test --study.rows` measured")
    rule.add_argument("--point", help="JSON file of an operating point, or the manifest of an earlier prediction")
    rule.add_argument("--score", help="what decides (softmax, energy, ...); default: the sweep's first")
    rule.add_argument("--rule", choices=("threshold", "patience"), default="threshold")
    rule.add_argument("--split", help="reported split whose points to read, where there are several")
    rule.add_argument(
        "--points",
        choices=("calibrated", "tested"),
        default="calibrated",
        help="calibrated: chosen on the rows of `dial calibrate`, where there are some; tested: as `dial test` did",
    )
    how = made.add_argument_group("how to run")
    how.add_argument("--tiers", nargs="+", default=[], metavar="NAME=FOLDER", help="tiers that have moved")
    how.add_argument(
        *("--batch-size",), nargs="+", default=[], metavar="N|NAME=N|best",
        help="rows per batch, of all or a tier; best: searched for once on this machine; default: the best where "
        "`dial test --study.rows` measured it on this machine, else 32",
    )  # fmt: skip
    how.add_argument("--max-pending", type=int, default=8192, help="rows under way at most")
    how.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one")
    how.add_argument("--threads", type=int, help="of torch on a CPU; default: torch's own choice")
    how.add_argument("--part-rows", type=int, default=50_000, help="rows of a parquet part at most")
    how.add_argument("--progress", type=float, default=10.0, help="seconds between two lines of progress; 0: none")
    return made


def load(options: argparse.Namespace) -> AdaptiveClassifier:
    """The classifier that the options describe."""
    import torch

    from dial.inference.classifier import AdaptiveClassifier

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = device_of(options.device)
    try:
        return AdaptiveClassifier.from_run(
            options.run,
            options.target,
            options.reading,
            threshold=options.threshold,
            score=options.score,
            rule=options.rule,
            budget=options.budget,
            ms=options.ms,
            point=None if options.point is None else read_point(options.point),
            split=options.split,
            tiers=named(options.tiers, "--tiers"),
            device=device,
            batch_sizes=batch_sizes_of(options.batch_size),
            max_pending=options.max_pending,
            calibrated=options.points == "calibrated",
        )
    except ValueError as error:
        raise ValueError(as_options(str(error))) from error


def as_options(message: str) -> str:
    """An error's message with arguments as they are spelt on the command line.

    Example:
        >>> as_options("`batch_sizes` must be whole numbers; `score` is not read.")
        '`--batch-size` must be whole numbers; `--score` is not read.'
    """
    message = re.sub(r"`tiers\.([^`]+)`", r"`--tiers \1=...`", message)
    return ARGUMENT.sub(lambda found: f"`{SPELLING.get(found[1], '--' + found[1])}`", message)


def device_of(asked: str) -> str:
    """The device that ``--device`` means.

    Raises:
        ValueError: there is none of that name, or torch cannot use it.
    """
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    from dial.machine import check_device

    return check_device(asked, "--device", "auto, cpu")


def batch_sizes_of(given: Sequence[str]) -> int | dict[str, int] | None:
    """What ``--batch-size`` says; None where it leaves the choice.

    Raises:
        ValueError: no numbers.
    """
    if not given or list(given) == [BEST]:
        return None
    try:
        sizes: dict[str, Any] = {name: int(size) for name, size in named(given, "--batch-size").items()}
    except ValueError as error:
        if str(error).startswith("`"):
            raise
        raise ValueError(f"`--batch-size` must be N, NAME=N or best, but got {' '.join(given)}.") from None
    return sizes.get("", sizes)


def named(pairs: Sequence[str], argument: str) -> dict[str, str]:
    """``NAME=VALUE`` as a dictionary; a value alone has the empty name.

    Example:
        >>> named(["swift=64", "super=8"], "--batch-size")
        {'swift': '64', 'super': '8'}
    """
    found = {}
    for pair in pairs:
        name, mark, value = pair.rpartition("=")
        if argument == "--tiers" and not mark:
            raise ValueError(f"`{argument}` must be NAME=FOLDER, but got {pair!r}.")
        found[name] = value
    if "" in found and len(pairs) > 1:
        raise ValueError(f"`{argument}` must be one value, or NAME=VALUE for each tier, but got {' '.join(pairs)}.")
    return found


def read_point(path: str) -> OperatingPoint:
    """An operating point from a file of its own, or from the manifest of an earlier prediction."""
    from dial.inference.operating_point import OperatingPoint

    try:
        content = json.loads(Path(path).expanduser().read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`--point` must be a JSON file of an operating point, but {path} is none: {error}."
        ) from error
    with readable(
        path, "--point", "Give the manifest of a prediction, or what AdaptiveClassifier.point.to_json() gave."
    ):
        try:
            return OperatingPoint.from_json(content.get("point", content))
        except ValueError as error:
            raise TypeError(str(error).replace("`", "")) from error


def check_numbers(options: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing.

    Raises:
        ValueError: naming the argument.
    """
    for name, least in (
        *(("max_pending", 1), ("part_rows", 1), ("threads", 1), ("progress", 0)),
        ("max_lost_lines", 0),
    ):
        value = getattr(options, name)
        if value is not None and not value >= least:
            raise ValueError(f"`--{name.replace('_', '-')}` must be {least} or more, but got {value}.")
    for name in ("threshold", "target", "ms"):
        values = getattr(options, name)
        if any(value != value for value in (values if isinstance(values, list) else [values])):
            raise ValueError(f"`--{name}` must be a number, but got nan.")
    if options.format is not None and options.input != STANDARD:
        raise ValueError(
            f"`--format` is for standard input (INPUT -), but got {options.format} for the file {options.input}, whose "
            "suffix tells; leave it out."
        )
