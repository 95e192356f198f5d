"""Metrics of texts against sacreBLEU, torchmetrics, plain loops, and cases worked by hand."""

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF
from torchmetrics.text import CharErrorRate, WordErrorRate

from datamodules.labels import NOT
from dial.stages.metrics.edits import edit_distances
from dial.stages.metrics.metrics import METRICS, evaluate
from tests.stages.texts import damaged, written


def streams(references: list[tuple[str, ...]]) -> list[list[str | None]]:
    """References as sacreBLEU takes them: the first of each row, the second of each row, …"""
    most = max(map(len, references))
    return [[row[i] if i < len(row) else None for row in references] for i in range(most)]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_bleu_and_chrf_are_those_of_sacrebleu(rows: int, several: bool) -> None:
    for seed in range(8):
        references, texts = written(rows, 2, seed, several)
        for stage in range(2):
            for name, reference in (("bleu", BLEU()), ("chrf", CHRF())):
                expected = reference.corpus_score(texts[:, stage].tolist(), streams(references)).score
                assert 100 * evaluate(name, references, texts[:, stage]) == pytest.approx(expected, abs=1e-9)


def test_bleu_of_punctuation_and_other_scripts() -> None:
    references = [("Er sagte: „Das ist gut.“", "Das ist gut, sagte er."), ("Ţara are 3,5 mil. de oameni.",), ("狗跑",)]
    texts = np.array(["Er sagte: „Das ist sehr gut.“", "Ţara are 3.5 mil. oameni.", "狗跑了"], dtype=object)
    expected = BLEU().corpus_score(texts.tolist(), streams(references)).score
    assert 100 * evaluate("bleu", references, texts) == pytest.approx(expected, abs=1e-9)


def test_bleu_by_hand() -> None:
    """Five words of six right in order: 5/6 unigrams, 4/5 bigrams, 3/4, 2/3; then one word short."""
    reference = [("a b c d e f",)]
    value = evaluate("bleu", reference, np.array(["a b c d e x"], dtype=object))
    assert value == pytest.approx((5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25)
    short = evaluate("bleu", reference, np.array(["a b c d e"], dtype=object))
    assert short == pytest.approx(np.exp(1 - 6 / 5))
    assert evaluate("bleu", reference, np.array([""], dtype=object)) == 0
    assert evaluate("bleu", reference, np.array(["a b c"], dtype=object)) == 0  # there is no 4-gram


def test_smoothing_of_orders_without_a_match() -> None:
    reference = [("a b c d e f",)]
    value = evaluate("bleu", reference, np.array(["a b x c d y"], dtype=object))
    assert value == pytest.approx((4 / 6 * 2 / 5 * (1 / 2) / 4 * (1 / 4) / 3) ** 0.25)


def naive_distance(first: str | list[str], second: str | list[str]) -> int:
    table = [[i + j if i * j == 0 else 0 for j in range(len(second) + 1)] for i in range(len(first) + 1)]
    for i in range(1, len(first) + 1):
        for j in range(1, len(second) + 1):
            same = first[i - 1] == second[j - 1]
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (not same))
    return table[-1][-1]


