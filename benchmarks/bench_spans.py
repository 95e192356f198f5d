"""What it takes to evaluate questions answered by spans beside the model, and `dial predict` beside its model calls.

    python benchmarks/bench_spans.py --tokenizer MODEL --questions validation.parquet
    python benchmarks/bench_spans.py --tokenizer MODEL --questions validation.parquet --run runs/cascade --rows 1000

Targets: 10,570 questions in at most 20 s after the model, of a cascade of two tiers; at least 0.85 of the time of
`dial predict` in model calls.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import machine  # type: ignore[import-not-found]  # the script's folder is on the path

from datamodules.question_rows import SQUAD, read_question_rows, read_questions
from datamodules.windows import WindowTokeniser
from dial.models.spans import find_spans
from dial.stages.metrics.metrics import METRICS
from dial.tiers.reading import read_tokenizer

QUESTIONS, SECONDS, SHARE, BATCH, TIERS = 10_570, 20.0, 0.85, 32, 2


def timed(what: str, call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call gives, and its seconds, which are printed."""
    start = time.perf_counter()
    found = call()
    seconds = time.perf_counter() - start
    print(f"{what}: {seconds:.2f} s")
    return found, seconds


def evaluation(questions: str, tokenizer: str, max_length: int) -> None:
    """Search of spans and both metrics for every question, twice, from random logits."""
    rows = read_question_rows(Path(questions), SQUAD, "questions", no_answer=False)
    tokeniser = WindowTokeniser(read_tokenizer(tokenizer, "tokenizer"), max_length)
    units = list(rows.units())
    tokens, _ = timed(f"tokenising {len(units):,} questions", lambda: tokeniser(units))
    order = np.argsort([len(row.ids) for row in tokens])[::-1]
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)

    def search() -> list[str]:
        """Answers of all rows by the search alone, over random logits of the batches' shapes."""
        texts = [""] * len(tokens)
        for start in range(0, len(order), BATCH):
            some = order[start : start + BATCH].tolist()
            encoding = tokeniser.collate([tokens[row] for row in some])
            logits = torch.randn(*encoding["input_ids"].shape, 2, generator=generator)
            found = find_spans(logits, encoding["starts"], encoding["ends"], encoding["row"], 30, no_answer=False)
            for row, candidates in zip(some, found.candidates, strict=True):
                texts[row] = tokens[row].context[slice(*candidates[0].span)]
        return texts

    stages, total = [], 0.0
    for tier in range(TIERS):
        texts, seconds = timed(f"batches and search of spans, tier {tier + 1}", search)
        stages.append(texts)
        total += seconds
    answers = np.array(stages, dtype=object).T
    references: Any = rows.targets
    for name in ("token_f1", "squad_em"):
        metric = METRICS[name]
        values, seconds = timed(f"{name} of {TIERS} stages", partial(metric.statistics, references, answers))
        total += seconds
    scaled = total * QUESTIONS / len(units)
    print(f"after the model: {scaled:.1f} s for {QUESTIONS:,} questions (target: at most {SECONDS:g} s)")
    print(f"a row of the table holds {values.nbytes / len(units):.0f} bytes a metric, and no logits")


def prediction(run: str, questions: str, count: int) -> None:
    """Share of the time of prediction that the tiers take, reading ahead in another thread."""
    from dial.inference.classifier import AdaptiveClassifier

    columns, _ = read_questions(Path(questions), SQUAD, "questions")
    units = list(zip(columns["question"], columns["context"], strict=True))[:count]
    answer = AdaptiveClassifier.from_run(run, target=0.99)
    list(answer.stream(units[:BATCH], prefetch=True))
    for work in answer.executor.work.values():
        work.seconds = 0.0
    _, wall = timed(f"answering {len(units):,} questions", lambda: list(answer.stream(units, prefetch=True)))
    share = sum(work.seconds for work in answer.executor.work.values()) / wall
    print(f"in the model: {share:.3f} (target: at least {SHARE:g})")


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="folder of a model")
    parser.add_argument("--questions", required=True, help="file with SQuAD's columns")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--run", help="folder that `dial test` left")
    parser.add_argument("--rows", type=int, default=1000, help="questions for --run")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    evaluation(options.questions, options.tokenizer, options.max_length)
    if options.run:
        prediction(options.run, options.questions, options.rows)


if __name__ == "__main__":
    main()
