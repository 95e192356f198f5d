"""`dial predict RUN INPUT`: a file of texts to routed predictions, by the cascade that `dial test` measured."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lightning_modules.adaptive.commands import Parser

if TYPE_CHECKING:
    from datamodules.streaming import TextFile
    from dial.records import Output
    from lightning_modules.inference.adaptive_classifier import AdaptiveClassifier
    from lightning_modules.inference.executor import Answer
    from lightning_modules.inference.operating_point import OperatingPoint

BATCH = 256  # predictions that are handed to the output at once
BEST, TUNED_ROWS, EPSILON_ROWS = "best", 256, 64
JSON_SECONDS, PART_SECONDS = 1.0, 120.0  # between two flushes
DESCRIPTION = """\
Answer the texts of a file with the cheapest stage that is sure enough.

RUN is a folder that `dial test` left; its operating points, or its calibration rows, say what "sure enough" means:
give --target, --threshold, --budget, --ms or --point. A killed or interrupted command goes on when it is started again.
"""


def parser() -> Parser:
    """Arguments of `dial predict RUN INPUT`."""
    made = Parser(
        prog="dial predict RUN INPUT", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.usage = "dial predict RUN INPUT --out FILE.jsonl|FOLDER [options]"
    made.add_argument("run", metavar="RUN", help="folder that `dial test` left")
    made.add_argument(
        "input", metavar="INPUT", help="file of texts: .csv, .tsv, .jsonl, .parquet, or .txt (one a line)"
    )
    made.add_argument("--out", required=True, help="FILE.jsonl, or a folder for parquet parts and a manifest")
    made.add_argument("--columns", nargs="+", help="column of the text, or of both texts; default: text")
    made.add_argument("--on-error", choices=("fail", "skip"), default="fail", help="at a row that is no text")
    rule = made.add_argument_group("what to stop by (default: --target 0.99)")
    rule.add_argument("--target", type=float, help="share of the Super's quality to keep")
    rule.add_argument("--reading", default="expected", help="of the target: expected, confident or per_stage")
    rule.add_argument("--threshold", type=float, nargs="+", help="of --score, for all stages or one each")
    rule.add_argument("--budget", help="mean cost per row: MACs such as 2e9, or FLOPs such as 4e9flop")
    rule.add_argument("--ms", type=float, help="mean milliseconds per row, where `dial test --study.rows` measured")
    rule.add_argument("--point", help="JSON file of an operating point, or the manifest of an earlier prediction")
    rule.add_argument("--score", help="what decides (softmax, energy, ...); default: the best on the calibration rows")
    rule.add_argument("--rule", choices=("threshold", "patience"), default="threshold")
    rule.add_argument("--split", help="reported split whose points to read, where there are several")
    how = made.add_argument_group("how to run")
    how.add_argument("--tiers", nargs="+", default=[], metavar="NAME=FOLDER", help="tiers that have moved")
    how.add_argument(
        *("--batch-size",), nargs="+", default=[], metavar="N|NAME=N|best",
        help="rows per batch, of all or a tier; best: searched for once on this machine; default: the best where "
        "`dial test --study.rows` measured it, else 32",
    )  # fmt: skip
    how.add_argument("--max-pending", type=int, default=8192, help="rows under way at most")
    how.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one")
    how.add_argument("--threads", type=int, help="of torch on a CPU; default: torch's own choice")
    how.add_argument("--part-rows", type=int, default=50_000, help="rows of a parquet part at most")
    how.add_argument("--progress", type=float, default=10.0, help="seconds between two lines of progress; 0: none")
    return made


def predict_command(argv: Sequence[str]) -> int:
    """Run `dial predict RUN INPUT`; returns the exit code: 130 where it was interrupted.

    Raises:
        ValueError: bad input, in one line.
    """
    options = parser().parse_args(list(argv))
    check_numbers(options)
    try:
        with Interrupts() as interrupts:
            return answer_file(options, interrupts)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from there", file=sys.stderr)
        return 130


def answer_file(options: argparse.Namespace, interrupts: Interrupts) -> int:
    """Open everything, answer, and say what came of it; returns the exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from datamodules.streaming import TextFile

    source = TextFile(options.input, options.columns, "INPUT", "--columns")
    classifier = load(options)
    if options.batch_size == [BEST]:
        tune(classifier, source)
    output = open_output(options, source, classifier.point)
    if output.finished is not None:
        print(f"{output.path} holds the finished predictions of this command; remove it to predict again")
        return 0
    if output.totals.rows:
        print(f"going on after {output.totals.rows:,} rows in {output.path}", file=sys.stderr)
    try:
        progress = Progress(options.progress, output)
        manifest = predict(
            classifier, source, output, options.on_error, interrupts, progress, epsilon(classifier, source)
        )
    except KeyboardInterrupt:
        print(f"{output.totals.rows:,} rows are done", file=sys.stderr)
        raise
    finally:
        output.close()
    print(summary(manifest, output))
    return 0


