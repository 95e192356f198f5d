"""Tokenizers that give other ids never share a key, nor rows on the disk; copies of one do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer, BertJapaneseTokenizer, CTRLTokenizer, PreTrainedTokenizerFast

from datamodules.base import SequenceDataModule
from datamodules.rows import Rows
from dial.inference.executor import Executor
from dial.inference.router import Decision
from dial.inference.staged import StagedModel
from dial.tiers.loading import load_tier
from dial.tiers.tokens import encoding_key
from tests.tiers import families

TEXTS = ["A Film", "a film", "FAIR film not", "filmgood", "the plot ( fair", "Good. a"]
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "film",
    "Film",
    "the",
    "plot",
    "good",
    "Good",
    "fair",
    "FAIR",
]
LETTERS = [f"##{letter}" for letter in "abcdefgilmoprt"] + list("bcdefgilmoprtFGA(.")
CHANGES: list[dict[str, Any]] = [
    {"do_lower_case": False},
    {"subword_tokenizer_type": "character"},
    {"do_subword_tokenize": False},
    {"never_split": ["("]},
    {"unk_token": "[MASK]"},
    {"sep_token": "[CLS]"},
]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    file.write_text("\n".join(WORDS + LETTERS) + "\n")
    return str(file)


def slow(vocabulary: str, **settings: Any) -> Any:
    settings = {"do_lower_case": True, "subword_tokenizer_type": "wordpiece", "model_max_length": 32, **settings}
    return BertJapaneseTokenizer(vocabulary, word_tokenizer_type="basic", **settings)


def test_each_switch_of_a_slow_tokenizer_counts(vocabulary: str) -> None:
    tokenizers = [slow(vocabulary), *(slow(vocabulary, **change) for change in CHANGES)]
    tokenizers.append(slow(vocabulary))
    tokenizers[-1].add_tokens([AddedToken("filmgood", lstrip=True)])
    ids = [json.dumps([tokenizer(text)["input_ids"] for text in TEXTS]) for tokenizer in tokenizers]
    keys = [encoding_key(tokenizer, 16) for tokenizer in tokenizers]
    assert len(set(ids)) > 5, "most of the switches change something about these texts"
    assert len(set(keys)) == len(keys)


def test_the_files_of_a_sub_word_model_count(tmp_path: Path) -> None:
    vocabulary = {"<unk>": 0, "f@@": 1, "film</w>": 2, "i@@": 3, "lm": 4, "fi@@": 5, "l": 6, "m": 7, "ilm": 8, "fi": 9}
    made = []
    for index, merges in enumerate((["f i", "l m</w>", "fi lm</w>"], ["i l", "il m</w>", "f ilm</w>"])):
        folder = tmp_path / str(index)
        folder.mkdir()
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
        made.append(CTRLTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")))
    assert made[0].get_vocab() == made[1].get_vocab()
    assert encoding_key(made[0], 16) != encoding_key(made[1], 16)


def test_a_copy_has_the_key_of_its_original(vocabulary: str, tmp_path: Path) -> None:
    original = slow(vocabulary, do_lower_case=False)
    key = encoding_key(original, 16)
    original(TEXTS, padding=True, truncation=True, max_length=3)
    assert encoding_key(original, 16) == key == encoding_key(slow(vocabulary, do_lower_case=False), 16)
    original.save_pretrained(tmp_path / "copy")
    copy = BertJapaneseTokenizer.from_pretrained(tmp_path / "copy")
    copy.save_pretrained(tmp_path / "of a copy")
    assert encoding_key(BertJapaneseTokenizer.from_pretrained(tmp_path / "of a copy"), 16) == encoding_key(copy, 16)
    assert encoding_key(copy, 17) != encoding_key(copy, 16)


def test_a_fast_tokenizer_that_splits_special_tokens(tiny_tokenizer, tmp_path: Path) -> None:
    tiny_tokenizer.save_pretrained(tmp_path)
    plain, splits = (AutoTokenizer.from_pretrained(tmp_path, split_special_tokens=split) for split in (False, True))
    assert plain("a [SEP] film")["input_ids"] != splits("a [SEP] film")["input_ids"]
    assert encoding_key(plain, 16) == encoding_key(tiny_tokenizer, 16) != encoding_key(splits, 16)


def test_python_between_a_call_and_the_backend_counts(tiny_tokenizer) -> None:
    class Shouting(PreTrainedTokenizerFast):
        def _encode_plus(self, text: Any, *args: Any, **kwargs: Any) -> Any:
            return super()._encode_plus([f"so {one}" for one in text], *args, **kwargs)

    special = {key: str(token) for key, token in tiny_tokenizer.special_tokens_map.items()}
    names = tiny_tokenizer.model_input_names
    other = Shouting(tokenizer_object=tiny_tokenizer.backend_tokenizer, model_input_names=names, **special)
    plain = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer, model_input_names=names, **special
    )
    assert encoding_key(plain, 16) == encoding_key(tiny_tokenizer, 16)
    assert encoding_key(other, 16) != encoding_key(tiny_tokenizer, 16)


@pytest.fixture(scope="module")
def cased(vocabulary: str, tmp_path_factory) -> dict[str, Path]:
    """Two classifiers of one vocabulary, whose slow tokenizers differ in one switch."""
    return {
        name: families.save(tmp_path_factory.mktemp(name), "bert", slow(vocabulary, do_lower_case=name == "lower"))
        for name in ("lower", "cased")
    }


@pytest.mark.parametrize("first", ["lower", "cased"])
def test_a_cascade_of_two_cases_answers_as_each_alone(cased: dict[str, Path], first: str) -> None:
    second = "cased" if first == "lower" else "lower"
    network = StagedModel([load_tier(str(cased[name]), name, families.CLASSES) for name in (first, second)])
    expected = families.one_by_one(cased[second], TEXTS, typed=True)
    assert np.abs(expected - families.one_by_one(cased[first], TEXTS, typed=True)).max() > 0.1
    decision = Decision((first, second), "threshold", "softmax", (float("inf"),))
    answers = np.stack([answer.outputs for answer in Executor(network, decision, 4).run(TEXTS)])
    np.testing.assert_allclose(answers, expected, atol=1e-5)


class Texts(SequenceDataModule):
    """The rows of TEXTS."""

    label_names = families.CLASSES

    def has(self, role: str) -> bool:
        return True

    def read(self, role: str) -> Rows:
        return Rows(TEXTS, None, np.zeros(len(TEXTS), np.int64), np.arange(len(TEXTS)))


def test_rows_on_the_disk_are_not_shared(cased: dict[str, Path], tmp_path: Path) -> None:
    for name in ("lower", "cased", "lower"):
        tier = load_tier(str(cased[name]), name, families.CLASSES)
        data = Texts(cache_dir=str(tmp_path))
        data.use_tokenizers({tier.encoding_key: (tier.tokenizer, tier.max_length)})
        tokens = data.tokens("test", tier.encoding_key)
        for index, text in enumerate(TEXTS):
            row = tokens.ids[tokens.offsets[index] : tokens.offsets[index + 1]].tolist()
            assert row == AutoTokenizer.from_pretrained(cased[name])(text)["input_ids"]
    assert len(list((tmp_path / "encodings").iterdir())) == 2
