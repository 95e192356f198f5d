"""What the user typed for the trainer: numbers and an order that are refused, and jsonargparse's errors in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

# Numbers that Lightning takes and that leave nothing to train, or end in its own arithmetic.
LEAST = {
    "trainer.max_epochs": 1,
    "trainer.max_steps": 1,
    "trainer.accumulate_grad_batches": 1,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.gradient_clip_val": 0,
    "early_stopping.patience": 0,
}
POSITIVE = ("trainer.limit_train_batches", "trainer.val_check_interval")
UNLIMITED = ("trainer.max_epochs", "trainer.max_steps")  # -1 says so
NO_VALIDATION = (
    "`--trainer.limit_val_batches` must leave validation rows for early stopping and for the choice of the best "
    "checkpoint, but no metric came of it; raise it."
)


def check_limits(config: Any) -> None:
    """Refuse them before anything is read.

    Args:
        config: of `dial fit`; ``get`` takes dotted names.

    Raises:
        ValueError: names the argument.
    """
    for name in (*LEAST, *POSITIVE):
        value = config.get(name)
        if not isinstance(value, int | float) or (name in UNLIMITED and value == -1):
            continue  # not given, or a time
        if name in POSITIVE and not value > 0:
            raise ValueError(f"`--{name}` must be above 0, but got {value}.")
        if name in LEAST and not value >= LEAST[name]:
            endless = ", or -1 for no limit" if name in UNLIMITED else ""
            raise ValueError(f"`--{name}` must be at least {LEAST[name]}{endless}, but got {value}.")


def one_line(message: str, command: str) -> str:
    r"""Shorten an error of jsonargparse to argument, reasons and value.

    >>> one_line('Parser key "trainer.max_epochs":\n  Errors:\n    - Expected an int\n  Given value: abc', "fit")
    '`--trainer.max_epochs`: Expected an int; got abc; see `dial fit --help`.'
    """
    key = re.search(r'Parser key "([^"]+)"', message)
    reasons = re.findall(r"^ *- ?(.*(?:\n {6,}[^ -].*)*)", message, flags=re.MULTILINE)
    reasons = [" ".join(reason.split()) for reason in reasons if "NoneType" not in reason]
    # A union inside a union repeats itself; what says nothing of its own goes.
    reasons = [r for r in dict.fromkeys(reasons) if not r.startswith(("Does not validate", "Subtypes"))]
    if key is None or not reasons:
        text = " ".join(message.split())
        text = re.sub(r'Parser key "([^"]+)":', r"`--\1`:", text)
        text = re.sub(rf"\b{command}\.(\w)", r"--\1", text)
    else:
        given = re.findall(r"Given value: (.*)", message)
        nested = re.match(r"NestedArg\(key='(.*)', val='(.*)'", given[-1]) if given else None
        value = f"{nested[1]}={nested[2]}" if nested else (given[-1] if given else "")
        text = f"`--{key[1].removeprefix(command + '.')}`: {'; '.join(reasons)}" + (f"; got {value}" if value else "")
        text = re.sub(r"<class '([\w.]*\.)?(\w+)'>", r"\2", text).replace("typing.", "")
    text = re.sub(r"dial: error: |error: ", "", text)
    return f"{text.rstrip('.')}; see `dial {command} --help`."


def missing_monitor(message: str) -> str:
    """What is wrong where early stopping lacks its metric, from Lightning's words about it.

    >>> missing_monitor("Early stopping conditioned on metric `x` which is not available. Pass in or modify your "
    ...     "`EarlyStopping` callback to use any of the following: `train/loss`, `validation/accuracy`")
    "`--early_stopping.monitor` must be one of train/loss, validation/accuracy, but got 'x'."
    """
    wanted, *_, known = re.findall(r"metric `([^`]*)`|following:(.*)", message, flags=re.DOTALL)
    names = re.findall(r"`([^`]+)`", known[1])
    if any(name.startswith("validation/") for name in names):
        return f"`--early_stopping.monitor` must be one of {', '.join(names)}, but got {wanted[0]!r}."
    return NO_VALIDATION


def typed_arguments(arguments: Sequence[str], group: str) -> list[str]:
    """Names of a class's arguments that a command line sets, itself or through its configuration files.

    Args:
        arguments: the command line behind the command.
        group: ``model`` or ``data``.

    >>> typed_arguments(["--model.warmup=0.2", "--model.init_args.layers", "2", "--data.task=sst2"], "model")
    ['warmup', 'layers']
    """
    names: list[str] = []
    for key, value in _options(arguments):
        if key in ("-c", "--config"):
            names += _arguments_of(read_configuration(value).get(group))
        elif key == f"--{group}":
            names += _arguments_of(read_configuration(value))
        elif key.startswith(f"--{group}."):
            names.append(key.removeprefix(f"--{group}.").removeprefix("init_args.").rstrip("+").split(".")[0])
    return list(dict.fromkeys(names))


def check_order(arguments: Sequence[str]) -> None:
    """Refuse an argument that a configuration file behind it sets to another value: what comes later counts.

    Args:
        arguments: the command line behind the command.

    Raises:
        ValueError: names the argument and the file.
    """
    typed: dict[str, str] = {}
    for key, value in _options(arguments):
        if key in ("-c", "--config"):
            content = dict(_leaves(read_configuration(value)))
            for name, given in typed.items():
                found = content.get(name.replace(".init_args", ""), given)
                if found not in (given, _value(given)) and str(found).rpartition(".")[2] != given:
                    raise ValueError(
                        f"`--{name}` {given} stands before `--config` {value}, which sets it to {found}, and what "
                        "comes later counts; put `--config` first."
                    )
        elif key.startswith("--"):
            typed[key.removeprefix("--")] = value


def check_linked(arguments: Sequence[str], names: Sequence[str]) -> None:
    """Refuse an argument of the model that it gets from the data: what was typed would be dropped without a word.

    Args:
        arguments: the command line behind the command.
        names: of the arguments that the data gives.

    Raises:
        ValueError: names the argument and the one to take.

    Example:
        >>> check_linked(["--model.metrics", "[bleu]"], ["metrics"])
        Traceback (most recent call last):
        ValueError: `--model.metrics` is what the data says, but got [bleu]; leave it out, or set `--data.metrics`.
    """
    for key, value in _options(arguments):
        group, _, name = key.replace(".init_args", "").rpartition(".")
        if group == "--model" and name in names:
            raise ValueError(f"`{key}` is what the data says, but got {value}; leave it out, or set `--data.{name}`.")


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Words with the values behind them, typed as ``--key=value`` or as two words."""
    for word, following in zip(arguments, [*arguments, ""][1:], strict=True):
        key, separator, value = word.partition("=")
        yield key, value if separator else following


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _leaves(content: dict[str, Any], key: str = "") -> Iterator[tuple[str, Any]]:
    """Values by dotted name as a user may type it; that of a class is its path."""
    for name, value in content.items():
        place = key if name in ("init_args", "class_path") else f"{key}.{name}" if key else str(name)
        if isinstance(value, dict):
            yield from _leaves(value, place)
        elif name != "init_args":
            yield place, value


def read_configuration(text: str) -> dict[str, Any]:
    """A configuration file, or the configuration itself."""
    try:
        content = yaml.safe_load(Path(text).read_text() if Path(text).is_file() else text)
    except (OSError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _arguments_of(spec: Any) -> list[str]:
    return list((spec.get("init_args") or {}) if isinstance(spec, dict) else {})
