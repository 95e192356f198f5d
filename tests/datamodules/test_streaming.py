"""Files as streams of texts, and what is said about rows that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.sources import TextFile

TEXTS = ["good, really", 'she said "no"', "two\nlines", "", "é — ü", "a\u2028b\x0cc\x85d"]


def write(folder: Path, suffix: str, texts: list[str]) -> Path:
    path = folder / f"input{suffix}"
    if suffix == ".csv":
        quoted = ['"' + text.replace('"', '""') + '"' for text in texts]
        path.write_text("id,text\n" + "".join(f"{i},{text}\n" for i, text in enumerate(quoted)), newline="")
    elif suffix == ".tsv":
        path.write_text("id\ttext\n" + "".join(f"{i}\t{text}\n" for i, text in enumerate(texts)), newline="")
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)))
    elif suffix == ".parquet":
        pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), path, row_group_size=4)
    else:
        path.write_text("".join(f"{text}\n" for text in texts), newline="")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".txt"])
def test_reads_every_format_whole_and_from_the_middle(tmp_path: Path, suffix: str) -> None:
    texts = [text for text in TEXTS * 3 if suffix in (".csv", ".jsonl", ".parquet") or "\n" not in text]
    file = TextFile(write(tmp_path, suffix, texts))
    rows = list(file.rows())
    assert [row.unit for row in rows] == texts
    assert [row.number for row in rows] == list(range(len(texts)))
    for start in (1, 4, 9, len(texts)):
        assert list(file.rows(start)) == rows[start:]


def test_reads_pairs_and_windows_files(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_bytes(b'\xef\xbb\xbfone,two,label\r\na b,c,1\r\n\r\n"d, e",f,0\r\n')
    rows = list(TextFile(path, ["two", "one"]).rows())
    assert [row.unit for row in rows] == [("c", "a b"), ("f", "d, e")]
    assert [row.place for row in rows] == ["line 2", "line 4"]


@pytest.mark.parametrize("content", ["", "{\n"])
def test_a_file_that_does_not_tell_its_columns(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    assert [row.unit for row in TextFile(path).rows()] == [None] * len(content.splitlines())


def test_takes_the_only_column(tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text("sentence\ngood\n")
    assert [row.unit for row in TextFile(path).rows()] == ["good"]


def problems(path: Path, **settings: object) -> list[tuple[str, str]]:
    return [(row.place, row.problem) for row in TextFile(path, **settings).rows() if row.unit is None]  # type: ignore


def test_names_lines_that_are_no_json_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl"
    lines = ['{"text": "a"}', "", '{"text": "b"', "[1]", '{"txt": "c"}', '{"text": null}', '{"text": 3}']
    lines += ['{"text": ["' + "x" * 99 + '"]}', '{"text": "\\ud800"}', '{"text": "z"}']
    path.write_bytes("\n".join(lines).encode() + b'\n{"text": "\xff"}\n')
    rows = list(TextFile(path).rows())
    assert [row.unit for row in rows if row.unit is not None] == ["a", "z"]
    assert [row.number for row in rows] == list(range(10))
    found = dict(problems(path))
    assert found["line 3"].startswith("is no JSON: Expecting")
    assert found["line 4"] == "must be a JSON object, but is list"
    assert found["line 5"] == "has no 'text'"
    assert found["line 6"] == "must have a text as 'text', but has null"
    assert found["line 7"] == "must have a text as 'text', but has 3"
    assert found["line 8"].endswith("xxx...") and len(found["line 8"]) < 100
    assert found["line 9"] == "has half of a surrogate pair, which is no text"
    assert found["line 11"] == "is not UTF-8"


def test_names_rows_that_are_no_csv_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "input.csv"
    path.write_bytes(b'id,text\n1,a\n2,b,c\n3,"d"e\n4,"f\ng"\n5,\xff\n6,h\n')
    rows = list(TextFile(path).rows())
    assert [row.unit for row in rows if row.unit is not None] == ["a", "f\ng", "h"]
    assert problems(path) == [
        ("line 3", "has 3 fields, but the header has 2"),
        ("line 4", "is no CSV: ',' expected after '\"'"),
        ("line 7", "is not UTF-8"),
    ]


def test_a_field_may_be_long(tmp_path: Path) -> None:
    path = write(tmp_path, ".csv", ["word " * 50_000])
    assert len(next(TextFile(path).rows()).unit or "") == 250_000


def test_names_short_rows_of_tsv_and_missing_texts_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "input.tsv"
    path.write_text('id\ttext\n1\ta\n2\n3\t"b\n')
    assert problems(path) == [("line 3", "has 1 fields, but the header has 2")]
    assert [row.unit for row in TextFile(path).rows()] == ["a", None, '"b']
    other = tmp_path / "input.parquet"
    pq.write_table(pa.table({"text": ["a", None, "b"]}), other)
    assert problems(other) == [("row 1", "must have a text as 'text', but has null")]


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("a.xml", "", None, "`INPUT` must be a file ending in .csv, .tsv, .jsonl, .json, .parquet, .txt, but got"),
        ("a.csv", None, None, "`INPUT` must be a file that exists"),
        ("a.csv", "a,b\n1,2\n", None, "`--columns` must name the column of the text, .* among a, b of .*got nothing"),
        ("a.csv", "a,b\n1,2\n", ["c"], "among a, b of .*, but got c"),
        ("a.csv", "a,b,c\n1,2,3\n", ["a", "b", "c"], "but got a, b, c"),
        ("a.csv", "", ["a"], "`INPUT` must have columns, but .*a.csv is empty. Give another file."),
        ("a.txt", "a\n", ["a"], "`--columns` must be left out for a plain text file, but got a"),
        ("a.jsonl", '{"b": "x"}\n', ["a"], "among b of .*, but got a"),
        ("a.parquet", "no parquet", None, "`INPUT` must be a parquet file, but .* is none"),
    ],
)
def test_refuses_at_once(
    tmp_path: Path, name: str, content: str | None, columns: list[str] | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        TextFile(path, columns, "INPUT", "--columns")


def test_refuses_a_column_of_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [1, 2]}), path)
    with pytest.raises(ValueError, match=r"the column 'text' of .* must be of text, but it is int64"):
        next(TextFile(path).rows())


def test_a_categorical_column_is_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.array(["x", "y", "x"]).dictionary_encode()}), path)
    assert [row.unit for row in TextFile(path).rows()] == ["x", "y", "x"]


def test_a_number_too_long_to_read_is_a_broken_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n{"text": "y", "n": ' + "9" * 5000 + '}\n{"text": "z"}\n')
    found = list(TextFile(path).rows())
    assert [row.unit for row in found] == ["x", None, "z"]
    assert found[1].place == "line 2" and found[1].problem.startswith("is no JSON")


def test_a_row_that_its_readers_cannot_take_has_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question,context\nwho,x\n,x\n")
    source = TextFile(path)
    source.unit_problem = lambda unit: "" if unit[0] else "has an empty question"
    assert [(row.unit, row.place, row.problem) for row in source.rows()] == [
        (("who", "x"), "line 2", ""),
        (None, "line 3", "has an empty question"),
    ]
