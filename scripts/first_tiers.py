"""What makes a BiLSTM a better first tier on SST-2: `results/first_tiers.md`, from `results/first_tiers.json`.

Tokens (words or the Super's own pieces), the start of the embeddings (random, or the Super's principal components),
their width and the vocabulary change one at a time; data, teacher, seed and all else are equal. Each student is tested
in front of the Super, thresholds chosen across folds of the test rows. Whatever is done is skipped, so the same command
goes on; `--list` shows the commands, `--only wordpiece` does a part, `--trainer configs/trainer/gpu.yaml` takes a GPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dial.cli.steps import Step, is_complete, run_step
from dial.files import atomic_write, read_json, write_json
from dial.stages.parquet import load_table
from scripts.cascades_page import points
from scripts.markdown import grid
from scripts.results_cell import Cell
from scripts.results_steps import ROOT

JSON, PAGE = "results/first_tiers.json", "results/first_tiers.md"
TARGET = 0.99
WORDS = """\
# First tiers: what makes a BiLSTM better

SST-2, one seed; each BiLSTM is distilled from the same Super (accuracy {quality} %) on the same rows and stands before
it in a cascade. Speed-up in FLOPs with softmax thresholds, confident, chosen across folds of the test rows. The
standard error of an accuracy on 872 rows is about 1.3 points; square brackets: 95 % intervals over these rows, of one
training each. `python scripts/first_tiers.py` trains, tests and writes
this page; its commands stand below the table.
"""


@dataclass(frozen=True)
class Student:
    """One BiLSTM.

    Attributes:
        tokens: `words` or `wordpiece`.
        start: of the embeddings: `random` or `super`.
        vocabulary: entries at most of a word-level tokenizer; None: all that the Super's has.
        width: of an embedding.
    """

    tokens: str
    start: str
    vocabulary: int | None = None
    width: int = 50

    @property
    def name(self) -> str:
        """Of its run folder.

        >>> Student("words", "super", 10_002, 128).name
        'words-10k-super-128'
        """
        size = f"-{self.vocabulary // 1000}k" if self.vocabulary else ""
        return f"{self.tokens}{size}-{self.start}-{self.width}"

    @property
    def arguments(self) -> tuple[str, ...]:
        """Of `dial fit`, beside data and teacher."""
        size = f", vocab_size: {self.vocabulary}" if self.vocabulary else ""
        start = ("--model.embeddings", "teacher" if self.start == "super" else "null")
        tokens = ("--model.tokenizer", "words" if self.tokens == "words" else "teacher")
        return ("--model.config", f"{{model_type: bilstm, embedding_size: {self.width}{size}}}", *tokens, *start)


STUDENTS = (
    Student("words", "random", 10_002),  # TangoBERT's
    Student("words", "super", 10_002),
    Student("words", "random", 30_522),
    Student("words", "super", 30_522),
    Student("wordpiece", "random"),
    Student("wordpiece", "super"),  # `configs/model/bilstm_subword.yaml`
    Student("wordpiece", "random", width=128),
    Student("wordpiece", "super", width=128),
)

CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "embeddings start from the Super's": ({"start": "random"}, {"start": "super"}),
    "the Super's pieces, not as many words": (
        {"tokens": "words", "vocabulary": 30_522},
        {"tokens": "wordpiece", "vocabulary": None},
    ),
    "30,522 words, not 10,002": ({"vocabulary": 10_002}, {"vocabulary": 30_522}),
    "128 numbers a piece, not 50": ({"width": 50}, {"width": 128}),
}
"""What is compared, all else equal: attributes before and after."""


def plan(cell: Cell, trainer: str | None, epochs: int) -> Iterator[Step]:
    """The Super, then each student and its cascade.

    Args:
        cell: task, seed and folders.
        trainer: configuration of a trainer; None: Lightning's own choice.
        epochs: of each student.
    """
    machine = ("--trainer", trainer) if trainer else ()
    yield cell.fit("super", "finetune", ("--model.path", cell.tier("encoder"), *machine), 2)
    teacher = ("--model.teacher", f"{{path: {cell.tier('super')}, dtype: bfloat16}}")
    for student in STUDENTS:
        yield cell.fit(student.name, "bilstm_subword", (*teacher, *student.arguments, *machine), epochs)
        run = f"{cell.folder}/cascade-{student.name}"
        tiers = cell.cascade(cell.tier(student.name), cell.tier("super"))
        command = ("dial", "test", *tiers, *machine, "--data.calibration", "crossfit", "--run", run)
        yield Step(f"{cell.prefix}/cascade-{student.name}", f"{run}/sweep/summary.json", command)


def measured(cell: Cell, root: Path = ROOT) -> list[dict[str, Any]]:
    """Quality, cost and speed-up of every student whose cascade was tested.

    Args:
        cell: task, seed and folders.
        root: folder that the run folders are relative to.
    """
    rows = []
    for student in STUDENTS:
        path = root / cell.folder / f"cascade-{student.name}/sweep/summary.json"
        if not path.is_file():
            continue
        (point,) = points(read_json(path, "runs"), {}, "", (TARGET,), ("softmax",), ("confident",))
        parameters = read_json(root / cell.tier(student.name) / "card.json", "runs")["parameters"]
        rows.append({"name": student.name, **vars(student), "parameters": parameters, **point})
    return rows


def effects(cell: Cell, root: Path = ROOT) -> list[dict[str, Any]]:
    """What each change does to the accuracy, all else equal: the mean over pairs of students, and its 95 % interval.

    The interval is over test rows, on which two students are compared row by row; that of training anew is wider.

    Args:
        cell: task, seed and folders.
        root: folder that the run folders are relative to.
    """
    right: dict[Student, np.ndarray] = {}
    for student in STUDENTS:
        path = root / cell.folder / f"cascade-{student.name}/sweep/stages.parquet"
        if path.is_file():
            table = load_table(path)
            right[student] = (table.predictions[:, 0] == table.label)[np.argsort(table.sample_id)].astype(float)
    rows = []
    for name, (before, after) in CHANGES.items():
        pairs = [
            (one, other)
            for one in right
            for other in right
            if all(getattr(one, key) == value for key, value in before.items())
            and {**vars(one), **before, **after} == {**vars(other), **before, **after}
            and all(getattr(other, key) == value for key, value in after.items())
        ]
        if pairs:
            gained = np.mean([right[other] - right[one] for one, other in pairs], axis=0)
            half = 1.96 * gained.std(ddof=1) / np.sqrt(len(gained))
            rows.append({"change": name, "pairs": len(pairs), "gained": gained.mean(), "half": half})
    return rows


def page(rows: Sequence[dict[str, Any]], changes: Sequence[dict[str, Any]], commands: Sequence[Step]) -> str:
    """The whole page.

    Args:
        rows: from :func:`measured`.
        changes: from :func:`effects`.
        commands: what was run.
    """
    head = ["tokens", "vocabulary", "start", "width", "parameters", "accuracy, %", "MFLOP", "speed-up at 99 % (kept)"]
    lines = []
    for row in rows:
        sizes = [str(row["vocabulary"] or "the Super's"), row["start"], str(row["width"]), f"{row['parameters']:,}"]
        seen = [f"{100 * row['swift_quality']:.1f}", f"{2e-6 * row['swift_macs']:.1f}"]
        low, high = row["speedup_low"], row["speedup_high"]
        interval = "" if row["only_super"] or low is None else f" [{low:.2f}, {high:.2f}]"
        saved = f"{row['speedup']:.2f}×{interval} ({100 * row['kept']:.1f} %)"
        lines.append([row["tokens"], *sizes, *seen, saved])
    quality = f"{100 * rows[0]['super_quality']:.1f}" if rows else "–"
    gained = [[each["change"], str(each["pairs"]), points_text(each["gained"], each["half"])] for each in changes]
    tables = [grid(head, lines), "", "All else equal:", "", grid(["change", "pairs", "accuracy, points"], gained)]
    return "\n".join([WORDS.format(quality=quality), *tables, "", "```bash", *map(str, commands), "```", ""])


def points_text(middle: float, half: float) -> str:
    """A difference of shares in points, with its interval.

    >>> points_text(0.0312, 0.0101)
    '+3.1 [+2.1, +4.1]'
    """
    low, high = middle - half, middle + half
    return f"{100 * middle:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and test what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="folder with glue/sst2 as parquet")
    parser.add_argument("--models", default="../shared/models", help="folder with minilm-l6-h384")
    parser.add_argument("--runs", default="runs/first-tiers", help="folder of the run folders")
    parser.add_argument("--trainer", help="configuration of the trainer, such as configs/trainer/gpu.yaml")
    parser.add_argument("--epochs", type=int, default=5, help="of each student")
    parser.add_argument("--only", default="", help="students with this in their name (the Super is trained anyway)")
    parser.add_argument("--list", action="store_true", help="show the commands and leave")
    options = parser.parse_args(arguments)
    cell = Cell("sst2", data=options.data, models=options.models, runs=options.runs)
    steps = list(plan(cell, options.trainer, options.epochs))
    for step in steps:
        if options.list:
            print(step)
        elif (options.only in step.name or step.name.endswith("/super")) and not is_complete(ROOT / step.result):
            run_step(step, ROOT)
    if not options.list and (rows := measured(cell)):
        changes = effects(cell)
        write_json(ROOT / JSON, {"students": rows, "changes": changes})
        with atomic_write(ROOT / PAGE) as temporary:
            temporary.write_text(page(rows, changes, steps), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        raise SystemExit(f"first_tiers: {error}") from error
