"""The steps of `make results` for reading comprehension: TangoBERT's SQuAD row with MPNet as Super."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dial.cli.steps import Step
from scripts.results_base_tasks import RATE
from scripts.results_cell import Cell
from scripts.results_general_plan import UNPACKED

WINDOW, EPOCHS = 256, 1
SWIFTS = {"l6": 6, "l6-layers3": 3}
"""First tiers, distilled MiniLM-L6 of so many layers."""


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
    def source(self) -> tuple[str, ...]:
        """Arguments that name the data."""
        return ("--data", "SQuADDataModule", "--data.source", f"{self.data}/squad/plain_text")

    def steps(self) -> Iterator[Step]:
        """Fit the Super and its students, then test each cascade on the whole development set."""
        yield self.trained("super", "span", ("--model.path", f"{UNPACKED}/mpnet-base"))
        for name, layers in SWIFTS.items():
            start = ("--model.path", self.tier("encoder"), "--model.layers", str(layers))
            yield self.trained(name, "span_distil", (*start, "--model.teacher", self.tier("super")))
        for name in SWIFTS:
            yield from self.test(f"cascade-{name}", self.cascade(self.tier(name), self.tier("super")))

    def trained(self, name: str, config: str, arguments: tuple[str, ...]) -> Step:
        """Train one model."""
        rate = "3e-5" if name == "super" else "1e-4"
        settings = (*RATE, rate, "--model.max_length", str(WINDOW), "--trainer.max_epochs", str(EPOCHS))
        more = ("--trainer.precision", "bf16-mixed", "--data.seed", str(self.seed))
        run = f"{self.folder}/{name}"
        command = (
            "dial",
            "fit",
            "--config",
            f"configs/model/{config}.yaml",
            *self.source,
            *arguments,
            *settings,
            *more,
        )
        seed = ("--seed_everything", str(self.seed))
        return Step(f"{self.prefix}/{name}", f"{run}/tier/card.json", (*command, *seed, "--run", run))
