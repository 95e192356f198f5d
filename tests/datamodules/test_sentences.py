"""The generated sentences: balanced, different, reproducible, and as hard as their level says."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from datamodules import GradedSentimentDataModule
from datamodules.sentences import BAD, CONTRASTS, GOOD, KEEPING, NEGATED, TURNING, draw

SHARES = (1, 1, 1, 1)
NEGATIONS = {"not", "never", "nobody", "nothing", "anything", "far"}
TURNS = (" wrong", "nobody agrees", "everybody denies", "it is false", "i doubt")


def naive_label(text: str, level: int) -> int:
    """Read the sentiment off a sentence of level 1 to 3 with rules of its own."""
    words = text.replace("as far as i can tell ,", "").replace("anything but", "anything").split()
    judged = [(place, word in GOOD) for place, word in enumerate(words) if word in GOOD or word in BAD]
    if level == 1:
        return int(judged[0][1])
    if level == 2:
        return int(not judged[0][1])
    first, second = judged
    between = words[first[0] : second[0]]
    concedes_later = "although" in between or "if" in between or ("than" in between)
    main = first if concedes_later else second
    start = 0
    if main is second:  # back to where its clause begins
        starts = {",", "but", "yet", "that", "although", "if"}
        start = max(place for place in range(second[0]) if words[place] in starts)
    negated = any(word in NEGATIONS for word in words[start : main[0] + 1])
    return int(main[1] != negated)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_labels_agree_with_a_reader(level: int) -> None:
    sentences = [sentence for sentence in draw(3000, SHARES, 1) if sentence.level == level]
    assert len(sentences) > 500
    wrong = [sentence for sentence in sentences if naive_label(sentence.text, level) != sentence.label]
    assert wrong == []


def test_nested_labels_count_the_turns() -> None:
    for sentence in draw(3000, SHARES, 2):
        if sentence.level == 4:
            text = sentence.text.replace("as far as i can tell ,", "")
            turns = sum(text.count(marker) for marker in TURNS)
            claim = text.replace("nobody agrees", "").replace("nobody denies", "").split()
            turns += bool(NEGATIONS & set(claim))
            good = any(word in GOOD for word in text.split())
            assert sentence.label == int(good) ^ (turns % 2), text


def test_sentences_are_different_and_follow_the_seed() -> None:
    first = draw(2000, SHARES, 3)
    assert len({sentence.text for sentence in first}) == 2000
    assert first == draw(2000, SHARES, 3) and first[:500] == draw(500, SHARES, 3)
    assert first != draw(2000, SHARES, 4)
    # Fixed for good: another Python or platform must draw the same.
    assert [(s.label, s.level, s.text) for s in draw(2, (1, 0, 0, 1), 0)] == [
        (0, 4, "on the whole , i believe the neighbours who think that i found the narration flat ."),
        (1, 4, "everybody agrees that this film has a touching theme ."),
    ]


def test_levels_follow_the_shares_and_sentiments_are_even() -> None:
    sentences = draw(8000, (0.4, 0.1, 0.25, 0.25), 5)
    levels = Counter(sentence.level for sentence in sentences)
    for level, share in zip((1, 2, 3, 4), (0.4, 0.1, 0.25, 0.25), strict=True):
        assert abs(levels[level] / 8000 - share) < 0.03
        labels = [sentence.label for sentence in sentences if sentence.level == level]
        assert abs(np.mean(labels) - 0.5) < 4 * 0.5 / len(labels) ** 0.5


def test_no_word_tells_at_the_hard_levels() -> None:
    """At level 3 no word's share of positive labels is far from one half, at level 4 none is far above 58 %."""
    counts = defaultdict(lambda: np.zeros(2))
    for sentence in draw(20_000, (0, 0, 1, 1), 6):
        for word in set(sentence.text.split()):
            counts[sentence.level, word][sentence.label] += 1
    for (level, word), (bad, good) in counts.items():
        total = bad + good
        allowed = 0.02 if level == 3 else 0.1
        assert abs(good / total - 0.5) < 5 * 0.5 / total**0.5 + allowed, word
    judged = [
        (good if word in GOOD else bad, good + bad)
        for (level, word), (bad, good) in counts.items()
        if level == 4 and word in {*GOOD, *BAD}
    ]
    right, total = np.sum(judged, axis=0)
    assert 0.55 < right / total < 0.61


def test_the_vocabulary_is_small_and_its_parts_are_apart() -> None:
    words = {word for sentence in draw(20_000, SHARES, 7) for word in sentence.text.split()}
    assert 200 < len(words) < 500
    assert not set(GOOD) & set(BAD)
    other = " ".join((*NEGATED, *CONTRASTS, *KEEPING, *TURNING)).split()
    assert not set(other) & {*GOOD, *BAD}


def test_roles_are_apart_and_of_the_sizes_asked_for() -> None:
    sizes = {"train": 40, "validation": 10, "calibration": 20, "test": 30}
    data = GradedSentimentDataModule(**{f"{role}_rows": size for role, size in sizes.items()})
    assert {role: len(data.rows(role)) for role in sizes} == sizes
    ids = [i for role in sizes for i in data.sample_ids(role).tolist()]
    assert ids == list(range(100))
    assert len({text for role in sizes for text in data.rows(role).text}) == 100
    again = GradedSentimentDataModule(**{f"{role}_rows": size for role, size in sizes.items()}, seed=9)
    assert again.fingerprint("train") == data.fingerprint("train")
    other = GradedSentimentDataModule(**{f"{role}_rows": size for role, size in sizes.items()}, data_seed=1)
    assert other.fingerprint("train") != data.fingerprint("train")


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"`shares` must be 4 parts .* but got \[1.0, 2.0\]"):
        GradedSentimentDataModule(shares=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"`test_rows` must be at least 1, but got 0"):
        GradedSentimentDataModule(test_rows=0)
