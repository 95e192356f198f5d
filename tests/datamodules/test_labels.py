"""Labels: numbers compare as numbers, signs and points count, and hidden labels are left out where the user says so."""

from __future__ import annotations

import datetime as dt
import json
import types
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules import TextDataModule
from datamodules.labels import Classes, Hidden, class_labels, infer_label_names, number_labels, number_of
from dial.tiers.tier import View

SPELLINGS = {
    "float": float,
    "text": str,
    "two digits": lambda value: f"{value:.2f}",
    "spaces": lambda value: f" {value} ",
    "exponent": lambda value: f"{value:e}",
    "decimal": lambda value: Decimal(f"{value:.3f}"),
    "float64": np.float64,
}


def csv_file(path: Path, labels: list[Any], text: str = "text") -> str:
    path.write_text("text,label\n" + "".join(f"{text} {i},{label}\n" for i, label in enumerate(labels)))
    return str(path)


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("names", [range(16), range(1, 6), [0.5, 1, 1.5, 2], [10, 9, 1], [-1, 1]], ids=str)
@pytest.mark.parametrize("point", [False, True], ids=["10", "10.0"])
def test_a_number_is_the_class_whose_name_is_that_number(spell: Any, names: Any, point: bool) -> None:
    """Against fractions: every half from -3 to 20 is exactly one name, or none."""
    spelt = [str(float(name)) if point or name != int(name) else str(int(name)) for name in names]
    find = Classes(spelt)
    for half in range(-6, 41):
        expected = [index for index, name in enumerate(names) if Fraction(name) == Fraction(half, 2)]
        assert find(spell(half / 2)) == (expected[0] if expected else None)


def test_ten_and_more_classes_with_a_point_in_their_numbers(tmp_path: Path) -> None:
    labels = [f"{index}.0" for index in range(12)]
    data = TextDataModule(train_file=csv_file(tmp_path / "a.csv", labels), test_file=csv_file(tmp_path / "b.csv", [10]))
    assert data.label_names == [str(index) for index in range(12)]
    assert data.read("train").label.tolist() == list(range(12)) and data.read("test").label.tolist() == [10]


@pytest.mark.parametrize(
    ("names", "value", "expected"),
    [
        (["0", "1"], "-1", None),
        (["0", "1"], -1.0, None),
        (["0", "1"], "\u22121", None),  # the sign of minus itself
        (["0", "1"], "–1", None),
        (["0", "1"], "(-1)", None),
        (["no", "yes"], "-1", None),
        (["no", "yes"], -0.0, 0),
        (["no", "yes"], "1.5", None),
        ([str(i) for i in range(16)], "1.5", None),
        ([str(i) for i in range(16)], "1,5", None),
        ([str(i) for i in range(16)], "1 5", None),
        ([str(i) for i in range(16)], "1_5", None),
        ([str(i) for i in range(16)], "1-5", None),
        ([str(i) for i in range(16)], "015", 15),
        ([str(i) for i in range(16)], "nan", None),
        ([str(i) for i in range(16)], "1" * 400, None),
        ([str(i) for i in range(16)], 10**400, None),
        ([str(i) for i in range(16)], float("inf"), None),
        (["9007199254740992", "9007199254740993"], 9007199254740993, 1),  # the same as floats
        (["1", "01"], "01", 1),
        (["1", "01"], 1, 0),
        (["15 stars", "2 stars"], "1.5 stars", None),
        (["5 stars", "2 stars"], ".5 stars", None),
        (["class 1", "class 0"], "class -1", None),
        (["C", "Java"], "C++", None),
        (["T+1", "T"], "t+1", 0),
        (["covid-19", "flu"], "COVID 19", 0),
        (["Not Entailment", "x"], "not_entailment", 0),
        (["true", "false"], True, 0),
        (["true", "false"], False, 1),
        (["no", "yes"], True, 1),
        (["का", "x"], "की", None),  # vowel signs are no punctuation
        (["1-2", "3-4"], "1-2", 0),
        (["1-2", "3-4"], "12", None),
        (["b'pos'", "x"], b"pos", None),
    ],
)
def test_signs_points_and_symbols_are_not_lost(names: list[str], value: Any, expected: int | None) -> None:
    assert Classes(names)(value) == expected
    if expected is None:
        with pytest.raises(ValueError, match=r"`y` must be one of 0 .*but 1 of 1 rows of a.csv are not: row 0 has"):
            class_labels([value], names, "y", "a.csv")
    else:
        assert class_labels([value], names, "y", "a.csv").tolist() == [expected]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["2", "10", "other"], ["2", "10", "other"]),
        (["2.0", "10.0", "10", "other"], ["2", "10", "other"]),
        (["1.0", "-1.0", "x"], ["-1", "1", "x"]),
    ],
)
def test_names_that_are_numbers_are_sorted_as_numbers(values: list[Any], names: list[str]) -> None:
    assert infer_label_names(values, "y", "a.csv") == names


