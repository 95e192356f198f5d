"""Training, testing and predicting read the same rows from a file, or refuse the same row with the same words."""

from __future__ import annotations

import csv
import datetime as dt
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules import GLUEDataModule, TextDataModule
from datamodules.labels import infer_label_names
from datamodules.row_formats import FORMATS, open_rows
from datamodules.sources import TextFile

Make = Callable[[Path], Path]


def raw(name: str, content: str | bytes) -> Make:
    """Function that writes a file of this content."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return folder / name

    return make


def parquet(name: str = "a.parquet", **columns: Any) -> Make:
    """Function that writes a parquet file with these columns, and labels."""

    def make(folder: Path) -> Path:
        table = {**columns, "label": [0, 1, 0, 1][: len(next(iter(columns.values())))]}
        pq.write_table(pa.table(table), folder / name)
        return folder / name

    return make


def repeated_parquet(folder: Path) -> Path:
    columns = [pa.array(["a", "b"]), pa.array([0, 1]), pa.array(["x", "y"])]
    pq.write_table(pa.Table.from_arrays(columns, names=["text", "label", "text"]), folder / "a.parquet")
    return folder / "a.parquet"


def broken_strings(folder: Path) -> Path:
    """A parquet file whose second string is no UTF-8."""
    column = pa.Array.from_buffers(pa.string(), 2, pa.array([b"caf\xc3\xa9", b"caf\xe9"]).buffers())
    pq.write_table(pa.table({"text": column, "label": [0, 1]}), folder / "a.parquet")
    return folder / "a.parquet"


def damaged(folder: Path) -> Path:
    """A parquet file whose end, which tells the columns, is whole, and whose data is not."""
    pq.write_table(
        pa.table({"text": ["word " * 50] * 500, "label": [0] * 500}), folder / "a.parquet", compression="zstd"
    )
    content = bytearray((folder / "a.parquet").read_bytes())
    content[4:60] = b"\xff" * 56
    (folder / "a.parquet").write_bytes(content)
    return folder / "a.parquet"


def in_fit(path: Path, role: str) -> list[str] | str:
    """Texts that `dial fit` or `dial test` reads, or the error."""
    data = TextDataModule(**{f"{role}_file": str(path)}, label_names=["0", "1"], calibration="crossfit")
    try:
        return data.read(role).text
    except ValueError as error:
        return str(error)


def in_predict(path: Path) -> list[str] | str:
    """Texts that `dial predict` reads, or the error."""
    try:
        file = TextFile(path, ["text"], "INPUT", "--columns")
        rows = list(file.rows())
    except ValueError as error:
        return str(error)
    bad = [row for row in rows if row.unit is None]
    return str(file.refusal(bad[0], "correct the file.")) if bad else [row.unit for row in rows]


READ: dict[str, tuple[Make, list[str]]] = {
    "CR only": (raw("a.csv", "text,label\ra,0\rb c,1\r"), ["a", "b c"]),
    "CR only, no last one": (raw("a.csv", 'text,label\r"a\rx",0\rb,1'), ["a\rx", "b"]),
    "CR only TSV": (raw("a.tsv", "text\tlabel\ra\t0\rb\t1\r"), ["a", "b"]),
    "CR only JSON lines": (raw("a.jsonl", '{"text": "a", "label": 0}\r{"text": "b", "label": 1}'), ["a", "b"]),
    "all three ends": (raw("a.csv", "text,label\na,0\rb,1\r\nc,0\n"), ["a", "b", "c"]),
    "two ends of JSON lines": (
        raw("a.jsonl", '{"text": "a", "label": 0}\n{"text": "b", "label": 1}\r{"text": "c", "label": 1}'),
        ["a", "b", "c"],
    ),
    "a header that ends in CR": (raw("a.tsv", "text\tlabel\ra\t0\nb\t1\n"), ["a", "b"]),
    "CR inside a TSV text": (raw("a.tsv", "text\tlabel\na\rx\t0\nb\t1\n"), ["a\rx", "b"]),
    "CRLF and a mark": (raw("a.csv", b"\xef\xbb\xbftext,label\r\na,0\r\n\r\nb,1\r\n"), ["a", "b"]),
    "other separators of lines": (raw("a.tsv", "text\tlabel\na\u2028b\x0cc\x85d\t0\n"), ["a\u2028b\x0cc\x85d"]),
    "capitals .CSV": (raw("A.CSV", "text,label\na,0\n"), ["a"]),
    "capitals .TSV": (raw("A.Tsv", "text\tlabel\na\t0\n"), ["a"]),
    "capitals .JSONL": (raw("A.JSONL", '{"text": "a", "label": 0}\n'), ["a"]),
    "capitals .PARQUET": (parquet("A.PARQUET", text=["a", "b"]), ["a", "b"]),
    "string_view": (parquet(text=pa.array(["a", "b"], pa.string_view())), ["a", "b"]),
    "large_string": (parquet(text=pa.array(["a", "b"], pa.large_string())), ["a", "b"]),
    "categorical": (parquet(text=pa.array(["a", "b", "a"]).dictionary_encode()), ["a", "b", "a"]),
    "an empty cell": (raw("a.csv", "text,label\n,0\nb,1\n"), ["", "b"]),
    "an empty string": (raw("a.jsonl", '{"text": "", "label": 0}\n'), [""]),
    "a pair of surrogates": (raw("a.jsonl", '{"text": "\\ud83d\\ude00", "label": 0}\n'), ["\U0001f600"]),
    "a repeated column that is not needed": (raw("a.csv", "x,text,label,x\n1,a,0,2\n"), ["a"]),
    "texts that look like other things": (raw("a.csv", "text,label\nNaN,0\n2024-01-01,1\n"), ["NaN", "2024-01-01"]),
    "no end of line": (raw("a.tsv", "text\tlabel\na\t0"), ["a"]),
}

KIND = "the column 'text' of {path} must be of text, but it is "
HAS = "must have a text as 'text', but has "
TWICE = "must have one column 'text', but {path} has 'text', 'label', 'text'"


def at(line: int, problem: str) -> str:
    return f"{{path}}, line {line}: {problem}"


def objects(*lines: str) -> Make:
    """Function that writes JSON lines, each with a label."""
    return raw("a.jsonl", "".join(f'{{"label": 0, {line}}}\n' if line else "\n" for line in lines))


REFUSED: dict[str, tuple[Make, str]] = {
    "bytes": (parquet(text=[b"a", b"caf\xc3\xa9"]), KIND + "binary from row 0 on"),
    "a list": (parquet(text=[["a", "fine"], ["b"]]), KIND + "list<"),
    "a struct": (parquet(text=[{"en": "a"}]), KIND + "struct<"),
    "dates": (parquet(text=[dt.date(2024, 1, 1)]), KIND + "date32"),
    "times": (parquet(text=[dt.datetime(2024, 1, 1, 12)]), KIND + "timestamp"),
    "numbers": (parquet(text=[1.5, 2.5]), KIND + "double"),
    "decimals": (parquet(text=[Decimal("1.5")]), KIND + "decimal"),
    "truth values": (parquet(text=[True, False]), KIND + "bool"),
    "categories of numbers": (parquet(text=pa.array([1, 2]).dictionary_encode()), KIND + "int64"),
    "null": (parquet(text=["a", None]), "{path}, row 1: " + HAS + "null"),
    "nothing but null": (parquet(text=pa.nulls(2)), "{path}, row 0: " + HAS + "null"),
    "strings that are no UTF-8": (broken_strings, "{path}, row 1: " + HAS + "b'caf\\xe9'"),
    "damaged": (damaged, "{path} is damaged and cannot be read"),
    "JSON list": (objects('"text": ["a"]'), at(1, HAS + '["a"]')),
    "JSON object": (objects("", '"text": {"en": "é"}'), at(2, HAS + '{{"en": "é"}}')),
    "JSON number": (objects('"text": 3'), at(1, HAS + "3")),
    "JSON true": (objects('"text": true'), at(1, HAS + "true")),
    "JSON null": (objects('"text": null'), at(1, HAS + "null")),
    "NaN": (objects('"text": "a"', '"text": NaN'), at(2, HAS + "NaN")),
    "half of a pair": (objects('"text": "\\ud83d!"'), at(1, "has half of a surrogate pair, which is no text")),
    "half of a pair in a list": (objects('"text": ["\\ud83d"]'), at(1, HAS + "'[\"\\ud83d\"]'")),
    "half of a pair in UTF-8": (raw("a.csv", b"text,label\n\xed\xa0\xbd,0\n"), at(2, "is not UTF-8")),
    "no such column in a row": (objects('"text": "a"', '"txt": "b"'), at(2, "has no 'text'")),
    "a name twice in an object": (objects('"text": "a", "text": "b"'), at(1, "has 'text' more than once")),
    "a number of 5,000 digits": (objects('"text": "a", "n": ' + "9" * 5000), at(1, "is no JSON")),
    "nested without end": (objects('"text": "a"', '"text": ' + "[" * 100_000), at(2, "is no JSON")),
    "a JSON array": (
        raw("a.json", '[{"text": "a", "label": 0},\n {"text": "b", "label": 1}]'),
        "must have one JSON object a line, but {path} begins with a JSON array",
    ),
    "duplicate columns of CSV": (raw("a.csv", "text,label,text\na,0,x\n"), TWICE),
    "duplicate columns of TSV": (raw("a.tsv", "text\tlabel\ttext\na\t0\tx\n"), TWICE),
    "duplicate columns of parquet": (repeated_parquet, TWICE),
    "too many fields of TSV": (
        raw("a.tsv", "text\tlabel\na\t0\nb\tc\t1\n"), at(3, "has 3 fields, but the header has 2")
    ),
    "too few fields of TSV": (raw("a.tsv", "text\tlabel\na\n"), at(2, "has 1 fields, but the header has 2")),
    "too many fields of CSV": (raw("a.csv", "text,label\n\nb,c,1\n"), at(3, "has 3 fields, but the header has 2")),
    "too few fields of CSV": (raw("a.csv", "text,label\na\n"), at(2, "has 1 fields, but the header has 2")),
    "text behind a quote": (raw("a.csv", 'text,label\n"a"b,0\n'), at(2, "is no CSV: ',' expected after")),
    "a quote that is not closed": (
        raw("a.csv", 'text,label\na,0\n"b,1\nc,0\nd,1\n'),
        at(3, "is no CSV: unexpected end of data (lines 3 to 5)"),
    ),
    "another encoding": (raw("a.csv", "text,label\ncafé,1\n".encode("latin-1")), at(2, "is not UTF-8")),
    "another encoding of JSON": (raw("a.jsonl", '{"text": "é"}\n'.encode("latin-1")), at(1, "is not UTF-8")),
    "another encoding of the header": (
        raw("a.csv", "é,text,label\nx,a,1\n".encode("latin-1")), "line 1 of {path} is not UTF-8"
    ),
    "UTF-16": (raw("a.csv", "text,label\na,0\n".encode("utf-16")), "must be UTF-8 text, but {path} is UTF-16 text"),
    "gzip": (raw("a.jsonl", b"\x1f\x8b\x08\x00rest"), "must be UTF-8 text, but {path} is compressed by gzip"),
    "no parquet": (raw("a.parquet", "text,label\n"), "must be a parquet file, but {path} is none"),
    "another ending": (raw("a.xlsx", "x"), "must be a file ending in .csv, .tsv, .jsonl, .json, .parquet, .txt, but"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "texts"), READ.values(), ids=READ)
def test_the_same_texts_are_read(tmp_path: Path, make: Make, texts: list[str]) -> None:
    path = make(tmp_path)
    assert in_fit(path, "train") == in_fit(path, "test") == in_predict(path) == texts


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_the_same_rows_are_refused_with_the_same_words(tmp_path: Path, make: Make, words: str) -> None:
    path = make(tmp_path)
    errors = [in_fit(path, "train"), in_fit(path, "test"), in_predict(path)]
    assert all(isinstance(error, str) and "\n" not in error for error in errors), errors
    assert words.format(path=path) in errors[0]
    assert [str(error).split("`", 2)[1] for error in errors] == ["train_file", "test_file", "INPUT"]
    assert len({str(error).split("`", 2)[2] for error in errors}) == 1, errors


def test_a_row_that_predict_leaves_out_can_be_listed(tmp_path: Path) -> None:
    """Whatever is wrong with a row can be written as UTF-8, into the list of the rows left out."""
    for make, _ in REFUSED.values():
        try:
            rows = list(TextFile(make(tmp_path), ["text"]).rows())
        except ValueError:
            continue
        bad = [row for row in rows if row.unit is None]
        assert bad and all(row.problem.encode() and "\n" not in row.problem for row in bad)


def test_columns_that_only_fit_needs_are_refused_as_well(tmp_path: Path) -> None:
    path = raw("a.csv", "text,label,label\na,0,1\n")(tmp_path)
    assert "must have one column 'label', but" in in_fit(path, "test")
    assert in_predict(path) == ["a"]
    path = raw("b.jsonl", '{"text": "a", "label": 0}\n{"text": "b"}\n')(tmp_path)
    assert "line 2: has no 'label'" in in_fit(path, "test")
    path = raw("a.txt", "a\nb\n")(tmp_path)
    assert "must have the column 'label', but" in in_fit(path, "test")


def test_plain_text_without_labels_is_read(tmp_path: Path) -> None:
    path = raw("a.txt", "a\n\nb\rc\n")(tmp_path)
    data = TextDataModule(test_file=str(path), label_column=None, label_names=["no", "yes"], calibration="crossfit")
    texts = [row.unit for row in TextFile(path).rows()]
    assert data.rows("test").text == texts == ["a", "", "b\rc"]


@pytest.mark.parametrize("role", ["train", "test"])
def test_the_second_text_is_a_text_too(tmp_path: Path, role: str) -> None:
    path = raw("a.jsonl", '{"a": "x", "b": "y", "label": 0}\n{"a": "x", "b": null, "label": 0}\n')(tmp_path)
    data = TextDataModule(
        **{f"{role}_file": str(path)}, text_column="a", text_b_column="b", label_names=["0"], calibration="crossfit"
    )
    with pytest.raises(ValueError, match=rf"`{role}_file` .*, line 2: must have a text as 'b', but has null"):
        data.read(role)


def test_glue_files_are_read_by_the_same_reader(tmp_path: Path) -> None:
    pq.write_table(pa.table({"sentence": ["a", None], "label": [0, 1]}), tmp_path / "validation.parquet")
    with pytest.raises(ValueError, match=r"`source` .*, row 1: must have a text as 'sentence', but has null"):
        GLUEDataModule("sst2", str(tmp_path)).read("test")
    (tmp_path / "train.tsv").write_text("sentence\tlabel\na\t0\nb\tc\t1\n")
    with pytest.raises(ValueError, match=r"`source` .*, line 3: has 3 fields, but the header has 2"):
        GLUEDataModule("sst2", str(tmp_path)).read("train")


def test_rows_of_the_hub_are_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    data = datasets.Dataset.from_dict({"sentence": ["a", None], "label": [1, 0], "idx": [0, 1]})
    monkeypatch.setattr(datasets, "load_dataset", lambda repository, name, split: data)
    with pytest.raises(ValueError, match=r"`sentence` must be a text in every row, but .*, row 1: .* has null"):
        GLUEDataModule("sst2").read("train")


@pytest.mark.parametrize("suffix", list(FORMATS))
def test_every_format_streams_from_any_row(tmp_path: Path, suffix: str) -> None:
    """Against readers of the standard library, with broken rows among the others."""
    texts = [f"text {i}" for i in range(25)]
    path = tmp_path / f"a{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"text": [None if i == 7 else t for i, t in enumerate(texts)]}), path, row_group_size=4)
    elif suffix in (".csv", ".tsv"):
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="," if suffix == ".csv" else "\t")
            writer.writerows([["id", "text"], *([i, t, "x"] if i == 7 else [i, t] for i, t in enumerate(texts))])
    elif suffix == ".txt":
        path.write_bytes(b"".join(b"\xff\n" if i == 7 else f"{t}\n".encode() for i, t in enumerate(texts)))
    else:
        path.write_text("".join("{\n" if i == 7 else json.dumps({"text": t}) + "\n" for i, t in enumerate(texts)))
    file = open_rows(path, "INPUT")
    for start in (0, 1, 7, 8, 13, 25):
        rows = list(file.rows(["text"], start=start))
        assert [row.number for row in rows] == list(range(start, 25))
        assert [row.values for row in rows] == [None if i == 7 else [texts[i]] for i in range(start, 25)]


def test_labels_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", "b"], "label": pa.array(["pos", "neg"]).dictionary_encode()}), path)
    values = [row.values for row in open_rows(path, "a").rows(["text"], ["label"])]
    assert values == [["a", "pos"], ["b", "neg"]]
    assert infer_label_names([label for _, label in values], "label", "a") == ["neg", "pos"]  # type: ignore[misc]
