"""Small files of SuperGLUE: as on the hub (parquet), or as in the official download (JSON lines)."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.superglue import TASKS

NOUNS = "film plot cast story scene actor song end".split()


def fields(task: str, index: int) -> dict[str, Any]:
    """Columns of one row, as the hub has them; the label follows from the row's number."""
    noun, other = NOUNS[index % 8], NOUNS[(index + 3) % 8]
    label = index % len(TASKS[task].label_names)
    rows: dict[str, dict[str, Any]] = {
        "boolq": {
            "question": f"is the {noun} good {index}",
            "passage": f"The {noun} was {'good' if label else 'bad'}.",
        },
        "cb": {"premise": f"The {noun} was good {index}.", "hypothesis": f"the {other} was good"},
        "copa": {
            "premise": f"The {noun} was dull {index}.",
            "choice1": "He left.",
            "choice2": "He stayed.",
            "question": "cause" if index % 3 else "effect",
        },
        "multirc": {
            "paragraph": f"<b>Sent 1: </b>The {NOUNS[index // 6 % 8]} was good {index // 6}.<br>So it was.",
            "question": f"What was good {index // 3}?",
            "answer": f"the {noun} {index}",
            "idx": {"paragraph": index // 6, "question": index // 3, "answer": index},
        },
        "rte": {"premise": f"A {noun} was good {index}.", "hypothesis": f"The {other} was good."},
        "wic": {"word": noun, "sentence1": f"A {noun} {index}.", "sentence2": f"The {noun} ended."},
        "wsc": {
            "text": f"The {noun} was better than the {other} as it was good {index}.",
            "span1_text": f"the {noun}" if label else f"the {other}",
            "span2_text": "it",
            "span2_index": 8,
        },
    }
    return rows[task] | {"label": label}


def write_hub(folder: Path, task: str, rows: dict[str, int]) -> Path:
    """Write ``<folder>/<task>/<split>.parquet`` with so many rows for each split."""
    start = 0
    for split, count in rows.items():
        (folder / task).mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pylist([fields(task, start + i) for i in range(count)])
        pq.write_table(table, folder / task / f"{split}.parquet")
        start += count
    return folder


def official(task: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows as the lines of the official download."""
    names, lines = TASKS[task].label_names, []
    if task == "multirc":
        passages: dict[int, dict[str, Any]] = {}
        for row in rows:
            idx = row["idx"]
            line = passages.setdefault(
                idx["paragraph"], {"idx": idx["paragraph"], "passage": {"text": row["paragraph"], "questions": []}}
            )
            questions = line["passage"]["questions"]
            if not questions or questions[-1]["idx"] != idx["question"]:
                questions.append({"idx": idx["question"], "question": row["question"], "answers": []})
            answer = {"idx": idx["answer"], "text": row["answer"], "label": row["label"]}
            questions[-1]["answers"].append(answer)
        return list(passages.values())
    for number, row in enumerate(rows):
        line = {**row, "idx": number}
        if names == ("False", "True"):
            line["label"] = bool(row["label"])
        elif task != "copa":
            line["label"] = names[row["label"]]
        if task == "wsc":
            line = {"text": row["text"], "label": line["label"], "target": {k: row[k] for k in row if "span" in k}}
        lines.append(line)
    return lines


def write_official(folder: Path, task: str, rows: dict[str, int]) -> Path:
    """Write ``<folder>/<Task>/train.jsonl`` and ``val.jsonl`` with the same rows as :func:`write_hub`."""
    start = 0
    for split, count in rows.items():
        lines = official(task, [fields(task, start + i) for i in range(count)])
        path = folder / TASKS[task].official / f"{'val' if split == 'validation' else split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        start += count
    return folder
