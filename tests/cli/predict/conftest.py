"""A run folder of small tiers, `dial predict` over it, and what its tests read and write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dial import AdaptiveClassifier
from dial.cli.main import main
from dial.stages.parquet import load_table
from tests.inference.run_folder import make_run
from tests.tiers import small

Command = Callable[..., int]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    base = small.plain_tier("base")
    tiers = [small.exits_tier("swift", base, (1, 2)), small.plain_tier("super", 2, words=12)]
    return make_run(tmp_path_factory.mktemp("run"), tiers, rows=60)


@pytest.fixture(scope="module")
def thresholds(run: Path) -> list[float]:
    """Half of the rows stop at each stage."""
    table = load_table(run / "sweep" / "stages.parquet")
    return [float(value) + 1e-4 for value in np.median(table.scores["softmax"][:, :-1], axis=0)]


@pytest.fixture
def classifier(run: Path, thresholds: list[float]) -> AdaptiveClassifier:
    return AdaptiveClassifier.from_run(run, threshold=thresholds, score="softmax")


@pytest.fixture(scope="module")
def by_threshold(thresholds: list[float]) -> list[str]:
    return ["--score", "softmax", "--threshold", *map(str, thresholds)]


@pytest.fixture
def command(run: Path, by_threshold: list[str]) -> Command:
    """Function that runs `dial predict RUN INPUT --out OUT` with thresholds, and gives the exit code."""

    def call(source: Path, out: Path, *more: str, rule: list[str] | None = None) -> int:
        return main(["predict", str(run), str(source), "--out", str(out), *(rule or by_threshold), *more])

    return call


def write_jsonl(path: Path, texts: list[Any]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def done(command: Command, tmp_path: Path) -> tuple[Path, Path]:
    """An input whose rows 7, 20 and 59 are no text, and the finished output; rows 57 to 59 come after a skipped one."""
    texts: list[Any] = small.texts(60)
    for row in (7, 20, 56, 59):
        texts[row] = None
    source = write_jsonl(tmp_path / "in.jsonl", texts)
    assert command(source, tmp_path / "done.jsonl", "--on-error", "skip") == 0
    return source, tmp_path / "done.jsonl"


def comparable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the last digits, in which other batches differ."""
    return [{k: round(value, 4) if isinstance(value, float) else value for k, value in row.items()} for row in rows]


def unfinished(manifest: Path) -> None:
    known = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({key: known[key] for key in ("schema", "settings")} | {"finished": False}))


def error_of(code: int, capsys: pytest.CaptureFixture[str]) -> str:
    assert code == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dial predict: error:")]
    return line