def test_distances_equal_the_naive_table(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    first = ["".join(random.choice(list("abc"), size=random.integers(0, 9))) for _ in range(200)]
    second = ["".join(random.choice(list("abcd"), size=random.integers(0, 7))) for _ in range(200)]
    expected = [naive_distance(one, other) for one, other in zip(first, second, strict=True)]
    assert edit_distances(first, second).tolist() == expected
    monkeypatch.setattr("dial.stages.metrics.edits.CHUNK", 20)
    assert edit_distances(first, second).tolist() == expected
    assert edit_distances([["ab", "c"]], [["a", "b", "c"]]).tolist() == [2]
    assert edit_distances([], []).tolist() == []


def test_error_rates_are_those_of_torchmetrics() -> None:
    references, texts = written(40, 1, 3, several=False)
    first = [reference for (reference,) in references]
    for name, rate in (("character_accuracy", CharErrorRate()), ("token_accuracy", WordErrorRate())):
        assert evaluate(name, references, texts[:, 0]) == pytest.approx(1 - float(rate(texts[:, 0].tolist(), first)))


def test_of_several_references_the_nearest_counts_and_the_shortest_of_equals() -> None:
    rows = METRICS["character_accuracy"].statistics([("abcd", "xy"), ("abc", "ab")], np.array(["xyz", "a"], object))
    assert rows.tolist() == [[1, 2], [1, 2]]
    rows = METRICS["character_accuracy"].statistics([("abx", "axbc")], np.array(["abc"], object))
    assert rows.tolist() == [[1, 3]]


def test_phonemes_by_hand() -> None:
    texts = np.array(["K AE T", "D AO", "too many of them"], dtype=object)
    value = evaluate("token_accuracy", [("K AE T",), ("D AO G",), ("one",)], texts)
    assert value == pytest.approx(1 - (0 + 1 + 4) / 7)
    assert evaluate("token_accuracy", [("one",)], texts[2:]) == -3


@pytest.mark.parametrize(
    ("text", "references", "exact", "f1"),
    [
        ("two dogs", ("two  dogs",), 1, 1),
        ("The dogs.", ("dogs",), 0, 1),
        ("two dogs run", ("two cats", "a dog"), 0, 2 * 1 / 5),
        ("two two dogs", ("two dogs",), 0, 2 * 2 / 5),
        ("", ("dogs",), 0, 0),
        ("the", ("a",), 0, 1),
    ],
)
def test_exact_match_and_token_f1_by_hand(text: str, references: tuple[str, ...], exact: float, f1: float) -> None:
    texts = np.array([text], dtype=object)
    assert evaluate("exact_match", [references], texts) == exact
    assert evaluate("token_f1", [references], texts) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        ("Bob", "Bob", True),
        ("the fuzzy bunny", "bunny", True),
        ("bunny", "The fuzzy bunny", True),
        ("Bob", "Bob's hat", False),
        ("Tom", "Bob", False),
        ("the", "Bob", False),
        ("Tom", f"{NOT}Bob", True),
        ("Bob", f"{NOT}Bob", False),
        ("", f"{NOT}Bob", False),
    ],
)
def test_referents_as_in_the_code_of_t5(text: str, reference: str, right: bool) -> None:
    assert evaluate("referent_accuracy", [(reference,)], np.array([text], dtype=object)) == right


TEXT = [name for name in METRICS if METRICS[name].task == "text"]


@pytest.mark.parametrize("name", TEXT)
def test_sums_of_parts_give_the_whole(name: str) -> None:
    references, texts = written(30, 1, 5)
    parts = [METRICS[name].statistics(references[i : i + 7], texts[i : i + 7, 0]).sum(axis=0) for i in range(0, 30, 7)]
    assert METRICS[name].value(sum(parts)) == pytest.approx(evaluate(name, references, texts[:, 0]), abs=1e-12)


@pytest.mark.parametrize("name", TEXT)
def test_no_answer_to_a_row_is_worse_than_the_worst(name: str) -> None:
    """One row is answered anew in many ways; none takes more from the corpus than what is declared to be the worst."""
    metric = METRICS[name]
    references, texts = written(25, 2, 6, several=False)
    texts[0] = references[0][0]
    whole = metric.statistics(references, texts)
    rest = whole[1:, -1].sum(axis=0)
    floor = metric.value(rest + metric.worst(whole)[:, 0]).min()
    random = np.random.default_rng(0)
    answers = ["", "zzz", *(damaged(random, references[0][0], 1.0) for _ in range(60))]
    answers = [text for text in answers if len(text) <= len(references[0][0])]
    tried = metric.statistics(references[:1] * len(answers), np.array(answers, dtype=object))
    assert metric.value(rest + tried).min() >= floor - 1e-12
    assert floor < metric.value(whole[:, -1].sum(axis=0))


