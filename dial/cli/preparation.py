"""What `dial predict` finds out before it answers: what computes the tiers, batch sizes, what precision costs."""

from __future__ import annotations

import sys
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.sources import TextFile
    from dial.inference.classifier import AdaptiveClassifier

TUNED_ROWS, EPSILON_ROWS, COMPARED_ROWS = 256, 64, 1024
LONG = 16 * COMPARED_ROWS
"""Rows of an input for which it pays to compare backends; what was found serves shorter ones, too."""


def take_fastest(classifier: AdaptiveClassifier, source: TextFile, share: float) -> dict[str, Any]:
    """Have each tier computed by what is fastest here and answers alike; for the manifest, and said.

    Args:
        classifier: of a run.
        source: whose first rows are compared.
        share: of answers that must stay.
    """

    def rows() -> list[Any]:
        some = list(islice((row.unit for row in source.rows() if row.unit is not None), LONG))
        return some[:COMPARED_ROWS] if len(some) == LONG else []

    found = classifier.take_fastest(rows, share)
    if found is None:
        return {}
    for line in found.lines():
        print(line, file=sys.stderr)
    return {"backends": found.to_json()}


def tune(classifier: AdaptiveClassifier, source: TextFile) -> None:
    """Use the best batch sizes for the first rows of the input."""
    from datamodules.encoding import default_cache_dir

    some = list(islice((row.unit for row in source.rows() if row.unit is not None), TUNED_ROWS))
    if some:
        found = classifier.tune(some, default_cache_dir())
        print("batch sizes: " + ", ".join(f"{name} {size}" for name, size in found.items()), file=sys.stderr)


def epsilon(classifier: AdaptiveClassifier, source: TextFile) -> dict[str, Any]:
    """How far scores depend on the batch where a tier computes in low precision; for the manifest, and said."""
    tiers = classifier.network.tiers
    used = {tier.computed_by.split()[-1] for tier in tiers} | {tier.view.dtype for tier in tiers}
    low = sorted(used - {"float32", "torch"})
    some = list(islice((row.unit for row in source.rows() if row.unit is not None), EPSILON_ROWS)) if low else []
    if len(some) < 2 or len(classifier.stages) == 1:
        return {}
    found = classifier.epsilon(some)
    print(
        f"{', '.join(low)}: a score differs by up to {found.value:.2g} between batches of other rows; "
        f"{found.inside:.1%} of {found.rows} rows are that near to a threshold",
        file=sys.stderr,
    )
    return {"epsilon": asdict(found)}
