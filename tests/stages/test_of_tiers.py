"""Some of a table's tiers as a cascade of their own, against costs added up row by row."""

import dataclasses

import numpy as np
import pytest

from dial.costs.functions import CostFunction, ModelCosts
from dial.stages.scores import random_score
from dial.stages.stage import Stage
from dial.stages.table import StageTable
from tests.stages.tables import random_table

EXITS = {"small": 1, "middle": 3, "large": 2}
ROWS = 23
LENGTHS = {tier: np.random.default_rng(seed).integers(3, 40, ROWS) for seed, tier in enumerate(EXITS)}


def cost(seed: int) -> CostFunction:
    """Some quadratic in the length."""
    return CostFunction(coefficients=tuple(np.random.default_rng(seed).integers(1, 1000, 3).astype(float)))


COSTS = ModelCosts(
    answer={
        tier: {exit: cost(10 * place + exit) for exit in range(n)} for place, (tier, n) in enumerate(EXITS.items())
    },
    decide={"middle": {1: cost(50), 2: cost(51)}, "small": {0: cost(52)}},
    reference={"large": cost(53)},
)


@pytest.fixture(scope="module")
def table() -> StageTable:
    """Three tiers, two of them with exits, some of which decide before they answer."""
    stages = tuple(Stage(f"{tier}_{exit}", tier, exit) for tier, count in EXITS.items() for exit in range(count))
    columns = COSTS.columns(stages, LENGTHS, {})
    random = random_table(ROWS, len(stages), 3, seed=4).with_scores(["energy"])
    settings = {
        "seed": 5,
        "temperatures": {stage.name: 1.0 + place for place, stage in enumerate(stages)},
        "tiers": {tier: {"fingerprint": tier} for tier in EXITS},
    }
    own = {"certain": np.random.default_rng(7).random((ROWS, len(stages)))}
    table = dataclasses.replace(
        random, stages=stages, lengths=LENGTHS, statistics={"em": own["certain"] > 0.5}, settings=settings, **columns
    )
    return dataclasses.replace(table.with_scores(["energy", "random"]), scores=own | dict(table.scores)).with_scores(
        ["energy", "random"]
    )


@pytest.mark.parametrize("names", [("small", "large"), ("middle", "large")])
def test_costs_are_those_of_the_tiers_that_run(table: StageTable, names: tuple[str, ...]) -> None:
    part = table.of_tiers(names)
    assert [stage.tier for stage in part.stages] == [stage.tier for stage in table.stages if stage.tier in names]
    for row in range(ROWS):
        spent = 0.0
        for tier in names:
            length = LENGTHS[tier][row]
            for exit in range(EXITS[tier]):
                column = part.stage_names.index(f"{tier}_{exit}")
                answer = COSTS.answer[tier][exit]
                decide = COSTS.decide.get(tier, {}).get(exit, answer)
                assert part.macs[row, column] == spent + answer(length)
                assert part.decide_macs[row, column] == spent + decide(length)
            spent += decide(length)
        assert part.macs_reference[row] == COSTS.reference["large"](LENGTHS["large"][row])


def test_every_column_is_that_of_its_stage(table: StageTable) -> None:
    part = table.of_tiers(["middle", "large"])
    for column, name in enumerate(part.stage_names):
        before = table.stage_names.index(name)
        np.testing.assert_array_equal(part.outputs[:, column], table.outputs[:, before])
        np.testing.assert_array_equal(part.predictions[:, column], table.predictions[:, before])
        np.testing.assert_array_equal(part.statistics["em"][:, column], table.statistics["em"][:, before])
        for score in ("energy", "certain"):  # energies at the temperature of their stage
            np.testing.assert_array_equal(part.scores[score][:, column], table.scores[score][:, before])
        np.testing.assert_array_equal(part.scores["random"][:, column], random_score(part.sample_id, column, 5))
    assert part.settings["temperatures"] == {"middle_0": 2, "middle_1": 3, "middle_2": 4, "large_0": 5, "large_1": 6}
    assert set(part.settings["tiers"]) == set(part.lengths) == {"middle", "large"}
    assert table.of_tiers(list(EXITS)) is table


@pytest.mark.parametrize(
    "names", [["large"], ["small", "middle"], ["large", "small"], ["small", "huge"], ["small", "small", "large"]]
)
def test_other_names_are_refused(table: StageTable, names: list[str]) -> None:
    message = "`tiers` must be two or more of small, middle, large, in this order and with large, but got: "
    with pytest.raises(ValueError, match=message + ", ".join(names)):
        table.of_tiers(names)