@pytest.mark.parametrize(
    "spell", [int, float, str, lambda n: f"{n}.0", Decimal], ids=["int", "float", "str", "1.0", "D"]
)
@pytest.mark.parametrize("numbers", [[1, 2, 3, 4, 5], [5, 900], [0, 4], [1], [0, 1, 2], [10**12, 3]], ids=str)
def test_whole_numbers_that_do_not_occur_are_no_classes(tmp_path: Path, numbers: list[int], spell: Any) -> None:
    """The classes are the numbers in their order, however they are written, and a label is its rank among them."""
    labels = [numbers[(7 * i) % len(numbers)] for i in range(20)]
    assert infer_label_names([spell(n) for n in labels], "y", "a.csv") == [str(n) for n in sorted(numbers)]
    data = TextDataModule(test_file=csv_file(tmp_path / "a.csv", [spell(n) for n in labels]), calibration="crossfit")
    assert data.rows("test").label.tolist() == [sorted(numbers).index(n) for n in labels]


def test_a_test_file_that_lacks_a_class_has_the_classes_of_the_training_file(tmp_path: Path) -> None:
    files = {
        "train_file": csv_file(tmp_path / "a.csv", [1, 2, 3, 4, 5]),
        "test_file": csv_file(tmp_path / "b.csv", [3, 1]),
    }
    data = TextDataModule(**files)
    assert data.label_names == ["1", "2", "3", "4", "5"] and data.read("test").label.tolist() == [2, 0]
    alone = TextDataModule(test_file=files["test_file"], label_names=[1, 2, 3, 4, 5], calibration="crossfit")
    assert alone.read("test").label.tolist() == [2, 0]
    zero = csv_file(tmp_path / "c.csv", [0])
    with pytest.raises(ValueError, match=r"must be one of 0 \(1\), 1 \(2\), .*row 0 has '0'"):
        TextDataModule(train_file=files["train_file"], test_file=zero).read("test")


def test_truth_values_are_no_numbers(tmp_path: Path) -> None:
    def file(name: str, labels: list[Any]) -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps({"text": "x", "label": label}) + "\n" for label in labels))
        return str(path)

    alone = TextDataModule(test_file=file("a.jsonl", [True, False, True]), calibration="crossfit")
    assert alone.rows("test").label.tolist() == [1, 0, 1] and alone.label_names == ["0", "1"]
    for labels in ([True, 1, 0], [0, 1, 2, True], [1.0, False], ["1", True]):
        for names in (None, ["no", "yes"], ["0", "1", "2"], []):
            mixed = TextDataModule(test_file=file("b.jsonl", labels), label_names=names, calibration="crossfit")
            with pytest.raises(
                ValueError, match=r"`label` must be truth values or numbers, but .*b.jsonl mixes (True|Fal)"
            ):
                mixed.rows("test")
    ratings = TextDataModule(test_file=file("c.jsonl", [True]), label_names=["0", "1", "2"], calibration="crossfit")
    with pytest.raises(ValueError, match=r"row 0 has True"):
        ratings.rows("test")


@pytest.mark.parametrize(
    "names", [["a", "b", "a"], [1, 2, "1"], ["1", "1.0"], [0.5, ".5"], ["a", " a "], ["yes", "no", "yes"]], ids=str
)
def test_a_name_given_twice_is_refused(tmp_path: Path, names: list[Any]) -> None:
    file = csv_file(tmp_path / "a.csv", ["a", "b"])
    with pytest.raises(ValueError, match=r"`label_names` must name every class once, but got '.*' as class \d and as"):
        TextDataModule(train_file=file, label_names=names)
    with pytest.raises(ValueError, match="tier`: `label_names` must name every class once"):
        View.parse({"path": "x", "label_names": [str(name) for name in names]}, "tier")
    assert TextDataModule(train_file=file, label_names=["us", "US", "1", "01"])._label_names == ["us", "US", "1", "01"]


@pytest.mark.parametrize("value", [b"pos", ["pos"], {"a": 1}, dt.date(2024, 1, 1)], ids=str)
def test_what_is_no_label_makes_no_class(value: Any) -> None:
    with pytest.raises(ValueError, match=r"`y` must be a text or a number in every row, but row 1 of a.csv has "):
        infer_label_names(["pos", value, "neg"], "y", "a.csv")
    assert Classes(["pos", str(value)])(value) is None


@pytest.mark.parametrize("value", [None, float("nan"), "", "  "], ids=repr)
def test_a_missing_label_makes_no_class(value: Any) -> None:
    with pytest.raises(ValueError, match=r"row 1 of a.csv has .*list an empty text in `hidden_labels`"):
        infer_label_names(["pos", value, "neg"], "y", "a.csv")
    assert infer_label_names(["pos", value, "neg"], "y", "a.csv", Hidden([""])) == ["neg", "pos"]


