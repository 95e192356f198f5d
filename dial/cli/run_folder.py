"""Run folders: one configuration each."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from dial.cli.inputs import place, read_inputs
from dial.files import atomic_write

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
    folder = Path(read_inputs(run, command).get("folder") or Path.cwd())
    difference = first_difference(without(read_configuration(path)), without(config), same=same_place(folder))
    if difference:
        where = "" if folder == Path.cwd() else f" (its paths start from {folder})"
        raise ValueError(
            f"`--run` {run} holds results of another configuration{where}: {difference}; "
            "name another folder, or remove that one."
        )
    return True


def read_configuration(path: Path) -> dict[str, Any]:
    """Content of ``config-<command>.yaml``.

    Raises:
        ValueError: it is damaged.
    """
    reason = "it holds no arguments"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        content, reason = None, " ".join(str(error).split())
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(
            f"`--run` {path.parent} must hold a readable {path.name}, but that file is damaged: {reason[:200]}; "
            "restore it, or name another folder."
        )
    return content


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


def same_place(folder: Path) -> Callable[[Any, Any], bool]:
    """How to compare values of two configurations of which some are paths: as the files that they mean.

    A path may be relative or absolute, begin with ``~``, end with a slash or lead through links. The same relative path
    means another file where the command starts in another folder, unless the first is no longer there (the whole
    project was moved).

    Args:
        folder: where relative paths of the first configuration start; those of the second start in the present one.

    Example:
        >>> same = same_place(Path.cwd())
        >>> same(".", str(Path.cwd())), same("sst2", "./sst2"), same(1, 2)
        (True, False, False)
    """

    def same(before: Any, after: Any) -> bool:
        places = place(before, folder), place(after, Path.cwd())
        return places[0] == places[1] if None not in places else bool(before == after)

    return same


def first_difference(
    before: Any, after: Any, key: str = "", same: Callable[[Any, Any], bool] = lambda before, after: before == after
) -> str | None:
    """Say where two configurations differ first, or None.

    Args:
        before: plain values.
        after: the same.
        key: their place in something larger.
        same: compares what is neither a mapping nor a list.

    >>> first_difference({"a": {"b": 1}}, {"a": {"b": 2}})
    'a.b was 1 and is 2'
    """
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(n for n in after if n not in before)]:
            found = first_difference(before.get(name), after.get(name), f"{key}.{name}" if key else name, same)
            if found:
                return found
        return None
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        equal = all(first_difference(*pair, key, same) is None for pair in zip(before, after, strict=True))
    else:
        equal = same(before, after)
    return None if equal else f"{key} was {before!r} and is {after!r}"


def remove_crumbs(run: Path) -> None:
    """Remove what a killed fit left half-written in its run folder; no other fit may be at work there."""
    for pattern in (".config-fit.*.part*", ".inputs-fit.*.part*", "checkpoints/.*.part*"):
        for path in run.glob(pattern):
            path.unlink(missing_ok=True)
    for path in run.glob(".tier-*"):
        shutil.rmtree(path, ignore_errors=True)
