"""All nine GLUE tasks as small parquet files with the hub's columns."""

from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.glue import TASKS

WORDS = "the a film plot cast is was not but good bad dull fine great poor very so and of".split()
VALUE = {"good": 1, "fine": 1, "great": 1, "bad": -1, "dull": -1, "poor": -1}


def sentences(rows: int, seed: int) -> pd.DataFrame:
    """Random sentences of 2 to 12 words; the label says whether good words outnumber bad ones."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(2, 13))) for _ in range(rows)]
    labels = [int(sum(VALUE.get(word, 0) for word in text.split()) > 0) for text in texts]
    return pd.DataFrame({"sentence": texts, "label": labels, "idx": range(rows)})


def write_task(folder: Path, task: str, train: int = 120, test: int = 40) -> Path:
    """Write `folder/<task>/*.parquet` with random texts and labels; returns `folder`."""
    rng = np.random.default_rng(sum(map(ord, task)))
    about = TASKS[task]
    (folder / task).mkdir(parents=True, exist_ok=True)
    for split, rows in {"train": train, **dict.fromkeys(about.tests.values(), test)}.items():
        columns: dict[str, object] = {
            name: [" ".join(rng.choice(WORDS, size=rng.integers(1, 9))) for _ in range(rows)] for name in about.columns
        }
        classes = len(about.label_names)
        columns["label"] = rng.integers(0, classes, rows) if classes else rng.uniform(0, 5, rows).astype(np.float32)
        pd.DataFrame({**columns, "idx": range(rows)}).to_parquet(folder / task / f"{split}.parquet")
    return folder
