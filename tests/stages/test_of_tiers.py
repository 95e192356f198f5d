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


def test_what_a_table_does_not_tell_is_refused(table: StageTable) -> None:
    foreign = dataclasses.replace(table, settings={"foreign": True})
    with pytest.raises(ValueError, match="`tiers` must be left out where the table is not of `dial test`"):
        foreign.of_tiers(["small", "large"])
    other = dataclasses.replace(table, settings=table.settings | {"reference": "middle"})
    with pytest.raises(
        ValueError, match="`tiers` must hold middle, which costs are compared with, but got small, larg"
    ):
        other.of_tiers(["small", "large"])
