"""A score that a model gives, a data set and an exit policy, each from a file of its own, through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dial.stages.parquet import load_table

ROOT = Path(__file__).parents[2]
QUIET = ("--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--data.cache_dir={folder}/cache")
BERT = "{{model_type: {kind}, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}}"
SENTENCES = ("--data=GradedSentimentDataModule", "--data.train_rows=64", "--data.validation_rows=32")
SENTENCES += ("--data.calibration_rows=60", "--data.test_rows=60")
COMMANDS = """
import importlib, json, sys
from dial.cli.main import main
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
for arguments in json.loads(sys.argv[2]):
    code = main(arguments)
    if code:
        sys.exit(f"{arguments} ended with {code}")
"""


def dial(folder: Path, *commands: tuple[str, ...], first: tuple[str, ...] = ()) -> str:
    """Run commands one after the other in one new process, which imports some modules first; gives what it printed."""
    lines = [[argument.replace("{folder}", str(folder)) for argument in command] for command in commands]
    code = [sys.executable, "-c", COMMANDS, json.dumps(first), json.dumps(lines)]
    done = subprocess.run(code, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def from_scratch(kind: str) -> tuple[str, ...]:
    config = BERT.format(kind=kind)
    return ("--model=Classifier", f"--model.config={config}", "--model.tokenizer=words", "--model.max_length=32")


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("score")
    texts = ["a film", "the cast was good but the plot was not", "it was good", "bad", "a dull story and a bad film"]
    (folder / "texts.txt").write_text("".join(f"{text}\n" for text in texts))
    tiers = "--model.tiers=[{folder}/swift/tier, {folder}/swift/tier]"
    rest = ("--sweep.bootstrap=100", "--sweep.scores=[brevity, softmax]", "--run={folder}/run")
    answers = ("--threshold", "-6.5", "--score", "brevity", "--out", "{folder}/answers.jsonl", "--device", "cpu")
    dial(
        folder,
        ("fit", *from_scratch("brevity"), *SENTENCES, *QUIET, "--run={folder}/swift"),
        ("test", "--model=Cascade", tiers, *SENTENCES, *QUIET, *rest),
        ("predict", "{folder}/run", "{folder}/texts.txt", *answers),
        first=("tests.additions.score",),
    )
    return folder


@pytest.mark.slow
def test_a_score_that_a_model_gives_routes_in_the_sweep(scored: Path) -> None:
    table = load_table(scored / "run/sweep/stages.parquet")
    np.testing.assert_array_equal(table.scores["brevity"][:, 0], -table.lengths["swift"])
    curve = (scored / "run/sweep/curve.csv").read_text()
    assert '"brevity"' in curve and '"softmax"' in curve


@pytest.mark.slow
def test_a_score_that_a_model_gives_routes_new_texts(scored: Path) -> None:
    lines = [json.loads(line) for line in (scored / "answers.jsonl").read_text().splitlines()]
    texts = (scored / "texts.txt").read_text().splitlines()
    tokens = [len(text.split()) + 2 for text in texts]  # words, [CLS] and [SEP]
    assert [line["stage"] for line in lines] == ["swift" if n <= 6 else "super" for n in tokens]
    assert {line["stage"] for line in lines} == {"swift", "super"}


@pytest.mark.slow
def test_a_data_set_of_one_file(tmp_path: Path) -> None:
    data = ("--data=tests/additions/dataset.yaml", *QUIET)
    dial(
        tmp_path,
        ("fit", *from_scratch("bert"), *data, "--run={folder}/fit"),
        ("test", "--model=Classifier", "--model.path={folder}/fit/tier", *data, "--run={folder}/test"),
    )
    table = load_table(tmp_path / "test/sweep/stages.parquet")
    assert table.label_names == ("even", "odd") and len(table.of_split("test")) == 60
    card: dict[str, Any] = json.loads((tmp_path / "fit/tier/card.json").read_text())
    assert card["label_names"] == ["even", "odd"] and card["task"] == "ParityDataModule"


@pytest.mark.slow
def test_an_exit_policy_of_one_file(tmp_path: Path, make_tiny_bert: Any) -> None:
    encoder = make_tiny_bert(layers=3)
    text = dial(
        tmp_path,
        (
            "fit",
            "--config=tests/additions/policy.yaml",
            f"--model.path={encoder}",
            *SENTENCES,
            *QUIET,
            "--run={folder}/fit",
        ),
        ("test", "--model=MultiExit", "--model.path={folder}/fit/tier", *SENTENCES, *QUIET, "--run={folder}/test"),
    )
    assert "layer3" in text
    assert load_table(tmp_path / "test/sweep/stages.parquet").stage_names == tuple(f"model.layer{n}" for n in (1, 2, 3))
    assert "tests.additions.policy.LastTwo" in (tmp_path / "fit/config-fit.yaml").read_text()
