"""SQuAD and questions of one's own: forms of files, roles, batches, and what is refused."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules import QuestionsDataModule, SQuADDataModule
from datamodules.encoding import ArrayFile
from tests.squad_files import PARAGRAPHS, ROWS, TEST, asked, official, write
from tests.tiers.readers import STRIDE, WINDOW, tokenizer


def module(folder: Path, kind: Any = SQuADDataModule, **settings: Any) -> Any:
    arguments = {"cache_dir": str(folder / "cache"), "batch_size": 8, **settings}
    if kind is SQuADDataModule:
        arguments.setdefault("source", str(folder))
    data = kind(**arguments)
    data.use_tokenizers({"k": (tokenizer(), WINDOW)})
    data.use_strides({"k": STRIDE})
    return data


@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv", "1.1"])
def test_all_forms_give_the_same_rows(form: str, tmp_path: Path) -> None:
    data, like = module(write(tmp_path / "a", form)), module(write(tmp_path / "b", "parquet"))
    for role in ("train", "validation", "calibration", "test"):
        assert data.fingerprint(role) == like.fingerprint(role) and len(data.rows(role))
    rows = data.rows("test")
    assert len(rows) == 60 and data.label_names == ["*"] and data.metrics == ["token_f1", "squad_em"]
    for text, context, span, targets in zip(rows.text, rows.text_b, rows.spans, rows.targets, strict=True):
        assert targets == (context[slice(*span)],) and text in ("when", "what lost the queen", "who won")


def test_a_paragraph_is_a_group_and_in_one_role(tmp_path: Path) -> None:
    data = module(write(tmp_path, "parquet"))
    roles = {role: set(data.rows(role).text_b) for role in ("train", "validation", "calibration")}
    assert sum(map(len, roles.values())) == 60 == len(set.union(*roles.values()))
    rows = data.rows("test")
    assert len(set(rows.group)) == 20
    assert len(set(zip(rows.group, rows.text_b, strict=True))) == 20


def test_training_batches_hold_the_answers_tokens(tmp_path: Path) -> None:
    data, known = module(write(tmp_path, "parquet")), tokenizer()
    rows, seen = data.rows("train"), 0
    for batch in data.train_dataloader():
        encoding = batch["encodings"]["k"]
        assert torch.equal(torch.unique(encoding["row"]), torch.arange(len(batch["label"])))
        for window, row in enumerate(encoding["row"].tolist()):
            first, last = int(encoding["answer_starts"][window]), int(encoding["answer_ends"][window])
            ids = encoding["input_ids"][window, first : last + 1].tolist()
            answer = data.references("train")[int(batch["label"][row])][0]
            if first:
                assert ids == known(answer, add_special_tokens=False)["input_ids"]
                seen += 1
            else:
                assert ids == [known.cls_token_id]
    assert seen >= len(rows)
    assert "answer_starts" not in next(iter(data.test_dataloader()[1]))["encodings"]["k"]


def test_windows_are_read_from_the_disk_the_second_time(tmp_path: Path, monkeypatch) -> None:
    folder = write(tmp_path, "parquet")
    first = module(folder).tokens("test", "k")
    monkeypatch.setattr("datamodules.windows.WindowTokeniser.__call__", lambda *_: pytest.fail("encoded again"))
    again = module(folder).tokens("test", "k")
    for name in ("ids", "types", "sizes", "starts", "ends", "first", "offsets"):
        assert np.array_equal(getattr(first, name), getattr(again, name))


@pytest.mark.parametrize("form", ["2.0", "parquet"])
def test_questions_without_an_answer_are_answered_by_nothing(form: str, tmp_path: Path) -> None:
    some = [asked(p, n, [] if (p + n) % 3 == 0 else None) for p in range(60) for n in range(3)]
    data = module(write(tmp_path, form, some), no_answer=True)
    rows = data.rows("train")
    without = [targets == ("",) for targets in rows.targets]
    assert 20 < sum(without) < len(rows) - 20
    assert [tuple(span) == (-1, -1) for span in rows.spans.tolist()] == without
    for batch in data.train_dataloader():
        encoding = batch["encodings"]["k"]
        for row, label in enumerate(batch["label"].tolist()):
            assert encoding["answer_starts"][encoding["row"] == row].any() != without[label]
    with pytest.raises(ValueError, match=r"`answers` must hold an answer in every row, but .* 'q0-0' has none"):
        module(write(tmp_path / "b", "1.1", some)).rows("train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": {"text": ["1066"], "answer_start": [3]}}, r"id 'q0-0' has '1066' at 3, where its context of 77"),
        ({"answers": {"text": ["1066"], "answer_start": [900]}}, r"'q0-0' has '1066' at 900, .* has ''"),
        ({"answers": {"text": ["1066"], "answer_start": [-4]}}, r"'q0-0' has '1066' at -4"),
        ({"answers": {"text": ["1066", "x"], "answer_start": [42, 1, 2]}}, r"as many first characters as texts"),
        ({"answers": {"text": [], "answer_start": []}}, r"'q0-0' has none, .*2.0 may; set `no_answer: true`"),
        ({"answers": {"text": ["1066"], "answer_start": ["x"]}}, r"`answer_start` must be .*'q0-0' has 'x'"),
        ({"id": "q0-1"}, r"`id` must be another in every row, but .* has 'q0-1' more than once"),
        ({"id": None}, r"`id` must be given in every row"),
        ({"id": [1]}, r"`id` must be a text or a number in every row, but .* has '\[1\]'"),
        ({"context": " "}, r"`context` must be a text in every row, but .*'q0-0' has an empty context"),
        ({"question": ""}, r"`question` must be a text in every row, but .*'q0-0' has an empty question"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_the_id(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        module(write(tmp_path, "jsonl", [{**ROWS[0], **change}, *ROWS[1:]])).rows("train")


def test_a_question_without_room_is_told(tmp_path: Path) -> None:
    rows = [*ROWS[:-1], {**ROWS[-1], "question": "who " * 20}]
    data = module(write(tmp_path, "parquet", rows, rows))
    with pytest.raises(ValueError, match="test: the row with sample_id 179 has a question of 20 tokens"):
        data.tokens("test", "k")


def test_folders_and_files_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`source` must be 'hub' or a folder that exists"):
        SQuADDataModule(source=str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"`source` must have a file train.parquet or train-v1.1.json"):
        module(tmp_path).rows("train")
    (tmp_path / "train-v1.1.json").write_text(json.dumps({"data": [{"paragraphs": [{"qas": [{}]}]}]}))
    with pytest.raises(ValueError, match=r"`source` must be SQuAD's JSON .* is not: KeyError"):
        module(tmp_path).rows("train")


def test_files_of_one_s_own_name_their_columns(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "asked": ["when", "who", "what", "none"],
            "text": [PARAGRAPHS[0]] * 2 + [PARAGRAPHS[1]] * 2,
            "reply": ["1066", "king", "the", ""],
            "first": [None, None, PARAGRAPHS[1].rindex("The") + 0, None],
            "page": ["a", "a", "a", "b"],
        }
    )
    table.loc[2, "reply"] = "The"
    table.to_csv(tmp_path / "rows.csv", index=False)
    columns = {"question_column": "asked", "context_column": "text", "answer_column": "reply", "start_column": "first"}
    settings = {"train_file": str(tmp_path / "rows.csv"), "test_file": str(tmp_path / "rows.csv"), **columns}
    data = module(tmp_path, QuestionsDataModule, **settings, group_column="page", no_answer=True)
    rows = data.rows("test")
    assert rows.targets == [("1066",), ("king",), ("The",), ("",)]
    assert rows.spans[2].tolist() == [PARAGRAPHS[1].rindex("The"), PARAGRAPHS[1].rindex("The") + 3]
    assert rows.spans[1, 0] == PARAGRAPHS[0].index("king") and rows.group.tolist() == ["a", "a", "a", "b"]
    table.loc[0, "reply"] = "1492"
    table.to_csv(tmp_path / "rows.csv", index=False)
    data = module(tmp_path, QuestionsDataModule, **settings, no_answer=True)
    with pytest.raises(ValueError, match=r"`reply` must be in the context letter by letter, but .*row 0 has '1492'"):
        data.rows("test")


def test_first_characters_are_called_as_their_column(tmp_path: Path) -> None:
    rows = [{"question": "when", "context": PARAGRAPHS[0], "answer": "1066", "first": "soon"}]
    settings = {"test_file": str(tmp_path / "rows.csv"), "start_column": "first"}
    pd.DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(ValueError, match=r"`first` must be the position of a character .*row 0 has 'soon'"):
        module(tmp_path, QuestionsDataModule, **settings).rows("test")
    pd.DataFrame([{**rows[0], "first": 3}]).to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(ValueError, match=r"Correct `first`: it counts characters from 0"):
        module(tmp_path, QuestionsDataModule, **settings).rows("test")


@pytest.mark.parametrize("name", ["own.json", "OWN.JSON", "own.json.gz"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_official_json_is_read_under_any_name(name: str, mark: str, tmp_path: Path) -> None:
    content = (mark + json.dumps(official(TEST), indent=1)).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    rows = module(tmp_path, QuestionsDataModule, test_file=str(tmp_path / name)).rows("test")
    assert list(zip(rows.text, rows.text_b, strict=True)) == [(row["question"], row["context"]) for row in TEST]
    assert rows.spans[:, 0].tolist() == [row["answers"]["answer_start"][0] for row in TEST]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", "", r"`test_file` must have the column 'question', but .* has no columns, as an empty file has"),
        ("rows.csv", "question,context\na,b\n", r"`test_file` must have a column of answers .*with `answer_column`"),
        ("rows.jsonl", '{"question": "a"', r"`test_file` .*rows.jsonl, line 1: is no JSON"),
        ("rows.json", json.dumps(official(TEST))[:999], r"SQuAD's JSON, or .* one JSON object a line, but .* neither"),
        ("rows.json", json.dumps(official(TEST), indent=1)[:999], r"one JSON object a line, but .* is neither: "),
        ("rows.json", '{"question": "a", "context": "b", "answer": "b"}\n{', r"rows.json, line 2: is no JSON"),
        ("rows.json", "\xff", r"rows.json, line 1: is not UTF-8"),
    ],
)
def test_files_that_are_empty_or_damaged_say_so(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        module(tmp_path, QuestionsDataModule, test_file=str(tmp_path / name)).rows("test")


def test_a_paragraph_of_one_s_own_stays_in_its_role_where_another_is_added(tmp_path: Path) -> None:
    contexts = [f"{PARAGRAPHS[0]} {number}" for number in range(200)]

    def roles(some: list[str]) -> dict[str, str]:
        rows = pd.DataFrame({"question": "when", "context": [c for c in some for _ in range(2)], "answer": "1066"})
        rows.to_csv(tmp_path / "rows.csv", index=False)
        data = module(tmp_path, QuestionsDataModule, train_file=str(tmp_path / "rows.csv"))
        return {text: role for role in ("train", "validation", "calibration") for text in data.rows(role).text_b}

    before, after = roles(contexts), roles(["The king won in 1066 once more.", *reversed(contexts[:-1])])
    assert set(before.values()) == {"train", "validation", "calibration"}
    assert {text: after[text] for text in contexts[:-1]} == {text: before[text] for text in contexts[:-1]}


def test_lists_of_answers_are_read_as_well(tmp_path: Path) -> None:
    rows = [{"question": "when", "context": PARAGRAPHS[0], "answer": ["1066", {"text": "won in 1066"}]}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = module(tmp_path, QuestionsDataModule, test_file=str(tmp_path / "rows.jsonl"))
    assert data.rows("test").targets == [("1066", "won in 1066")]


def test_answers_that_look_like_json_are_texts(tmp_path: Path) -> None:
    """Footnotes and lists of numbers are what the context says; lists of texts and SQuAD's mappings are forms."""
    context = 'See [1], [1, 2], {"a": 1} and the king.'
    forms = ['["king", "the king"]', json.dumps({"text": ["king"], "answer_start": [context.index("king")]})]
    answers = ["[1]", "[1, 2]", '{"a": 1}', *forms, json.dumps([{"text": "king"}])]
    table = pd.DataFrame({"question": ["what"] * 6, "context": [context] * 6, "answer": answers})
    table.to_csv(tmp_path / "rows.csv", index=False)
    data = module(tmp_path, QuestionsDataModule, test_file=str(tmp_path / "rows.csv"), no_answer=True)
    rows = data.rows("test")
    assert rows.targets == [("[1]",), ("[1, 2]",), ('{"a": 1}',), ("king", "the king"), ("king",), ("king",)]
    for row in range(3):
        assert context[slice(*rows.spans[row])] == answers[row]
    line = {"question": "what", "context": context, "answer": {"a": 1}}
    (tmp_path / "rows.jsonl").write_text(json.dumps(line) + "\n")
    data = module(tmp_path, QuestionsDataModule, test_file=str(tmp_path / "rows.jsonl"), no_answer=True)
    with pytest.raises(ValueError, match=r"`answer` must hold texts, .* row 0 has "):
        data.rows("test")


