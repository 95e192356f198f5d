"""What `dial predict` finds out before it answers: what computes the tiers, batch sizes, what precision costs."""

from __future__ import annotations

import sys
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.sources import TextFile
    from dial.cli.records import Output, Record
    from dial.inference.classifier import AdaptiveClassifier

TUNED_ROWS, EPSILON_ROWS, COMPARED_ROWS = 256, 64, 1024
LONG = 16 * COMPARED_ROWS
"""Rows of an input for which it pays to compare backends; what was found serves shorter ones, too."""


def choose_backends(classifier: AdaptiveClassifier, source: TextFile, output: Output, share: float | None) -> Record:
    """Have each tier computed by what is fastest here and answers alike, or as the rows that are there already were.

    Args:
        classifier: of a run.
        source: whose first rows are compared, where it is a long file; of a pipe nothing is read ahead.
        output: remembers what was taken, for the run that goes on.
        share: of answers that must stay; None: all tiers are to be computed as they were tested.

    Returns:
        What is said of it in the manifest.

    Raises:
        ValueError: the rows that are there were computed by what this machine lacks, or otherwise than asked for now.
    """
    if output.begun is None and not output.totals.rows:
        found = None if share is None else classifier.take_fastest(lambda: _compared(source), share)
        for line in found.lines() if found is not None else ():
            print(line, file=sys.stderr)
        output.begin({"computed_by": _computed_by(classifier), **({"backends": found.to_json()} if found else {})})
    else:
        _go_on(classifier, (output.begun or {}).get("computed_by", {}), output, share is None)
    return output.begun or {}


def leave_out_unreadable(classifier: AdaptiveClassifier, source: TextFile) -> None:
    """Have rows count as broken that no window can hold, or without a question or context, where tiers answer by spans.

    Args:
        classifier: whose tiers read questions with contexts, or do not.
        source: of the rows; a single text is no fault of one row: the first one is refused when it is read.
    """
    from dial.tiers.spans import window_readers

    tiers = list(classifier.network.tiers)
    readers = {tier.encoding_key: tier for tier in tiers if tier.window is not None}
    if not readers:
        return
    if len(source.columns) != 2:
        source.unit_problem = partial(_no_pair, source)
        return
    # Of their own: rows are looked at in the thread that reads ahead, while the tiers' may be at work.
    tokenisers, names = {key: deepcopy(tier.tokeniser()) for key, tier in readers.items()}, window_readers(tiers)
    for key, tokeniser in tokenisers.items():
        tokeniser.reader = names[key]

    def problem(unit: Any) -> str:
        found = (tokeniser.problems([unit])[0] for tokeniser in tokenisers.values())
        return next(filter(None, found), "").partition(";")[0]  # the remedy is the command's own

    source.unit_problem = problem


def _no_pair(source: TextFile, unit: Any) -> str:
    """Refuse single texts where spans are read from pairs.

    Raises:
        ValueError: always.
    """
    got = source.columns[0] if source.columns else "lines of plain text"
    raise ValueError(
        "`--columns` must name the columns of question and context, which the tiers of this run read, but got "
        f"{got} of {source.path}; name both, in a file that has them."
    )


def _computed_by(classifier: AdaptiveClassifier) -> dict[str, str]:
    return {tier.name: tier.computed_by for tier in classifier.network.tiers}


def _compared(source: TextFile) -> list[Any]:
    """The first rows of a long file; none of another."""
    some: list[Any] = []
    if not source.can_be_read_again:
        return some
    units = (row.unit for row in source.rows() if row.unit is not None)
    for count, unit in enumerate(units, 1):
        if count <= COMPARED_ROWS:
            some.append(unit)
        if count == LONG:
            return some
    return []


def _go_on(classifier: AdaptiveClassifier, recorded: dict[str, str], output: Output, tested: bool) -> None:
    """Have the tiers computed as those of the rows that are there were."""
    from dial.inference.routes import can_be_routed
    from dial.tiers.backends.choice import Route, take
    from dial.tiers.backends.names import missing_package

    for tier in classifier.network.tiers:
        wanted = recorded.get(tier.name, tier.computed_by)
        if wanted == tier.computed_by:
            continue
        route = Route(*wanted.split())
        there = can_be_routed(tier) and missing_package(route.backend) is None and not tested
        if not (there and take(tier, route)) or tier.computed_by != wanted:
            now = "--backend tested asks for" if tested else "this machine has"
            raise ValueError(
                f"`--out` {output.path} holds rows for which {tier.name} was computed by {wanted}, but {now} "
                f"{tier.computed_by}; go on as it was begun, or name another."
            )


def tune(classifier: AdaptiveClassifier, source: TextFile) -> None:
    """Use the best batch sizes for the first rows of the input."""
    from datamodules.encoding import default_cache_dir

    some = list(islice((row.unit for row in source.rows() if row.unit is not None), TUNED_ROWS))
    if some:
        found = classifier.tune(some, default_cache_dir())
        print("batch sizes: " + ", ".join(f"{name} {size}" for name, size in found.items()), file=sys.stderr)


def epsilon(classifier: AdaptiveClassifier, source: TextFile) -> dict[str, Any]:
    """How far scores depend on the batch where a tier computes in low precision; for the manifest, and said.

    It is None where that is not known: there are fewer than two rows, or one stage, whose scores decide nothing.
    """
    tiers = classifier.network.tiers
    used = {tier.computed_by.split()[-1] for tier in tiers} | {tier.view.dtype for tier in tiers}
    low = sorted(used - {"float32", "torch"})
    if not low:
        return {}
    some = list(islice((row.unit for row in source.rows() if row.unit is not None), EPSILON_ROWS))
    if len(some) < 2 or len(classifier.stages) == 1:
        return {"epsilon": None}
    found = classifier.epsilon(some)
    print(
        f"{', '.join(low)}: a score differs by up to {found.value:.2g} between batches of other rows; "
        f"{found.inside:.1%} of {found.rows} rows are that near to a threshold",
        file=sys.stderr,
    )
    return {"epsilon": asdict(found)}


def resumed(rows: int, more: dict[str, Any]) -> dict[str, Any]:
    """What a run that went on says of its scores, for the manifest: its batches hold other rows than those of one run.

    Args:
        rows: that were there when it began; 0 for a run in one go.
        more: the manifest's other entries.
    """
    from dial.inference.epsilon import FLOAT32

    if not rows:
        return {}
    known = more.get("epsilon", {"value": FLOAT32})  # None: in low precision, by how much was not measured
    equal = known["value"] if known is not None else None
    return {"resumed": {"after_rows": rows, "scores_equal_to": equal}}
