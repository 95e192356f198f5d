"""The official JSON of SQuAD as a file of rows, beside JSON lines of the same suffix."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.sources import TextFile
from datamodules.squad_json import open_squad
from tests.squad_files import TEST, asked, official

PAIRS = [(row["question"], row["context"]) for row in TEST]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", ["dev.json", "DEV.JSON.gz"])
@pytest.mark.parametrize("begin", ["", "\ufeff", "\n\n"])
def test_texts_are_streamed_with_their_ids_from_any_row(indent: Any, name: str, begin: str, tmp_path: Path) -> None:
    path, content = tmp_path / name, (begin + json.dumps(official(TEST), indent=indent)).encode()
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    source = TextFile(path)
    assert source.ids == [row["id"] for row in TEST] and source.columns == ["question", "context"]
    for start in (0, 7, len(TEST)):
        rows = list(source.rows(start))
        assert [row.unit for row in rows] == PAIRS[start:]
        assert [row.number for row in rows] == list(range(start, len(TEST)))
    assert next(TextFile(path, ["context", "id"]).rows()).unit == (PAIRS[0][1], TEST[0]["id"])


def test_answers_are_needed_only_where_they_are_asked_for(tmp_path: Path) -> None:
    path, document = tmp_path / "test.json", official(TEST[:2])
    for paragraph in document["data"][0]["paragraphs"]:
        for question in paragraph["qas"]:
            del question["answers"]
    path.write_text(json.dumps(document))
    assert [row.unit for row in TextFile(path).rows()] == PAIRS[:2]
    with pytest.raises(ValueError, match=r"`FILE` must be SQuAD's JSON .* KeyError 'answers'"):
        open_squad(path, "FILE")
    path.write_text(json.dumps({"version": "x", "data": [{"paragraphs": [{"context": "a", "qas": ["b"]}]}]}))
    with pytest.raises(ValueError, match=r"`path` must be SQuAD's JSON .* TypeError"):
        TextFile(path)


def test_nothing_answers_what_is_impossible(tmp_path: Path) -> None:
    path, document = tmp_path / "test.json", official([asked(0, 0), asked(0, 1, [])], "2.0")
    document["data"][0]["paragraphs"][0]["qas"][1]["answers"] = [{"text": "the", "answer_start": 13}]
    path.write_text(json.dumps(document))
    file = open_squad(path, "FILE")
    assert file is not None and [len(answers) for answers in file.columns["answers"]] == [2, 0]


def test_a_row_that_is_no_text_is_told_by_its_id(tmp_path: Path) -> None:
    path, document = tmp_path / "test.json", official(TEST[:3])
    document["data"][0]["paragraphs"][0]["qas"][1]["question"] = 3
    path.write_text(json.dumps(document))
    source = TextFile(path, argument="INPUT")
    rows = list(source.rows())
    assert [row.unit for row in rows] == [PAIRS[0], None, PAIRS[2]]
    assert str(source.refusal(rows[1], "mend it.")).startswith(
        f"`INPUT` {path}, id 'q60-1': must have a text as 'question'"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"text": "a"}\n{"text": "b"}\n', ["a", "b"]),
        ('{"text": "a", "data": [1]}\n\n{"text": "b", "data": [2]}\n', ["a", "b"]),
        ('{"text": "a\n{"text": "b"}\n', [None, "b"]),
        ('\n{"text": "a"}', ["a"]),
        ("", []),
    ],
)
def test_json_lines_stay_what_they_are(content: str, expected: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(content)
    source = TextFile(path)
    assert source.ids is None and [row.unit for row in source.rows()] == expected
