"""`dial predict RUN INPUT`: a file of texts to routed predictions, by the cascade that `dial test` measured."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal

from dial.cli.interrupts import INTERRUPTED, Interrupts, Progress, times_macs
from dial.cli.models import BEST, ModelArguments
from dial.cli.preparation import choose_backends, epsilon, leave_out_unreadable, resumed, tune
from dial.files import readable

if TYPE_CHECKING:
    from datamodules.sources import TextFile
    from dial.cli.records import Output
    from dial.inference.classifier import AdaptiveClassifier
    from dial.inference.executor import Answer
    from dial.tradeoff.point import OperatingPoint

STANDARD = "-"  # input or output
BATCH = 256  # predictions that are handed to the output at once
MOST_LOST_LINES = 10


@dataclass(kw_only=True)
class RuleArguments:
    """What to stop by (default: --target 0.99).

    Attributes:
        target: share of the Super's quality to keep
        reading: of the target: expected, confident, or per_stage (exploratory)
        threshold: of --score, for all stages or one each
        budget: mean cost per row: MACs such as 2e9, or FLOPs such as 4e9flop
        ms: mean milliseconds per row, where `dial test --study.rows` measured
        point: JSON file of an operating point, or the manifest of an earlier prediction
        score: what decides (softmax, energy, ...); default: the sweep's first
        rule: threshold, patience (a number of agreeing exits), or one of a module that --import names
        split: reported split whose points to read, where there are several
        points: calibrated: chosen on the rows of `dial calibrate`, where there are some; tested: as `dial test` did
    """

    target: float | None = None
    reading: str = "expected"
    threshold: Sequence[float] | None = None
    budget: str | None = None
    ms: float | None = None
    point: str | None = None
    score: str | None = None
    rule: str = "threshold"
    split: str | None = None
    points: Literal["calibrated", "tested"] = "calibrated"


@dataclass(kw_only=True)
class PredictCommand(RuleArguments, ModelArguments):
    """Answer the texts of a file with the cheapest stage that is sure enough.

    RUN is a folder that `dial test` left; its operating points, or its calibration rows, say what "sure enough" means:
    give --target, --threshold, --budget, --ms or --point. A killed or interrupted command goes on when it is started
    again.

    Without RUN, `dial predict --model ... --data ...` runs one tier on a data set, with arguments of `dial validate`.

    Attributes:
        run: folder that `dial test` left
        input: file of texts: .csv, .tsv, .jsonl, .txt (one a line), these also with .gz behind it, or .parquet; SQuAD's
            .json, too; - for standard input
        out: FILE.jsonl, FILE.jsonl.gz, or a folder for parquet parts and _manifest.json; - writes JSON lines to
            standard output, and everything else to standard error
        columns: column of the text, or of both texts; default: text, or question and context
        format: of standard input; default: told from its first line
        on_error: at a row that is no text
        max_lost_lines: with --on-error skip: stop where broken rows take more than N lines beside their first (a quote
            that is not closed swallows those behind it)
        batch_size: rows per batch, of all or a tier; best: searched for once on this machine; default: the best where
            `dial test --study.rows` measured it on this machine, else 32
        max_pending: rows under way at most
        threads: of torch on a CPU; default: torch's own choice
        backend: auto: tiers tested in float32 are computed by what is fastest on this CPU and changes no more answers
            than --same-answers allows; tested: as `dial test` did
        same_answers: share of answers that stay, by a lower bound of 90 % on the first rows
        part_rows: rows of a parquet part at most
        progress: seconds between two lines of progress; 0: none
    """

    PROGRAM = "dial predict RUN INPUT"

    run: Annotated[str, "RUN"] = field(kw_only=False)
    input: Annotated[str, "INPUT"] = field(kw_only=False)
    out: Annotated[str, "FILE.jsonl|FOLDER"]
    columns: Sequence[str] | None = None
    format: Literal["csv", "tsv", "jsonl", "txt"] | None = None
    on_error: Literal["fail", "skip"] = "fail"
    max_lost_lines: Annotated[int, "N"] = MOST_LOST_LINES
    batch_size: Annotated[Sequence[str], "N|NAME=N|best"] = ()
    max_pending: int = 8192
    threads: int | None = None
    backend: Literal["auto", "tested"] = "auto"
    same_answers: float = 0.995
    part_rows: int = 50_000
    progress: float = 10.0

    def __call__(self) -> int:
        """Run the command; returns the exit code: 130 or 143 where it was interrupted."""
        self.check_numbers()
        piped = self.out == STANDARD
        out = sys.stdout.buffer if piped else None
        interrupts = Interrupts()
        try:
            with interrupts, redirect_stdout(sys.stderr if piped else sys.stdout):
                return self.answer(interrupts, out)
        except BaseException as error:
            if (code := interrupts.code(error)) is None:
                raise
            print(INTERRUPTED if STANDARD not in (self.input, self.out) else "interrupted", file=sys.stderr)
            return code

    def check_numbers(self) -> None:
        """Refuse numbers that mean nothing.

        Raises:
            ValueError: naming the argument.
        """
        least = {"max_pending": 1, "part_rows": 1, "threads": 1, "progress": 0, "max_lost_lines": 0}
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and not value >= minimum:
                raise ValueError(f"`{name}` must be {minimum} or more, but got {value}.")
        if not 0 < self.same_answers < 1:
            raise ValueError(f"`same_answers` must be between 0 and 1, such as 0.995, but got {self.same_answers}.")
        for name in ("threshold", "target", "ms"):
            values = getattr(self, name)
            if any(value != value for value in (values if isinstance(values, list) else [values])):
                raise ValueError(f"`{name}` must be a number, but got nan.")
        if self.format is not None and self.input != STANDARD:
            raise ValueError(
                f"`--format` is for standard input (INPUT -), but got {self.format} for the file {self.input}, whose "
                "suffix tells; leave it out."
            )

    def answer(self, interrupts: Interrupts, out: IO[bytes] | None) -> int:
        """Open everything, answer, and say what came of it; returns the exit code.

        Args:
            interrupts: held back while the output is written.
            out: standard output, if lines go there.
        """
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.check_out()
        source = self.open_input()
        classifier = self.load()
        leave_out_unreadable(classifier, source)
        if calibrated := classifier.point.about.get("calibrated_on"):
            print(f"points chosen on {calibrated['rows']:,} rows of {calibrated['file']}", file=sys.stderr)
        output = self.open_output(source, classifier.point, out)
        if output.finished is not None:
            print(f"{output.path} holds the finished predictions of this command; remove it to predict again")
            return 0
        if output.totals.rows:
            print(f"going on after {output.totals.rows:,} rows in {output.path}", file=sys.stderr)
        try:
            begun = choose_backends(classifier, source, output, self.same_answers if self.backend == "auto" else None)
            if self.batch_size == [BEST]:
                tune(classifier, source)
            progress = Progress(self.progress, output)
            manifest = predict(
                classifier,
                source,
                output,
                self.on_error,
                interrupts,
                progress,
                begun | epsilon(classifier, source),
                self.max_lost_lines,
            )
        except KeyboardInterrupt:
            print(f"{output.totals.rows:,} rows are done", file=sys.stderr)
            raise
        finally:
            output.close()
        print(summary(manifest, output))
        return 0

    def check_out(self) -> None:
        """Refuse an output that cannot be written, before anything is read.

        Raises:
            ValueError: another suffix, or an output that exists beside standard input, which cannot be read again.
        """
        path = Path(self.out).expanduser()
        if self.out != STANDARD and path.suffix not in ("", ".jsonl") and not path.name.endswith(".jsonl.gz"):
            raise ValueError(
                f"`--out` must be a file ending in .jsonl, or a folder, but got {self.out!r}. It may also end in "
                ".jsonl.gz, or be - for standard output."
            )
        occupied = path.exists() and (not path.is_dir() or any(path.iterdir()))
        if self.input == STANDARD and self.out != STANDARD and occupied:
            raise ValueError(
                f"`--out` must be new where INPUT is standard input, which cannot be read again to go on, but {path} "
                "exists; name another, or remove it."
            )

    def open_input(self) -> TextFile:
        """The texts of a file, or of standard input."""
        from datamodules.row_files import Stream
        from datamodules.sources import TextFile

        if self.input != STANDARD:
            return TextFile(self.input, self.columns, "INPUT", "--columns")
        kind = None if self.format is None else f".{self.format}"
        source = TextFile("", self.columns, "INPUT", "--columns", Stream(sys.stdin.buffer), kind)
        if kind is None:
            print(f"standard input is read as {source.format}; --format says otherwise", file=sys.stderr)
        return source

    def load(self) -> AdaptiveClassifier:
        """The classifier that the arguments describe."""
        import torch

        from dial.inference.classifier import AdaptiveClassifier

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        names = ("run", "target", "reading", "threshold", "score", "rule", "budget", "ms", "split", "max_pending")
        return AdaptiveClassifier.from_run(
            **{name: getattr(self, name) for name in names},
            point=None if self.point is None else read_point(self.point),
            tiers=self.moved_tiers(),
            device=self.torch_device(),
            batch_sizes=self.batch_sizes(),
            calibrated=self.points == "calibrated",
        )

    def open_output(self, source: TextFile, point: OperatingPoint, out: IO[bytes] | None) -> Output:
        """The output as the suffix of ``--out`` says, new or to go on with; standard output where one is given."""
        from dial.claims import fingerprint
        from dial.cli.record_files import CompressedJsonLines, JsonLines, Parts, StandardOutput

        if out is not None:
            return StandardOutput(out)
        path = Path(self.out).expanduser()
        chosen = point.to_json()
        content = STANDARD if self.input == STANDARD else fingerprint(source.path)
        settings = {
            "input": {"content": content, "format": source.format, "columns": source.columns},
            "rule": chosen["decision"],
            "tiers": chosen["tiers"],
            "label_names": chosen["label_names"],
        }
        if path.suffix == ".jsonl":
            return JsonLines(path, settings)
        if path.suffix:
            return CompressedJsonLines(path, settings)
        return Parts(path, settings, part_rows=self.part_rows)


def predict(
    classifier: AdaptiveClassifier,
    source: TextFile,
    output: Output,
    on_error: str,
    interrupts: Interrupts,
    progress: Callable[[], None] = lambda: None,
    more: dict[str, Any] | None = None,
    most_lost: int = MOST_LOST_LINES,
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
        most_lost: lines that broken rows may take beside their first, with ``skip``.

    Returns:
        The manifest.

    Raises:
        ValueError: a row that is no text, with ``fail``; more lost lines than ``most_lost``.
    """
    started, flushed, first = time.monotonic(), time.monotonic(), output.totals.rows
    waiting: list[dict[str, Any]] = []
    more = {**(more or {}), **resumed(first, more or {})}
    answers = classifier.executor.run(units(source, output, on_error, most_lost), prefetch=True, numbered=True)
    try:
        for answer in answers:
            if classifier.watch is not None:
                classifier.watch.add(answer)
            waiting.append(record(classifier, answer, source.ids))
            due = time.monotonic() - flushed > output.pause
            if due or len(waiting) >= BATCH:
                with interrupts.held():
                    taken, waiting = waiting, []  # first: an output keeps what it could not write
                    output.write(taken)
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
        if classifier.watch is not None and (shift := classifier.watch.differences()):
            about["shift"] = shift
        return output.finish({"point": classifier.point.to_json(), **more, **about})


