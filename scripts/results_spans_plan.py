"""The steps of `make results` for reading comprehension: TangoBERT's SQuAD row with MPNet as Super.

The Super and its first tiers read the test questions once, in one cascade, of which each first tier and the Super are
then a table. On two idle cores about two and a half hours: the Super 40 minutes (bf16, 1.8 M tokens), the student and
its training with dropped tokens 20 minutes each, the search half an hour, the test, in bf16, 20 minutes,
the study a quarter of an hour. On one GPU about five minutes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dial.cli.steps import Step
from scripts.results_base_tasks import RATE
from scripts.results_cell import Cell, table_of
from scripts.results_general_plan import UNPACKED
from scripts.results_lengths_plan import named, search, shorter
from scripts.results_steps import PRECISION

WINDOW, EPOCHS = 256, 1
RATES = {"super": "3e-5", "student": "1e-4", "adaptive": "5e-5"}
SHARES = ("0.4", "0.7")
"""Of the MACs of all tokens, of the student in front of the Super."""
TESTED, SUPER = "first-tiers", "super"
"""Run of the cascade of all tiers, and the last of these."""
BF16 = ", dtype: bfloat16"
"""Of all tiers in the test, which takes a quarter of float32's time with AMX."""
WHOLE_STUDENT = "cascade-student"
"""Cascade whose first tier drops no tokens."""
TIMED_ROWS = 200


def plan(data: str, models: str) -> Iterator[Step]:
    """All steps in order; `unpack/mpnet-base` is a step of the base-size Super.

    Args:
        data: folder with `squad/plain_text` as parquet.
        models: folder with `minilm-l6-h384`.
    """
    yield from SpanCell("squad", data=data, models=models).steps()


@dataclass(frozen=True)
class SpanCell(Cell):
    """SQuAD 1.1."""

    @property
    def folder_of_data(self) -> str:
        """With training and validation questions."""
        return f"{self.data}/squad/plain_text"

    @property
    def source(self) -> tuple[str, ...]:
        """Arguments that name the data."""
        return ("--data", "SQuADDataModule", "--data.source", self.folder_of_data)

    def steps(self) -> Iterator[Step]:
        """Fit the Super, its student, and from that the length-adaptive one; test each cascade.

        The student before the Super is timed, at points of calibration questions.
        """
        whole, student = self.whole, self.tier("student")
        lowered = f"{{path: {student}{BF16}}}"
        yield self.trained("super", "span", ("--model.path", f"{UNPACKED}/mpnet-base"))
        taught = ("--model.path", self.tier("encoder"), "--model.teacher", whole)
        yield self.trained("student", "span_distil", taught)
        yield self.trained("adaptive", "length_adaptive_span", ("--model.path", student))
        yield search(self, f"{self.folder_of_data}/train.parquet", (), 200)
        dropped = {named(share): shorter(self, share, BF16) for share in SHARES}
        yield self.tested(dropped | {WHOLE_STUDENT: lowered})
        for name in (WHOLE_STUDENT, *dropped):
            yield from self.pair(name)
        rows = ("--data.max_rows.test", str(TIMED_ROWS), "--study.rows", str(TIMED_ROWS), "--study.repeats", "3")
        yield from self.measured((*self.cascade(lowered, self.whole), *rows))

    def tested(self, first: Mapping[str, str]) -> Step:
        """Test all first tiers, cheapest first, and the Super together.

        Args:
            first: spec of each by the name of its cascade.
        """
        names = ", ".join([tier_of(name) for name in first] + [SUPER])
        arguments = (*self.cascade(*first.values(), self.whole), "--model.names", f"[{names}]")
        run = f"{self.folder}/{TESTED}"
        return Step(f"{self.prefix}/{TESTED}", f"{run}/sweep/summary.json", ("dial", "test", *arguments, "--run", run))

    def pair(self, name: str) -> Iterator[Step]:
        """Keep one first tier and the Super as a cascade of their own, and choose its points."""
        store: tuple[str, ...] = ("python", "scripts/store_results.py", f"{self.folder}/{TESTED}")
        store += ("--tiers", tier_of(name), SUPER, "--name", name)
        yield from self.swept(name, Step(f"{self.prefix}/{name}/table", table_of(self.prefix, name), store))

    @property
    def whole(self) -> str:
        """The Super as teacher and in the test."""
        return f"{{path: {self.tier('super')}{BF16}}}"

    def trained(self, name: str, config: str, arguments: tuple[str, ...]) -> Step:
        """Train one model."""
        settings = (*RATE, RATES[name], "--model.max_length", str(WINDOW), "--trainer.max_epochs", str(EPOCHS))
        more = (*PRECISION, "--data.seed", str(self.seed))
        command = ("dial", "fit", "--config", f"configs/model/{config}.yaml", *self.source, *arguments)
        run, seed = f"{self.folder}/{name}", ("--seed_everything", str(self.seed))
        line = (*command, *settings, *more, *seed, "--run", run)
        return Step(f"{self.prefix}/{name}", f"{run}/tier/card.json", line)


def tier_of(name: str) -> str:
    """What the first tier of a cascade is called where all are tested together.

    >>> tier_of("cascade-lengths-04")
    'lengths-04'
    """
    return name.removeprefix("cascade-")