@pytest.mark.parametrize("values", [["0,5", "1,5"], ["-1", "1"], [0.5, 1.5], ["\ud800", "x"], []], ids=repr)
def test_names_that_numbers_do_not_tell_are_asked_for(values: list[Any]) -> None:
    with pytest.raises(
        ValueError, match=r"`label_names` cannot be told .* Give `label_names`.*`hidden_labels`"
    ) as error:
        infer_label_names(values, "y", "a.csv")
    assert ("decimal comma" in str(error.value)) == (values[:1] == ["0,5"])


def test_a_number_is_exact() -> None:
    same = [("10", 10), ("1e1", 10.0), (" +1.50", Decimal("1.5")), (".5", 0.5), (np.float32(0.1), "0.1"), ("-0", 0)]
    assert all(number_of(one) == number_of(other) is not None for one, other in same)
    for value in ("1_0", "0x1", "inf", "1,5", "", "٣", "1 0", True, None, float("nan"), [1], b"1"):
        assert number_of(value) is None


@pytest.mark.parametrize("bad", [b"1.5", "1_0", "1,5", 1e39, 10**400, "nan", [1]], ids=str)
def test_a_regression_label_is_a_number(bad: Any) -> None:
    assert number_labels([1, "2.5", Decimal("0.25")], "y", "a.csv").tolist() == [1.0, 2.5, 0.25]
    with pytest.raises(ValueError, match=r"`y` must be a finite number in every row, but row 1 of a.csv has"):
        number_labels([0, bad], "y", "a.csv")


def test_hidden_rows_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("datamodules.base.rank_zero_info", said.append)
    file = csv_file(tmp_path / "a.csv", [0, -1, 1, "-1.0", "", 1, 0])
    with pytest.raises(ValueError, match=r"`label_names` cannot be told|must be a text or a number"):
        TextDataModule(test_file=file, calibration="crossfit").read("test")
    with pytest.raises(
        ValueError, match=r"3 of 7 rows .* row 1 has '-1'.*list the value in `hidden_labels` if it means"
    ):
        TextDataModule(test_file=file, label_names=["0", "1"], calibration="crossfit").read("test")
    data = TextDataModule(test_file=file, hidden_labels=[-1, ""], calibration="crossfit")
    assert data.label_names == ["0", "1"]
    rows = data.rows("test")
    assert rows.label.tolist() == [0, 1, 1, 0] and rows.sample_id.tolist() == [0, 2, 5, 6]
    assert rows.text == ["text 0", "text 2", "text 5", "text 6"]
    assert data.hidden == {"test": 3}
    assert said == [f"test: 3 of 7 rows of {file} have hidden labels and are left out"]
    with pytest.raises(
        ValueError, match=r"must be one of 0 \(0\), 1 \(1\), but 1 of 7 rows"
    ):  # what is not named stays
        TextDataModule(test_file=file, hidden_labels=[-1], label_names=["0", "1"]).read("test")


def test_hidden_rows_of_a_regression(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "x", "label": label}) + "\n" for label in (0.5, None, float("nan"), 2)))
    data = TextDataModule(test_file=str(path), label_names=[], hidden_labels=[None], calibration="crossfit")
    assert data.rows("test").label.tolist() == [0.5, 2.0] and data.hidden == {"test": 2}


def test_hidden_rows_are_predicted(tmp_path: Path) -> None:
    file = csv_file(tmp_path / "a.csv", [0, -1, 1])
    data = TextDataModule(test_file=file, hidden_labels=["-1"], label_names=["a", "b"], calibration="crossfit")
    state = types.SimpleNamespace(fn=types.SimpleNamespace(value="predict"))
    data.trainer = types.SimpleNamespace(state=state)  # type: ignore[assignment]
    assert data.rows("test").label.tolist() == [0, -1, 1] and not data.hidden


@pytest.mark.parametrize(
    ("names", "hidden"), [(["0", "1"], 0), (["0", "1"], "1.0"), (["no", "yes"], "Yes"), (["a"], 0)]
)
def test_a_class_is_not_hidden(tmp_path: Path, names: list[str], hidden: Any) -> None:
    file = csv_file(tmp_path / "a.csv", [names[0]])
    with pytest.raises(ValueError, match=r"`hidden_labels` must name no class, but got"):
        TextDataModule(test_file=file, label_names=names, hidden_labels=[hidden]).read("test")


def test_label_names_may_be_written_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x", "y"], "label": pa.array([Decimal("3.00"), Decimal("1.00")])}), path)
    data = TextDataModule(test_file=str(path), label_names=[1, 2.0, "3"], calibration="crossfit")
    assert data.label_names == ["1", "2.0", "3"] and data.rows("test").label.tolist() == [2, 0]
