"""Time and memory of exact curves: every score on 100,000 rows x 12 stages; the target is 1 s and 1 GB on one core."""

import argparse
import resource
import sys
import time

import numpy as np

from dial.stages.stage import Stage
from dial.stages.table import StageTable
from dial.stages.task import Classification
from dial.tradeoff.curve import curve, thin


def table_of(rows: int, stages: int, classes: int, seed: int = 0) -> StageTable:
    """Return a synthetic table whose later stages are surer and more often right."""
    random = np.random.default_rng(seed)
    label = random.integers(classes, size=rows)
    outputs = random.normal(size=(rows, stages, classes)).astype(np.float32)
    hardness = random.normal(size=(rows, 1, 1))
    evidence = np.linspace(0.8, 3.0, stages)[None, :, None] - 0.8 * hardness
    outputs += (evidence * (np.arange(classes) == label[:, None, None])).astype(np.float32)
    macs = random.integers(8, 128, size=(rows, 1)) * 1e7 * np.arange(1, stages + 1)
    return StageTable(
        split=np.full(rows, "test"),
        sample_id=np.arange(rows),
        label=label,
        stages=tuple(Stage(f"exit{index}", "encoder", index) for index in range(stages)),
        predictions=outputs.argmax(axis=-1),
        decide_macs=macs,
        macs=macs,
        macs_reference=macs[:, -1],
        outputs=outputs,
        metrics=("accuracy",),
        label_names=tuple(str(index) for index in range(classes)),
    )


def peak_gigabytes() -> float:
    """Return the largest memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def main() -> None:
    """Print one line per step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--stages", type=int, default=12)
    parser.add_argument("--classes", type=int, default=2)
    options = parser.parse_args()
    names = Classification.scores
    table = table_of(options.rows, options.stages, options.classes)
    print("one thread of NumPy; seconds of processor time")
    print(f"{options.rows} rows x {options.stages} stages x {options.classes} classes; start {peak_gigabytes():.2f} GB")

    started = time.process_time()
    table = table.with_scores(names, seed=0)
    scored = time.process_time()
    curves = [curve(table, name) for name in (*names, "oracle")]
    done = time.process_time()
    for each in curves:
        print(f"  {each.score:16s} {len(each):8d} points")
    print(f"scores   {scored - started:6.2f} s  ({len(names)} scores from logits)")
    print(f"curves   {done - scored:6.2f} s  ({len(curves)} exact curves, the oracle among them)")
    print(f"together {done - started:6.2f} s  (target 1 s)   peak {peak_gigabytes():.2f} GB (target 1 GB)")

    started = time.process_time()
    small = [thin(each) for each in curves]
    points = max(map(len, small))
    print(f"thinning {time.process_time() - started:6.2f} s  (to {points} points at most; not part of the target)")


if __name__ == "__main__":
    main()
