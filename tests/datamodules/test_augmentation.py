"""New texts: shares, candidates and sides against plain loops; the same in any number of processes."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    PreTrainedTokenizerFast,
)

from datamodules.augmentation.generation import Generation, Source, in_order, sources
from datamodules.augmentation.masked_lm import MaskedLM, at_positions
from datamodules.augmentation.methods import MASK, CountTags, MaskingTagsNgrams, TagWords, WordReplacement, words_of
from datamodules.augmentation.neighbours import neighbours_of
from datamodules.augmentation.split_text import SplitText
from datamodules.augmentation.tags import Tagger
from datamodules.rows import Rows

WORDS = [f"{first}{second}" for first in "bcdfghjkl" for second in ("ad", "en", "ig", "ol", "up")]
LONG = " ".join(WORDS)
MORE = "bad bad bad Bad cad"


class Vowels:
    """A tagger by the word's vowel."""

    def tags(self, split: SplitText) -> list[str]:
        return [re.sub(r"[^aeiou]", "", word.lower())[:1] for word in split.words]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def share_interval(share: float, trials: int) -> float:
    """Five standard deviations of a share."""
    return 5 * float(np.sqrt(share * (1 - share) / trials))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("it 's a charming film .", ["it", "'s", "a", "charming", "film"]),
        ('The U.S. won\'t re-open, "he" said.', ["The", "U.S", "won't", "re-open", "he", "said"]),
        ("  \t", []),
        ("naïve – 3.5 % ü", ["naïve", "3.5", "ü"]),
    ],
)
def test_words_and_what_stands_between_them(text: str, words: list[str]) -> None:
    split = SplitText(text)
    assert split.words == words and split.joined(words) == text
    for first in range(len(words)):
        for last in range(first + 1, len(words) + 1):
            part = split.joined(words, first, last)
            assert part in text and SplitText(part).words[0] == words[first]
    tokens, places = split.tokens
    assert [tokens[i] for i in places] == words
    assert "".join(tokens) == "".join(text.split())


def test_neighbours_equal_a_plain_loop() -> None:
    vectors = generator().normal(size=(40, 6)).astype(np.float32)
    names = [*WORDS[:38], "7", "!"]
    found = neighbours_of(["Bad", *WORDS[:38], "7", "unknown"], names, vectors, 5)
    for word, near in found.items():
        own = vectors[names.index(word.lower())]
        cosine = {
            other: float(own @ vectors[i] / np.linalg.norm(own) / np.linalg.norm(vectors[i]))
            for i, other in enumerate(names)
            if other not in (word.lower(), "7", "!")
        }
        assert list(near) == sorted(cosine, key=lambda other: -cosine[other])[:5]
    assert "unknown" not in found and found["Bad"] == found["bad"]


def test_words_are_replaced_as_often_as_asked_for_by_each_candidate_alike() -> None:
    candidates = {word: [f"{word}one", f"{word}two", f"{word}three"] for word in WORDS[1:]}
    method = WordReplacement(400, 0.3, candidates)
    made = method((LONG,), generator())
    assert len(made) == 400 and len(set(made)) == 400
    counts: Counter[str] = Counter()
    for (text,) in made:
        words = text.split()
        assert words[0] == WORDS[0] and len(words) == len(WORDS)  # no candidates: it stays
        for word, new in zip(WORDS[1:], words[1:], strict=True):
            assert new == word or new in candidates[word]
            counts[new.removeprefix(word)] += 1
    total = counts.total()
    assert 1 - counts[""] / total == pytest.approx(0.3, abs=share_interval(0.3, total))
    for name in ("one", "two", "three"):
        assert counts[name] / total == pytest.approx(0.1, abs=share_interval(0.1, total))


def test_case_and_marks_are_kept() -> None:
    method = WordReplacement(1, 1.0, {"Dull": ["grey"], "FILM": ["movie"], "it": ["this"], "3": ["four"]})
    assert method(("Dull FILM -- is it 3 ?",), generator()) == [("Grey MOVIE -- is this 3 ?",)]


