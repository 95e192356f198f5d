"""What a run says of its rows: how many each role has, of which classes, and whether training rows are tested on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from datamodules import TextDataModule
from datamodules.checks import majority, role_line
from datamodules.rows import make_rows


def write(path: Path, texts: list[str], labels: list[Any]) -> str:
    rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def said(data: TextDataModule, stage: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lines that ``setup`` of a command prints; texts are not encoded."""
    lines: list[str] = []
    monkeypatch.setattr("datamodules.base.rank_zero_info", lines.append)
    monkeypatch.setattr("datamodules.base.rank_zero_warn", lines.append)
    monkeypatch.setattr(TextDataModule, "encoded", lambda self, role: self.rows(role))
    data.setup(stage)
    count = len(lines)
    data.setup(stage)
    assert len(lines) == count, "once per run"
    return lines


def test_every_role_of_a_fit_is_counted_by_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, labels = [f"row {i}" for i in range(400)], ["cat" if i % 4 else "dog" for i in range(400)]
    data = TextDataModule(
        train_file=write(tmp_path / "a.jsonl", texts, labels),
        test_file=write(tmp_path / "b.jsonl", [f"other {i}" for i in range(7)], ["cat"] * 5 + ["dog"] * 2),
    )
    lines = said(data, "fit", monkeypatch)
    assert [line.split(":")[0] for line in lines] == ["train", "validation", "calibration", "test"]
    assert lines[3] == "test: 7 rows (cat: 5, dog: 2)"
    total: Counter[str] = Counter()
    for role in ("train", "validation", "calibration"):
        kinds = Counter(labels[i] for i in data.rows(role).sample_id)
        assert f"{role}: {kinds.total()} rows (cat: {kinds['cat']}, dog: {kinds['dog']})" in lines
        total += kinds
    assert total == Counter(labels)


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_training_rows_among_the_test_rows_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    texts = [f"row {i}" for i in range(400)]
    train = write(tmp_path / "a.jsonl", texts, [i % 2 for i in range(400)])
    part = write(tmp_path / "b.jsonl", [*texts[:30], "new", "ROW 31"], [0, 1] * 16)
    for test in (train, part):
        data = TextDataModule(train_file=train, test_file=test)
        lines = [line for line in said(data, stage, monkeypatch) if line.startswith("leakage")]
        trained = data.rows("train").text
        shared = sum(any(text == other for other in trained) for text in data.rows("test").text)
        assert shared > 10
        assert len(lines) == 1 and f"{shared} of {len(data.rows('test'))} test rows are training rows too" in lines[0]
    clean = TextDataModule(train_file=train, test_file=write(tmp_path / "c.jsonl", ["new", "newer"], [0, 1]))
    assert not [line for line in said(clean, stage, monkeypatch) if line.startswith("leakage")]


def test_a_test_file_that_cannot_be_used_does_not_stop_a_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = write(tmp_path / "a.jsonl", [f"row {i}" for i in range(400)], ["ab"[i % 2] for i in range(400)])
    data = TextDataModule(train_file=train, test_file=write(tmp_path / "b.jsonl", ["x"], ["c"]))
    [line] = [line for line in said(data, "fit", monkeypatch) if line.startswith("test")]
    assert "no rows that could be used, `label` must be one of 0 (a), 1 (b)" in line


def test_many_classes_numbers_and_odd_names() -> None:
    names = [f"c{i}" for i in range(30)]
    rows = make_rows({"t": ["x"] * 60, "y": [names[i % 30] for i in range(60)]}, ("t", None, "y"), names, "a")
    assert role_line("test", rows, names).endswith("c19: 2, 10 more classes of 2 to 2 rows)")
    rows = make_rows({"t": ["x"] * 3, "y": [0.5, 2, 1]}, ("t", None, "y"), [], "a")
    assert role_line("test", rows, []) == "test: 3 rows (from 0.5 to 2, mean 1.16667)"
    rows = make_rows({"t": ["x"], "y": ["\x1b[31mred"]}, ("t", None, "y"), ["\x1b[31mred"], "a")
    assert role_line("test", rows, ["\x1b[31mred"]) == r"test: 1 rows (\x1b[31mred: 1)"
    assert majority(rows.label) == (0, 1.0)
