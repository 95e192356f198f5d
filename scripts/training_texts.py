"""The English training texts of all sets in a folder, one a line, for general distillation.

    python scripts/training_texts.py --data DATA --out runs/data/texts.txt

Reads `train*.parquet` of the sets below, where they are there, and nothing of their validation and test splits; each
text comes once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dial.files import atomic_write

PAIR = ("sentence1", "sentence2")
SETS: dict[str, tuple[str, ...]] = {
    "glue/sst2": ("sentence",),
    "glue/cola": ("sentence",),
    "glue/mrpc": PAIR,
    "glue/rte": PAIR,
    "glue/wnli": PAIR,
    "glue/stsb": PAIR,
    "glue/qqp": ("question1", "question2"),
    "superglue/boolq": ("passage", "question"),
    "superglue/cb": ("premise", "hypothesis"),
    "superglue/copa": ("premise", "choice1", "choice2"),
    "superglue/multirc": ("paragraph", "question", "answer"),
    "superglue/rte": ("premise", "hypothesis"),
    "superglue/wic": PAIR,
    "superglue/wsc": ("text",),
    "squad/plain_text": ("context", "question"),
    "wmt16/ro-en": ("translation",),
    "multi30k/en-de": ("en",),
}
"""Columns of each; of a translation the English side."""


def texts(data: Path) -> Iterator[str]:
    """Texts in the order of the sets, repeats included."""
    for folder, columns in SETS.items():
        for path in sorted((data / folder).glob("train*.parquet")):
            frame = pd.read_parquet(path, columns=list(columns))
            for column in columns:
                values = frame[column]
                yield from (value["en"] for value in values) if column == "translation" else values.tolist()


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the sets")
    parser.add_argument("--out", type=Path, default=Path("runs/data/texts.txt"), help="file to write")
    options = parser.parse_args(arguments)
    lines = dict.fromkeys(line for text in texts(options.data) if (line := " ".join(str(text).split())))
    if not lines:
        parser.error(f"--data must hold training rows of {', '.join(SETS)}, but there are none in {options.data}")
    with atomic_write(options.out) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{len(lines):,} texts, {sum(line.count(' ') + 1 for line in lines):,} words, written to {options.out}")


if __name__ == "__main__":
    main()
