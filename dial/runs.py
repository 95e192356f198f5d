"""Run folders: one configuration each."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.adaptive.files import atomic_write

# What may differ between two runs of one experiment without changing a number that it writes.
HARMLESS = (
    "config", "run", "verbose", "weights_only", "progress", "resume", "study", "trainer.enable_progress_bar",
    "trainer.logger", "trainer.max_time", "trainer.default_root_dir", "trainer.log_every_n_steps",
    "trainer.enable_model_summary", "trainer.profiler", "data.init_args.num_workers",
    "data.init_args.cache_dir", "checkpoint.dirpath",
)  # fmt: skip


def check_run_folder(run: Path, command: str, config: dict[str, Any]) -> bool:
    """Whether the run folder holds this configuration already.

    Args:
        run: the folder.
        command: ``fit``, ``test``, ...; each has its own configuration in a folder.
        config: the complete configuration, as plain values.

    Raises:
        ValueError: it holds results of another configuration; names the first difference.
    """
    path = run / f"config-{command}.yaml"
    if not path.is_file():
        return False
    difference = first_difference(without(yaml.safe_load(path.read_text())), without(config))
    if difference:
        raise ValueError(
            f"`--run` {run} holds results of another configuration: {difference}; "
            "name another folder, or remove that one."
        )
    return True


def claim_run_folder(run: Path, command: str, config: dict[str, Any]) -> None:
    """Write ``config-<command>.yaml`` into the run folder, unless it is there already.

    Raises:
        ValueError: as :func:`check_run_folder`.
    """
    if not check_run_folder(run, command, config):
        with atomic_write(run / f"config-{command}.yaml") as scratch:
            scratch.write_text(yaml.safe_dump(config, sort_keys=False))


def without(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without what is harmless."""
    config = copy.deepcopy(config)
    for dotted in HARMLESS:
        *parents, leaf = dotted.split(".")
        node: Any = config
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(leaf, None)
    return config


def first_difference(before: Any, after: Any, key: str = "") -> str | None:
    """Say where two configurations differ first, or None.

    >>> first_difference({"a": {"b": 1}}, {"a": {"b": 2}})
    'a.b was 1 and is 2'
    """
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(n for n in after if n not in before)]:
            found = first_difference(before.get(name), after.get(name), f"{key}.{name}" if key else name)
            if found:
                return found
        return None
    return None if before == after else f"{key} was {before!r} and is {after!r}"
