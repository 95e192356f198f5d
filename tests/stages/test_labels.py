"""`dial sweep` on labels that are texts, categories or decimals: the same numbers as with classes, or one line."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dial.cli.main import main
from dial.stages.parquet import load_table

ROWS = 80
NAMES = ["neg", "neutral", "pos"]
CLASSES = np.random.default_rng(0).integers(3, size=ROWS)
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Function that writes a table with this label column, and perhaps predictions instead of logits."""

    def call(label: Any, predictions: bool = False) -> Path:
        random = np.random.default_rng(1)
        columns: dict[str, Any] = {"split": ["test"] * ROWS, "sample_id": range(ROWS), "label": label(CLASSES)}
        for cost, stage in enumerate(("swift", "super"), start=1):
            logits = random.normal(size=(ROWS, 3)) + 2 * cost * np.eye(3)[CLASSES]
            columns[f"macs_{stage}"] = [1000.0 * cost] * ROWS
            if predictions:
                columns[f"prediction_{stage}"] = label(logits.argmax(axis=1))
                columns[f"own_{stage}"] = logits.max(axis=1)
            else:
                columns[f"output_{stage}"] = list(logits)
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        return tmp_path / "t.parquet"

    return call


def texts(classes: np.ndarray, names: list[str] = NAMES) -> Any:
    return pa.array([names[index] for index in classes])


FORMS: dict[str, tuple[Any, list[str] | None]] = {
    "integers": (lambda c: pa.array(c), None),
    "texts": (texts, NAMES),
    "texts in another case": (lambda c: texts(c, ["NEG", " Neutral", "pos!"]), NAMES),
    "categories": (lambda c: texts(c).dictionary_encode(), NAMES),
    "string_view": (lambda c: texts(c).cast(pa.string_view()), NAMES),
    "decimals": (lambda c: pa.array([Decimal(f"{index}.00") for index in c]), None),
    "decimals beside names": (lambda c: pa.array([Decimal(f"{index}.00") for index in c]), NAMES),
    "floats": (lambda c: pa.array(c.astype(float)), None),
    "texts of numbers": (lambda c: pa.array([f"{index}.0" for index in c]), None),
    "names that are numbers": (lambda c: pa.array(c + 1), ["1", "2", "3"]),
    "decimals that are names": (lambda c: pa.array([Decimal(f"{index + 1}.00") for index in c]), ["1", "2", "3"]),
    "integers beside names": (lambda c: pa.array(c), NAMES),
}


@pytest.mark.parametrize("predictions", [False, True])
@pytest.mark.parametrize(("label", "names"), FORMS.values(), ids=FORMS)
def test_labels_in_any_form_are_the_same_classes(
    write: Write, label: Any, names: list[str] | None, predictions: bool
) -> None:
    table = load_table(write(label, predictions), label_names=names, costs="own")
    assert table.label.tolist() == CLASSES.tolist() and table.label.dtype == np.int64
    random = np.random.default_rng(1)
    for index in range(2):
        logits = random.normal(size=(ROWS, 3)) + 2 * (index + 1) * np.eye(3)[CLASSES]
        assert table.predictions[:, index].tolist() == [max(range(3), key=lambda c, row=row: row[c]) for row in logits]
    assert table.label_names == tuple(names or ("0", "1", "2"))


