"""Small files in the forms of SQuAD: paragraphs that differ in a number, and three questions about each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

PARAGRAPHS = [f"Paragraph {n}: the old king of town {n} won in 1066. The queen lost a blue river." for n in range(80)]


def asked(paragraph: int, number: int, answers: list[tuple[str, int | None]] | None = None) -> dict[str, Any]:
    context = PARAGRAPHS[paragraph]
    wanted = ["1066", "blue river", "old king"][number]
    given = [(wanted, context.index(wanted)), (wanted, context.index(wanted))] if answers is None else answers
    return {
        "id": f"q{paragraph}-{number}",
        "title": "Towns",
        "question": ["when", "what lost the queen", "who won"][number],
        "context": context,
        "answers": {"text": [text for text, _ in given], "answer_start": [start for _, start in given]},
    }


ROWS = [asked(paragraph, number) for paragraph in range(60) for number in range(3)]
TEST = [asked(paragraph, number) for paragraph in range(60, 80) for number in range(3)]


def official(rows: list[dict[str, Any]], version: str = "1.1") -> dict[str, Any]:
    paragraphs: dict[str, Any] = {}
    for row in rows:
        pairs = zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
        answers = [{"text": text, "answer_start": start} for text, start in pairs]
        one = {"id": row["id"], "question": row["question"], "answers": answers}
        if version == "2.0":
            one |= {"is_impossible": not answers, "plausible_answers": [{"text": "the", "answer_start": 13}]}
        paragraphs.setdefault(row["context"], {"context": row["context"], "qas": []})["qas"].append(one)
    return {"version": version, "data": [{"title": "Towns", "paragraphs": list(paragraphs.values())}]}


def write(folder: Path, form: str, rows: list[dict[str, Any]] = ROWS, test: list[dict[str, Any]] = TEST) -> Path:
    folder.mkdir(exist_ok=True)
    for name, some in (("train", rows), ("validation", test)):
        if form == "parquet":
            pd.DataFrame(some).to_parquet(folder / f"{name}.parquet")
        elif form == "jsonl":
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
        elif form == "csv":
            frame = pd.DataFrame(some)
            frame["answers"] = [json.dumps(value) for value in frame["answers"]]
            frame.to_csv(folder / f"{name}.csv", index=False)
        else:
            place = folder / f"{name.replace('validation', 'dev')}-v{form}.json"
            place.write_text(json.dumps(official(some, form)))
    return folder
