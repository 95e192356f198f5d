import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.row_formats import TsvFile, open_rows
from datamodules.sources import columns_of, read_columns, read_hub

TEXTS = ['a "quoted" word', "comma, here", "line\u2028separator", "", "ünïcode"]


def write(folder: Path, suffix: str) -> Path:
    path = folder / f"data{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"text": TEXTS, "y": list(range(5)), "more": [0.0] * 5}), path)
    elif suffix == ".csv":
        quoted = ['"' + text.replace('"', '""') + '"' for text in TEXTS]
        path.write_text("text,y,more\n" + "".join(f"{text},{i},0\n" for i, text in enumerate(quoted)), encoding="utf-8")
    elif suffix == ".tsv":
        path.write_text(
            "text\ty\tmore\n" + "".join(f"{text}\t{i}\t0\n" for i, text in enumerate(TEXTS)), encoding="utf-8"
        )
    else:
        lines = [json.dumps({"text": text, "y": i}, ensure_ascii=False) for i, text in enumerate(TEXTS)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")  # a byte order mark does no harm
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl", ".json"])
def test_every_format_gives_the_same_texts(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, suffix)
    columns = read_columns(path, ["y", "text"], "train_file")
    assert columns["text"] == TEXTS and [int(y) for y in columns["y"]] == [0, 1, 2, 3, 4]
    if suffix == ".tsv":
        assert open_rows(path, "train_file").names == ["text", "y", "more"]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl"])
def test_a_missing_column_names_those_that_are_there(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(ValueError, match=r"`train_file` must have the column 'label', but .* has 'text', 'y'"):
        read_columns(write(tmp_path, suffix), ["text", "label"], "train_file")


def test_missing_file_and_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`a` must be a file that exists, but got .*none.csv"):
        read_columns(tmp_path / "none.csv", ["text"], "a")
    with pytest.raises(ValueError, match=r"`a` must be a file ending in .csv, .tsv, .jsonl.*, but got .*data.xlsx"):
        read_columns(tmp_path / "data.xlsx", ["text"], "a")


def test_broken_files_name_the_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,y\nfine,1\nan, unquoted comma,0\n")
    with pytest.raises(ValueError, match=r"`a` .*a.csv, line 3: has 3 fields, but the header has 2; correct the file"):
        read_columns(tmp_path / "a.csv", ["text"], "a")
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n\n{"text": \n')
    with pytest.raises(ValueError, match=r"`a` .*a.jsonl, line 3: is no JSON: Expecting value"):
        read_columns(tmp_path / "a.jsonl", ["text"], "a")
    (tmp_path / "b.jsonl").write_text('{"text": "x"}\n["text"]\n')
    with pytest.raises(ValueError, match=r"line 2: must be a JSON object, but is list"):
        read_columns(tmp_path / "b.jsonl", ["text"], "a")
    (tmp_path / "a.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match=r"`a` must be a parquet file, but .*a.parquet is none"):
        read_columns(tmp_path / "a.parquet", ["text"], "a")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_a_file_in_another_encoding_is_named(tmp_path: Path, suffix: str) -> None:
    text = {".csv": "text,y\ncaf\u00e9,1\n", ".tsv": "text\ty\ncaf\u00e9\t1\n", ".jsonl": '{"text": "caf\u00e9"}\n'}
    path = tmp_path / f"a{suffix}"
    path.write_bytes(text[suffix].encode("latin-1"))
    with pytest.raises(ValueError, match=rf"`train_file` .*a{suffix}, line \d: is not UTF-8; correct the file"):
        read_columns(path, ["text"], "train_file")


def test_a_text_may_be_of_any_length(tmp_path: Path) -> None:
    long = "word " * 40_000
    (tmp_path / "a.csv").write_text(f'text,y\n"{long}",1\n')
    assert read_columns(tmp_path / "a.csv", ["text"], "a") == {"text": [long]}


def test_short_rows_of_official_files_are_left_out_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("id\ttext\n1\tgood\n2\n3\t\n\n4\tmore\r\n", encoding="utf-8")
    with pytest.warns(UserWarning, match=r"1 rows have fewer than 2 fields and are left out"):
        columns = columns_of(TsvFile(path, "source", short_rows=True), ["id", "text"], ["text"])
    assert columns == {"text": ["good", "", "more"], "id": ["1", "3", "4"]}


def test_a_hub_that_cannot_be_reached_names_source() -> None:
    with pytest.raises(ValueError, match=r"`source` is 'hub', but nyu-mll/glue \(sst2, train\) could not be read"):
        read_hub("nyu-mll/glue", "sst2", "train", ["sentence", "label"])


def test_hub_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    data = datasets.Dataset.from_dict({"sentence": ["a", "b"], "label": [1, 0], "idx": [0, 1]})
    monkeypatch.setattr(datasets, "load_dataset", lambda repository, name, split: data)
    assert read_hub("nyu-mll/glue", "sst2", "train", ["sentence", "label"]) == {"sentence": ["a", "b"], "label": [1, 0]}
