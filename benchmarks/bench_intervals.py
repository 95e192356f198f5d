"""Time of all bootstrap intervals of a 10,000 x 2 table, in-sample points chosen again each time; the target is 5 s."""

import argparse
import time

import numpy as np

from dial.report.choices import Choices
from dial.report.settings import SweepSettings
from dial.stages.stage import Stage
from dial.stages.table import StageTable
from dial.stages.task import Classification
from dial.tradeoff.bootstrap import bootstrap
from dial.tradeoff.paths import Path, metric_of


def cascade(rows: int, metric: str, seed: int = 0) -> StageTable:
    """A calibration and a test split of two tiers that see the same evidence, the second more clearly."""
    rng = np.random.default_rng(seed)
    total = 2 * rows
    label = rng.integers(0, 2, total)
    noise = rng.normal(size=(total, 1)) + rng.normal(size=(total, 2)) * np.array([1.0, 0.5])
    evidence = (2 * label - 1)[:, None] * np.array([1.4, 2.0]) + noise
    outputs = np.stack([-evidence, evidence], axis=-1).astype(np.float32)
    outputs += rng.normal(size=(total, 2, 1)).astype(np.float32)
    macs = rng.integers(8, 128, (total, 1)) * np.array([1e7, 1.1e8])
    return StageTable(
        split=np.repeat(["calibration", "test"], rows),
        sample_id=np.arange(total),
        label=label,
        stages=(Stage("swift", "swift"), Stage("super", "super")),
        predictions=outputs.argmax(axis=-1),
        decide_macs=macs,
        macs=macs,
        macs_reference=macs[:, 1] - macs[:, 0],
        outputs=outputs,
        metrics=(metric,),
        label_names=("no", "yes"),
    ).with_scores(Classification.scores, seed=0)


def main() -> None:
    """Print seconds of the wall and of the processor for each metric."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--metrics", nargs="+", default=["accuracy", "f1", "mcc"])
    options = parser.parse_args()
    for name in options.metrics:
        table = cascade(options.rows, name)
        held_out, rows = table.of_split("calibration"), table.of_split("test")
        settings = SweepSettings(scores=Classification.scores)
        decisions = {choice.key: choice.taken for choice in Choices(settings.scores, settings, held_out, rows).all()}
        paths = {score: Path.of(rows, score) for score in settings.scores} | {"oracle": Path.of(rows, "", "oracle")}
        wall, processor = time.perf_counter(), time.process_time()
        bootstrap(rows, metric_of(rows), decisions, paths, settings.targets, settings.bootstrap, settings.seed)
        spent = time.perf_counter() - wall, time.process_time() - processor
        print(
            f"{name}: {options.rows} rows, {len(decisions)} operating points, {len(paths)} curves chosen again, "
            f"{settings.bootstrap} resamples: {spent[0]:.2f} s ({spent[1]:.2f} s of processor time); target 5 s"
        )


if __name__ == "__main__":
    main()