def predict(
    classifier: AdaptiveClassifier,
    source: TextFile,
    output: Output,
    on_error: str,
    interrupts: Interrupts,
    progress: Callable[[], None] = lambda: None,
    more: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Answer what the output lacks; what was answered is on disk also where this raises.

    Args:
        classifier: answers texts.
        source: of the texts.
        output: where to; says where to begin.
        on_error: ``fail`` or ``skip``, at a row that is no text.
        interrupts: held back while the output is written.
        progress: called after each row.
        more: for the manifest.

    Returns:
        The manifest.

    Raises:
        ValueError: a row that is no text, with ``fail``.
    """
    from dial.records import JsonLines

    pause = JSON_SECONDS if isinstance(output, JsonLines) else PART_SECONDS
    started, flushed, first = time.monotonic(), time.monotonic(), output.totals.rows
    waiting: list[dict[str, Any]] = []
    answers = classifier.executor.run(units(source, output, on_error), prefetch=True, numbered=True)
    try:
        for answer in answers:
            waiting.append(record(classifier, answer))
            due = time.monotonic() - flushed > pause
            if due or len(waiting) >= BATCH:
                with interrupts.held():
                    output.write(waiting)
                    waiting = []
                    if due:
                        output.flush()
                        flushed = time.monotonic()
            progress()
    finally:
        with interrupts.held():
            output.write(waiting)
            output.flush()
    seconds = time.monotonic() - started
    with interrupts.held():
        about = figures(output, output.totals.rows - first, seconds)
        return output.finish({"point": classifier.point.to_json(), **(more or {}), **about})


def tune(classifier: AdaptiveClassifier, source: TextFile) -> None:
    """Use the best batch sizes for the first rows of the input."""
    from datamodules.encoding import default_cache_dir

    some = list(islice((row.unit for row in source.rows() if row.unit is not None), TUNED_ROWS))
    if some:
        found = classifier.tune(some, default_cache_dir())
        print("batch sizes: " + ", ".join(f"{name} {size}" for name, size in found.items()), file=sys.stderr)


def epsilon(classifier: AdaptiveClassifier, source: TextFile) -> dict[str, Any]:
    """How far scores depend on the batch where a tier computes in low precision; for the manifest, and said."""
    low = sorted({tier.view.dtype for tier in classifier.network.tiers} - {"float32"})
    some = list(islice((row.unit for row in source.rows() if row.unit is not None), EPSILON_ROWS)) if low else []
    if len(some) < 2 or len(classifier.stages) == 1:
        return {}
    found = classifier.epsilon(some)
    print(
        f"{', '.join(low)}: a score differs by up to {found.value:.2g} between batches of other rows; "
        f"{found.inside:.1%} of {found.rows} rows are that near to a threshold",
        file=sys.stderr,
    )
    return {"epsilon": asdict(found)}


def units(source: TextFile, output: Output, on_error: str) -> Iterator[tuple[int, Any]]:
    """Index and text of every row that the output lacks; runs in the thread that reads ahead."""
    for row in source.rows(output.totals.next_row):
        if row.unit is not None:
            yield row.number, row.unit
        elif on_error == "skip":
            output.skip({"row": row.number, "place": row.place, "problem": row.problem})
        else:
            raise ValueError(
                f"`INPUT` {source.path}, {row.place}: {row.problem}; mend it, or leave such rows out with "
                "--on-error skip (the rows before it are done)."
            )


def record(classifier: AdaptiveClassifier, answer: Answer) -> dict[str, Any]:
    """What is written of an answer."""
    found = classifier.prediction(answer)
    known: dict[str, Any] = {"row": answer.id, "prediction": found.label}
    if found.label_name is not None:
        known |= {"label_name": found.label_name, "probability": found.probability}
    reference = answer.reference if answer.reference == answer.reference else None
    return known | {"stage": found.stage, "score": found.score, "macs": found.macs, "reference_macs": reference}


def figures(output: Output, rows: int, seconds: float) -> dict[str, Any]:
    """Rows, share of each stage, costs and speed, for the manifest."""
    totals = output.totals
    result: dict[str, Any] = {"rows": totals.rows}
    if totals.rows:
        result["shares"] = {name: count / totals.rows for name, count in totals.stages.items()}
        result["macs"] = totals.macs / totals.rows
        result["reference_macs"] = totals.reference_macs / totals.rows
        result["speedup"] = totals.reference_macs / totals.macs if totals.macs else None
    return result | {"last_run": {"rows": rows, "seconds": seconds, "rows_per_second": rows / max(seconds, 1e-9)}}


def summary(manifest: dict[str, Any], output: Output) -> str:
    """What a person wants to know at the end."""
    last = manifest["last_run"]
    lines = [f"{manifest['rows']:,} predictions written to {output.path} ({last['rows_per_second']:,.0f} rows/s)"]
    if manifest["rows"]:
        shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in manifest["shares"].items())
        lines.append(f"answered by: {shares}")
        if manifest["speedup"]:
            lines.append(f"{manifest['speedup']:.2f}x fewer MACs than without routing")
    if output.skipped.is_file() and output.skipped.stat().st_size:
        with output.skipped.open("rb") as file:
            count = sum(1 for _ in file)
        lines.append(f"{count:,} rows are no text and were left out, see {output.skipped}")
    return "\n".join(lines)


class Progress:
    """A line on stderr now and then: rows, speed, share of each stage, saving so far.

    Args:
        every: seconds; 0 for none.
        output: what it tells of.
    """

    def __init__(self, every: float, output: Output) -> None:
        self.every, self.output = every, output
        self.started = self.last = time.monotonic()
        self.rows = self.first = output.totals.rows

    def __call__(self) -> None:
        """One more row."""
        self.rows += 1
        now = time.monotonic()
        if self.every and now - self.last >= self.every:
            self.last = now
            speed = (self.rows - self.first) / (now - self.started)
            totals = self.output.totals
            shares = ", ".join(f"{name} {count / max(totals.rows, 1):.0%}" for name, count in totals.stages.items())
            saving = f", {totals.reference_macs / totals.macs:.2f}x fewer MACs" if totals.macs else ""
            print(f"{self.rows:,} rows, {speed:,.0f} rows/s, {shares or 'none written yet'}{saving}", file=sys.stderr)


def open_output(options: argparse.Namespace, source: TextFile, point: OperatingPoint) -> Output:
    """The output as the suffix of ``--out`` says, new or to go on with."""
    from dial.records import JsonLines, Parts, fingerprint

    path = Path(options.out).expanduser()
    chosen = point.to_json()
    settings = {
        "input": {"content": fingerprint(source.path), "format": source.format, "columns": source.columns},
        "rule": chosen["decision"],
        "tiers": chosen["tiers"],
        "label_names": chosen["label_names"],
    }
    if path.suffix == ".jsonl":
        return JsonLines(path, settings)
    if path.suffix:
        raise ValueError(f"`--out` must be a file ending in .jsonl, or a folder, but got {options.out!r}.")
    return Parts(path, settings, part_rows=options.part_rows)


def load(options: argparse.Namespace) -> AdaptiveClassifier:
    """The classifier that the options describe."""
    import torch

    from lightning_modules.inference.adaptive_classifier import AdaptiveClassifier

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
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
        )
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"`--budget` {error}.") from error


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
    from lightning_modules.inference.operating_point import OperatingPoint

    try:
        content = json.loads(Path(path).expanduser().read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`--point` must be a JSON file of an operating point, but {path} is none: {error}."
        ) from error
    return OperatingPoint.from_json(content.get("point", content) if isinstance(content, dict) else {})


def check_numbers(options: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing.

    Raises:
        ValueError: naming the argument.
    """
    for name, least in (("max_pending", 1), ("part_rows", 1), ("threads", 1), ("progress", 0)):
        value = getattr(options, name)
        if value is not None and not value >= least:
            raise ValueError(f"`--{name.replace('_', '-')}` must be {least} or more, but got {value}.")


class Interrupts:
    """Turns SIGINT and SIGTERM into KeyboardInterrupt, but not while something is written.

    Outside of the main thread signals stay what they are.
    """

    def __init__(self) -> None:
        self._held = self._pending = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """What arrives within this context is raised at its end."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            if self._pending:
                self._pending = False
                raise KeyboardInterrupt

    def _arrived(self, number: int, frame: Any) -> None:
        if self._held:
            self._pending = True
        else:
            raise KeyboardInterrupt
