"""`dial calibrate` on questions: the forms that `dial fit` reads, groups by context, and what is refused beforehand."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from dial.cli import calibrate as command
from dial.cli.main import main
from dial.stages.parquet import load_table
from tests.cli.reader_run import reader_run
from tests.inference.run_folder import copy_of
from tests.squad_files import TEST, official


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reader_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def run(tested: Path, tmp_path: Path) -> Path:
    return copy_of(tested, tmp_path / "copy")


@pytest.mark.parametrize("form", ["json", "parquet", "jsonl", "csv"])
def test_questions_are_read_in_all_forms_and_keep_their_groups(run: Path, tmp_path: Path, form: str) -> None:
    path = tmp_path / f"own.{form}"
    if form == "json":
        path.write_text(json.dumps(official(TEST)))
    elif form == "parquet":
        pd.DataFrame(TEST).to_parquet(path)
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in TEST))
    else:
        rows = pd.DataFrame(TEST).assign(answer=[row["answers"]["text"][0] for row in TEST])
        rows[["question", "context", "answer"]].to_csv(path, index=False)
    assert main(["calibrate", str(run), str(path)]) == 0
    table = load_table(run / "calibration" / "stages.parquet")
    contexts = [row["context"] for row in TEST]
    assert len(table) == 60 and len(set(table.group)) == 20
    assert len(set(zip(table.group, contexts, strict=True))) == 20
    assert [texts[0] for texts in table.references] == [row["answers"]["text"][0] for row in TEST]


def test_a_row_that_cannot_be_used_is_told_before_a_model_runs(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dial.inference.rows_table.rows_table", lambda *_, **__: pytest.fail("models ran"))
    assert command.MIN_ROWS == 20
    broken = {
        "row 3 has '1492', which is not": {**TEST[3], "answers": "1492"},
        "take tiers that were fitted with `--data.no_answer true`, or leave the row out": {
            **TEST[3],
            "answers": {"text": [], "answer_start": []},
        },
        "share 6 leave room for 14 in swift (": {**TEST[3], "question": "who " * 40},
    }
    path = tmp_path / "own.jsonl"
    for message, row in broken.items():
        path.write_text("".join(json.dumps(each) + "\n" for each in (*TEST[:3], row, *TEST[4:])))
        assert main(["calibrate", str(run), str(path)]) == 2
        assert message in capsys.readouterr().err
    path.write_text("".join(json.dumps(each) + "\n" for each in TEST[:19]))
    assert main(["calibrate", str(run), str(path)]) == 2
    assert "`FILE` must have at least 20 rows" in capsys.readouterr().err
    path.write_text("".join(json.dumps({"question": "who", "context": "a king"}) + "\n" for _ in range(20)))
    assert main(["calibrate", str(run), str(path)]) == 2
    assert "`FILE` must have a column of answers (answers, answer, label)" in (said := capsys.readouterr().err)
    assert "name it with `--label-column`." in said
