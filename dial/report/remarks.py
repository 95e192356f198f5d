"""What a reader must know of a sweep's rows and points: worthless stages, scores that point the wrong way."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from scipy.special import ndtri

from datamodules.printing import printable
from dial.report.results import SplitResult, SweepResults
from dial.report.tables import budget
from dial.stages import scores as routing
from dial.stages.metrics.metrics import AGREEMENT, METRICS
from dial.stages.table import StageTable
from dial.stages.task import UNREAD
from dial.tradeoff.taken import metric_of, quality_at

ALIKE = 0.5  # rank correlation that a column called after a score must have with that score of the logits
CONFIDENCE = 0.975
MOST_SHOWN = 5  # texts that are no answer


def contradictions(table: StageTable, score: str) -> Iterator[str]:
    """Say at which stages a score and the logits beside it disagree on which rows are sure.

    A column that bears the name of a score of logits is compared with that score, any other with the largest
    probability, by rank correlation.

    Args:
        table: rows of one split.
        score: one that the table holds.
    """
    if table.outputs is None or not table.task.exact or score == "random":
        return
    reference = score if score in routing.SCORES else "softmax"
    noise = ndtri(CONFIDENCE) / max(len(table) - 1, 1) ** 0.5
    for index, stage in enumerate(table.stage_names[:-1]):
        computed = table.score_of_logits(reference, index)
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
    if not table.task.exact or not len(table):
        return
    for index, stage in enumerate(table.stage_names):
        answers = np.unique(table.predictions[:, index])
        if len(answers) == 1 and answers[0] != UNREAD:
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


def written_answers(table: StageTable) -> Iterator[str]:
    """Say which stages wrote what means no answer, or did not come to an end, and that nothing tells how sure they are.

    Args:
        table: rows of one split.
    """
    if table.texts is not None and len(table.stages) > 1 and set(table.scores) == {"random"}:
        yield (
            f"Rows are routed at random, as `{table.stage_names[0]}` has no energy head: "
            "`dial fit --config configs/model/energy_head.yaml` trains one"
        )
    for index, stage in enumerate(table.stage_names):
        if table.texts is None:
            break
        unread = table.task.unread(table.texts[:, index])
        if table.task.exact:  # a table of somebody else's may say itself what a text means
            unread &= table.predictions[:, index] == UNREAD
        if unread.any():
            counts = Counter(table.texts[unread, index].tolist()).most_common(MOST_SHOWN)
            shown = ", ".join(f"{printable(text)!r} {count}" for text, count in counts)
            what = "label word" if table.task.exact else "number"
            count = "agree only with such texts" if AGREEMENT in table.metrics else "count as wrong"
            yield f"`{stage}` wrote no {what} in {unread.sum():,} of {len(table):,} rows, which {count}: {shown}"
    for tier, cut in table.cut_off.items():
        if cut.any():
            yield f"`{tier}` was cut off at its limit in {cut.sum():,} of {len(table):,} texts"


def remarks_of(results: SweepResults, result: SplitResult) -> Iterator[str]:
    """All remarks on a split, without a full stop: on its rows, points, crossings, scores and lengths.

    Args:
        results: of the sweep.
        result: of the split.
    """
    yield from result.remarks
    score = results.settings.scores[0]
    for point in result.select(score=score, kind="confident"):
        if point.note:
            yield f"{100 * (point.target or 0):g} % confident: {point.note}"
    for point in result.select(kind="budget"):
        if point.note:
            name = budget(point.target, results.unit)
            yield f"Budget of {name}, `{point.score}`: {point.note}; the cheapest is taken"
    for stage, found in result.crossings.get(score, {}).items():
        places = ", ".join(f"{place:.4g}" for place in found.crossings)
        where = f" ({places})" if places else ""
        yield f"Crossing of the densities of `{score}` at {stage}, between their modes: {found.status}{where}"
    for entry in result.scores:
        yield from entry.remarks
    for name, reason in result.lengths_left_out.items():
        tokens = f"{name} tokens" if name.isdecimal() else f"{name} length"
        yield f"Speed-ups at {tokens} are left out: {reason}"
    if any(point.speedup < 1 for point in result.select(score=score, kind="expected")):
        yield "A speed-up below 1 means that the reference alone is cheaper: nothing is to be saved there"