def test_spaces_around_an_answer_do_not_hide_its_tokens(tmp_path: Path) -> None:
    answers = {"text": [" king won "], "answer_start": [1]}
    rows = [{"question": "what", "context": "  king won " + "the " * n, "answers": answers} for n in range(9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = module(tmp_path, QuestionsDataModule, train_file=str(tmp_path / "rows.jsonl"), validation_fraction=0.34)
    assert data.rows("train").spans.tolist()[0] == [2, 10]
    encoding = next(iter(data.train_dataloader()))["encodings"]["k"]
    known = tokenizer()
    first, last = int(encoding["answer_starts"][0]), int(encoding["answer_ends"][0])
    assert known.convert_ids_to_tokens(encoding["input_ids"][0, first : last + 1]) == ["king", "won"]


@pytest.mark.parametrize("name", ["answers", "answer", "label"])
def test_answers_are_found_by_the_usual_names(name: str, tmp_path: Path) -> None:
    table = pd.DataFrame({"question": ["who"], "context": ["the king won"], name: ["king"]})
    table.to_csv(tmp_path / "rows.csv", index=False)
    data = module(tmp_path, QuestionsDataModule, test_file=str(tmp_path / "rows.csv"))
    assert data.rows("test").targets == [("king",)]


def test_windows_are_written_chunk_by_chunk(tmp_path: Path, monkeypatch) -> None:
    whole = module(write(tmp_path / "a", "parquet")).tokens("test", "k")
    parts: list[int] = []
    usual = ArrayFile.append
    monkeypatch.setattr("datamodules.questions.CHUNK", 7)
    monkeypatch.setattr(ArrayFile, "append", lambda file, values: (parts.append(len(values)), usual(file, values)))
    again = module(write(tmp_path / "b", "parquet")).tokens("test", "k")
    assert len(parts) == 5 * math.ceil(60 / 7)
    for name in ("ids", "types", "sizes", "starts", "ends", "first", "offsets"):
        one, other = getattr(whole, name), getattr(again, name)
        assert one.dtype == other.dtype and np.array_equal(one, other)
