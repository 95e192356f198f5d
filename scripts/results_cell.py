"""One task and seed of `make results`: where its run folders and tables lie, and the steps that train and test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dial.cli.steps import Step
from scripts.results_steps import PRECISION, Derived, Measured

FIRST_SEED = 0
ROWS_A_STEP = {"sst2": ("--data.batch_size", "64")}
"""SST-2 has many rows: with 64 a step, in half the steps, its Super has 89.7 %, and had 90.1 % with 32: noise."""
RATES = dict.fromkeys(("finetune", "equilibrium", "pabee", "deebert", "berxit", "length_adaptive"), "5e-5") | {
    "distil": "1e-4"
}

LOSSES_LEFT_OUT = (
    ("no-hidden", ("--model.hidden_weight", "0")),
    ("no-logits", ("--model.distillation_weight", "0")),
    ("two-stage", ("--model.policy", "TwoStage")),
)
"""COST-EFF's Table 4: what is left out of the recovery, and arguments that do so."""


def sweep_of(folder: str, name: str) -> str:
    """Folder of a table's sweep with thresholds from calibration rows."""
    return f"{folder}/sweeps/{name}"


def crossfit_of(folder: str, name: str) -> str:
    """Folder of a table's sweep across folds of the test rows."""
    return f"{folder}/crossfit/{name}"


def table_of(prefix: str, name: str) -> str:
    """The stored table of a run.

    Args:
        prefix: task and seed.
        name: of the run folder.

    >>> table_of("sst2/seed0", "exits-ta")
    'results/sst2/seed0-exits-ta.parquet'
    """
    return f"results/{prefix}-{name}.parquet"


@dataclass(frozen=True)
class Cell:
    """One task and seed.

    Attributes:
        task: of GLUE.
        seed: of the data's split and of training.
        data: folder with `glue/<task>` as parquet.
        models: folder with `minilm-l6-h384`.
        runs: folder of the run folders.
    """

    task: str
    seed: int = FIRST_SEED
    data: str = "../shared/data"
    models: str = "../shared/models"
    runs: str = "runs/results"

    @property
    def prefix(self) -> str:
        """Of the names of steps and stored tables."""
        return f"{self.task}/seed{self.seed}"

    @property
    def folder(self) -> str:
        """Of the run folders."""
        return f"{self.runs}/{self.prefix}"

    @property
    def source(self) -> tuple[str, ...]:
        """Arguments that name the task."""
        return ("--data", "GLUEDataModule", "--data.task", self.task, "--data.source", f"{self.data}/glue")

    def tier(self, name: str) -> str:
        """Folder of a trained model, or the pretrained `encoder`."""
        return f"{self.models}/minilm-l6-h384" if name == "encoder" else f"{self.folder}/{name}/tier"

    def cascade(self, *tiers: str) -> tuple[str, ...]:
        """Arguments of `dial test` for tiers one after the other, each a folder or a spec."""
        return ("--config", "configs/model/cascade.yaml", "--model.tiers", f"[{', '.join(tiers)}]", *self.source)

    def fit(self, name: str, config: str, arguments: Sequence[str], epochs: int) -> Step:
        """Train one model."""
        command = (
            "dial",
            "fit",
            "--config",
            f"configs/model/{config}.yaml",
            *self.source,
            *ROWS_A_STEP.get(self.task, ()),
            *arguments,
        )
        rate = RATES.get(config)  # fixed, where the configuration would choose it by the model's width
        optimizer = ("--model.optimizer", "torch.optim.AdamW", "--model.optimizer.init_args.lr", rate) if rate else ()
        training = ("--trainer.max_epochs", str(epochs), *optimizer, *PRECISION)
        seeds = ("--data.seed", str(self.seed), "--seed_everything", str(self.seed))
        run = f"{self.folder}/{name}"
        return Step(f"{self.prefix}/{name}", f"{run}/tier/card.json", (*command, *training, *seeds, "--run", run))

    def test(self, name: str, arguments: Sequence[str], calibrated: bool = True) -> Iterator[Step]:
        """Test and keep the table; from that, sweep, and choose the points again across folds of the test rows.

        SST-2 trains on phrases and tests on sentences: thresholds from the one mislead on the other.

        Args:
            name: of the run folder.
            arguments: of `dial test`.
            calibrated: whether there are calibration rows; else points are chosen across folds only.
        """
        place, table, step = f"{self.folder}/{name}", table_of(self.prefix, name), f"{self.prefix}/{name}"
        yield Step(step, f"{place}/sweep/summary.json", ("dial", "test", *arguments, "--run", place))
        store = Step(f"{step}/table", table, ("python", "scripts/store_results.py", place))
        yield from self.swept(name, store, calibrated)

    def swept(self, name: str, store: Step, calibrated: bool = True) -> Iterator[Step]:
        """Keep a table, and choose its points.

        Args:
            name: of the cascade.
            store: leaves the table.
            calibrated: see :meth:`test`.
        """
        table, step = store.result, f"{self.prefix}/{name}"
        yield store
        kinds = (("split", "sweep", sweep_of), ("crossfit", "crossfit", crossfit_of))
        for kind, what, folder in kinds if calibrated else kinds[1:]:
            out = folder(self.folder, name)
            command = ("dial", "sweep", table, "--calibration", kind, "--out", out)
            yield Derived(f"{step}/{what}", f"{out}/summary.json", command, (table,))

    def measured(self, arguments: Sequence[str], name: str = "study", run: str = "study") -> Iterator[Step]:
        """A cascade on the clock, with nothing else running, and what is kept of it.

        Args:
            arguments: of `dial test`, with the rows to time.
            name: of the step, by which it is asked for.
            run: of the run folder and of the file that is kept, where pages look for it.
        """
        place, step = f"{self.folder}/{run}", f"{self.prefix}/{name}"
        yield Step(step, f"{place}/study/study.json", ("dial", "test", *arguments, "--run", place))
        keep = ("python", "scripts/store_results.py", place)
        yield Measured(f"{step}/kept", f"results/{self.task}/{run}.json", keep)