def test_settings_say_nothing_of_other_tiers(table: StageTable) -> None:
    tiers = {"small": {"encoding": "words"}, "middle": {"encoding": "pieces"}, "large": {"encoding": "pieces"}}
    about = {"tiers": tiers, "truncated": {"test": {"words": 4, "pieces": 7}}, "unit": "ms", "length": "padded"}
    sizes = {"small": 1, "middle": 8, "large": 32}
    for given, kept in ((sizes, {"middle": 8, "large": 32}), (4, 4)):  # sizes of times: of each tier, or one for all
        part = dataclasses.replace(table, settings=about | {"batch_sizes": given}).of_tiers(["middle", "large"])
        assert part.settings == {
            "tiers": {name: tiers[name] for name in ("middle", "large")},
            "truncated": {"test": {"pieces": 7}},
            "unit": "ms",
            "length": "padded",
            "batch_sizes": kept,
        }


def test_what_a_table_does_not_tell_is_refused(table: StageTable) -> None:
    foreign = dataclasses.replace(table, settings={"foreign": True})
    for names in (["small", "large"], ["small", "huge"]):  # whatever is asked of it
        with pytest.raises(ValueError, match="`tiers` must be left out where the table is not of `dial test`"):
            foreign.of_tiers(names)
    exits = dataclasses.replace(table, stages=tuple(Stage(name, "large") for name in table.stage_names))
    with pytest.raises(ValueError, match="`tiers` must be left out where all stages are of one tier, large, but got"):
        exits.of_tiers(["large"])
    other = dataclasses.replace(table, settings=table.settings | {"reference": "middle"})
    with pytest.raises(
        ValueError, match="`tiers` must hold middle, which costs are compared with, but got small, larg"
    ):
        other.of_tiers(["small", "large"])


TEXTS = np.random.default_rng(8).choice(["a dog", "two dogs", "a man"], (ROWS, len(EXITS)))
CERTAIN = np.random.default_rng(9).random((2, ROWS, len(EXITS)))
WRITTEN = {tier: np.random.default_rng(20 + place).integers(1, 9, ROWS) for place, tier in enumerate(EXITS)}
WRITING = ModelCosts(
    answer={
        tier: {0: dataclasses.replace(cost(60 + place), writing=(0.0, 5.0 + place, 7.0, 2.0, 3.0))}
        for place, tier in enumerate(EXITS)
    },
    decide={"small": {0: cost(70)}, "middle": {0: cost(71)}},
)


def written(names: list[str]) -> StageTable:
    """A cascade of tiers that write their answers, with a score that only a finished answer tells."""
    stages, places = tuple(Stage(name, name) for name in names), [list(EXITS).index(name) for name in names]
    return StageTable(
        split=np.full(ROWS, "test"),
        sample_id=np.arange(ROWS),
        label=np.arange(ROWS),
        stages=stages,
        predictions=None,
        texts=TEXTS[:, places],
        references=[("a dog", "the dog")] * ROWS,
        scores={"energy": CERTAIN[0][:, places], "likelihood": CERTAIN[1][:, places]},
        **WRITING.columns(stages, LENGTHS, {}, generated=WRITTEN),
        lengths={name: LENGTHS[name] for name in names},
        written={name: WRITTEN[name] for name in names},
        cut_off={name: WRITTEN[name] == 8 for name in names},
        metrics=("exact_match", "bleu"),
        label_names=("*",),
        settings={"seed": 5, "late": ["likelihood"]},
    ).with_scores(["random"])


@pytest.mark.parametrize("names", [["small", "large"], ["middle", "large"]])
@pytest.mark.parametrize("score", ["energy", "likelihood"])
def test_tiers_that_write_cost_what_they_cost_alone(names: list[str], score: str) -> None:
    """By a late score all answers on the way are written, else only the last one."""
    part, alone = written(list(EXITS)).of_tiers(names), written(names)
    for each in ("texts", "references", "label"):
        np.testing.assert_array_equal(getattr(part, each), getattr(alone, each))
    agree = part.predictions[:, 0] == part.predictions[:, 1]  # all that numbers of free texts tell
    np.testing.assert_array_equal(agree, alone.texts[:, 0] == alone.texts[:, 1])
    for each in ("scores", "statistics", "lengths", "written", "cut_off"):
        found, wanted = getattr(part, each), getattr(alone, each)
        assert found.keys() == wanted.keys()
        for key, values in wanted.items():
            np.testing.assert_array_equal(found[key], values, err_msg=f"{each} {key}")
    part = part.deciding_by(score)
    for row in range(ROWS):
        given = {name: (LENGTHS[name][row], WRITTEN[name][row]) for name in names}
        answers = [float(WRITING.answer[name][0](*given[name])) for name in names]
        first = answers[0] if score == "likelihood" else float(WRITING.decide[names[0]][0](*given[names[0]]))
        assert part.macs[row].tolist() == [answers[0], first + answers[1]]
        assert part.macs_reference[row] == answers[1]
