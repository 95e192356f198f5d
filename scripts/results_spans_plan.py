"""The steps of `make results` for reading comprehension: TangoBERT's SQuAD row with MPNet as Super.

On two idle cores about four and a half hours: the Super half an hour (bf16, 1.8 M tokens), the student and its training
with dropped tokens 20 minutes each, the search half an hour, each of the three cascades 45 minutes (2.1 M tokens in
float32, 40 of them the Super's), the study a quarter of an hour. On one GPU about five minutes, where the cascades are
tested side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dial.cli.steps import Step
from scripts.results_base_tasks import RATE
from scripts.results_cell import Cell
from scripts.results_general_plan import UNPACKED
from scripts.results_lengths_plan import named, search, shorter
from scripts.results_steps import Measured

WINDOW, EPOCHS = 256, 1
RATES = {"super": "3e-5", "student": "1e-4", "adaptive": "5e-5"}
SHARES = ("0.4", "0.7")
"""Of the MACs of all tokens, of the student in front of the Super."""
TIMED, TIMED_ROWS = "0.4", 200


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
        """Fit the Super, its student, and from that the length-adaptive one; test each cascade."""
        whole, student = self.tier("super"), self.tier("student")
        yield self.trained("super", "span", ("--model.path", f"{UNPACKED}/mpnet-base"))
        taught = ("--model.path", self.tier("encoder"), "--model.teacher", whole)
        yield self.trained("student", "span_distil", taught)
        yield self.trained("adaptive", "length_adaptive_span", ("--model.path", student))
        yield search(self, f"{self.folder_of_data}/train.parquet", (), 200)
        yield from self.test("cascade-student", self.cascade(student, whole))
        for share in SHARES:
            yield from self.test(named(share), self.cascade(shorter(self, share), whole))
        yield from self.timed()

    def trained(self, name: str, config: str, arguments: tuple[str, ...]) -> Step:
        """Train one model."""
        settings = (*RATE, RATES[name], "--model.max_length", str(WINDOW), "--trainer.max_epochs", str(EPOCHS))
        more = ("--trainer.precision", "bf16-mixed", "--data.seed", str(self.seed))
        command = ("dial", "fit", "--config", f"configs/model/{config}.yaml", *self.source, *arguments)
        run, seed = f"{self.folder}/{name}", ("--seed_everything", str(self.seed))
        line = (*command, *settings, *more, *seed, "--run", run)
        return Step(f"{self.prefix}/{name}", f"{run}/tier/card.json", line)

    def timed(self) -> Iterator[Step]:
        """One cascade on the clock at the points of its calibration questions; nothing else should run meanwhile."""
        run = f"{self.folder}/study"
        tiers = self.cascade(shorter(self, TIMED), self.tier("super"))
        rows = ("--data.max_rows.test", str(TIMED_ROWS), "--study.rows", str(TIMED_ROWS), "--study.repeats", "3")
        yield Step(f"{self.prefix}/study", f"{run}/study/study.json", ("dial", "test", *tiers, *rows, "--run", run))
        keep = ("python", "scripts/store_results.py", run)
        yield Measured(f"{self.prefix}/study/kept", f"results/{self.task}/study.json", keep)
