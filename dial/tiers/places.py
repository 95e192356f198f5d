"""Where a tier lies: a folder that has what it needs and no code of its own, or a name that the hub knows."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZERS = (
    "tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "spm.model",
    "sentencepiece.model", "sentencepiece.bpe.model",
)  # fmt: skip
CONFIG, TOKENIZER_CONFIG = "config.json", "tokenizer_config.json"
TIER = "tier"  # what `dial fit` calls the folder of its tier
HUB_SECONDS = 10.0


def check_place(path: str, argument: str, weights: bool = True) -> str:
    """The path with ``~`` expanded, after a look at whether a folder, or the hub, has what a tier needs.

    Args:
        path: folder or hub id.
        argument: how the user calls it.
        weights: whether a model is needed, or only a tokenizer.

    Raises:
        ValueError: the folder is missing, it lacks a configuration, weights or a tokenizer, or it brings code of its
            own; or the hub, asked once, does not know the name; names ``argument``.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        _check_name(path, folder, argument, weights)
        return path
    needed = {"a tokenizer": TOKENIZERS, "a configuration": (CONFIG,), "weights": WEIGHTS}
    for what, names in list(needed.items())[: 3 if weights else 1]:
        if not any((folder / name).is_file() for name in names):
            remedy = "give a folder left by `dial fit`, or by save_pretrained of both model and tokenizer."
            if (folder / TIER / CONFIG).is_file():
                remedy = f"did you mean {Path(path) / TIER}, the tier of that run?"
            raise ValueError(
                f"`{argument}` must be a folder with {what} ({' or '.join(names)}), but {path} has none; {remedy}"
            )
    check_no_code(folder, path, argument)
    return str(folder)


def check_no_code(folder: Path, path: str, argument: str) -> None:
    """Refuse a folder whose files name Python code to load it with: that code is never run.

    Raises:
        ValueError: naming the code.
    """
    for name in (CONFIG, TOKENIZER_CONFIG):
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # it is reported where it is read
        if isinstance(content, dict) and content.get("auto_map"):
            raise ValueError(code_refused(path, argument, f"`auto_map` in its {name}"))


def code_refused(path: str, argument: str, what: str) -> str:
    """What is said of a model that brings its own code."""
    return (
        f"`{argument}` must be a model that transformers knows by itself, but {path} brings Python code of its own "
        f"({what}), which is not run; convert it, or remove the entry if the code of transformers is meant."
    )


def _check_name(path: str, folder: Path, argument: str, weights: bool) -> None:
    """Refuse what is no folder and cannot be a name on the hub, or is none that it knows."""
    local = path.startswith((".", "/", "~")) or path.count("/") > 1 or folder.exists()
    cached = not local and _is_cached(path, weights)
    if local or (not cached and "/" in path and folder.parent.is_dir()):
        raise ValueError(
            f"`{argument}` must be an existing folder or a hub id, but there is no folder "
            f"{path}{_nearest(path, folder)}."
        )
    if not cached:
        _ask_hub(path, argument)


def _nearest(path: str, folder: Path) -> str:
    """A folder beside it that is called nearly so."""
    parent = folder.parent
    names = sorted(entry.name for entry in parent.iterdir() if entry.is_dir()) if parent.is_dir() else []
    near = difflib.get_close_matches(folder.name, names, n=1)
    if folder.is_file():
        return ", only a file; give the folder of a tier"
    return f"; did you mean {Path(path).with_name(near[0])}?" if near else ""


def _is_cached(name: str, weights: bool) -> bool:
    """Whether the hub's cache holds what a tier needs under this name."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        files = (CONFIG,) if weights else (TOKENIZER_CONFIG, CONFIG, *TOKENIZERS)
        return any(isinstance(try_to_load_from_cache(name, file), str) for file in files)
    except HFValidationError:
        return False


def _ask_hub(name: str, argument: str) -> None:
    """Ask the hub once whether it has a model: its readers would try five times for each of many files.

    Raises:
        ValueError: it has none, or cannot be asked.
    """
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE is set, and it is not in the cache"
    else:
        try:
            HfApi().model_info(name, timeout=HUB_SECONDS)
            return
        except Exception as error:  # its clients raise a dozen unrelated classes
            shown = " ".join(str(error).split()).split(". ")[0][:200]
            reason = f"{type(error).__name__}: {shown}"
    raise ValueError(
        f"`{argument}` must be a folder or the id of a model on the hub, but there is no folder {name!r}, and the hub "
        f"did not give its configuration ({reason}); check name and connection, or download it and give the folder"
        f"{_nearest(name, Path(name))}."
    )