def units(
    source: TextFile, output: Output, on_error: str, most_lost: int = MOST_LOST_LINES
) -> Iterator[tuple[int, Any]]:
    """Index and text of every row that the output lacks; runs in the thread that reads ahead."""
    for row in source.rows(output.totals.next_row, last=True):
        if row.unit is not None:
            yield row.number, row.unit
        elif on_error == "skip":
            lost = output.lost_lines + row.lines - 1
            if lost > most_lost:
                raise source.refusal(
                    row,
                    f"with it {lost:,} lines are lost behind the first lines of broken rows, which a quote that is not "
                    f"closed does; mend it, or allow more with --max-lost-lines {lost} (the rows before it are done).",
                )
            several = {"lines": row.lines} if row.lines > 1 else {}
            output.skip({"row": row.number, "place": row.place, "problem": row.problem, **several})
        else:
            remedy = "mend it, or leave such rows out with --on-error skip (the rows before it are done)."
            raise source.refusal(row, remedy)


def record(classifier: AdaptiveClassifier, answer: Answer, ids: Sequence[str] | None = None) -> dict[str, Any]:
    """What is written of an answer; with its id where the input gives rows ids."""
    found = classifier.prediction(answer)
    known: dict[str, Any] = {"row": answer.id} | ({} if ids is None else {"id": ids[answer.id]})
    task = classifier.network.task
    if answer.span is not None:
        known |= {"text": found.text, "span": found.span and list(found.span), "probability": found.probability}
    elif found.text is not None:
        known |= {"text": found.text, "limited": found.limited}
    if not task.written:
        known["prediction"] = found.label
    if task.exact:
        known |= {"label_name": found.label_name, "probability": found.probability}
    reference = answer.reference if answer.reference == answer.reference else None
    known |= {"stage": found.stage, "score": found.score, "macs": found.macs, "reference_macs": reference}
    if (estimated := is_estimated(classifier, answer)) is not None:
        known["reference_estimated"] = estimated
    return known | {"truncated": list(found.truncated)}


