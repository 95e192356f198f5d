"""Scores of the user's own: do they point the way that every score must, higher = surer?"""

from collections.abc import Iterator

import numpy as np
from scipy.stats import norm

from lightning_modules.adaptive import scores as routing
from lightning_modules.adaptive.metrics import METRICS
from lightning_modules.adaptive.table import StageTable

ALIKE = 0.5  # rank correlation that a column called after a score must have with that score of the logits
CONFIDENCE = 0.975


def contradictions(table: StageTable, score: str) -> Iterator[str]:
    """Say at which stages a score and the logits beside it disagree on which rows are sure.

    A column that bears the name of a score of logits is compared with that score, any other with the largest
    probability, by rank correlation.

    Args:
        table: rows of one split.
        score: one that the table holds.
    """
    if table.outputs is None or table.regression or score == "random":
        return
    reference = score if score in routing.SCORES else "softmax"
    temperatures = table.settings.get("temperatures", {})
    noise = norm.ppf(CONFIDENCE) / max(len(table) - 1, 1) ** 0.5
    for index, stage in enumerate(table.stage_names[:-1]):
        computed = routing.compute(reference, table.outputs[:, index], float(temperatures.get(stage, 1.0)))
        column = table.scores[score][:, index]
        if np.array_equal(column, computed) or np.ptp(column) == 0 or np.ptp(computed) == 0:
            continue
        rank = METRICS["spearman"].evaluate(computed, column)
        if rank < -noise:
            yield (
                f"`{score}_{stage}` contradicts the {reference} of `output_{stage}` (rank correlation {rank:.2f}); "
                "higher must mean surer"
            )
        elif score == reference and rank < ALIKE:
            yield f"`{score}_{stage}` is not the {score} of `output_{stage}` (rank correlation {rank:.2f})"
