"""`dial predict` on SQuAD's JSON: the answers of the same rows in another form, with ids, and going on."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from dial.cli.main import main
from tests.cli.predict.conftest import comparable, lines, unfinished
from tests.cli.reader_run import reader_run
from tests.squad_files import official
from tests.tiers.readers import questions

POINT = ("--threshold", "0.2", "--score", "softmax")
NOTHING: dict[str, list[Any]] = {"text": [], "answer_start": []}
TEST = [
    {"id": f"q{17 * index % 60}", "question": question, "context": f"{context} {index}", "answers": NOTHING}
    for index, (question, context) in enumerate(questions(60))
]
IDS = [str(row["id"]) for row in TEST]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reader_run(tmp_path_factory.mktemp("run"))


def test_squads_json_is_answered_as_rows_of_columns_are(run: Path, tmp_path: Path) -> None:
    def predict(source: Path, out: str, *more: str) -> Path:
        assert main(["predict", str(run), str(source), "--out", str(tmp_path / out), *POINT, *more]) == 0
        return tmp_path / out

    pd.DataFrame(TEST)[["question", "context"]].to_csv(tmp_path / "rows.csv", index=False)
    nested = tmp_path / "dev.json.gz"
    nested.write_bytes(gzip.compress(json.dumps(official(TEST), indent=1).encode()))
    expected = comparable(lines(predict(tmp_path / "rows.csv", "rows.jsonl")))
    assert len({row["text"] for row in expected}) > 10 and not any("id" in row for row in expected)
    whole = predict(nested, "dev.jsonl")
    found = comparable(lines(whole))
    assert found == [{"row": row["row"], "id": name, **row} for name, row in zip(IDS, expected, strict=True)]
    whole.write_text("".join(whole.read_text().splitlines(keepends=True)[:23]))
    unfinished(tmp_path / "dev.jsonl.manifest.json")
    assert comparable(lines(predict(nested, "dev.jsonl"))) == found
    predict(nested, "parts", "--part-rows", "25")
    ids = [
        name for part in sorted((tmp_path / "parts").glob("part-*")) for name in pq.read_table(part)["id"].to_pylist()
    ]
    assert ids == IDS


def test_a_question_that_cannot_be_read_is_left_out_by_its_id(run: Path, tmp_path: Path) -> None:
    broken = {IDS[4]: " ", IDS[6]: "who " * 30}
    rows = [{**row, "question": broken.get(row["id"], row["question"])} for row in TEST[:9]]
    (tmp_path / "dev.json").write_text(json.dumps(official(rows)))
    out = tmp_path / "out.jsonl"
    assert main(["predict", str(run), str(tmp_path / "dev.json"), "--out", str(out), *POINT, "--on-error", "skip"]) == 0
    assert [row["id"] for row in lines(out)] == [name for name in IDS[:9] if name not in broken]
    skipped, long = lines(tmp_path / "out.jsonl.skipped.jsonl")
    assert skipped == {"row": 4, "place": f"id {IDS[4]!r}", "problem": "has an empty question"}
    tiers = [f"{name} ({run.parent}/tiers/{name})" for name in ("swift", "super")]
    assert (long["row"], long["problem"].partition(", but ")[0]) == (6, "has a question of 30 tokens")
    assert long["problem"].endswith(f"leave room for 14 in {' and '.join(tiers)}")
