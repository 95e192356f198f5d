"""What must hold of a folder after a kill and at the end: files whole, rows once, results as of an undisturbed run."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from safetensors.torch import load_file

TOLERANCE = 1e-5  # of scores after a resume, as the manifest says
NEAR = ("score", "probability")  # what may differ by that much
MEASURED = {"last_run", "resumed", "seconds", "train_seconds"}  # entries of JSON files that no two runs share
LOCKS = (".fit.lock", ".test.lock")  # stay behind where their holder is killed; the next one takes them over


def rows_file(path: Path) -> bool:
    """Whether a file grows row by row, so that a kill may tear its last line."""
    return path.name.endswith((".jsonl", ".jsonl.gz"))


def torn_files(folder: Path) -> list[str]:
    """Files below a folder that cannot be read although they bear their final name.

    Rows files have checks of their own; logs of Lightning, which are no results, are left out.
    """
    torn = []
    for path in visible(folder):
        try:
            if not rows_file(path):
                READERS.get(path.suffix, Path.read_bytes)(path)
        except Exception as error:
            torn.append(f"{path.relative_to(folder)} is half-written: {type(error).__name__}: {error}"[:300])
    return torn


def visible(folder: Path) -> list[Path]:
    """Files under their final names: no part of the path begins with a dot, as that of scratch files does."""
    paths = sorted(folder.rglob("*")) if folder.is_dir() else [folder] if folder.is_file() else []
    inside = [(path, path.relative_to(folder).parts) for path in paths if path.is_file()]
    return [path for path, parts in inside if "logs" not in parts and not any(part.startswith(".") for part in parts)]


def crumbs(folder: Path) -> list[str]:
    """Scratch files and folders that are still there after the end."""
    if not folder.is_dir():
        folder = folder.parent
    left = [path for path in sorted(folder.rglob(".*")) if path.name not in LOCKS]
    return [f"{path.relative_to(folder)} was left behind" for path in left]


def read_image(path: Path) -> Any:
    """Pixels of a PNG file."""
    from matplotlib.image import imread

    return imread(path)


READERS: dict[str, Callable[[Path], Any]] = {
    ".json": lambda path: without_measured(json.loads(path.read_text())),
    ".yaml": lambda path: yaml.safe_load(path.read_text()),
    ".parquet": lambda path: pq.read_table(path),
    ".safetensors": load_file,
    ".ckpt": lambda path: torch.load(path, weights_only=True)["state_dict"],
    ".png": read_image,
}


def without_measured(content: Any) -> Any:
    """JSON content without times, which no two runs share."""
    if isinstance(content, dict):
        return {key: without_measured(value) for key, value in content.items() if key not in MEASURED}
    return [without_measured(value) for value in content] if isinstance(content, list) else content


def lines_of(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """Rows of a file of JSON lines, compressed or not, and whether a torn line, or a torn member, comes last."""
    if not path.is_file():
        return [], False
    content, torn = path.read_bytes(), False
    if path.suffix == ".gz":
        content, torn = whole_members(content)
    *whole, rest = content.decode(errors="replace").split("\n")
    return [json.loads(line) for line in whole], torn or bool(rest)


def whole_members(content: bytes) -> tuple[bytes, bool]:
    """Text of the whole members of a gzip file, and whether something torn follows; by zlib alone."""
    text = b""
    while content:
        member = zlib.decompressobj(wbits=31)
        try:
            part = member.decompress(content)
        except zlib.error:
            return text, True
        if not member.eof:
            return text, True
        text, content = text + part, member.unused_data
    return text, False


def predictions_of(out: Path) -> tuple[list[dict[str, Any]], bool]:
    """Rows of an output of `dial predict`, of any kind, in the order of its files; and whether its end is torn."""
    if out.suffix:
        return lines_of(out)
    rows = [row for part in sorted(out.glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]
    return [{key: value for key, value in row.items() if value is not None} for row in rows], False


def manifest_of(out: Path) -> Path:
    """The manifest of an output of `dial predict`."""
    return out.with_name(f"{out.name}.manifest.json") if out.suffix else out / "_manifest.json"


def half_way(out: Path, whole: Path) -> list[str]:
    """What is wrong with the predictions that a killed command left: they must be the first rows, each once.

    Args:
        out: the output.
        whole: that of an undisturbed command.
    """
    numbers, wanted = ([row["row"] for row in predictions_of(place)[0]] for place in (out, whole))
    problems = []
    if numbers != wanted[: len(numbers)]:
        problems.append(f"{len(numbers)} rows that are not the first ones of the input, each once")
    manifest = manifest_of(out)
    if numbers and not manifest.is_file():
        problems.append(f"rows without {manifest.name}")
    elif manifest.is_file() and json.loads(manifest.read_text())["finished"] and len(numbers) < len(wanted):
        problems.append(f"{manifest.name} says finished after {len(numbers)} of {len(wanted)} rows")
    return problems


def differences(folder: Path, whole: Path) -> list[str]:
    """Where two folders differ: names of files, then what the files say; bit by bit, but for measured times.

    Args:
        folder: of the command that was killed.
        whole: of the undisturbed one.
    """
    names = [[str(path.relative_to(place)) for path in visible(place)] for place in (folder, whole)]
    problems = [f"{name} is missing" for name in names[1] if name not in names[0]]
    problems += [f"{name} is too much" for name in names[0] if name not in names[1]]
    for name in sorted({*names[0]} & {*names[1]}):
        read = READERS.get(Path(name).suffix, Path.read_bytes)
        if not equal(read(folder / name), read(whole / name)):
            problems.append(f"{name} differs")
    return problems


def predictions_differ(out: Path, whole: Path) -> list[str]:
    """Where two outputs of `dial predict` differ: rows lost, twice or in another order; values beyond the tolerance.

    Args:
        out: of the command that was killed.
        whole: of the undisturbed one.
    """
    (rows, torn), (wanted, _) = predictions_of(out), predictions_of(whole)
    numbers, expected = [row["row"] for row in rows], [row["row"] for row in wanted]
    problems = ["the last line is torn"] if torn else []
    if numbers != expected:
        lost, twice = set(expected) - set(numbers), len(numbers) - len(set(numbers))
        return [*problems, f"{len(lost)} rows lost, {twice} twice, {len(numbers)} instead of {len(expected)} in all"]
    wrong = [row["row"] for row, want in zip(rows, wanted, strict=True) if not same_row(row, want)]
    if wrong:
        problems.append(f"{len(wrong)} rows differ, the first is {wrong[0]}")
    for kind in ("manifest", "skipped"):
        texts = [read_side(place, kind) for place in (out, whole)]
        if texts[0] != texts[1]:
            problems.append(f"{kind} differs: {texts[0]} and {texts[1]}"[:600])
    return problems


def read_side(out: Path, kind: str) -> Any:
    """Content of the manifest, without times and parts, or of the list of rows left out."""
    manifest = manifest_of(out)
    if kind == "skipped":
        path = manifest.with_name(manifest.name.replace("manifest.json", "skipped.jsonl"))
        return lines_of(path)
    content = without_measured(json.loads(manifest.read_text()))
    parts = content.pop("parts", [])
    if any(pq.read_metadata(out / part["file"]).num_rows != part["rows"] for part in parts):
        content["parts"] = "other numbers of rows than the files"
    sums = {name: content.pop(name, 0.0) for name in ("macs", "reference_macs", "speedup")}
    return content | {name: float(f"{value:.9g}") for name, value in sums.items()}


def same_row(row: dict[str, Any], want: dict[str, Any]) -> bool:
    """Whether two predictions say the same; scores and probabilities to the tolerance."""
    if row.keys() != want.keys():
        return False
    return all(abs(row[name] - want[name]) <= TOLERANCE if name in NEAR else row[name] == want[name] for name in row)


def equal(one: Any, two: Any) -> bool:
    """Whether two contents are the same, tensors and arrays bit by bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, two))
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(equal(one[key], two[key]) for key in one)
    if isinstance(one, pa.Table):
        return bool(one.equals(two, check_metadata=True))
    return bool(one == two)
