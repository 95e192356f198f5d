"""Small random stage tables for tests."""

import numpy as np

from dial.stages.stage import Stage
from dial.stages.table import StageTable


def random_table(
    rows: int = 40,
    stages: int = 2,
    classes: int = 2,
    seed: int = 0,
    metrics: tuple[str, ...] = ("accuracy",),
    ties: bool = False,
    splits: tuple[str, ...] = ("test",),
) -> StageTable:
    """Later stages are more often right and cost more; `ties` rounds the logits so that many scores coincide."""
    random = np.random.default_rng(seed)
    label = random.integers(classes, size=rows)
    outputs = random.normal(size=(rows, stages, classes))
    outputs += np.linspace(0.7, 2.5, stages)[:, None] * (np.arange(classes) == label[:, None, None])
    outputs = (np.round(outputs) if ties else outputs).astype(np.float32)
    macs = np.cumsum(random.integers(1, 6, size=(rows, stages)), axis=1) * 1e6
    return StageTable(
        split=np.array(splits)[np.arange(rows) * len(splits) // rows],
        sample_id=np.arange(rows) * 3 + 1,
        label=label,
        stages=tuple(Stage(f"tier{index}", f"tier{index}") for index in range(stages)),
        predictions=outputs.argmax(axis=-1),
        decide_macs=macs - 1e5,
        macs=macs,
        macs_reference=macs[:, -1] * 0.9,
        outputs=outputs,
        lengths={f"tier{index}": random.integers(3, 30, size=rows) for index in range(stages)},
        metrics=metrics,
        label_names=tuple("abcdefgh"[:classes]),
        settings={"seed": 3, "temperatures": {"tier0": 2.0}},
    )


def regression_table(rows: int = 60, stages: int = 2, seed: int = 0) -> StageTable:
    """Real-valued labels; later stages are closer to them."""
    random = np.random.default_rng(seed)
    label = random.uniform(0, 5, size=rows)
    outputs = label[:, None] + random.normal(size=(rows, stages)) * np.linspace(2, 0.5, stages)
    macs = np.cumsum(np.ones((rows, stages)), axis=1) * 1e6
    return StageTable(
        split=np.full(rows, "test"),
        sample_id=np.arange(rows),
        label=label,
        stages=tuple(Stage(f"tier{index}", f"tier{index}") for index in range(stages)),
        predictions=outputs,
        decide_macs=macs,
        macs=macs,
        macs_reference=macs[:, -1],
        outputs=outputs[:, :, None].astype(np.float32),
        metrics=("pearson", "spearman"),
    ).with_scores(["random"])
