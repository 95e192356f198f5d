"""Training rows of QNLI from SQuAD's training articles, in a folder beside QNLI's official validation rows.

    python scripts/qnli_from_squad.py --data DATA --out runs/data/qnli

QNLI (Wang et al. 2019) asks whether a sentence holds the answer to a question. Each question of
`DATA/squad/plain_text/train.parquet` gives two rows: with the sentence of its paragraph that holds the answer, and with
the hardest other one, which shares the most words with the question, rare words counting more. The second is left out
where no other sentence is without the answer's words. `DATA/glue/qnli/validation.parquet` is copied: its articles are
those of SQuAD's development set, of which nothing is read here.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dial.files import atomic_write

TRAIN, VALIDATION = Path("squad/plain_text/train.parquet"), Path("glue/qnli/validation.parquet")
END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")
TITLES = re.compile(r"\b(?:[A-Z]|Mr|Mrs|Ms|Dr|St|Jr|Sr|vs|No|Gen|Lt|Col|Prof)\.$")


def sentences(text: str) -> list[tuple[int, str]]:
    """Sentences with the places where they begin.

    >>> sentences("It rained. Dr. Who came at 5 p.m. in a box!  Then he left.")
    [(0, 'It rained.'), (11, 'Dr. Who came at 5 p.m. in a box!'), (45, 'Then he left.')]
    """
    found, begin = [], 0
    for end in END.finditer(text):
        if not TITLES.search(text[: end.start()]):
            found.append((begin, text[begin : end.end()].rstrip()))
            begin = end.end()
    return [*found, (begin, text[begin:].rstrip())] if text[begin:].strip() else found


def words(text: str) -> set[str]:
    """Words of a text, in small letters."""
    return set(re.findall(r"\w+", text.lower()))


def rarity(contexts: Sequence[str]) -> dict[str, float]:
    """How rare each word is among the sentences, as the logarithm of one over its share."""
    of_each = [words(sentence) for context in contexts for _, sentence in sentences(context)]
    counts = Counter(word for some in of_each for word in some)
    return {word: float(np.log(len(of_each) / count)) for word, count in counts.items()}


def pairs(row: Mapping[str, Any], rare: Mapping[str, float]) -> Iterator[tuple[str, str, int]]:
    """Question, sentence and label (0: it holds the answer, 1: it does not) of one question's rows."""
    place, answer = int(row["answers"]["answer_start"][0]), str(row["answers"]["text"][0])
    parts = sentences(row["context"])
    (own,) = (sentence for begin, sentence in parts if begin == max(b for b, _ in parts if b <= place))
    yield row["question"], own, 0
    asked = words(row["question"])
    others = [part for _, part in parts if part != own and answer.lower() not in part.lower()]
    if others:
        yield row["question"], max(others, key=lambda part: sum(rare[word] for word in asked & words(part))), 1


def made(squad: pd.DataFrame) -> pd.DataFrame:
    """Rows of QNLI.

    Args:
        squad: rows with `context`, `question` and `answers` as in SQuAD.
    """
    rare = rarity(list(dict.fromkeys(squad.context)))
    rows = [pair for row in squad.to_dict("records") for pair in pairs(row, rare)]
    return pd.DataFrame(rows, columns=["question", "sentence", "label"]).assign(idx=range(len(rows)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write both files, the training rows last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with squad and glue")
    parser.add_argument("--out", type=Path, default=Path("runs/data/qnli"), help="folder to write")
    options = parser.parse_args(arguments)
    for path in (TRAIN, VALIDATION):
        if not (options.data / path).is_file():
            parser.error(f"--data must hold {path}, but there is none in {options.data}")
    rows = made(pd.read_parquet(options.data / TRAIN))
    with atomic_write(options.out / VALIDATION.name) as temporary:
        shutil.copyfile(options.data / VALIDATION, temporary)
    with atomic_write(options.out / TRAIN.name) as temporary:
        rows.to_parquet(temporary, index=False)
    print(f"{len(rows):,} rows, {(rows.label == 0).sum():,} with the answer, written to {options.out}")


if __name__ == "__main__":
    main()
