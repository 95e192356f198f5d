"""Stage tables of cascades whose answers are written, of labels and of free text, with all scores of the plan."""

import numpy as np

from dial.stages.stage import Stage
from dial.stages.table import StageTable
from scripts.results_text_plan import SCORES
from tests.stages.texts import written

WORDS = ("unacceptable", "acceptable")
STUDY = {
    "machine": {"processor": "a processor", "threads": 2, "device": "cpu", "torch": "2"},
    "settings": {"repeats": 3},
    "rows": 200,
    "batch_sizes": {"swift": 16, "super": 4},
    "arms": [
        {
            "name": name,
            "target": target,
            "batch": batch,
            "kept": kept,
            "flops_speedup": 2.0,
            "swift_ratio": share,
            "model_ms": {"median": 10.0},
            "time_speedup": {"median": speedup, "low": speedup - 0.1, "high": speedup + 0.1},
        }
        for batch, factor in (("1", 1.0), ("best", 1.5))
        for name, target, kept, share, speedup in (
            ("super", None, 1.0, 0.0, 1.0),
            ("cascade", 0.99, 0.991, 0.4, 1.6 * factor),
        )
    ],
}
"""What a study of time says, as far as pages read it."""


def cascade_table(rows: int, free: bool, seed: int = 0, stages: int = 2, skill: float = 1.0) -> StageTable:
    """A cascade with calibration and test rows, whose first stages are the surer the nearer they are to the truth.

    Args:
        rows: of both splits together.
        free: whether the answers are free text.
        seed: of what the Swift does; labels, references and the Super's answers do not depend on it.
        stages: two or three.
        skill: of the Swift.
    """
    shared, own = np.random.default_rng(1), np.random.default_rng(seed + 2)
    label = shared.integers(0, 2, rows)
    references, texts = written(rows, stages, 1, several=False)
    surety = own.normal(size=(rows, stages)) + skill
    if not free:
        right = surety > 0
        right[:, -1] = shared.random(rows) < 0.9
        answers = np.where(right, label[:, None], 1 - label[:, None])
        texts = np.array(WORDS, dtype=object)[answers]
        texts[0, 0] = "neither"
        references = None
    late = [name for name in SCORES if name.startswith(("decoder", "answer"))]
    scores = {name: surety + own.normal(size=surety.shape) * 0.3 * index for index, name in enumerate(SCORES[:-1])}
    for values in scores.values():
        values[:, -1] = np.nan
    lengths = np.array([[len(text.split()) + 1 for text in line] for line in texts])
    decide = np.cumsum(np.full((rows, stages), 1e6) * 4.0 ** np.arange(stages), axis=1)
    writing = 1e5 * lengths * 4.0 ** np.arange(stages)
    names = ["swift", "super"] if stages == 2 else ["tier1", "tier2", "tier3"]
    tiers = {name: {"parameters": 1_000_000 * (index + 1), "path": f"runs/{name}"} for index, name in enumerate(names)}
    table = StageTable(
        split=np.array(["calibration", "test"])[np.arange(rows) * 2 // rows],
        sample_id=np.arange(rows),
        label=np.arange(rows) if free else label,
        stages=tuple(Stage(name, name) for name in names),
        predictions=None,
        decide_macs=decide,
        macs=decide + writing,
        macs_reference=decide[:, -1] - decide[:, -2] + writing[:, -1],
        scores=scores,
        written={name: lengths[:, index] for index, name in enumerate(names)},
        cut_off={name: (lengths[:, index] > 13).astype(int) for index, name in enumerate(names)},
        texts=texts,
        references=references,
        metrics=("bleu", "chrf") if free else ("accuracy",),
        label_names=("*",) if free else WORDS,
        settings={"late": late, "tiers": tiers, "seed": 0, "task": "made"},
    )
    return table.with_scores(["random"])
