"""A small SST-2-like folder, and the `dial` command in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
WORDS = "the a film plot cast is was not but good bad dull fine great poor very so and of".split()


def sentences(rows: int, seed: int) -> pd.DataFrame:
    """Random sentences of 2 to 12 words; the label says whether good words outnumber bad ones."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(2, 13))) for _ in range(rows)]
    value = {"good": 1, "fine": 1, "great": 1, "bad": -1, "dull": -1, "poor": -1}
    labels = [int(sum(value.get(word, 0) for word in text.split()) > 0) for text in texts]
    return pd.DataFrame({"sentence": texts, "label": labels, "idx": range(rows)})


@pytest.fixture(scope="session")
def glue_folder(tmp_path_factory) -> Path:
    """Folder with `sst2/train.parquet` (400 rows) and `sst2/validation.parquet` (61 rows)."""
    folder = tmp_path_factory.mktemp("glue")
    (folder / "sst2").mkdir()
    sentences(400, 0).to_parquet(folder / "sst2/train.parquet")
    sentences(61, 1).to_parquet(folder / "sst2/validation.parquet")
    return folder


@pytest.fixture(scope="session")
def data_arguments(glue_folder) -> list[str]:
    return [
        "--data=GLUEDataModule",
        "--data.task=sst2",
        f"--data.source={glue_folder}",
        "--data.calibration_fraction=0.3",
    ]


@pytest.fixture(scope="session")
def fit_arguments(tiny_bert, data_arguments) -> list[str]:
    """`dial fit` of a tiny BERT with dropout, two epochs of 31 steps."""
    return [
        *("fit", "--config=configs/model/finetune.yaml", *data_arguments, f"--model.path={tiny_bert}"),
        *("--data.batch_size=8", "--trainer.max_epochs=2", "--trainer.accelerator=cpu"),
        *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--model.max_length=32"),
    ]


@pytest.fixture(scope="session")
def run_many() -> Callable[..., list[int]]:
    """Run several `dial` commands, each in a fork of one process that has imported everything.

    Takes a list of `(arguments, kill)`, where `kill` is None or `"training_step:7"`: SIGKILL at the seventh call.
    Gives the exit codes, -9 for a killed one.
    """

    def run(jobs: list[tuple[list[str], str | None]], timeout: float = 280) -> list[int]:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).parent / "forks.py")],
            input=json.dumps(jobs),
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=timeout,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        codes = json.loads(done.stdout.strip().splitlines()[-1])
        run.output = done.stdout + done.stderr
        return codes

    return run
