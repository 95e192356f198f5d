"""What `dial predict` says of files that tiers which answer by spans cannot read."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from datamodules.sources import TextFile
from dial.cli.preparation import leave_out_unreadable
from tests.squad_files import TEST, official


@pytest.mark.parametrize(("name", "got"), [("rows.csv", "asked"), ("rows.txt", "lines of plain text")])
def test_single_texts_are_refused_at_the_first_row(name: str, got: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("asked,read\nwho,the king\n")
    reader = SimpleNamespace(window=24, encoding_key="k", tokeniser=lambda: pytest.fail("one text is no pair"))
    classifier: Any = SimpleNamespace(network=SimpleNamespace(tiers=[reader]))
    source = TextFile(tmp_path / name, ["asked"] if name == "rows.csv" else None)
    leave_out_unreadable(classifier, source)
    with pytest.raises(
        ValueError, match=rf"`--columns` must name the columns of question and context, .* got {got} of"
    ):
        next(source.rows())
    (tmp_path / name).write_text("asked,read\n" if name == "rows.csv" else "")
    assert list(source.rows()) == []  # an empty input is no fault


def test_the_nested_json_of_squad_is_called_by_its_name(tmp_path: Path) -> None:
    """Where the name does not say that it may be: JSON lines need one look at the first line only."""
    path = tmp_path / "dev.jsonl"
    path.write_text(json.dumps(official(TEST)))
    with pytest.raises(ValueError, match=r"`INPUT` .* looks like SQuAD's JSON, which is nested; .* ending in .json"):
        TextFile(path, argument="INPUT", columns_argument="--columns")
    for name in ("rows.json", "rows.jsonl"):
        path = tmp_path / name
        path.write_text(json.dumps({"data": "a text", "id": 3}))  # others may have such columns
        assert [row.unit for row in TextFile(path, ["data"]).rows()] == ["a text"]
        path.write_text(json.dumps({"data": "a text"}))
        assert [row.unit for row in TextFile(path).rows()] == ["a text"]
