"""What a reader must know of a table before its numbers: worthless stages, scores that point the wrong way."""

from collections.abc import Iterator

import numpy as np
from scipy.stats import norm

from dial.stages import scores as routing
from dial.stages.metrics.metrics import METRICS
from dial.stages.table import StageTable
from dial.tradeoff.paths import metric_of, quality_at

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


def worthless_stages(table: StageTable) -> Iterator[str]:
    """Say which stages answer one class whatever the row, and whether the last is better than the best such answer.

    Args:
        table: rows of one split.
    """
    if table.regression or not len(table):
        return
    for index, stage in enumerate(table.stage_names):
        answers = np.unique(table.predictions[:, index])
        if len(answers) == 1:
            yield f"`{stage}` answers {table.label_names[answers[0]]} in all {len(table):,} rows; it has learnt nothing"
    metric = metric_of(table)
    if metric.name in table.statistics:
        return
    classes = len(table.label_names)
    constant = max(
        metric.evaluate(table.label, np.full(len(table), answer), classes) for answer in np.unique(table.label)
    )
    last = len(table.stages) - 1
    quality = quality_at(table, metric.name, np.full(len(table), last))
    if quality <= constant:
        yield (
            f"`{table.stage_names[last]}` has {100 * quality:.1f} % {metric.name}, no more than one answer for all "
            f"rows ({100 * constant:.1f} %)"
        )
