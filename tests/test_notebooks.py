"""Notebooks run from top to bottom on a small table, keep no outputs, and hold no logic of their own."""

import ast
from pathlib import Path
from typing import Any

import matplotlib.figure
import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest

from dial.report.report import SweepSettings

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


def notebook(name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The notebook's path; from now on relative paths are as in Jupyter."""
    (path,) = [path for path in NOTEBOOKS if path.stem == name]
    monkeypatch.chdir(path.parent)
    return path


def test_there_are_five() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "choosing_an_operating_point",
        "dropped_tokens",
        "energy_head",
        "exits_and_slenderisation",
        "reading_a_sweep",
    ]


def test_reading_a_sweep_draws_its_figures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    settings = SweepSettings(scores=("softmax",), targets=(0.99,), bootstrap=100)
    names, values = run(notebook("reading_a_sweep", monkeypatch), {"SETTINGS": settings})
    figures = [value for value in values if isinstance(value, matplotlib.figure.Figure)]
    assert len(figures) == 4
    assert all(axis.lines or axis.collections for figure in figures for axis in figure.axes)
    printed = capsys.readouterr().out
    assert "974 rows in calibration, test" in printed
    assert names["report"].text() in printed


def test_exits_and_slenderisation_reaches_its_compression(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names, values = run(notebook("exits_and_slenderisation", monkeypatch), {"COMPRESSION": 3.0})
    tables = [value for value in values if isinstance(value, pd.DataFrame)]
    assert [table.index.name for table in tables] == ["method", "method"]
    assert "costeff-4x" in tables[0].index and not tables[1].isna().any().any()
    parameters = {name: sum(p.numel() for p in names[name].parameters()) for name in ("model", "slender")}
    assert 3.0 <= parameters["model"] / parameters["slender"] < 3.2
    assert values[-2]["factor"]["all"] == pytest.approx(parameters["model"] / parameters["slender"], abs=1e-3)
    axis = names["axis"]
    assert axis.images[0].get_array().shape == (4, 8) and "times cheaper" in capsys.readouterr().out
    plt.close("all")


def test_choosing_an_operating_point_shows_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SweepSettings(scores=("softmax",), targets=(0.99, 0.95), bootstrap=100)
    _, values = run(notebook("choosing_an_operating_point", monkeypatch), {"SETTINGS": settings})
    shown, in_sample, inflation, fitted, budget = [value for value in values if isinstance(value, pd.DataFrame)]
    for frame in (shown, fitted):
        assert list(zip(frame.kind, frame.target, strict=True)) == [
            (kind, target) for target in (0.99, 0.95) for kind in ("expected", "confident")
        ]
    assert in_sample.held.all() and len(in_sample) == len(inflation) == 2
    assert inflation.selection_inflation.notna().all()
    assert len(budget) == 1 and budget.speedup.iloc[0] > 1.5


def test_energy_head_compares_energies_with_what_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    small = {"TRAIN_ROWS": 640, "TEST_ROWS": 120, "EPOCHS": 1, "HEAD_EPOCHS": 1}
    names, values = run(notebook("energy_head", monkeypatch), small)
    frame = names["frame"]
    assert len(frame) == 120 and frame.energy.nunique() > 100 and frame.steps.between(1, 8).all()
    assert frame.answer.str.len().max() > 1 and (frame.decide < frame.answer_here).all()
    (figure,) = [value for value in values if isinstance(value, matplotlib.figure.Figure)]
    assert all(axis.patches for axis in figure.axes) and names["module"].tier.head.config.kind == "vocabulary"
    plt.close("all")


def test_dropped_tokens_shows_what_goes_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    small = {"TRAIN_ROWS": 640, "SEARCH_ROWS": 40, "TEST_ROWS": 80, "POPULATION": 4, "GENERATIONS": 2}
    names, values = run(notebook("dropped_tokens", monkeypatch), {**small, "EPOCHS": 1, "ADAPTIVE_EPOCHS": 1})
    figures = [value for value in values if isinstance(value, matplotlib.figure.Figure)]
    assert len(figures) == 3
    question, context = names["asked"].loc[names["longest"], ["question", "context"]]
    kept, shown = names["short"].lengths, figures[1].axes[0].images[0].get_array()
    tokens = shown.shape[1]
    assert tokens == len(names["short"].tokenizer(question, context)["input_ids"]) and shown.shape[0] == 3
    assert (shown == 1.0).sum(axis=1).tolist() == kept.kept([tokens])[:, 0].tolist()
    assert names["front"].macs.is_monotonic_increasing and names["front"].quality.is_monotonic_increasing
    frame, right = names["frame"], names["right"]
    assert values[-1].index.name == "level" and 0.15 < frame.deferred.mean() < 0.3
    assert (right.cascade[frame.deferred] == right.whole[frame.deferred]).all()
    assert all(row.short in row.context for row in frame.itertuples())
    plt.close("all")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_stored(path: Path) -> None:
    nbformat.validate(nbformat.read(path, as_version=4))
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_logic_of_its_own(path: Path) -> None:
    nodes = [node for cell in code_cells(path) for node in ast.walk(ast.parse(cell.source))]
    assert not [ast.unparse(node) for node in nodes if isinstance(node, STATEMENTS_OF_LOGIC)]
