"""The executor against the table's replay, row by row; what it reads, tokenises, holds and survives."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from dial.costs.counting import RowCosts
from dial.costs.functions import CostFunction, ModelCosts, RowWork
from dial.costs.macs import count_macs
from dial.inference.executor import CHUNK, Answer, Executor, is_out_of_memory
from dial.inference.queues import Row, TierQueue
from dial.inference.staged import StagedModel
from dial.tiers.loading import build_tier
from dial.tiers.tokens import Tokeniser
from dial.tradeoff.events import replay
from dial.tradeoff.patience import agreement
from dial.tradeoff.rules import Rule, rule_named
from tests.tiers import small
from tests.tradeoff.choosing import replayed

KINDS = ["single", "exits", "cascade", "one tokenizer", "exits first", "three tiers", "dropping"]
EPSILON = 1e-5
SCORES = ["energy", "energy_released", "softmax", "margin", "entropy", "random"]


def drawn(network: StagedModel, outputs: np.ndarray, seed: int) -> tuple[Rule, np.ndarray, np.ndarray]:
    """A random rule; the stages that the replay gives, and which rows are at no threshold."""
    random = np.random.default_rng(seed)
    names = tuple(stage.name for stage in network.stages)
    kind = ["threshold", "per_stage", "patience"][seed % 3] if len(names) > 2 else "threshold"
    temperatures = tuple(random.uniform(0.5, 2, len(names)))
    score = SCORES[seed % len(SCORES)]
    if kind == "patience":
        scores = agreement(outputs.argmax(axis=-1))
        thresholds = np.full(len(names) - 1, float(random.integers(1, 3)))
    else:
        scores = small.scores_of(score, outputs, list(temperatures), seed)
        levels = random.uniform(0.2, 0.9, len(names) - 1)
        if kind == "threshold":
            thresholds = np.full(len(names) - 1, np.quantile(scores[:, :-1], levels[0]) + 1e-4 if len(names) > 1 else 0)
        else:
            thresholds = np.array([np.quantile(scores[:, s], level) + 1e-4 for s, level in enumerate(levels)])
            thresholds[random.integers(len(thresholds))] = random.choice([-np.inf, np.inf])
    rule = rule_named(kind, score, stages=names, thresholds=tuple(thresholds), temperatures=temperatures, seed=seed)
    stages = replay(scores, thresholds)
    near = np.abs(scores[:, :-1] - thresholds) <= EPSILON
    return rule, stages, ~near.any(axis=1) if kind != "patience" else np.ones(len(stages), dtype=bool)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_answers_equal_the_replay_at_any_batch_size(kind: str, seed: int) -> None:
    network = small.networks(seed)[kind]
    units = small.texts(50, seed, pairs=seed == 2)
    outputs = small.outputs_one_by_one(network, units)
    rule, stages, clear = drawn(network, outputs, seed * 7 + KINDS.index(kind))
    assert clear.mean() > 0.9
    for batch_size in (1, 7, 64):
        for grouped in (True, False):
            pending = int(np.random.default_rng(batch_size).integers(3, 100))
            executor = Executor(network, rule, batch_size, max_pending=pending, group_by_length=grouped)
            answers = list(executor.run(units, prefetch=grouped))
            assert [answer.id for answer in answers] == list(range(len(units)))
            taken = np.array([answer.stage for answer in answers])
            np.testing.assert_array_equal(taken[clear], stages[clear])
            expected = outputs[np.arange(len(units)), taken]
            np.testing.assert_allclose(np.stack([a.outputs for a in answers]), expected, atol=1e-5, rtol=1e-5)
            np.testing.assert_array_equal([a.prediction for a in answers], expected.argmax(axis=1))
            scaled = torch.tensor(expected, dtype=torch.float64) / torch.tensor(rule.temperatures)[taken, None]
            np.testing.assert_allclose([a.probability for a in answers], scaled.softmax(1).amax(1), atol=1e-5)


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_agreements_count_on_in_the_next_tier(patience: int) -> None:
    torch.manual_seed(0)
    exits = small.exits_tier("first", small.plain_tier("base"), (1, 2))
    network = StagedModel([exits, small.plain_tier("second", words=12), small.plain_tier("third")])
    units = small.texts(60, 2)
    outputs = small.outputs_one_by_one(network, units)
    names = tuple(stage.name for stage in network.stages)
    rule = rule_named("patience", "patience", stages=names, thresholds=(float(patience),) * (len(names) - 1))
    expected = replayed(rule, np.zeros(outputs.shape[:2]), outputs.argmax(axis=-1))
    assert patience == 3 or len(np.unique(expected)) >= 2
    np.testing.assert_array_equal([a.stage for a in Executor(network, rule, 8).run(units)], expected)


def halves(network: StagedModel, outputs: np.ndarray, score: str = "softmax") -> Rule:
    """About half of the rows stop at each stage."""
    scores = small.scores_of(score, outputs, [1.0] * len(network.stages))
    return rule_named(
        "per_stage",
        score,
        stages=tuple(s.name for s in network.stages),
        thresholds=tuple(np.median(scores[:, :-1], axis=0).tolist()),
    )


@pytest.mark.parametrize("length", ["true", "padded", 9])
def test_costs_are_those_of_the_table(length: Any) -> None:
    network = small.networks(1)["three tiers"]
    units = small.texts(40, 1)
    outputs = small.outputs_one_by_one(network, units)
    lengths = {t.name: np.array([len(row.ids) for row in Tokeniser(t)(units)]) for t in network.tiers}
    made = iter(range(1, 20))
    costs = ModelCosts(
        {t.name: {i: CostFunction((next(made), 7.0, 0.5)) for i in range(len(t.exits))} for t in network.tiers},
        decide={"second": {1: CostFunction((100.0, 1.0, 0.0))}},
        reference={"third": CostFunction((5.0, 9.0, 1.0))},
    )
    executor = Executor(network, halves(network, outputs), 1, costs=RowCosts(list(network.tiers), costs, length))
    answers = list(executor.run(units))
    charged = {name: np.full(40, 9) if length == 9 else values for name, values in lengths.items()}
    _, macs = costs.stage_macs(network.stages, charged)
    stages = np.array([answer.stage for answer in answers])
    assert len(np.unique(stages)) == len(network.stages)
    np.testing.assert_allclose([a.macs for a in answers], macs[np.arange(40), stages])
    if length == 9:
        np.testing.assert_allclose([a.reference for a in answers], costs.alone("third", charged["third"]))


def test_padded_rows_are_charged_as_their_batch() -> None:
    network = small.networks(1)["single"]
    costs = RowCosts(list(network.tiers), ModelCosts({"only": {0: CostFunction((0.0, 1.0, 0.0))}}), "padded")
    executor = Executor(network, rule_named("threshold", "softmax", stages=("only",), thresholds=()), 2, costs=costs)
    assert [a.macs for a in executor.run(["good bad", "good"])] == [4.0, 4.0], "[CLS] good bad [SEP]"


@pytest.mark.parametrize("length", ["true", "padded"])
def test_exits_computed_in_parts_answer_and_are_charged_as_those_of_whole_passes(length: Any) -> None:
    network = small.networks(1)["exits"]
    (tier,), units = network.tiers, small.texts(40, 1)
    rule = halves(network, small.outputs_one_by_one(network, units))
    model_costs = ModelCosts({tier.name: {i: CostFunction((0.0, 1.0 + i, 0.0)) for i in range(3)}})

    def answers() -> tuple[list[Answer], int]:
        executor = Executor(network, rule, 4, costs=RowCosts([tier], model_costs, length))
        return list(executor.run(units)), executor.work[tier.name].batches

    whole, batches = answers()
    tier.compute_with([lambda inputs, part=part: part(**inputs) for part in tier.segments()])
    parts, batches_in_parts = answers()
    assert len({answer.stage for answer in whole}) == 3 and batches_in_parts == batches == 10
    for one, other in zip(whole, parts, strict=True):
        assert (one.id, one.stage, one.macs, one.reference) == (other.id, other.stage, other.macs, other.reference)
        np.testing.assert_allclose(other.outputs, one.outputs, atol=1e-5)


def test_a_length_that_was_never_counted_is_counted() -> None:
    network = small.networks(1)["single"]
    few = ModelCosts({"only": {0: CostFunction(counts={3: 1000})}})
    found = RowCosts(list(network.tiers), few).answer(0, np.zeros(4, dtype=int), RowWork(np.array([3, 16, 3, 5]), 16))
    counted = {n: count_macs(network.tiers[0].path(0), network.tiers[0].example(n)) for n in (5, 16)}
    assert found.tolist() == [1000, counted[16], 1000, counted[5]]


def test_only_rows_that_get_there_are_tokenised_for_a_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small.networks(0)["cascade"]
    units = small.texts(60)
    outputs = small.outputs_one_by_one(network, units)
    seen: list[tuple[str, int]] = []
    call = Tokeniser.__call__

    def spy(self: Tokeniser, some: Any) -> Any:
        seen.append((next(t.name for t in network.tiers if t.tokenizer is self.tokenizer), len(some)))
        return call(self, some)

    monkeypatch.setattr(Tokeniser, "__call__", spy)
    executor = Executor(network, halves(network, outputs), 8)
    deferred = sum(answer.stage == 1 for answer in executor.run(units))
    assert 0 < deferred < 60
    counts = {name: sum(n for tier, n in seen if tier == name) for name in ("swift", "super")}
    assert counts == {"swift": 60, "super": deferred}
    assert executor.work["swift"].rows == 60 and executor.work["super"].rows == deferred


def test_deferred_rows_are_gathered_into_full_batches() -> None:
    network = small.networks(0)["cascade"]
    units = small.texts(300)
    outputs = small.outputs_one_by_one(network, units)
    executor = Executor(network, halves(network, outputs), {"swift": 6, "super": 16})
    deferred = sum(answer.stage == 1 for answer in executor.run(units))
    assert executor.work["super"].batches == -(-deferred // 16)
    assert executor.work["swift"].batches == 50


def test_rows_of_similar_length_share_a_batch() -> None:
    network = small.networks(0)["single"]
    units = small.texts(200)
    rule = rule_named("threshold", "softmax", stages=("only",), thresholds=())
    padded = []
    for grouped in (True, False):
        executor = Executor(network, rule, 8, group_by_length=grouped)
        list(executor.run(units))
        padded.append(executor.work["only"].padded - executor.work["only"].tokens)
    assert padded[0] < 0.3 * padded[1]


def test_the_last_rows_share_batches_with_those_before_them() -> None:
    network = small.networks(0)["single"]
    units = small.texts(45)  # no whole number of batches
    executor = Executor(network, rule_named("threshold", "softmax", stages=("only",), thresholds=()), 8)
    assert [answer.id for answer in executor.run(units)] == list(range(45))
    lengths = sorted(len(row.ids) for row in Tokeniser(network.tiers[0])(units))
    batches = [lengths[start : start + 8] for start in range(0, 45, 8)]
    assert executor.work["only"].padded == sum(len(batch) * batch[-1] for batch in batches)
    assert executor.work["only"].batches == 6


def test_a_queue_leaves_no_crumbs_at_the_end() -> None:
    rows = [Row(position, position, "") for position in range(30)]
    for waiting, taken in ((8, [8]), (9, [9]), (11, [11]), (12, [8, 4]), (21, [8, 8, 5]), (27, [8, 8, 11])):
        queue = TierQueue(batch_size=4, pool=8)
        queue.add(rows[:waiting])
        sizes, found = [], []
        while len(queue):
            part = queue.take(rest=True)
            sizes.append(len(part))
            found += [row.position for row in part]
        assert sizes == taken and found == list(range(waiting))
    queue.add(rows[:11])
    assert [len(queue.take()) for _ in range(2)] == [8, 3] and not len(queue)


@pytest.mark.parametrize("pending", [1, 20, 100])
def test_reads_no_more_ahead_than_it_may(pending: int) -> None:
    network = small.networks(0)["cascade"]
    units = small.texts(150)
    outputs = small.outputs_one_by_one(network, units)
    scores = small.scores_of("softmax", outputs, [1.0, 1.0])[:, 0]
    rare = rule_named("threshold", "softmax", stages=("swift", "super"), thresholds=(float(np.quantile(scores, 0.03)),))
    read = 0

    def source() -> Iterator[str]:
        nonlocal read
        for unit in units:
            read += 1
            yield unit

    executor = Executor(network, rare, 8, max_pending=pending)
    given, ahead = 0, 0
    for answer in executor.run(source()):
        ahead = max(ahead, read - given)
        given += 1
        assert answer.id == given - 1
    assert given == 150
    chunk = min(pending, executor._pool("swift"))
    assert ahead <= pending + chunk  # one chunk may have been read that has to wait for room


def test_a_source_of_one_row_at_a_time_is_answered_at_once() -> None:
    """At batch size 1 nothing waits, as a server needs it."""
    network = small.networks(0)["cascade"]
    read: list[str] = []

    def source() -> Iterator[str]:
        for unit in small.texts(5):
            read.append(unit)
            yield unit

    executor = Executor(network, rule_named("threshold", "softmax", stages=("swift", "super"), thresholds=(2.0,)), 1)
    for count, _ in enumerate(executor.run(source()), start=1):
        assert len(read) == count


class Small(torch.nn.Module):
    """A forward hook: memory for so many rows, and no more."""

    def __init__(self, rows: int, kind: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.rows, self.kind, self.seen = rows, kind, list[int]()

    def __call__(self, module: Any, args: Any, inputs: Any) -> None:
        self.seen.append(len(inputs["input_ids"]))
        if self.seen[-1] > self.rows:
            raise self.kind("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.")


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_halves_a_batch_that_does_not_fit(kind: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    network = small.networks(0)["cascade"]
    units = small.texts(50)
    outputs = small.outputs_one_by_one(network, units)
    rule = halves(network, outputs)
    expected = [answer.stage for answer in Executor(network, rule, 4).run(units)]
    memory = Small(5, kind)
    network.tiers[1].model.register_forward_pre_hook(memory, with_kwargs=True)
    executor = Executor(network, rule, {"swift": 8, "super": 16})
    with caplog.at_level(logging.WARNING):
        answers = list(executor.run(units))
    assert [answer.stage for answer in answers] == expected
    assert executor.batch_sizes == {"swift": 8, "super": 4}
    assert [r.message for r in caplog.records] == [
        "super ran out of memory with 16 rows; its batch size is now 8.",
        "super ran out of memory with 8 rows; its batch size is now 4.",
    ]
    assert [rows for rows in memory.seen if rows > 5] == [16, 8]


@pytest.mark.parametrize(
    ("text", "memory"),
    [
        ("CUDA error: out of memory", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED", False),
        ("index out of range", False),
    ],
)
def test_knows_what_libraries_say_when_memory_does_not_suffice(text: str, memory: bool) -> None:
    assert is_out_of_memory(RuntimeError(text)) is memory


def test_says_when_not_even_one_row_fits() -> None:
    network = small.networks(0)["single"]
    network.tiers[0].model.register_forward_pre_hook(Small(0), with_kwargs=True)
    executor = Executor(network, rule_named("threshold", "softmax", stages=("only",), thresholds=()))
    with pytest.raises(ValueError, match=r"`only` runs out of memory with one row of \d+ tokens; lower"):
        list(executor.run(small.texts(3)))


def test_other_errors_of_a_model_are_not_taken_for_memory() -> None:
    network = small.networks(0)["single"]

    def fail(*_: Any) -> None:
        raise RuntimeError("the weights are on fire")

    network.tiers[0].model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="on fire"):
        list(Executor(network, rule_named("threshold", "softmax", stages=("only",), thresholds=())).run(["good"]))


@pytest.mark.parametrize("prefetch", [False, True])
def test_rows_before_a_broken_one_are_answered(prefetch: bool) -> None:
    network = small.networks(0)["cascade"]
    units: list[Any] = [*small.texts(CHUNK + 30), None, "good"]
    executor = Executor(network, rule_named("threshold", "softmax", stages=("swift", "super"), thresholds=(0.5,)), 64)
    answers: list[Answer] = []
    with pytest.raises(ValueError, match=rf"row {CHUNK + 30} must be a text or a pair of texts, but got None"):
        answers.extend(executor.run(units, prefetch))
    assert [answer.id for answer in answers] == list(range(CHUNK + 30))


def test_says_which_row_gets_an_output_that_is_not_finite() -> None:
    network = small.networks(0)["one tokenizer"]
    with torch.no_grad():
        network.tiers[1].model.classifier.bias.fill_(float("nan"))
    executor = Executor(network, rule_named("threshold", "softmax", stages=("swift", "super"), thresholds=(2.0,)))
    with pytest.raises(ValueError, match="`super` must give finite outputs, but it does not for row 0; check its"):
        list(executor.run(["good"]))


def test_refuses_what_it_cannot_run() -> None:
    network = small.networks(0)["cascade"]
    rule = rule_named("threshold", "softmax", stages=("swift", "super"), thresholds=(0.5,))
    with pytest.raises(ValueError, match="`rule` must be for the stages swift, super, but it is for a, b"):
        Executor(network, rule_named("threshold", "softmax", stages=("a", "b"), thresholds=(0.5,)))
    for sizes in (0, True, {"super": 0}, {"super": 2.5}):
        with pytest.raises(ValueError, match="`batch_sizes` must be whole numbers from 1 up, but got"):
            Executor(network, rule, sizes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`batch_sizes` allows the tiers swift, super, but got supper"):
        Executor(network, rule, {"supper": 4})
    with pytest.raises(ValueError, match="`max_pending` must be a whole number from 1 up, but got 0"):
        Executor(network, rule, max_pending=0)
    with pytest.raises(ValueError, match="`compaction` must be one of always, measured, but got 'never'"):
        Executor(network, rule, compaction="never")  # type: ignore[arg-type]


def test_nothing_in_nothing_out() -> None:
    network = small.networks(0)["exits first"]
    rule = rule_named("threshold", "softmax", stages=tuple(s.name for s in network.stages), thresholds=(0.5, 0.5, 0.5))
    for prefetch in (False, True):
        assert list(Executor(network, rule).run([], prefetch)) == []


def test_a_run_that_is_given_up_stops_reading() -> None:
    network = small.networks(0)["single"]
    read = 0

    def source() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "good"

    answers = Executor(network, rule_named("threshold", "softmax", stages=("only",), thresholds=()), 4).run(
        source(), prefetch=True
    )
    first = [next(answers) for _ in range(3)]
    answers.close()  # type: ignore[attr-defined]
    seen = read
    assert all(b.id == a.id + 1 for a, b in pairwise(first))
    torch.ones(100, 100) @ torch.ones(100, 100)
    assert read == seen


def test_a_regression_is_routed_by_chance_or_by_agreement() -> None:
    torch.manual_seed(0)
    tiers = []
    for name, layers in (("swift", 1), ("middle", 1), ("super", 2)):
        config = {"model_type": "bert", "vocab_size": 30, "num_hidden_layers": layers, **small.BERT}
        tier = build_tier(config, "words", [], max_length=16, name=name)
        tier.fit_tokenizer(lambda: iter(small.WORDS))
        tiers.append(tier.eval())
    network, units = StagedModel(tiers), small.texts(40)
    outputs = small.outputs_one_by_one(network, units)
    names = tuple(stage.name for stage in network.stages)
    apart = float(np.median(np.abs(outputs[:, 1, 0] - outputs[:, 0, 0]))) + 1e-4
    for rule in (
        rule_named("threshold", "random", stages=names, thresholds=(0.5, 0.5), seed=3),
        rule_named("patience", "patience", stages=names, thresholds=(1.0, 1.0), tolerance=apart),
    ):
        scores = small.scores_of("random", outputs, [1.0] * 3, seed=3)
        expected = replayed(rule, scores, outputs[..., 0].astype(np.float64))
        assert len(np.unique(expected)) >= 2
        answers = list(Executor(network, rule, 7).run(units))
        np.testing.assert_array_equal([a.stage for a in answers], expected)
        values = outputs[np.arange(40), expected, 0]
        np.testing.assert_allclose([a.prediction for a in answers], values, atol=1e-5)
        assert np.isnan([a.probability for a in answers]).all()


def test_a_certainty_that_the_model_learnt_decides() -> None:
    torch.manual_seed(0)
    tier = small.exits_tier("encoder", small.plain_tier("base"))
    tier.model.add_certainty()
    with torch.no_grad():
        tier.model.certainty.linear.weight.normal_(std=1.0)
    network, units = StagedModel([tier]), small.texts(40)
    tokeniser = Tokeniser(tier)
    with torch.no_grad():
        scores = np.concatenate([tier.decide(tokeniser.collate([row]))[1]["learned"] for row in tokeniser(units)])
    thresholds = tuple(float(value) + 1e-4 for value in np.quantile(scores[:, :2], 0.6, axis=0))
    rule = rule_named("per_stage", "learned", stages=tuple(s.name for s in network.stages), thresholds=thresholds)
    expected = replay(scores, np.array(thresholds))
    assert len(np.unique(expected)) == 3
    for size in (1, 9):
        answers = list(Executor(network, rule, size).run(units))
        np.testing.assert_array_equal([a.stage for a in answers], expected)
        stopped = expected < 2
        np.testing.assert_allclose(
            np.array([a.score for a in answers])[stopped], scores[np.arange(40), expected][stopped], atol=1e-5
        )
