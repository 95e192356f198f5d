import os
import threading
from pathlib import Path

import numpy as np
import pytest

from datamodules.encoding import encode
from datamodules.rows import Rows


def rows_of(texts: list[str], second: list[str] | None = None) -> Rows:
    return Rows(texts, second, np.zeros(len(texts), np.int64), np.arange(len(texts)))


def unpacked(tokens) -> list[list[int]]:
    return [tokens.ids[tokens.offsets[i] : tokens.offsets[i + 1]].tolist() for i in range(len(tokens.offsets) - 1)]


def test_equals_the_tokenizer_row_by_row(tiny_tokenizer, tmp_path: Path) -> None:
    first, second = ["the film", "", "good " * 40, "a plot"], ["is good", "the", "bad " * 3, ""]
    tokens = encode(rows_of(first, second), tiny_tokenizer, 20, "key", tmp_path)
    # Lists of one: for a bare "" transformers forgets that it is the second text of a pair.
    expected = [tiny_tokenizer([a], [b], truncation=True, max_length=20) for a, b in zip(first, second, strict=True)]
    assert unpacked(tokens) == [row["input_ids"][0] for row in expected]
    types = [tokens.types[tokens.offsets[i] : tokens.offsets[i + 1]].tolist() for i in range(4)]
    assert types == [row["token_type_ids"][0] for row in expected]
    assert tokens.truncated == 1 and tokens.lengths.tolist() == [len(row["input_ids"][0]) for row in expected]


def test_exactly_the_maximum_is_not_truncated(tiny_tokenizer, tmp_path: Path) -> None:
    rows = rows_of(["good " * 8, "good " * 9])  # with [CLS] and [SEP] 10 and 11
    assert encode(rows, tiny_tokenizer, 10, "ten", tmp_path).truncated == 1
    assert encode(rows, tiny_tokenizer, None, "all", tmp_path).lengths.tolist() == [10, 11]


def test_an_empty_text_without_special_tokens_is_one_unknown_token(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    assert unpacked(encode(rows_of(["", "good"]), tokenizer, 5, "words", tmp_path)) == [[1], [2]]


class Counting:
    """Counts the calls of a tokenizer."""

    def __init__(self, tokenizer) -> None:
        self.tokenizer, self.calls = tokenizer, 0

    def __getattr__(self, name: str):
        return getattr(self.tokenizer, name)

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self.tokenizer(*args, **kwargs)


def test_tokenised_once(tiny_tokenizer, tmp_path: Path) -> None:
    counting, rows = Counting(tiny_tokenizer), rows_of(["the film", "good " * 50])
    first = encode(rows, counting, 8, "key", tmp_path)
    calls = counting.calls
    again = encode(rows_of(["the film", "good " * 50]), counting, 8, "key", tmp_path)
    assert counting.calls == calls
    assert unpacked(again) == unpacked(first) and again.truncated == 1
    encode(rows_of(["the cast", "good " * 50]), counting, 8, "key", tmp_path)
    assert counting.calls > calls


def test_two_at_once_leave_one_whole_folder(tiny_tokenizer, tmp_path: Path) -> None:
    rows, barrier, results = rows_of(["the film"] * 50), threading.Barrier(4), []

    class Slow(Counting):
        def __call__(self, *args, **kwargs):
            barrier.wait()  # all four have seen that there is no cache
            return super().__call__(*args, **kwargs)

    def work() -> None:
        results.append(unpacked(encode(rows, Slow(tiny_tokenizer), None, "key", tmp_path)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(result == results[0] for result in results)
    assert len(list((tmp_path / "encodings").iterdir())) == 1


def test_a_full_disk_leaves_nothing_half(tiny_tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args, **kwargs) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(OSError, match=r"No space"):
            encode(rows_of(["the film"]), tiny_tokenizer, None, "key", tmp_path)
    assert list((tmp_path / "encodings").iterdir()) == []
    assert len(encode(rows_of(["the film"]), tiny_tokenizer, None, "key", tmp_path).ids) == 4
