"""Which rows a model is trained and chosen on, so that nothing goes on with others unnoticed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ROLES = ("train", "validation")


def trained_rows(data: Any) -> dict[str, Any]:
    """Class names, and fingerprint and number of the rows to train and to choose checkpoints on, as plain values.

    Empty for a data module that has no fingerprints.
    """
    if not hasattr(data, "fingerprint"):
        return {}
    rows = {role: {"fingerprint": data.fingerprint(role), "rows": len(data.rows(role))} for role in ROLES}
    return {"label_names": list(data.label_names), **rows}


def check_rows(before: Mapping[str, Any], data: Any, run: str) -> None:
    """Refuse to go on with other rows than a run began with.

    Args:
        before: :func:`trained_rows` of the run; empty where nobody noted them.
        data: the data module now.
        run: how the user calls what was trained.

    Raises:
        ValueError: texts, labels, their order or the names of the classes differ.
    """
    now = trained_rows(data) if before else {}
    for key in now:
        if key not in before or before[key] == now[key]:
            continue
        if key == "label_names":
            what = f"the classes were {', '.join(before[key])} and are {', '.join(now[key])}"
        else:
            counts = before[key]["rows"], now[key]["rows"]
            what = f"the {key} rows are others ({counts[0]:,} then, {counts[1]:,} now)"
        raise ValueError(
            f"{run} was trained on other data: {what}; restore the data, or name another folder, or remove that one, "
            "to train on what is there now."
        )