def is_estimated(classifier: AdaptiveClassifier, answer: Answer) -> bool | None:
    """Whether the reference's cost for a row is that of a text of mean length; None where the reference never writes.

    It is where another tier answered: what the reference would write is not known.
    """
    costs = classifier.executor.costs
    if costs is None or not costs.tiers[costs.reference].generates:
        return None
    return classifier.network.stages[answer.stage].tier != costs.tiers[costs.reference].name


def figures(output: Output, rows: int, seconds: float) -> dict[str, Any]:
    """Rows, how many were truncated, share of each stage, costs and speed, for the manifest."""
    totals = output.totals
    result: dict[str, Any] = {"rows": totals.rows, "truncated": totals.truncated, "truncated_by": totals.truncated_by}
    result |= {"limited": totals.limited} if totals.limited else {}
    result |= {"reference_estimated": totals.estimated} if totals.estimated else {}
    if output.lost_lines:
        result["lost_lines"] = output.lost_lines
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
            lines.append(f"{times_macs(manifest['speedup'])} than without routing")
    if manifest["truncated"]:
        tiers = ", ".join(f"{name} {count:,}" for name, count in manifest["truncated_by"].items())
        lines.append(
            f"{manifest['truncated']:,} of {manifest['rows']:,} rows exceed the tokens that a tier reads and were "
            f"truncated ({tiers})"
        )
    if manifest.get("limited"):
        lines.append(f"{manifest['limited']:,} of {manifest['rows']:,} answers were cut off at their limit of length")
    if manifest.get("shift"):
        from dial.tradeoff.shift import sentence

        lines.append(sentence(manifest["shift"]))
    if count := output.left_out():
        lost = f", and {output.lost_lines:,} lines behind their first ones" if output.lost_lines else ""
        see = f", see {output.skipped}" if output.skipped else ""
        lines.append(f"{count:,} rows could not be read and were left out{lost}{see}")
    elif not manifest["rows"]:
        lines.append("the input has no rows")
    return "\n".join(lines)


def read_point(path: str) -> OperatingPoint:
    """An operating point from a file of its own, or from the manifest of an earlier prediction."""
    from dial.inference import operating_point

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
            return operating_point.read_point(content.get("point", content))
        except ValueError as error:
            raise TypeError(str(error).replace("`", "")) from error