def test_repeats_and_the_original_are_left_out() -> None:
    method = WordReplacement(50, 0.5, {"a": ["x"], "b": ["y"]})
    assert sorted(text for (text,) in method(("a b",), generator())) == ["a y", "x b", "x y"]
    assert WordReplacement(5, 1.0)(("a b",), generator()) == [] and WordReplacement(5)(("",), generator()) == []


def test_sides_of_pairs_change_in_turns_and_stay_sides() -> None:
    left, right = {word: [f"{word}x"] for word in WORDS[:20]}, {word: [f"{word}y"] for word in WORDS[20:]}
    unit = " ".join(WORDS[:20]), " ".join(WORDS[20:])
    made = WordReplacement(30, 0.5, left | right)(unit, generator())
    for copy, (first, second) in enumerate(made):
        assert (first != unit[0], second != unit[1]) == ((True, False), (False, True), (True, True))[copy % 3]
        assert [word.rstrip("x") for word in first.split()] == WORDS[:20]
        assert [word.rstrip("y") for word in second.split()] == WORDS[20:]


def tang(copies: int, **settings: float) -> MaskingTagsNgrams:
    counts = CountTags(Vowels())([(LONG,), (MORE,)])
    return MaskingTagsNgrams(copies, **settings, tagger=Vowels(), tag_words=TagWords.of(counts))


def test_masks_and_replacements_by_part_of_speech_occur_as_often_as_asked_for() -> None:
    method = tang(600, masking=0.2, replacement=0.3, sampling=0.0)
    masked = other = 0
    drawn: Counter[str] = Counter()
    for (text,) in method((LONG,), generator()):
        for word, new in zip(WORDS, re.findall(r"\[MASK\]|\S+", text), strict=True):
            masked += new == MASK
            if new not in (word, MASK):
                other += 1
                assert Vowels().tags(SplitText(new)) == Vowels().tags(SplitText(word))
            if "a" in word and new != MASK:
                drawn[new] += 1
    total = 600 * len(WORDS)
    assert masked / total == pytest.approx(0.2, abs=share_interval(0.2, total))
    # A word may be drawn in its own place.
    occurrences = Counter(word.lower() for word in f"{LONG} {MORE}".split())
    of_vowel = {vowel: sum(occurrences[word] for word in WORDS if word[1] == vowel) for vowel in "aeiou"}
    expected = 0.3 * (1 - sum(occurrences[word] / of_vowel[word[1]] for word in WORDS) / len(WORDS))
    assert other / total == pytest.approx(expected, abs=share_interval(expected, total))
    # "bad" is drawn five times as often as "dad"; both stay alike often.
    drawn_more = 0.3 * (occurrences["bad"] - occurrences["dad"]) / of_vowel["a"]
    places = 600 * sum(word[1] == "a" for word in WORDS)
    difference = (drawn["bad"] - drawn["dad"]) / places
    assert occurrences["bad"] == 5 and difference == pytest.approx(drawn_more, abs=share_interval(drawn_more, places))


def test_n_grams_are_runs_of_one_to_five_words_alike_often() -> None:
    made = tang(4000, masking=0.0, replacement=0.0, sampling=0.5)((LONG,), generator())
    sizes: Counter[int] = Counter()
    draws = Counter()
    for seed in range(2000):
        text = tang(1, masking=0.0, replacement=0.0, sampling=0.5)((LONG,), generator(seed))
        draws[len(text[0][0].split()) if text else "whole"] += 1
    for (text,) in made:
        words = text.split()
        first = WORDS.index(words[0])
        assert words == WORDS[first : first + len(words)]
        sizes[len(words)] += 1
    assert set(sizes) == {1, 2, 3, 4, 5} and sizes[1] == len(WORDS)  # all runs of one word, each once
    assert draws["whole"] / 2000 == pytest.approx(0.5, abs=share_interval(0.5, 2000))
    for size in range(1, 6):
        assert draws[size] / 2000 == pytest.approx(0.1, abs=share_interval(0.1, 2000))


