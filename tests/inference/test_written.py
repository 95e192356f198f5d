"""Where decoders answer: the executor against the replay of the stage table, row by row, at any batch size."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from dial.costs.counting import RowCosts, network_costs
from dial.costs.functions import ModelCosts
from dial.inference.epsilon import measure_epsilon
from dial.inference.executor import Executor
from dial.inference.rows_table import rows_table
from dial.inference.staged import StagedModel
from dial.report.remarks import written_answers
from dial.stages.scores import SCORES, random_score
from dial.stages.table import StageTable
from dial.stages.task import UNREAD
from dial.tiers.loading import load_tier
from dial.tiers.tokens import Tokeniser
from dial.tradeoff.rules import Rule, Threshold
from dial.tradeoff.taken import quality_at
from tests.models.test_generation import CLOSE
from tests.tiers import small
from tests.tiers.writers import FREE, add_head, favour, save_writer, writer

WORDS = ["good", "bad", "film"]
ROWS = 24


def networks(kind: str) -> StagedModel:
    """Cascades of two tiers that write, of a classifier before one, and of three."""
    torch.manual_seed(0)
    if kind == "free text":
        tiers: list[Any] = [writer("swift", FREE, 2, "vocabulary", layers=1), writer("super", FREE, 1)]
    elif kind == "label words":
        tiers = [writer("swift", WORDS, 1, "classes", layers=1, max_new_tokens=3), writer("super", WORDS, 2, beams=2)]
        tiers = [favour(tier, WORDS, 20.0) for tier in tiers]
    elif kind == "three":
        heads = ["vocabulary", "vocabulary", None]
        tiers = [writer(f"t{i}", FREE, i + 1, head, layers=1, max_new_tokens=4) for i, head in enumerate(heads)]
    else:
        first = small.plain_tier("swift")
        first.label_names = first.view.label_names or small.CLASSES
        tiers = [first, writer("super", small.CLASSES, 2)]
    return StagedModel(tiers).eval()


@cache
def counted(kind: str) -> ModelCosts:
    """Cost functions of the tiers, which take a second each to count."""
    network = networks(kind)
    return network_costs(network.tiers, {tier.name: np.arange(1, 33) for tier in network.tiers})


def table_of(
    kind: str, network: StagedModel, units: list[str], seed: int = 0, late: tuple[str, ...] = ()
) -> StageTable:
    """The stage table, each row alone."""
    answered, lengths = [], {tier.name: [] for tier in network.tiers}
    for unit in units:
        encodings = {}
        for tier in network.tiers:
            tokeniser = Tokeniser(tier)
            tokens = tokeniser([unit])
            lengths[tier.name].append(len(tokens[0].ids))
            encodings[tier.encoding_key] = tokeniser.collate(tokens)
        with torch.no_grad():
            answered.append(network.answered(encodings, late))
    written = {
        name: np.concatenate([each.generated[name].numpy() for each in answered]) for name in answered[0].generated
    }
    known = {name: np.array(values) for name, values in lengths.items()}
    costs = counted(kind).columns(network.stages, known, known, generated=written)
    texts = np.concatenate([each.texts for each in answered])
    return StageTable(
        split=np.full(len(units), "test"),
        sample_id=np.arange(len(units)),
        label=np.zeros(len(units)),
        stages=network.stages,
        predictions=network.task.read(texts),
        texts=texts,
        references=[("a film",)] * len(units) if network.task.written else None,
        scores={
            name: torch.cat([each.scores[name] for each in answered]).numpy()
            for name in (*network.routing_scores, *late)
        }
        | {"random": np.stack([random_score(np.arange(len(units)), s, seed) for s in range(len(network.stages))], 1)},
        lengths=known,
        written=written,
        metrics=network.task.metrics,
        label_names=tuple(network.task.label_names),
        settings={"late": list(late)},
        **costs,
    )


def rule_of(table: StageTable, score: str, quantile: float = 0.5) -> Rule:
    """About half of the rows stop at each stage."""
    levels = np.nanquantile(table.scores[score][:, :-1], quantile, axis=0, method="lower")
    threshold = float(levels[0]) if len(levels) == 1 else float(np.median(levels))
    return Threshold(score).at([threshold + 1e-9] * len(levels))


@pytest.mark.parametrize("kind", ["free text", "label words", "three", "a classifier first"])
def test_answers_and_costs_equal_the_replay_at_any_batch_size(kind: str) -> None:
    network = networks(kind)
    units = small.texts(ROWS)
    table = table_of(kind, network, units)
    if kind == "label words":
        assert {*table.predictions.ravel().tolist()} == {UNREAD, 0, 1, 2}
        np.testing.assert_array_equal(table.predictions, [[read_naively(t) for t in row] for row in table.texts])
    for score, sizes in ((network.routing_scores[0], (1, 7, 64)), ("random", (7,))):
        rule = rule_of(table, score)
        stages = rule.replay(table)
        assert len(np.unique(stages)) > 1
        near = (np.abs(table.scores[score][:, :-1] - rule.thresholds) < 1e-5).any(axis=1)
        complete = type(rule)(score, rule.thresholds, tuple(stage.name for stage in network.stages))
        pieces = {name: float(values.mean()) for name, values in table.written.items()}
        costs = RowCosts(list(network.tiers), counted(kind), pieces=pieces)
        for size in sizes:
            answers = list(Executor(network, complete, size, costs=costs).run(units))
            taken = np.array([answer.stage for answer in answers])
            np.testing.assert_array_equal(taken[~near], stages[~near])
            for row, answer in enumerate(answers):
                text = answer.text if answer.text is not None else small.CLASSES[int(answer.prediction)]
                assert text == table.texts[row, answer.stage]
                assert answer.macs == table.macs[row, answer.stage]
                if not network.task.written:
                    assert answer.prediction == table.predictions[row, answer.stage]
                tier = network.stages[answer.stage].tier
                assert answer.generated == (table.written[tier][row] if tier in table.written else 0)
                if answer.stage == len(network.stages) - 1:
                    assert answer.reference == table.macs_reference[row]


@pytest.mark.parametrize("kind", ["free text", "label words", "three"])
def test_finished_answers_decide_as_in_the_replay_and_every_row_is_charged_for_them(kind: str) -> None:
    names = ("answer_log_probability", "decoder_entropy_low", "decoder_softmax")
    network, units = networks(kind), small.texts(ROWS)
    table = table_of(kind, network, units, late=names)
    pieces = {name: float(values.mean()) for name, values in table.written.items()}
    costs = RowCosts(list(network.tiers), counted(kind), pieces=pieces)
    for name, sizes in zip(names, ((1, 7, 64), (7,), (7,)), strict=True):
        rule = rule_of(table, name)
        taken = rule.taken(table)
        near = (np.abs(table.scores[name][:, :-1] - rule.thresholds) < CLOSE).any(axis=1)
        assert len(np.unique(taken.stages[~near])) > 1
        complete = Threshold(name, rule.thresholds, tuple(stage.name for stage in network.stages))
        for size in sizes:
            answers = list(Executor(network, complete, size, costs=costs).run(units))
            for row in np.flatnonzero(~near):
                answer, stage = answers[row], int(taken.stages[row])
                assert (answer.stage, answer.text) == (stage, table.texts[row, stage])
                assert answer.macs == taken.macs[row]
                own = table.macs[row, stage] - table.decide_macs[row, stage]  # of writing at this stage alone
                assert stage == 0 or answer.macs > table.decide_macs[row, stage] + own
                if stage < len(network.stages) - 1:  # the last one decides nothing
                    assert answer.score == pytest.approx(table.scores[name][row, stage], abs=CLOSE, rel=CLOSE)
        spread = measure_epsilon(network, complete, units)
        assert spread.value < CLOSE and spread.moved <= near.mean()
    kept = rows_table(
        network, units, None if not network.task.written else [("x",)] * ROWS, network.task.label_names,
        network.task.metrics, {"late": list(names)}, {tier.name: 8 for tier in network.tiers}, counted(kind),
    )  # fmt: skip
    for name in names:
        np.testing.assert_allclose(kept.scores[name], table.scores[name], rtol=CLOSE, atol=CLOSE)


def test_the_decoder_runs_for_the_rows_that_stay_and_the_encoder_for_all() -> None:
    kind = "free text"
    network = networks(kind)
    units = small.texts(ROWS)
    table = table_of(kind, network, units)
    rule = rule_of(table, "energy", 0.7)
    counts = {"read": 0, "written": 0}
    swift = network.tiers[0]
    read, write = swift.read, swift.write

    def reading(encoding):
        counts["read"] += len(encoding["input_ids"])
        return read(encoding)

    def writing(encoding, rows, state=None, scores=False):
        counts["written"] += len(rows)
        assert state is not None  # what was read, so that nothing is read twice
        return write(encoding, rows, state, scores)

    swift.read, swift.write = reading, writing  # type: ignore[method-assign]
    complete = Threshold("energy", rule.thresholds, ("swift", "super"))
    answers = list(Executor(network, complete, 8).run(units))
    stayed = sum(answer.stage == 0 for answer in answers)
    assert counts == {"read": ROWS, "written": stayed} and 0 < stayed < ROWS


def test_rows_that_stay_are_written_in_whole_batches_and_in_smaller_ones_where_memory_ends() -> None:
    network, units = networks("free text"), small.texts(ROWS)
    table = table_of("free text", network, units)
    energies = np.unique(table.scores["energy"][:, 0])
    widest = 6 + int(np.diff(energies[6:14]).argmax())  # rounding moves no row over a threshold in a wide gap
    rule = Threshold("energy", (float(energies[widest : widest + 2].mean()),), ("swift", "super"))
    expected = rule.replay(table)
    swift, sizes = network.tiers[0], []
    write, limit = swift.write, [ROWS]

    def writing(encoding, rows, state=None, scores=False):
        if len(rows) > limit[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(rows))
        return write(encoding, rows, state, scores)

    swift.write = writing  # type: ignore[method-assign]
    stayed = int((expected == 0).sum())
    assert stayed > 8
    for limit[0], whole in ((ROWS, 8), (3, 2)):
        sizes.clear()
        answers = list(Executor(network, rule, 8).run(units))
        assert [answer.stage for answer in answers] == expected.tolist()
        assert [answer.text for answer in answers] == [table.texts[i, stage] for i, stage in enumerate(expected)]
        assert sum(sizes) == stayed and sizes.count(whole) == stayed // whole and sizes[-1] in (whole, stayed % whole)
    limit[0] = 0
    with pytest.raises(ValueError, match=r"`swift` runs out of memory with one row of \d+ tokens"):
        list(Executor(network, rule, 8).run(units))


def test_a_tier_that_answers_nothing_does_not_run() -> None:
    network = networks("free text")
    network.tiers[0].read = lambda _: pytest.fail("the Swift ran")  # type: ignore[method-assign]
    rule = Threshold("energy", (np.inf,), ("swift", "super"))
    assert {answer.stage for answer in Executor(network, rule, 8).run(small.texts(9))} == {1}


def test_answers_cut_off_are_told() -> None:
    network = networks("free text")
    rule = Threshold("energy", (-np.inf,), ("swift", "super"))
    answers = list(Executor(network, rule, 8).run(small.texts(ROWS)))
    limit = network.tiers[0].generation.max_new_tokens  # type: ignore[attr-defined]
    assert all(answer.limited <= (answer.generated == limit) for answer in answers)
    assert 0 < sum(answer.limited for answer in answers) < ROWS


def test_scores_that_decide_are_those_of_heads_and_of_classifiers() -> None:
    assert networks("free text").routing_scores == ("energy", "softmax", "entropy")
    assert networks("a classifier first").routing_scores == tuple(SCORES)
    assert StagedModel([writer("a", FREE, layers=1), writer("b", FREE)]).routing_scores == ()


def test_decide_gives_the_scores_without_writing() -> None:
    kind = "label words"
    network = networks(kind)
    units = small.texts(8)
    table = table_of(kind, network, units)
    for tier in network.tiers:
        tier.write = lambda *_: pytest.fail("a decoder ran")  # type: ignore[method-assign]
    encodings = {t.encoding_key: Tokeniser(t).collate(Tokeniser(t)(units)) for t in network.tiers}
    with torch.no_grad():
        _, scores = network.decide(encodings)
    for name in network.routing_scores:
        np.testing.assert_allclose(scores[name][:, 0], table.scores[name][:, 0], atol=CLOSE)
        assert torch.isnan(scores[name][:, 1]).all()  # the Super has no head


def test_lower_precision_writes_and_scores_stay_apart(tmp_path) -> None:
    folder = save_writer(tmp_path / "tier")
    add_head(folder, WORDS)
    low: Any = load_tier({"path": str(folder), "dtype": "bfloat16", "max_new_tokens": 3}, "low", WORDS)
    assert next(low.model.parameters()).dtype is torch.bfloat16 and low.head.output.weight.dtype is torch.float32
    network = StagedModel([low, load_tier({"path": str(folder), "max_new_tokens": 3}, "high", WORDS)])
    units = small.texts(ROWS)
    rule = Threshold("energy", (-np.inf,), ("low", "high"))
    scores = [answer.score for answer in Executor(network, rule, 8).run(units)]
    assert len(set(scores)) == len(set(units))  # in bf16 they would tie
    with pytest.raises(ValueError, match="`dtype` must be float32 or bfloat16 for an encoder-decoder, but got 'int8'"):
        load_tier({"path": str(folder), "dtype": "int8"}, "low", WORDS)


def test_without_labels_rows_to_which_the_super_says_nothing_readable_count() -> None:
    network = networks("label words")
    units = small.texts(ROWS)
    sizes = {tier.name: 8 for tier in network.tiers}
    table = rows_table(network, units, None, WORDS, ["accuracy"], {}, sizes, counted("label words"))
    assert {*table.label.tolist()} == {UNREAD, 0, 1, 2}
    expected = np.mean([read_naively(swift) == read_naively(last) for swift, last in table.texts.tolist()])
    assert quality_at(table, "agreement", np.zeros(ROWS, int)) == expected
    unread = sum(read_naively(text) == UNREAD for text in table.texts[:, 1])
    remark = next(line for line in written_answers(table) if line.startswith("`super` wrote no label word"))
    assert f"in {unread} of {ROWS} rows, which agree only with such texts" in remark


def read_naively(text: str) -> int:
    return WORDS.index(text.strip()) if text.strip() in WORDS else UNREAD
