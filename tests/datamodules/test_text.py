import json
from pathlib import Path

import pytest

from datamodules import TextDataModule


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_own_columns_pairs_and_label_names(tmp_path: Path) -> None:
    rows = [{"q": "who", "a": "me", "ok": "No"}, {"q": "what", "a": "", "ok": "yes"}]
    data = TextDataModule(
        test_file=write(tmp_path / "t.jsonl", rows),
        text_column="q",
        text_b_column="a",
        label_column="ok",
        label_names=["yes", "no"],
        calibration="crossfit",
    )
    assert list(data.rows("test").units()) == [("who", "me"), ("what", "")]
    assert data.rows("test").label.tolist() == [1, 0]
    assert data.metrics == ["accuracy"] and data.task == "t" and data.test_splits == ["test"]


def test_label_names_are_those_that_occur(tmp_path: Path) -> None:
    names = write(tmp_path / "a.jsonl", [{"text": "x", "label": name} for name in ("pos", "neg", "pos")])
    assert TextDataModule(train_file=names).label_names == ["neg", "pos"]
    indices = write(tmp_path / "b.jsonl", [{"text": "x", "label": i} for i in (2, 0, 1)])
    assert TextDataModule(train_file=indices).label_names == ["0", "1", "2"]
    numbers = write(tmp_path / "c.jsonl", [{"text": "x", "label": 0.5}])
    with pytest.raises(ValueError, match=r"`label_names` cannot be told .* an empty list makes a regression"):
        _ = TextDataModule(train_file=numbers).label_names
    regression = TextDataModule(train_file=numbers, label_names=[])
    assert regression.metrics == ["pearson", "spearman"] and regression.read("train").label.tolist() == [0.5]


@pytest.mark.parametrize("values", [["Pos", "pos"], ["a", "a "], [[0], [1, 0.5]]])
def test_label_names_that_are_not_told_for_sure_are_asked_for(tmp_path: Path, values: list) -> None:
    rows = [{"text": "x", "label": value} for value in values]
    data = TextDataModule(train_file=write(tmp_path / "a.jsonl", rows))
    if isinstance(values[0], list):
        with pytest.raises(ValueError, match=r"`label` must be a text or a number in every row, but row 0 of .* \[0\]"):
            data.rows("train")
    else:
        with pytest.raises(ValueError, match=r"`label_names` cannot be told .* Give `label_names`"):
            _ = data.label_names


def test_plus_and_minus_are_two_classes(tmp_path: Path) -> None:
    rows = [{"text": f"x {i}", "label": "+-"[i % 2]} for i in range(6)]
    data = TextDataModule(test_file=write(tmp_path / "a.jsonl", rows), calibration="crossfit")
    assert data.label_names == ["+", "-"] and data.rows("test").label.tolist() == [0, 1, 0, 1, 0, 1]


def test_rows_without_labels_are_measured_by_agreement(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [{"text": "x"}, {"text": "y"}])
    with pytest.raises(ValueError, match=r"`label_names` must be given where `label_column` is none"):
        TextDataModule(test_file=file, label_column=None)
    data = TextDataModule(test_file=file, label_column=None, label_names=["no", "yes"])
    assert data.rows("test").label.tolist() == [-1, -1]
    assert not data.labelled and data.metrics == ["agreement"]
    with pytest.raises(ValueError, match=r"`label_column` must name a column for `dial validate`, but got none"):
        data.setup("validate")
    numbers = TextDataModule(test_file=file, label_column=None, label_names=[])
    for stage in ("fit", "test"):
        with pytest.raises(ValueError, match=r"`label_column` must name a column for a regression"):
            numbers.setup(stage)


def test_given_files_are_taken_as_they_are(tmp_path: Path) -> None:
    train = [{"text": f"train {i}", "label": i % 2} for i in range(200)]
    other = [{"text": f"other {i}", "label": i % 2} for i in range(7)]
    files = {"train_file": write(tmp_path / "a.jsonl", train), "calibration_file": write(tmp_path / "b.jsonl", other)}
    data = TextDataModule(**files, validation_fraction=0.25)
    assert len(data.rows("calibration")) == 7
    assert len(data.rows("train")) + len(data.rows("validation")) == 200 and len(data.rows("validation")) > 20
    assert len(TextDataModule(**files, validation_file=files["calibration_file"]).rows("train")) == 200