@pytest.fixture(scope="module")
def masked_lm_folder(tmp_path_factory, tiny_tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("masked-lm")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        more = {"max_position_embeddings": 32, "initializer_range": 0.5, "pad_token_id": 0}
        BertForMaskedLM(BertConfig(vocab_size=len(tiny_tokenizer), **sizes, **more)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def test_candidates_of_a_masked_lm_equal_a_word_at_a_time(masked_lm_folder: Path, tiny_tokenizer) -> None:
    text = "The plot was great , but unheard the CAST not ."
    found = MaskedLM(str(masked_lm_folder), 4).candidates(SplitText(text))
    model = BertForMaskedLM.from_pretrained(masked_lm_folder).eval()
    words = SplitText(text).words
    assert set(found) == {i for i, word in enumerate(words) if word != "unheard"}
    pieces = tiny_tokenizer.tokenize(text)
    known = {word: i for word, i in tiny_tokenizer.get_vocab().items() if word.isalpha()}
    for i, candidates in found.items():
        masked = [piece if place != pieces.index(words[i].lower()) else "[MASK]" for place, piece in enumerate(pieces)]
        if words[i] == "the":
            last = len(pieces) - pieces[::-1].index("the") - 1
            masked = [piece if place != last else "[MASK]" for place, piece in enumerate(pieces)]
        ids = torch.tensor([[2, *tiny_tokenizer.convert_tokens_to_ids(masked), 3]])
        with torch.inference_mode():
            logits = model(ids).logits[0, masked.index("[MASK]") + 1]
        best = sorted(known, key=lambda word: -float(logits[known[word]]))
        assert list(candidates) == [word for word in best if word != words[i].lower()][:4]


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra", "mpnet", "albert"])
def test_a_head_sees_the_masked_place_alone(kind: str) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32} if kind == "distilbert" else sizes
    config = CONFIG_MAPPING[kind](vocab_size=40, max_position_embeddings=32, pad_token_id=0, **sizes)
    model = AutoModelForMaskedLM.from_config(config).eval()
    ids, positions = torch.randint(5, 40, (4, 9)), torch.tensor([3, 0, 8, 3])
    with torch.inference_mode():
        whole = model(input_ids=ids).logits
        with at_positions(model, positions):
            places = model(input_ids=ids).logits
        again = model(input_ids=ids).logits
    assert places.shape == (4, 1, 40) and torch.equal(whole, again)
    torch.testing.assert_close(places[:, 0], whole[torch.arange(4), positions])


def test_words_of_a_tokenizer_of_bytes_begin_with_a_space(tmp_path: Path) -> None:
    """A piece inside of words, such as "ing", reads as a word; only one that begins a word is one."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
    special = ["<pad>", "<unk>", "<mask>"]
    bpe.train_from_iterator(["sing the song", "ringing bells sing", "the thing"] * 9, trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", unk_token="<unk>", mask_token="<mask>")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = CONFIG_MAPPING["roberta"](vocab_size=len(tokenizer), max_position_embeddings=32, pad_token_id=0, **sizes)
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = MaskedLM(str(tmp_path), 50)
    found = model.candidates(SplitText("the sing"))
    inside = {piece for piece in tokenizer.get_vocab() if piece.isalpha() and piece not in special}
    begin = {piece[1:] for piece in tokenizer.get_vocab() if piece[0] == "Ġ" and piece[1:].isalpha()}
    assert "ing" in inside - begin and set(found[0]) == {word for word in begin if word.isascii()} - {"the"}
    assert set(found) == {0, 1} and "the" in found[1]


def test_words_in_several_pieces_have_neighbours(masked_lm_folder: Path) -> None:
    model = MaskedLM(str(masked_lm_folder), 3)
    _, candidates = WordReplacement(1, 0.5, {"unheard": ["new"], "plot": ["story"]}, model).prepare(
        SplitText("the unheard plot")
    )
    assert list(candidates[1]) == ["new"] and "story" not in candidates[2] and len(candidates[2]) == 3


def test_a_model_that_predicts_no_words_is_refused(tiny_bert: Path, masked_lm_folder: Path, tmp_path: Path) -> None:
    BertModel.from_pretrained(masked_lm_folder).save_pretrained(tmp_path / "encoder")
    MaskedLM(str(masked_lm_folder), 1).check()
    with pytest.raises(ValueError, match=r"`masked_lm` must have a head that predicts words, but .* lacks weights"):
        MaskedLM(str(tiny_bert), 1).check()
    for path in (tmp_path / "encoder", tmp_path / "none"):
        with pytest.raises(ValueError, match=r"`masked_lm` must .*Name a pretrained one"):
            MaskedLM(str(path), 1).check()


def test_the_code_of_a_masked_lm_s_folder_is_not_run(masked_lm_folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("builtins.input", lambda prompt="": pytest.fail(f"asked: {prompt}"))
    shutil.copytree(masked_lm_folder, tmp_path / "own")
    config = json.loads((tmp_path / "own/config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "code.Own", "AutoModelForMaskedLM": "code.Model"}}
    (tmp_path / "own/config.json").write_text(json.dumps(config))
    (tmp_path / "own/code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(
        ValueError, match=r"`masked_lm` must be a masked language model .*Name a pretrained one"
    ) as told:
        MaskedLM(str(tmp_path / "own"), 1).check()
    assert "\n" not in str(told.value) and "weights_only" not in str(told.value) and not (tmp_path / "ran").exists()


def some_rows(count: int) -> Rows:
    """Pairs, in several chunks where there are more than 128."""
    texts = [f"the {a} film was {b} and the cast not {a}" for a in WORDS for b in WORDS][:count]
    return Rows(texts, texts[::-1], np.zeros(count, np.int64), np.arange(count))


def test_the_number_of_processes_changes_nothing() -> None:
    rows, method = some_rows(300), WordReplacement(3, 0.4, dict.fromkeys(WORDS, WORDS[:3]))
    one, two = (list(in_order(Generation(method, 5), sources(rows), processes)) for processes in (1, 2))
    assert one == two and sum(map(len, one)) == 300
    other = next(in_order(Generation(method, 6), sources(rows), 1))
    assert [row.units for row in other] != [row.units for row in one[0]]
    # A row's texts depend on the row and the seed, not on its neighbours.
    alone = next(in_order(Generation(method, 5), sources(rows.take(np.array([40]))), 1))
    assert alone[0] == one[0][40]
    same, other = Generation(method, 5)([Source(1, (LONG,)), Source(2, (LONG,))])
    assert same.units != other.units


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing_of_a_model_s_words(masked_lm_folder: Path) -> None:
    rows, method = some_rows(140), WordReplacement(3, 0.4, {}, MaskedLM(str(masked_lm_folder), 4))
    one, two = (list(in_order(Generation(method, 5), sources(rows), processes)) for processes in (1, 2))
    assert one == two and sum(map(len, one)) == 140


def test_the_words_of_texts() -> None:
    assert list(words_of([("A film, 7", "is it"), ("!",)])) == ["A", "film", "is", "it"]


def test_real_tags() -> None:
    pytest.importorskip("HanTa", reason="HanTa is an extra: pip install -e '.[pos]'")
    tags = dict(
        zip(("the", "old", "dog", "quickly", "ran"), Tagger().tags(SplitText("the old dog quickly ran .")), strict=True)
    )
    assert len({*tags.values()}) == 5 and tags["dog"].startswith("NN") and tags["ran"].startswith("VV")


def test_without_the_tagger_s_package_replacement_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "HanTa", None)
    monkeypatch.setitem(sys.modules, "HanTa.HanoverTagger", None)
    with pytest.raises(ValueError, match=r"`replacement` needs a tagger .* HanTa is not installed"):
        Tagger().check()
