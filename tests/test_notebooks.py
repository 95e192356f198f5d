"""Notebooks run from top to bottom on a small table, keep no outputs, and hold no logic of their own."""

import ast
from pathlib import Path
from typing import Any

import matplotlib.figure
import nbformat
import numpy as np
import pytest

from dial.report.report import SweepSettings
from dial.stages.parquet import save_table
from dial.stages.stage import Stage
from dial.stages.table import StageTable

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
STATEMENTS_OF_LOGIC = (
    ast.FunctionDef,
    ast.ClassDef,
    ast.Lambda,
    ast.For,
    ast.While,
    ast.If,
    ast.Try,
    ast.comprehension,
)


def code_cells(path: Path) -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def run(path: Path, parameters: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Execute the code cells; after the cell tagged `parameters` its names get these values.

    Returns:
        The names that the notebook leaves, and the value of each cell's last expression.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    values = []
    for cell in code_cells(path):
        body = ast.parse(cell.source).body
        last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), str(path), "exec"), names)
        if last is not None:
            values.append(eval(compile(ast.Expression(last.value), str(path), "eval"), names))
        if "parameters" in cell.metadata.get("tags", []):
            assert set(parameters) <= set(names), "the settings cell does not have these names"
            names.update(parameters)
    return names, values


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A saved table of 300 rows, two stages and two classes, the second stage the better one."""
    rng = np.random.default_rng(0)
    rows = 300
    label = rng.integers(0, 2, rows)
    signal = np.array([0.8, 2.5])[None, :] * np.where(label == 1, 1.0, -1.0)[:, None] + rng.normal(size=(rows, 2))
    outputs = np.stack([-signal, signal], axis=-1).astype(np.float32)
    macs = np.broadcast_to([1e6, 9e6], (rows, 2))
    made = StageTable(
        split=np.repeat(["calibration", "test"], rows // 2),
        sample_id=np.arange(rows),
        label=label,
        stages=(Stage("swift", "swift"), Stage("super", "super")),
        predictions=outputs.argmax(axis=-1),
        decide_macs=macs,
        macs=macs,
        macs_reference=np.full(rows, 8e6),
        outputs=outputs,
        label_names=("negative", "positive"),
    ).with_scores(["energy", "softmax"])
    save_table(made, tmp_path / "stages.parquet")
    return tmp_path / "stages.parquet"


def test_tradeoff_draws_its_figures(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = [path for path in NOTEBOOKS if path.stem == "tradeoff"]
    names, values = run(path, {"TABLE": table, "SETTINGS": SweepSettings(targets=(0.99,), bootstrap=100)})
    figures = [value for value in values if isinstance(value, matplotlib.figure.Figure)]
    assert len(figures) == 3
    assert all(axis.lines or axis.collections for figure in figures for axis in figure.axes)
    printed = capsys.readouterr().out
    assert "300 rows in calibration, test" in printed
    assert names["report"].text() in printed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_stored(path: Path) -> None:
    nbformat.validate(nbformat.read(path, as_version=4))
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_logic_of_its_own(path: Path) -> None:
    nodes = [node for cell in code_cells(path) for node in ast.walk(ast.parse(cell.source))]
    assert not [ast.unparse(node) for node in nodes if isinstance(node, STATEMENTS_OF_LOGIC)]
