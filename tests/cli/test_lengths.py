"""`dial lengths`: a search that leaves its front in the tier's folder and goes on where it was stopped; bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dial.cli.main import main
from dial.inference.length_search import Evaluation
from dial.models.lengths import Lengths
from dial.stages.parquet import load_table
from dial.tiers.fronts import read_search
from dial.tiers.loading import load_tier
from tests.cli.test_locks import hold
from tests.tiers import readers, small

NAMES = ["negative", "positive"]
SHORT = ("--rows", "24", "--population", "4", "--generations", "3", "--device", "cpu")


@pytest.fixture
def tier(make_tiny_bert: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder of its own: the search writes there."""
    made = make_tiny_bert(layers=3, labels=NAMES, initializer_range=0.5)
    folder = tmp_path / "tier"
    folder.mkdir()
    for file in made.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.jsonl", 40)


def write(file: Path, count: int) -> Path:
    texts = [unit or "the" for unit in small.texts(count, seed=2)]
    labels = np.random.default_rng(0).choice(NAMES, count).tolist()
    file.write_text("".join(json.dumps({"text": t, "label": n}) + "\n" for t, n in zip(texts, labels, strict=True)))
    return file


def test_the_front_makes_tiers(tier: Path, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lengths", str(tier), str(rows), *SHORT]) == 0
    said = capsys.readouterr().out
    assert "generation 3 of 3" in said and "The front" in said and "accuracy %" in said
    content = json.loads((tier / "lengths.json").read_text())
    assert content["search"]["rows"] == 24 and content["search"]["metric"] == "accuracy"
    _, generations, found = read_search(tier) or ({}, 0, [])
    assert generations == 4 and 4 < len(found) <= 16 and found[0].lengths.values == (1.0, 1.0, 1.0)
    # The rows that were drawn, read anew, say the same of the front's members.
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    drawn = np.sort(np.random.default_rng(0).permutation(40)[:24])
    units, label = [lines[i]["text"] for i in drawn], np.array([NAMES.index(lines[i]["label"]) for i in drawn])
    evaluation = Evaluation(load_tier(str(tier), "again", NAMES).eval(), units, label, "accuracy", 5)
    for one in content["front"]:
        assert evaluation(Lengths.parse(one["lengths"])) == pytest.approx((one["macs"], one["quality"]))
    best = content["front"][-1]
    assert load_tier({"path": str(tier), "lengths": 1}, "best", NAMES).lengths.plain() == best["lengths"]


def test_questions_are_searched_by_their_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = readers.save_reader(tmp_path / "reader", layers=2), tmp_path / "questions.jsonl"
    asked = readers.questions(30, seed=4)
    lines = [{"question": q, "context": c, "answers": c.split()[0], "id": str(i)} for i, (q, c) in enumerate(asked)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["lengths", str(folder), str(file), *SHORT, "--metric", "token_f1"]) == 0
    assert "token_f1 %" in capsys.readouterr().out
    content = json.loads((folder / "lengths.json").read_text())
    assert content["search"]["metric"] == "token_f1" and len(content["front"][0]["lengths"]) == 2
    tier = load_tier({"path": str(folder), "lengths": 1}, "reader", ["*"])
    assert tier.lengths.plain() == content["front"][-1]["lengths"]
    assert main(["lengths", str(folder), str(file), *SHORT, "--columns", "question", "--replace"]) == 2
    assert "`--columns` must name the columns of question and context" in capsys.readouterr().err


def test_a_question_without_room_is_told_by_its_row_of_the_file(tmp_path: Path, capsys: Any) -> None:
    folder, file = readers.save_reader(tmp_path / "reader", layers=2), tmp_path / "questions.jsonl"
    asked = readers.questions(40, seed=4)
    drawn = np.sort(np.random.default_rng(0).permutation(40)[:24])
    place = next(int(row) for index, row in enumerate(drawn) if row != index)
    asked[place] = "who " * 40, asked[place][1]
    lines = [{"question": q, "context": c, "answers": c.split()[0], "id": str(i)} for i, (q, c) in enumerate(asked)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    capsys.readouterr()
    assert main(["lengths", str(folder), str(file), *SHORT, "--metric", "token_f1"]) == 2
    said = capsys.readouterr().err.strip()
    assert f"`FILE`: row {place} has a question of 40 tokens" in said and len(said.splitlines()) == 1


def test_a_search_goes_on_and_is_done_once(
    tier: Path, rows: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [str(tier), str(rows), *SHORT]
    assert main(["lengths", *whole]) == 0
    expected = (tier / "lengths.json").read_text()
    (tier / "lengths.json").unlink()
    asked = []

    def counted(self: Evaluation, lengths: Lengths) -> tuple[float, float]:
        asked.append(lengths)
        if len(asked) == 6:  # in generation 2
            raise KeyboardInterrupt
        return usual(self, lengths)

    usual = Evaluation.__call__
    monkeypatch.setattr(Evaluation, "__call__", counted)
    assert main(["lengths", *whole]) == 130
    assert json.loads((tier / "lengths.json").read_text())["generations"] == 2
    capsys.readouterr()
    assert main(["lengths", *whole]) == 0
    assert (tier / "lengths.json").read_text() == expected and "generation 1" not in capsys.readouterr().out
    before = len(asked)
    assert main(["lengths", *whole]) == 0
    assert len(asked) == before and "the search is done" in capsys.readouterr().out
    assert main(["lengths", *whole, "--generations", "4"]) == 0
    assert json.loads((tier / "lengths.json").read_text())["generations"] == 5


def test_another_search_gives_way_only_when_told(tier: Path, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_search = [*SHORT, "--generations", "0"]
    assert main(["lengths", str(tier), str(rows), *small_search]) == 0
    before = (tier / "lengths.json").read_text()
    assert main(["lengths", str(tier), str(rows), *small_search, "--seed", "1"]) == 2
    assert "holds a search with another seed; give --replace" in capsys.readouterr().err
    assert (tier / "lengths.json").read_text() == before
    assert main(["lengths", str(tier), str(rows), *small_search, "--seed", "1", "--replace"]) == 0
    assert json.loads((tier / "lengths.json").read_text())["search"]["seed"] == 1
    moved = rows.rename(rows.with_name("moved.jsonl"))
    again = [str(tier), str(moved), *small_search, "--seed", "1"]
    assert main(["lengths", *again]) == 0 and "the search is done" in capsys.readouterr().out
    assert main(["lengths", *again, "--replace"]) == 0 and "generation 0 of 0" in capsys.readouterr().out


def test_a_search_of_an_earlier_day_that_does_not_tell_its_lengths_goes_on(tier: Path, rows: Path) -> None:
    assert main(["lengths", str(tier), str(rows), *SHORT, "--generations", "0"]) == 0
    content = json.loads((file := tier / "lengths.json").read_text())
    assert content["search"].pop("max_length")
    file.write_text(json.dumps(content))
    assert main(["lengths", str(tier), str(rows), *SHORT, "--generations", "1"]) == 0
    assert json.loads(file.read_text())["generations"] == 2


def test_a_few_rows_suffice(tier: Path, tmp_path: Path) -> None:
    few = write(tmp_path / "few.jsonl", 12)
    assert main(["lengths", str(tier), str(few), *SHORT, "--generations", "0", "--rows", "10"]) == 0
    assert main(["lengths", str(tier), str(few), *SHORT[2:], "--generations", "0", "--replace"]) == 0
    assert json.loads((tier / "lengths.json").read_text())["search"]["rows"] == 12  # all: nobody said how many
    many = write(tmp_path / "many.jsonl", 210)
    assert main(["lengths", str(tier), str(many), *SHORT[2:], "--generations", "0", "--replace"]) == 0
    assert json.loads((tier / "lengths.json").read_text())["search"]["rows"] == 200


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--rows", "41"), "`--rows` must be from 1 to the 40"),
        (("--population", "1"), "`--population` must be at least 2"),
        (("--mutation", "0"), "`--mutation` must be a probability"),
        (("--length-drop", "1"), "`--length-drop` must be above 0"),
        (("--metric", "blue"), "blue"),
        (("--batch-size", "0"), "`--batch-size` must be at least 1"),
        (("--columns", "words"), "words"),
    ],
)
def test_bad_input(tier: Path, rows: Path, arguments: tuple[str, ...], words: str, capsys: Any) -> None:
    assert main(["lengths", str(tier), str(rows), *SHORT, *arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert words in said and len(said.splitlines()) == 1 and not (tier / "lengths.json").exists()


def test_no_tier(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lengths", str(tmp_path / "nothing"), str(rows)]) == 2
    assert "`TIER` must be a folder that `dial fit` left" in capsys.readouterr().err


@pytest.mark.slow
def test_one_model_makes_a_cascade_that_is_tested_and_predicts(tier: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "many.jsonl", 400)
    tiers = f"[{{path: {tier}, lengths: [0.5, 0.3, 0.1]}}, {tier}]"
    data = ("--data=TextDataModule", f"--data.train_file={rows}", f"--data.test_file={rows}")
    model = ("--config=configs/model/cascade.yaml", f"--model.tiers={tiers}", "--sweep.bootstrap=100")
    assert main(["test", *model, *data, "--trainer.accelerator=cpu", f"--run={tmp_path}/run"]) == 0
    table = load_table(tmp_path / "run" / "sweep" / "stages.parquet")
    assert (table.macs[:, 0] < table.macs_reference).all()
    out = tmp_path / "answers.jsonl"
    told = ("--columns", "text", "--threshold", "0.7", "--score", "softmax", "--device", "cpu")
    assert main(["predict", f"{tmp_path}/run", str(rows), "--out", str(out), *told]) == 0
    few, whole = (
        load_tier({"path": str(tier), "lengths": lengths}, "one", NAMES).eval() for lengths in ([0.5, 0.3, 0.1], None)
    )
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    stages = set()
    for line, answer in zip(rows.read_text().splitlines(), answers, strict=True):
        encoding = dict(whole.tokenizer(json.loads(line)["text"], return_tensors="pt"))
        with torch.no_grad():
            first, last = few(encoding)[0, 0].softmax(0), whole(encoding)[0, 0]
        expected = first if first.max() >= 0.7 else last
        assert answer["prediction"] == int(expected.argmax())
        stages.add(answer["stage"])
    assert len(stages) == 2


def test_an_encoder_whose_layers_keep_all_tokens_is_told(tier: Path, rows: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr("dial.models.token_dropping.SEAMS", {})
    assert main(["lengths", str(tier), str(rows), *SHORT]) == 2
    said = capsys.readouterr().err
    assert "`TIER` must be an encoder whose layers allow" in said and "or use this one with all its tokens." in said


def test_two_searches_at_once_are_refused(tier: Path, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second would overwrite what the first had found."""
    lock, command = tier / ".lengths.lock", ["lengths", str(tier), str(rows), *SHORT, "--generations", "0"]
    first = hold(lock)
    try:
        assert main(command) == 2
        assert f"`TIER` {tier} must be of no other `dial lengths`, but one is at work" in capsys.readouterr().err
        assert not (tier / "lengths.json").exists()
    finally:
        first.kill()
        first.wait()
    assert main(command) == 0
    assert (tier / "lengths.json").exists() and not lock.exists()
