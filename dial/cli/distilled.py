"""Commands, configurations and checkpoints of a Classifier with a teacher, from before Distillation had a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from dial.cli.parsing import read_configuration

ARGUMENTS = ("teacher", "distillation", "distillation_weight", "distillation_temperature")
BEFORE, NOW = "Classifier", "Distillation"


def with_distillation(arguments: Sequence[str]) -> list[str]:
    """A command line that names Distillation where it, or a file that it names, gives a Classifier a teacher.

    Arguments of a teacher that nobody gave are left out of the files: a dumped configuration holds them all.

    Args:
        arguments: the whole command line, the command first.

    Example:
        >>> with_distillation(["fit", "--model=Classifier", "--model.teacher=runs/super/tier"])
        ['fit', '--model=Distillation', '--model.teacher=runs/super/tier']
    """
    name, taught = None, False
    for key, value, _ in _pairs(arguments):
        model = _model_of(key, value)
        name = model.get("class_path", name)
        given = model.get("init_args") or {}
        taught = taught or any(given.get(argument) is not None for argument in ARGUMENTS[:2])
    if str(name).rpartition(".")[2] != BEFORE:
        return list(arguments)
    result = list(arguments)
    for key, value, place in _pairs(arguments):
        model = _model_of(key, value)
        if not model:
            continue
        if key in ("--model", "--model.class_path"):
            changed = value.replace(BEFORE, NOW) if taught and value.rpartition(".")[2] == BEFORE else value
        elif key in ("-c", "--config"):
            new = renamed(model, taught)
            changed = value if new == model else yaml.safe_dump({**read_configuration(value), "model": new})
        else:
            continue
        result[place] = f"{key}={changed}" if result[place].startswith(f"{key}=") else changed
    return result


def renamed(model: Mapping[str, Any], taught: bool) -> dict[str, Any]:
    """What a configuration says of a model, as it is called now.

    Args:
        model: ``class_path`` and ``init_args``.
        taught: whether it has a teacher; else a teacher's arguments go.
    """
    new, given = dict(model), dict(model.get("init_args") or {})
    if str(new.get("class_path", BEFORE)).rpartition(".")[2] != BEFORE:
        return new
    if taught and "class_path" in new:
        new["class_path"] = str(new["class_path"]).replace("classifier.", "distillation.").replace(BEFORE, NOW)
    left_out = [name for name in ARGUMENTS if name in given and (not taught or given[name] is None)]
    if left_out:
        new["init_args"] = {name: value for name, value in given.items() if name not in left_out}
    return new


def _pairs(arguments: Sequence[str]) -> list[tuple[str, str, int]]:
    """Arguments with their values, and where the value stands."""
    pairs = []
    for place, argument in enumerate(arguments):
        key, separator, value = argument.partition("=")
        if separator:
            pairs.append((key, value, place))
        elif argument.startswith("-") and place + 1 < len(arguments):
            pairs.append((key, arguments[place + 1], place + 1))
    return pairs


def _model_of(key: str, value: str) -> dict[str, Any]:
    """What an argument says of the model: class and arguments, as far as it does."""
    if key in ("-c", "--config"):
        model = read_configuration(value).get("model")
    elif key == "--model":
        model = read_configuration(value).get("model", read_configuration(value)) or {"class_path": value}
    elif key == "--model.class_path":
        model = {"class_path": value}
    elif key.startswith("--model."):
        name = key.removeprefix("--model.").removeprefix("init_args.").split(".")[0]
        model = {"init_args": {name: None if value == "null" else value}}
    else:
        model = None
    return model if isinstance(model, dict) else {}
