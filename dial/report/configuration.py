"""What the results of a sweep depend on, as one fingerprint, so that a folder never holds a mixture."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from dial.claims import check_sweep_files
from dial.files import plain
from dial.report.settings import SweepSettings
from dial.stages.metrics.metrics import AGREEMENT
from dial.stages.stage import Stage
from dial.stages.table import StageTable
from dial.tradeoff.rules import BUILT_IN, RULES

NO_IDENTITY = ("partial", "repeats", "remarks")
"""Settings of a table that say how its rows came, not what they are."""


def configuration(table: StageTable, settings: SweepSettings) -> str:
    """Fingerprint of what the results depend on: settings, tiers and data; for a foreign table its own contents."""
    parts = {split: table.of_split(split) for split in table.splits}
    # What stands in for labels that nobody has is known only when the models have run.
    labelled = AGREEMENT not in table.metrics
    rows = {
        split: rows_fingerprint(part.sample_id, part.label if labelled else None, part.group, part.references)
        for split, part in parts.items()
    }
    identity: Any = {key: value for key, value in table.settings.items() if key not in NO_IDENTITY}
    if not table.settings.get("tiers"):
        contents = (table.label, table.predictions, table.macs, table.macs_reference)
        identity = fingerprint(*contents, *table.scores.values(), *table.statistics.values())
    partial = bool(table.settings.get("partial"))
    return configuration_of(settings, table.metrics, table.stages, identity, None if partial else rows)


def configuration_of(
    settings: SweepSettings,
    metrics: Sequence[str],
    stages: Sequence[Stage],
    identity: Any,
    rows: Mapping[str, str] | None,
) -> str:
    """The same from its parts, which are known before any model runs.

    Args:
        settings: what to choose.
        metrics: of the table.
        stages: of the table.
        identity: the table's settings, but for whether it is partial; of a foreign table a hash of its contents.
        rows: fingerprint of each split's rows; None for a trial run.
    """
    later = {each.name: each.default for each in fields(settings) if each.metadata.get("later")}
    given = {key: value for key, value in asdict(settings).items() if key not in later or value != later[key]}
    known = {
        "settings": given,
        "metrics": tuple(metrics),
        "stages": [asdict(stage) for stage in stages],
        "table": without_places(identity),
    }
    if own := [name for name, kind in RULES.items() if kind not in BUILT_IN]:
        known["rules"] = own
    if rows is not None:
        known["rows"] = dict(rows)
    return hashlib.sha256(json.dumps(plain(known), sort_keys=True).encode()).hexdigest()[:16]


def without_places(identity: Any) -> Any:
    """A table's settings without the paths of its tiers: their fingerprints tell them, wherever they lie.

    So a folder spelt in another way, or moved, is the same configuration.

    >>> tier = {"path": "runs/a/tier", "fingerprint": "0f", "view": {"path": "runs/a/tier", "layers": 2}}
    >>> without_places({"tiers": {"a": tier}})
    {'tiers': {'a': {'fingerprint': '0f', 'view': {'layers': 2}}}}
    """
    if not isinstance(identity, dict) or not isinstance(identity.get("tiers"), dict):
        return identity
    tiers = {name: _placeless(tier) if "fingerprint" in tier else tier for name, tier in identity["tiers"].items()}
    return {**identity, "tiers": tiers}


def _placeless(about: dict[str, Any]) -> dict[str, Any]:
    """What is known of a tier and of its view, without the path."""
    kept = {key: value for key, value in about.items() if key != "path"}
    return {key: _placeless(value) if key == "view" else value for key, value in kept.items()}


def rows_fingerprint(
    sample_id: np.ndarray,
    label: np.ndarray | None = None,
    group: np.ndarray | None = None,
    references: Sequence[Sequence[str]] | np.ndarray | None = None,
) -> str:
    """Hash of which rows there are, whatever their order: several processes may leave another one.

    Args:
        sample_id: ``(N,)``.
        label: ``(N,)`` int64 classes, or float64; None where rows have no labels.
        group: ``(N,)`` what each belongs to, where rows come in groups.
        references: of each row one or several texts, where answers are free text.
    """
    order = np.argsort(sample_id, kind="stable")
    labels = () if label is None else (label[order],)
    groups = () if group is None else (group[order].astype(str),)
    texts = () if references is None else (_digests([references[row] for row in order]),)
    return fingerprint(sample_id[order].astype(str), *labels, *groups, *texts)


def _digests(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """A number for the texts of each row, ``(N,)``."""
    joined = ("\x1f".join(row).encode("utf-8", "surrogatepass") for row in texts)
    return np.frombuffer(b"".join(hashlib.sha256(row).digest()[:8] for row in joined), np.uint64)


def fingerprint(*arrays: np.ndarray) -> str:
    """Hash of the contents of arrays."""
    digest = hashlib.sha256()
    for values in arrays:
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def check_folder(folder: Path, wanted: str, partial: bool, argument: str = "out") -> None:
    """Refuse to mix results of two configurations in one folder; partial results give way to any.

    Args:
        folder: where results are to be written.
        wanted: their configuration.
        partial: whether they are of a trial run.
        argument: how the user calls the folder.

    Raises:
        ValueError: it holds results of another configuration, or whole ones where these are partial, or files that
            DIAL did not write.
    """
    path = folder / "summary.json"
    try:
        check_sweep_files(folder, argument)
        if not path.exists():
            return
        before = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"`{argument}` must be a folder of results, but {path} is unreadable; name another folder, or remove it."
        ) from error
    if before.get("partial"):
        return
    if partial or before.get("configuration") != wanted:
        what = "whole results and these are partial" if partial else "results of another configuration"
        raise ValueError(
            f"`{argument}` must be a new folder or one of the same configuration, "
            f"but {folder} holds {what}; choose another or remove it."
        )
