"""Cascades of tiers that answer by spans: the executor against the replay of the stage table, at any batch size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dial.costs.counting import RowCosts, network_costs
from dial.inference.classifier import AdaptiveClassifier
from dial.inference.epsilon import measure_epsilon
from dial.inference.executor import Executor
from dial.inference.rows_table import rows_table
from dial.inference.staged import StagedModel
from dial.models.spans import SPAN_SCORES
from dial.stages.table import StageTable
from dial.tradeoff.point import OperatingPoint, Promise
from dial.tradeoff.rules import Threshold
from tests.tiers.readers import FREE, WORDS, favour_nothing, questions, reader

UNITS = questions(40, seed=7)
REFERENCES = np.empty(len(UNITS), dtype=object)
REFERENCES[:] = [(context.split()[0],) for _, context in UNITS]
METRICS = ("token_f1", "squad_em")


def cascade(no_answer: bool = False) -> StagedModel:
    """Two tiers with tokenizers, windows and strides of their own."""
    swift = reader("swift", seed=1, no_answer=no_answer)
    words = [*WORDS, "zürich"]
    last = reader("super", seed=2, layers=2, words=words, max_length=40, stride=9, no_answer=no_answer)
    if no_answer:
        favour_nothing(swift, 2.0), favour_nothing(last, 2.0)
    return StagedModel([swift, last])


def table_of(network: StagedModel, size: int) -> StageTable:
    lengths = {tier.name: np.array([len(row.ids) for row in tier.tokeniser()(UNITS)]) for tier in network.tiers}
    costs = network_costs(network.tiers, lengths)
    sizes = {tier.name: size for tier in network.tiers}
    return rows_table(network, UNITS, REFERENCES, FREE, METRICS, {}, sizes, costs)


@pytest.mark.parametrize("no_answer", [False, True])
@pytest.mark.parametrize("score", SPAN_SCORES)
def test_answers_and_costs_equal_the_replay_at_any_batch_size(score: str, no_answer: bool) -> None:
    network = cascade(no_answer)
    table = table_of(network, 5)
    threshold = float(np.median(table.scores[score][:, 0])) + 1e-9
    rule = Threshold(score, (threshold,), ("swift", "super"))
    stages = rule.replay(table)
    assert 10 < stages.sum() < 30
    known = {tier.name: table.lengths[tier.name] for tier in network.tiers}
    costs = RowCosts(list(network.tiers), network_costs(network.tiers, known))
    near = np.abs(table.scores[score][:, 0] - threshold) < 1e-5
    for size in (1, 7, 64):
        answers = list(Executor(network, rule, size, costs=costs).run(UNITS))
        for row, answer in enumerate(answers):
            if near[row]:
                continue
            assert answer.stage == stages[row] and answer.text == table.texts[row, answer.stage]
            assert answer.macs == table.macs[row, answer.stage] and answer.generated == 0
            start, end = answer.span
            assert answer.text == ("" if start < 0 else UNITS[row][1][start:end])
            np.testing.assert_allclose(answer.score, table.scores[score][row, answer.stage], rtol=1e-4, atol=1e-5)
            if answer.stage == 1:
                assert answer.reference == table.macs_reference[row]
    assert (("" in table.texts[:, 0]) and ("" in table.texts[:, 1])) == no_answer


def test_the_model_as_a_whole_runs_a_tier_for_the_rows_that_go_on() -> None:
    network = cascade()
    encodings = {t.encoding_key: t.tokeniser().collate(t.tokeniser()(UNITS)) for t in network.tiers}
    seen: list[torch.Tensor] = []
    last = network.tiers[1]
    run = last.run
    last.run = lambda encoding, *more: seen.append(encoding["row"]) or run(encoding, *more)  # type: ignore[method-assign]
    with torch.no_grad():
        _, stage = network.run(encodings, lambda stage, rows, outputs: rows % 2 == 0)
    assert stage.tolist() == [1 - row % 2 for row in range(len(UNITS))]
    windows = [len(row.sizes) for row in last.tokeniser()(UNITS)][::2]
    assert torch.bincount(seen[0]).tolist() == windows


def test_scores_are_given_by_the_tiers_and_no_table_holds_logits() -> None:
    network = cascade()
    assert network.routing_scores == SPAN_SCORES and network.late_scores == ()
    table = table_of(network, 8)
    assert table.outputs is None and not table.written
    assert set(table.statistics) == set(METRICS) and table.scores["margin"].shape == (len(UNITS), 2)


def test_a_row_that_cannot_be_read_is_told_after_those_before_it() -> None:
    rule = Threshold("softmax", (0.5,), ("swift", "super"))
    for broken, message in ((("who", ""), "row 3 has an empty context"), ("alone", "row 3 is a single text")):
        answers = Executor(cascade(), rule, 2).run([*UNITS[:3], broken, *UNITS[3:]])
        with pytest.raises(ValueError, match=message):
            [next(answers) for _ in range(4)]
    found: list[int] = []
    with pytest.raises(ValueError, match="row 3"):
        found.extend(answer.id for answer in Executor(cascade(), rule, 2).run([*UNITS[:3], ("who", "")]))
    assert found == [0, 1, 2]


def test_predictions_have_a_text_a_span_and_a_probability() -> None:
    network = cascade(no_answer=True)
    tiers = {tier.name: tier.fingerprint for tier in network.tiers}
    threshold = float(np.median(table_of(network, 8).scores["softmax"][:, 0]))
    rule = Threshold("softmax", (threshold,), ("swift", "super"), (1.0, 1.0))
    point = OperatingPoint(rule, Promise(), tiers, ("*",), {})
    found = AdaptiveClassifier(network, point)(UNITS)
    assert {answer.stage for answer in found} == {"swift", "super"}
    for (_, context), answer in zip(UNITS, found, strict=True):
        assert answer.label is None and 0 < answer.probability < 1
        assert (answer.span is None) == (answer.text == "")
        assert answer.span is None or context[slice(*answer.span)] == answer.text
    assert any(answer.text == "" for answer in found)


def test_scores_depend_on_the_batch_as_little_as_others() -> None:
    rule = Threshold("softmax", (0.02,), ("swift", "super"))
    found = measure_epsilon(cascade(), rule, UNITS)
    assert found.value < 1e-5 and found.moved == 0 and found.rows == len(UNITS)
