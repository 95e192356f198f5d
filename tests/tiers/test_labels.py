"""Labels are matched by name; assumed orders are checked on rows."""

from itertools import permutations

import numpy as np
import pytest

from dial.tiers.labels import check_permutation, check_tiers_agree, is_generic, match_labels

NLI = ["entailment", "neutral", "contradiction"]


def test_generic_names() -> None:
    assert all(is_generic(names) for names in (None, [], ["LABEL_0", "LABEL_1"], ["label 0", "Label-1"], ["0", "1"]))
    assert not any(is_generic(names) for names in (["negative", "positive"], ["LABEL_0", "positive"], ["labelled1x"]))


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_any_order_and_case_is_found(order: tuple[int, ...]) -> None:
    own = [NLI[i].upper() for i in order]
    positions, assumed = match_labels(own, NLI, "tier")
    assert [own[p].lower() for p in positions] == NLI and not assumed


def test_punctuation_does_not_matter_unless_it_is_all_there_is() -> None:
    assert match_labels(["not_entailment", "Entailment"], ["entailment", "not entailment"], "tier") == ([1, 0], False)
    assert match_labels(["+", "-"], ["-", "+"], "tier") == ([1, 0], False)
    assert match_labels(["a", "a-"], ["a-", "A"], "tier") == ([1, 0], False)


@pytest.mark.parametrize("names", [None, [], ["LABEL_0", "LABEL_1", "LABEL_2"]])
def test_generic_names_count_as_the_datas_order(names: list[str] | None) -> None:
    assert match_labels(names, NLI, "tier") == ([0, 1, 2], True)


def test_generic_data_count_as_the_tiers_order_but_equal_numbers_match() -> None:
    assert match_labels(NLI, ["0", "1", "2"], "tier") == ([0, 1, 2], True)
    assert match_labels(["1", "0"], ["0", "1"], "tier") == ([1, 0], False)


def test_other_names_and_other_numbers_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"`tiers\[1\]` must have the data's labels entailment, .* it has a, b, c; .*`label_names`"
    ):
        match_labels(["a", "b", "c"], NLI, "tiers[1]")
    with pytest.raises(ValueError, match=r"`tiers\[1\]` must have the data's 3 labels .* it has 2 \(a, b\)"):
        match_labels(["a", "b"], NLI, "tiers[1]")
    with pytest.raises(ValueError, match="must have the data's 3 labels"):
        match_labels(["LABEL_0", "LABEL_1"], NLI, "tier")


def test_tiers_that_contradict_each_other_are_refused() -> None:
    check_tiers_agree({"a": ["neg", "pos"], "b": None, "c": ["LABEL_0", "LABEL_1"], "d": ["Neg", "POS"]})
    with pytest.raises(ValueError, match="a has neg, pos and b has pos, neg"):
        check_tiers_agree({"a": ["neg", "pos"], "b": ["pos", "neg"]})


def outputs_of(predictions: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes)[predictions] * 4 - 1


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_permuted_tier_is_refused_and_the_remedy_is_right(order: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=300)
    right = np.where(generator.random(300) < 0.8, labels, generator.integers(3, size=300))
    answers = outputs_of(right, 3)[:, order].argmax(axis=1)  # output j stands for class order[j]
    if order == (0, 1, 2):
        check_permutation(answers, labels, NLI, "tier")
        return
    with pytest.raises(ValueError, match="`tier` has no label names") as caught:
        check_permutation(answers, labels, NLI, "tier")
    assert f"`label_names: [{', '.join(NLI[i] for i in order)}]`" in str(caught.value)


def test_noise_is_no_reason() -> None:
    refused = 0
    for seed in range(300):  # a tier that knows nothing: another order is better half the time
        generator = np.random.default_rng(seed)
        labels, guesses = generator.integers(2, size=60), generator.integers(2, size=60)
        try:
            check_permutation(guesses, labels, ["a", "b"], "tier")
        except ValueError:
            refused += 1
    assert refused <= 3
    check_permutation(np.array([1, 1, 0]), np.array([0, 0, 1]), ["a", "b"], "tier")  # three rows


def test_regression_and_no_rows_pass() -> None:
    check_permutation(np.zeros(5), np.linspace(0, 5, 5), [], "tier")
    check_permutation(np.zeros(0), np.zeros(0), ["a", "b"], "tier")


def test_names_that_are_numbers_are_matched_as_numbers() -> None:
    assert match_labels(["2.0", "10", "1.00"], ["1", "2", "10"], "tier") == ([2, 0, 1], False)
    assert match_labels(["-1", "2"], ["1", "2"], "tier")[1]  # only assumed: -1 is not 1
    assert match_labels(["1.5", "3"], ["15", "3"], "tier")[1]
    with pytest.raises(ValueError, match=r"`tier` must have the data's labels C\+\+, Java"):
        match_labels(["C", "Java"], ["C++", "Java"], "tier")


def test_numbers_are_names_where_they_are_no_indices() -> None:
    with pytest.raises(ValueError, match=r"must have the data's labels 1, 3 .* it has 1, 5"):
        match_labels(["1", "5"], ["1", "3"], "tier")
    assert match_labels(["5", "1"], ["1", "5"], "tier") == ([1, 0], False)
    assert match_labels(["LABEL_0", "LABEL_1"], ["5", "900"], "tier") == ([0, 1], True)
    assert match_labels(["0", "1"], ["1", "2"], "tier") == ([0, 1], True)  # indices: an order to be checked on rows


@pytest.mark.parametrize(
    ("own", "data", "given"),
    [
        (["1", "2", "3", "4", "5"], ["1", "3"], "1, 2, 3, 4, 5"),
        (["0", "1", "2", "3", "4", "5"], ["1", "2", "3", "4", "5"], "0, 1, 2, 3, 4, 5"),  # trained with a class 0
        (["LABEL_0", "LABEL_1", "LABEL_2"], ["0", "2"], "0, 1, 2"),
        (["neg", "neutral", "pos"], ["Neg", "pos"], "neg, neutral, pos"),
        (["neg", "neutral", "pos"], ["neg", "other"], None),
        (["LABEL_0", "LABEL_1", "LABEL_2"], ["1", "5"], None),
    ],
)
def test_rows_of_some_classes_only_have_a_remedy(own: list[str], data: list[str], given: str | None) -> None:
    with pytest.raises(ValueError, match=f"must have the data's {len(data)} labels") as caught:
        match_labels(own, data, "tier")
    assert ("`label_names: [" in str(caught.value)) == (given is not None)
    assert given is None or str(caught.value).endswith(f"`label_names: [{given}]`.")