@pytest.mark.parametrize(
    ("label", "names", "message"),
    [
        (
            texts,
            None,
            r"`table` must have numbers, or have `label_names` as 'label', but .* has '\w+'. Give `--label",
        ),
        (texts, ["no", "maybe", "yes"], r"must have one of no, maybe, yes as 'label', but .* has '\w+'. Correct"),
        (lambda c: texts(c).cast(pa.binary()), NAMES, r"must have texts or numbers as 'label', but .* has b'\w+'"),
        (lambda c: pa.array([dt.date(2024, 1, 1 + i) for i in c]), None, r"must have texts or numbers as 'label'"),
        (lambda c: pa.array([dt.datetime(2024, 1, 1 + i) for i in c]), None, r"must have texts or numbers as 'label'"),
        (lambda c: pa.array([[int(i)] for i in c]), None, r"must have texts or numbers as 'label'"),
        (lambda c: pa.array([{"a": int(i)} for i in c]), NAMES, r"must have texts or numbers as 'label'"),
        (lambda c: pa.array([Decimal(f"{i}.50") for i in c]), NAMES, r"one of neg, neutral, pos as .* has \d\.50"),
        (lambda c: pa.array(c - 1), ["0", "1", "2"], r"one of 0, 1, 2 as 'label', but .* has -1"),
        (lambda c: pa.array(c - 1), None, r"`label` must be 0 to 2, .* but got -1"),
    ],
    ids=[
        "texts",
        "other names",
        "bytes",
        "dates",
        "times",
        "lists",
        "structs",
        "halves",
        "outside",
        "outside, no names",
    ],
)
def test_other_labels_are_refused_in_one_line(
    write: Write, label: Any, names: list[str] | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(label)
    arguments = ["sweep", str(path), *(["--label-names", *names] if names else [])]
    assert main(arguments) == 2
    [error] = capsys.readouterr().err.splitlines()
    assert error.startswith("dial sweep: error: `")
    with pytest.raises(ValueError, match=message):
        load_table(path, label_names=names, costs="own")


def test_a_regression_on_decimals(write: Write) -> None:
    path = write(lambda c: pa.array([Decimal(f"{index}.25") for index in c]))
    frame = pd.read_parquet(path)
    for stage in ("swift", "super"):
        frame[f"output_{stage}"] = [float(row[0]) for row in frame[f"output_{stage}"]]
    frame.to_parquet(path)
    table = load_table(path, costs="own")
    assert not table.task.exact and table.label.tolist() == (CLASSES + 0.25).tolist()


def test_the_command_on_texts(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(texts)
    arguments = [
        "--costs",
        "own",
        "--label-names",
        *NAMES,
        "--bootstrap",
        "100",
        "--targets",
        "0.9",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["sweep", str(path), *arguments]) == 0, capsys.readouterr().err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["label_names"] == NAMES


@pytest.mark.parametrize("numbers", [[0, 2, 4], [1, 2, 3], [7, 900, 31]], ids=str)
def test_numbers_that_nothing_has_are_no_classes(write: Write, numbers: list[int]) -> None:
    table = load_table(write(lambda c: pa.array([numbers[i] for i in c]), predictions=True), costs="own")
    ranks = [sorted(numbers).index(number) for number in numbers]
    assert table.label_names == tuple(str(number) for number in sorted(numbers))
    assert table.label.tolist() == [ranks[index] for index in CLASSES]
    assert set(table.predictions.ravel().tolist()) <= {0, 1, 2}


def test_fractions_are_no_classes(write: Write) -> None:
    halves = write(lambda c: pa.array(c % 2 + 0.5))
    with pytest.raises(
        ValueError, match=r"`table` must have classes from 0 to 2 as 'label' beside 3 logits .* has \d\.5"
    ):
        load_table(halves, costs="own")
    frame = pd.read_parquet(write(pa.array, predictions=True))
    frame["prediction_swift"] += 0.25
    frame.to_parquet(halves)
    assert not load_table(halves, costs="own").task.exact  # whole labels, answers between them
    with pytest.raises(ValueError, match=r"`prediction_swift` must be 0 to 2, .* but got \d\.25 for sample_id 0"):
        load_table(halves, label_names=NAMES, costs="own")


def test_label_names_given_twice_are_refused(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(write(texts)), "--costs", "own", "--label-names", "neg", "pos", "neg"]) == 2
    assert (
        "`--label-names` must name every class once, but got 'neg' as class 0 and as class 2" in capsys.readouterr().err
    )