@pytest.mark.parametrize("name", TEXT)
def test_values_lie_in_their_range(name: str) -> None:
    low, high = METRICS[name].range
    for seed in range(5):
        references, texts = written(4, 3, seed)
        values = METRICS[name].value(METRICS[name].statistics(references, texts))
        assert (values >= low).all() and (values <= high).all()
    assert evaluate(name, references, np.array([row[0] for row in references], dtype=object)) <= high


# Cases by hand, with several answers, articles, punctuation, letters of other alphabets, and no answer.
ANSWERED = [
    ("The Denver Broncos!", ("Denver Broncos", "the Broncos"), 1, 1),
    ("in Café-Überall", ("Café Überall",), 0, 0),
    ("a U.S. team", ("us TEAM",), 1, 1),
    ("Zürich", ("Zurich",), 0, 0),
    ("\u201cZürich\u201d", ("Zürich",), 0, 0),  # only ASCII punctuation goes, as in the official script
    ("1066, in England", ("in 1066", "1066"), 0, 0.8),
    ("the", ("an",), 1, 1),
    ("", ("",), 1, 1),
    ("something", ("",), 0, 0),
    ("", ("something",), 0, 0),
    ("東京", ("東京",), 1, 1),
    ("theatre", ("atre",), 0, 0),
]


@pytest.mark.parametrize(("text", "references", "exact", "f1"), ANSWERED)
def test_squad_by_hand(text: str, references: tuple[str, ...], exact: float, f1: float) -> None:
    texts = np.array([text], dtype=object)
    assert evaluate("squad_em", [references], texts) == exact
    assert evaluate("token_f1", [references], texts) == pytest.approx(f1)


def of_torchmetrics(texts: list[str], references: list[tuple[str, ...]]) -> dict[str, float]:
    from torchmetrics.text import SQuAD

    answers = [{"prediction_text": text, "id": str(row)} for row, text in enumerate(texts)]
    known = [{"text": list(some), "answer_start": [0] * len(some)} for some in references]
    found = SQuAD()(answers, [{"answers": some, "id": str(row)} for row, some in enumerate(known)])
    return {name: float(value) / 100 for name, value in found.items()}


def test_squad_is_that_of_torchmetrics() -> None:
    texts, references = [case[0] for case in ANSWERED], [case[1] for case in ANSWERED]
    found, answers = of_torchmetrics(texts, references), np.array(texts, dtype=object)
    assert evaluate("squad_em", references, answers) == pytest.approx(found["exact_match"])
    assert evaluate("token_f1", references, answers) == pytest.approx(found["f1"])


def test_squad_on_its_development_set(data_folder) -> None:
    """Parts of contexts, answers, and answers with words around them or changed, to all 10,570 questions."""
    import pandas as pd

    rows, random = pd.read_parquet(data_folder / "squad/plain_text/validation.parquet"), np.random.default_rng(0)
    references, texts = [], []
    for context, answers in zip(rows["context"], rows["answers"], strict=True):
        references.append(tuple(answers["text"]))
        start, kind = int(answers["answer_start"][-1]), random.integers(4)
        shift, more = random.integers(-8, 9, size=2).tolist()
        end = start + len(answers["text"][-1])
        texts.append(
            {
                0: context[start:end],
                1: context[max(0, start + shift) : end + more],
                2: f"The {context[start:end]}.",
            }.get(int(kind), context[: random.integers(60)])
        )
    found, answers = of_torchmetrics(texts, references), np.array(texts, dtype=object)
    assert evaluate("squad_em", references, answers) == pytest.approx(found["exact_match"], abs=1e-7)
    assert evaluate("token_f1", references, answers) == pytest.approx(found["f1"], abs=1e-5)  # it sums in float32
    assert len(texts) == 10_570 and 0.3 < found["exact_match"] < 0.8
