"""What a run depends on that its configuration only names: the folder that paths start from, models, rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dial.files import read_json, write_json

# What a tier is loaded from. Not its card: that says how it came about.
SUFFIXES = (".safetensors", ".bin", ".json", ".txt", ".model")
IGNORED = ("card.json",)
Inputs = dict[str, Any]


def read_inputs(run: Path, command: str) -> Inputs:
    """What was noted of an earlier command in a run folder; empty where nothing was.

    Raises:
        ValueError: the file is damaged.
    """
    path = inputs_file(run, command)
    return read_json(path, "--run") if path.is_file() else {}


def write_inputs(run: Path, command: str, rows: Mapping[str, Any], models: Mapping[str, str]) -> None:
    """Note them: the present folder, rows as :func:`callbacks.trained_rows.trained_rows` gives them, and models."""
    write_json(inputs_file(run, command), {"folder": str(Path.cwd()), "rows": rows, "models": models})


def inputs_file(run: Path, command: str) -> Path:
    """Where they are noted."""
    return run / f"inputs-{command}.json"


def model_contents(config: Mapping[str, Any]) -> dict[str, str]:
    """Fingerprint of every file and folder that the model's arguments name, by the argument (``model.teacher``).

    Models of the hub are not among them.
    """
    model = config.get("model") or {}
    named = {key: place(text, Path.cwd()) for key, text in _strings(model.get("init_args") or {})}
    return {f"model.{key}": contents(path) for key, path in named.items() if path is not None}


def check_models(before: Mapping[str, str], now: Mapping[str, str], run: Path) -> None:
    """Refuse models that have changed under the same path; those that are gone are not compared.

    Raises:
        ValueError: names the first argument.
    """
    for key, value in before.items():
        if now.get(key, value) != value:
            raise ValueError(
                f"`--run` {run} was trained with other contents of `--{key}`, which has changed since; restore it, or "
                "name another folder, or remove that one, to train with what is there now."
            )


def place(text: Any, folder: Path) -> Path | None:
    """The file or folder that a text names, without links; None where it names none that is there.

    Args:
        text: anything that a configuration holds.
        folder: where relative paths start.
    """
    try:
        path = folder / Path(text).expanduser() if isinstance(text, str) and text else None
        return path.resolve() if path is not None and path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long, the home of an unknown user, a null character
        return None


def contents(place: Path) -> str:
    """Sixteen hexadecimal digits of a file's content, or of what a tier is loaded from in a folder."""
    names = [name for name in sorted(place.iterdir()) if name.is_file()] if place.is_dir() else []
    files = [name for name in names if name.suffix in SUFFIXES and name.name not in IGNORED]
    digest = hashlib.sha256()
    for file in files if place.is_dir() else [place]:
        with file.open("rb") as handle:
            name = file.name if place.is_dir() else ""
            digest.update(f"{name}\0{hashlib.file_digest(handle, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in nested values, with its place."""
    if isinstance(value, str):
        yield key, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield from _strings(item, f"{key}.{name}" if key else str(name))