def test_errors_name_the_argument(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`train_file` or `test_file` must be given"):
        TextDataModule()
    with pytest.raises(ValueError, match=r"`validation_file` must be a file that exists, but got '/none.csv'"):
        TextDataModule(validation_file="/none.csv")
    train = write(tmp_path / "a.jsonl", [{"text": "x", "label": 0}, {"text": "y", "label": 3}])
    with pytest.raises(ValueError, match=r"`test_file` must be given for test rows, but got none.*`test_fraction`"):
        TextDataModule(train_file=train).rows("test")
    with pytest.raises(ValueError, match=r"`train_file` must have the column 'body', but"):
        TextDataModule(train_file=train, text_column="body", label_names=["a", "b"]).rows("train")
    with pytest.raises(ValueError, match=r"`label` must be one of 0 \(a\), 1 \(b\)"):
        TextDataModule(train_file=train, label_names=["a", "b"]).rows("train")
    with pytest.raises(ValueError, match=r"`train_file` must be given .* `--data.calibration crossfit`"):
        TextDataModule(test_file=train).rows("calibration")


def test_f1_of_more_than_two_classes_is_refused(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", [{"text": f"row {i}", "label": i % 5} for i in range(20)])
    with pytest.raises(ValueError, match=r"`metrics` must be of 5 classes \(0, 1, .*'f1'.*take macro_f1"):
        _ = TextDataModule(train_file=train, metrics=["accuracy", "f1"]).metrics
    two = write(tmp_path / "b.jsonl", [{"text": f"row {i}", "label": 4 * (i % 2)} for i in range(20)])
    assert TextDataModule(train_file=two, metrics=["f1"]).metrics == ["f1"]
    assert TextDataModule(train_file=train, metrics=["macro_f1"]).metrics == ["macro_f1"]


def grouped(tmp_path: Path, rows: int = 300, size: int = 5) -> str:
    """Rows of documents; every document's rows share a name and nothing else."""
    lines = [{"text": f"row number {i}", "label": "ab"[i % 2], "document": f"d{i // size}"} for i in range(rows)]
    return write(tmp_path / "grouped.jsonl", lines)


def test_rows_of_a_group_stay_in_one_role(tmp_path: Path) -> None:
    file = grouped(tmp_path)
    data = TextDataModule(train_file=file, group_column="document", test_fraction=0.3)
    alone = TextDataModule(train_file=file, test_fraction=0.3)
    roles = ("train", "validation", "calibration", "test")
    documents = {role: set(data.rows(role).group.tolist()) for role in roles}
    assert sum(len(names) for names in documents.values()) == len(set().union(*documents.values())) == 60
    assert sum(len(data.rows(role)) for role in roles) == 300
    for role in roles:
        ids = data.rows(role).sample_id
        assert data.rows(role).group.tolist() == [f"d{i // 5}" for i in ids]
    split = {i // 5 for i in alone.rows("test").sample_id} & {i // 5 for i in alone.rows("train").sample_id}
    assert alone.rows("test").group is None and split  # without the column documents are torn apart
    assert data.fingerprint("test") != alone.fingerprint("test")


@pytest.mark.parametrize("value", ["", None, [1], float("nan")])
def test_a_row_that_belongs_to_nothing_is_refused(tmp_path: Path, value: object) -> None:
    rows = [{"text": "x", "label": "a", "of": "d"}, {"text": "y", "label": "b", "of": value}]
    data = TextDataModule(test_file=write(tmp_path / "a.jsonl", rows), group_column="of", calibration="crossfit")
    with pytest.raises(ValueError, match=r"`of` must say in every row what it belongs to.*a.jsonl, row 1 has"):
        data.rows("test")
    numbers = [{"text": "x", "label": "a", "of": 1}, {"text": "y", "label": "b", "of": 2}]
    data = TextDataModule(test_file=write(tmp_path / "b.jsonl", numbers), group_column="of", calibration="crossfit")
    assert data.rows("test").group.tolist() == ["1", "2"]
