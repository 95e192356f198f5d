"""The published forms of T5 against examples of the paper's appendix D, and what is done with odd rows."""

import numpy as np
import pytest

from datamodules.t5_forms import benchmark_source, similarity_target, translation_prefix, winograd_source


@pytest.mark.parametrize(
    ("task", "fields", "source"),
    [
        ("cola", {"sentence": "John made Bill master of himself."}, "cola sentence: John made Bill master of himself."),
        (
            "rte",
            {
                "sentence1": "A smaller proportion of Yugoslavia's Italians were settled.",
                "sentence2": "Slovenia has 3.",
            },
            "rte sentence1: A smaller proportion of Yugoslavia's Italians were settled. sentence2: Slovenia has 3.",
        ),
        (
            "mnli",
            {"premise": "yeah well losing is i mean", "hypothesis": "The St. Louis Cardinals have always won."},
            "mnli hypothesis: The St. Louis Cardinals have always won. premise: yeah well losing is i mean",
        ),
        ("qnli", {"question": "Where?", "sentence": "There."}, "qnli question: Where? sentence: There."),
        ("qqp", {"question2": "B?", "question1": "A?"}, "qqp question1: A? question2: B?"),
        (
            "copa",
            {"choice1": "A.", "premise": "P.", "choice2": "B.", "question": "effect"},
            "copa choice1: A. choice2: B. premise: P. question: effect",
        ),
        ("boolq", {"question": "love x", "passage": "Love."}, "boolq passage: Love. question: love x"),
    ],
)
def test_rows_of_benchmarks(task: str, fields: dict[str, str], source: str) -> None:
    assert benchmark_source(task, fields) == source


def test_similarities_are_the_26_steps_of_stsb() -> None:
    steps = [f"{step / 5:.1f}" for step in range(26)]
    assert [similarity_target(step / 5) for step in range(26)] == steps
    random = np.random.default_rng(0)
    for score in random.uniform(0, 5, 200):
        nearest = min(steps, key=lambda step: abs(float(step) - score))
        assert similarity_target(float(score)) == nearest
    assert similarity_target(float(np.float32(3.8))) == "3.8"


@pytest.mark.parametrize(
    ("text", "index", "pronoun", "source"),
    [
        ("Bob asked Tom if he can go.", 4, "he", "wsc: Bob asked Tom if *he* can go."),
        ("He saw that he was late", 0, "He", "wsc: *He* saw that he was late"),
        ("He saw that he was late", 3, "he", "wsc: He saw that *he* was late"),
        ('Good for him," he said', 2, "him", 'wsc: Good for *him* ," he said'),  # attached punctuation
        ("they might want to use it , but it is", 4, "it", "wsc: they might want to use *it* , but it is"),  # one off
    ],
)
def test_the_pronoun_is_marked(text: str, index: int, pronoun: str, source: str) -> None:
    assert winograd_source(text, index, pronoun) == source


def test_a_text_without_the_pronoun_is_refused() -> None:
    with pytest.raises(ValueError, match="has no word 'him'"):
        winograd_source("She saw the hymn", 1, "him")


def test_prefixes_of_translation() -> None:
    assert translation_prefix("en", "de") == "translate English to German: "
    assert translation_prefix("en", "tr") == "translate English to tr: "
