"""The ablation of first tiers: one difference at a time, inputs that exist, and what the page says."""

import json
import re
import statistics
from pathlib import Path

import numpy as np
import pytest

from dial.stages.parquet import save_table
from scripts.first_tiers import STUDENTS, effects, measured, page, plan
from scripts.results_cell import Cell
from tests.stages.tables import random_table

CELL = Cell("sst2", data="data", models="models", runs="runs/first-tiers")


def test_every_student_has_a_neighbour_that_differs_in_one_thing() -> None:
    assert len({student.name for student in STUDENTS}) == len(STUDENTS)
    for student in STUDENTS:
        differences = [
            [key for key in ("tokens", "start", "width") if getattr(student, key) != getattr(other, key)]
            for other in STUDENTS
            if (student.vocabulary or 30_522) == (other.vocabulary or 30_522)
        ]
        assert ["start"] in differences


def test_every_tier_of_a_step_is_made_by_an_earlier_one() -> None:
    made: set[str] = set()
    for step in plan(CELL, "configs/trainer/gpu.yaml", 5):
        used = set(re.findall(r"runs/first-tiers/[\w/-]*?/tier\b", " ".join(step.command)))
        assert used <= made, f"{step.name} needs {used - made}"
        assert step.command.count("configs/trainer/gpu.yaml") == 1
        if step.result.endswith("card.json"):
            made.add(step.result.removesuffix("/card.json"))
    assert len(made) == len(STUDENTS) + 1


def test_equal_data_and_training() -> None:
    """Commands of two students differ in their model and folder only."""
    fits = [step.command for step in plan(CELL, None, 3) if step.command[3] == "configs/model/bilstm_subword.yaml"]
    assert len(fits) == len(STUDENTS)
    own = ("--model.config", "--model.tokenizer", "--model.embeddings", "--run")
    for command in fits:
        assert {a for a, b in zip(command, fits[0], strict=True) if a != b}.isdisjoint(own)
        changed = {command[i - 1] for i, (a, b) in enumerate(zip(command, fits[0], strict=True)) if a != b}
        assert changed <= set(own)


def test_the_page_shows_what_was_measured(tmp_path: Path) -> None:
    name = STUDENTS[5].name
    point = {"score": "softmax", "rule": "threshold", "kind": "confident", "target": 0.99, "kept": 0.995, "held": True}
    point |= {"swift_ratio": 0.7, "speedup": 2.36, "speedup_interval": [2.0, 2.6], "shares": {"a": 0.7, "b": 0.3}}
    stages = [{"quality": {"accuracy": q}, "macs": m} for q, m in ((0.8211, 5e6), (0.901, 5e8))]
    split = {"stages": stages, "points": [point, {**point, "score": "energy"}], "reference_macs": 5e8}
    for place, content in (
        (f"cascade-{name}/sweep/summary.json", {"splits": {"test": split}, "metrics": ["accuracy"]}),
        (f"{name}/tier/card.json", {"parameters": 1_600_000}),
    ):
        path = tmp_path / CELL.folder / place
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    (row,) = rows = measured(CELL, tmp_path)
    assert row["name"] == "wordpiece-super-50" and row["speedup"] == 2.36
    change = {"change": "embeddings", "pairs": 3, "gained": 0.0312, "half": 0.0101}
    text = page(rows, [change], list(plan(CELL, None, 5)))
    assert "| wordpiece | the Super's | super | 50 | 1,600,000 | 82.1 | 10.0 | 2.36× [2.00, 2.60] (99.5 %) |" in text
    assert "| embeddings | 3 | +3.1 [+2.1, +4.1] |" in text
    assert "accuracy 90.1 %" in text and text.count("\ndial fit ") == len(STUDENTS) + 1


def test_what_each_change_does_is_told_by_pairs_that_differ_in_nothing_else(tmp_path: Path) -> None:
    tables = {}
    for place, student in enumerate(STUDENTS):
        table = random_table(90, seed=place)
        order = np.random.default_rng(place).permutation(len(table))  # rows of runs need not have one order
        tables[student] = table.take(order)
        save_table(tables[student], tmp_path / CELL.folder / f"cascade-{student.name}/sweep/stages.parquet")
    told = {each["change"]: each for each in effects(CELL, tmp_path)}
    assert [each["pairs"] for each in told.values()] == [4, 2, 2, 2]

    def right(number: int) -> dict[int, bool]:
        table = tables[STUDENTS[number]]
        return dict(zip(table.sample_id.tolist(), (table.predictions[:, 0] == table.label).tolist(), strict=True))

    pairs = {"embeddings start": [(0, 1), (2, 3), (4, 5), (6, 7)], "the Super's pieces": [(2, 4), (3, 5)]}
    pairs |= {"30,522 words": [(0, 2), (1, 3)], "128 numbers": [(4, 6), (5, 7)]}
    for name, places in pairs.items():
        (seen,) = (each for change, each in told.items() if change.startswith(name))
        gained = [
            sum(right(after)[row] - right(before)[row] for before, after in places) / len(places) for row in right(0)
        ]
        assert seen["gained"] == pytest.approx(sum(gained) / 90)
        assert seen["half"] == pytest.approx(1.96 * statistics.stdev(gained) / 90**0.5)
