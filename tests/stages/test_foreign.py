"""What the costs of a foreign table mean, against costs added up row by row."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dial.cli.tables import SweepCommand
from dial.stages.parquet import load_table
from tests.tradeoff.choosing import choose

ROWS = 400
RANDOM = np.random.default_rng(5)
LABEL = RANDOM.integers(2, size=ROWS)
SIGNAL = np.where(LABEL == 1, 1.0, -1.0)
OUTPUTS = {
    name: np.stack([-x, x], axis=-1)
    for name, x in (("swift", SIGNAL + RANDOM.normal(size=ROWS)), ("super", 2 * SIGNAL + RANDOM.normal(size=ROWS)))
}
OWN = {"swift": RANDOM.integers(80, 120, size=ROWS) * 1e4, "super": RANDOM.integers(900, 1100, size=ROWS) * 1e4}
CUMULATIVE = {"swift": OWN["swift"], "super": OWN["swift"] + OWN["super"]}


def write(folder: Path, costs: dict[str, np.ndarray], order: tuple[str, ...] = ("swift", "super"), **more: Any) -> Path:
    """A table of a cascade; columns of the stages in the given order."""
    frame: dict[str, Any] = {"split": ["test"] * ROWS, "sample_id": range(ROWS), "label": LABEL}
    for name in order:
        frame |= {f"output_{name}": list(OUTPUTS[name]), f"macs_{name}": costs[name]}
    pd.DataFrame({**frame, **more}).to_parquet(folder / "mine.parquet")
    return folder / "mine.parquet"


def speedup(stages: np.ndarray) -> float:
    """Naive: every row pays the Swift, rows that go on the Super too; the Super alone pays itself."""
    paid = alone = 0.0
    for row, stage in enumerate(stages):
        paid += OWN["swift"][row] + (OWN["super"][row] if stage else 0.0)
        alone += OWN["super"][row]
    return alone / paid


@pytest.mark.parametrize(
    ("costs", "said", "more"),
    [
        (OWN, {"costs": "own"}, {}),
        (OWN, {"costs": "own"}, {"macs_reference": OWN["super"]}),
        (CUMULATIVE, {"costs": "cumulative", "stages": "tiers"}, {}),
        (CUMULATIVE, {"costs": "cumulative"}, {"macs_reference": OWN["super"]}),
    ],
    ids=["own", "own with reference", "cumulative", "cumulative with reference"],
)
@pytest.mark.parametrize("order", [("swift", "super"), ("super", "swift")], ids=["by cost", "by name"])
def test_a_cascade_has_one_speedup_however_its_costs_are_given(
    tmp_path: Path, costs: dict, said: dict, more: dict, order: tuple
) -> None:
    table = load_table(write(tmp_path, costs, order, **more), **said)
    assert table.stage_names == ("swift", "super")
    point = choose(table, "softmax", 0.97)
    stages = point.rule.replay(table)
    assert 0.3 < stages.mean() < 0.8
    found = table.macs_reference.mean() / table.macs[np.arange(ROWS), stages].mean()
    assert found == pytest.approx(speedup(stages))
    np.testing.assert_allclose(table.decide_macs, table.macs)
    read, *reordered = table.settings["remarks"]
    assert f"read as {said['costs']}" in read
    assert bool(reordered) == (order[0] == "super")
    assert not reordered or "(swift, super), not of their columns (super, swift)" in reordered[0]


def test_cumulative_costs_of_exits_refer_to_the_last(tmp_path: Path) -> None:
    table = load_table(write(tmp_path, CUMULATIVE), costs="cumulative", stages="exits")
    np.testing.assert_array_equal(table.macs_reference, CUMULATIVE["super"])
    np.testing.assert_array_equal(table.macs[:, 1], CUMULATIVE["super"])


def test_own_costs_of_a_decision_are_what_goes_on_has_paid(tmp_path: Path) -> None:
    """E-LANG's T5: a row that goes on has decided at the Swift, but not been answered by it (Eq. 16)."""
    decide = {"decide_macs_swift": OWN["swift"] / 4, "decide_macs_super": OWN["super"]}
    table = load_table(write(tmp_path, OWN, **decide), costs="own")
    for row in range(ROWS):
        assert table.macs[row].tolist() == [OWN["swift"][row], OWN["swift"][row] / 4 + OWN["super"][row]]
        assert table.decide_macs[row, 0] == OWN["swift"][row] / 4
    costs = {"swift": OWN["swift"], "super": OWN["swift"] / 4 + OWN["super"]}
    decide["decide_macs_super"] = costs["super"]
    again = load_table(write(tmp_path, costs, **decide), costs="cumulative", stages="tiers")
    np.testing.assert_allclose(again.macs, table.macs)
    np.testing.assert_allclose(again.macs_reference, table.macs_reference)


def test_columns_sorted_by_name_do_not_turn_three_stages_round(tmp_path: Path) -> None:
    """`large, middle, small`: the order of the alphabet is that of falling cost."""
    frame = {"split": ["test"] * 30, "sample_id": range(30), "label": [0, 1] * 15}
    for cost, name in ((9.0, "large"), (3.0, "middle"), (1.0, "small")):
        frame |= {f"prediction_{name}": [0, 1] * 15, f"macs_{name}": [cost] * 30}
    frame |= {f"trust_{name}": [0.5] * 30 for name in ("middle", "small")}
    pd.DataFrame(frame).to_parquet(tmp_path / "mine.parquet")
    table = load_table(tmp_path / "mine.parquet", costs="own")
    assert table.stage_names == ("small", "middle", "large")
    assert table.macs[0].tolist() == [1.0, 4.0, 13.0] and table.macs_reference[0] == 9.0
    assert np.isnan(table.scores["trust"][:, 2]).all()


@pytest.mark.parametrize(
    ("costs", "said", "more", "message"),
    [
        (OWN, {}, {}, r"`costs` must be said for a table of several stages, but got none: give `--costs own`"),
        (OWN, {}, {"macs_reference": OWN["super"]}, r"`costs` must be said"),
        (CUMULATIVE, {"costs": "cumulative"}, {}, r"a column 'macs_reference' .*`--stages tiers`.*`--stages exits`"),
        (OWN, {"costs": "own", "stages": "exits"}, {}, r"`costs` of exits must be cumulative"),
        (OWN, {"costs": "mine"}, {}, r"`costs` must be own or cumulative, but got 'mine'"),
        (OWN, {"costs": "own", "stages": "models"}, {}, r"`stages` must be tiers or exits, but got 'models'"),
        ({**OWN, "super": -OWN["super"]}, {"costs": "own"}, {}, r"`macs_super` must be finite and above 0, but got -"),
        (
            {**CUMULATIVE, "swift": np.r_[[2e9], OWN["swift"][1:]]},
            {"costs": "cumulative", "stages": "tiers"},
            {},
            r"`macs_super` must be at least what 'swift' took .*2e\+09 for sample_id 0. Give `--costs own`",
        ),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(
    tmp_path: Path, costs: dict, said: dict, more: dict, message: str
) -> None:
    path = write(tmp_path, costs, **more)
    with pytest.raises(ValueError, match=message) as caught:
        load_table(path, **said)
    assert "\n" not in str(caught.value)


def test_one_stage_needs_no_word_on_its_costs(tmp_path: Path) -> None:
    path = write(tmp_path, OWN, ("super",))
    table = load_table(path)
    np.testing.assert_array_equal(table.macs_reference, OWN["super"])
    assert table.settings["remarks"] == []


def test_dial_sweep_asks_and_says_how_it_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, OWN, ("super", "swift"))
    with pytest.raises(ValueError, match="`--costs` must be said"):
        SweepCommand.main([str(path), "--bootstrap", "100"])
    assert [file.name for file in tmp_path.iterdir()] == ["mine.parquet"]
    assert SweepCommand.main([str(path), "--bootstrap", "100", "--costs", "own", "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "Costs were read as own (a stage costs the sum up to it); the reference is super alone." in text
    assert "Stages are in order of their mean own cost (swift, super), not of their columns (super, swift)." in text
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert len(summary["table"]["remarks"]) == 2
    point = next(p for p in summary["splits"]["test"]["points"] if (p["score"], p["kind"]) == ("softmax", "in_sample"))
    assert point["speedup"] == pytest.approx(
        speedup(load_table(path, costs="own").scores["softmax"][:, 0] < point["thresholds"][0])
    )


def test_references_beside_classes_are_not_read(tmp_path: Path) -> None:
    references = {"references": ["a film"] * ROWS}
    table = load_table(write(tmp_path, OWN, **references), costs="own")
    assert table.metrics == ("accuracy",) and table.outputs is not None and table.references is None
    assert "The column references was not read, as answers are no free text." in table.settings["remarks"]
    words = {f"text_{name}": np.where(OUTPUTS[name][:, 1] > 0, "yes", "no") for name in OUTPUTS}
    table = load_table(write(tmp_path, OWN, **words, **references), costs="own", label_names=["no", "yes"])
    assert table.task.exact and table.label.tolist() == LABEL.tolist()


def test_predictions_that_contradict_texts_are_named(tmp_path: Path) -> None:
    said = {f"text_{name}": ["Yes"] + ["no"] * (ROWS - 1) for name in OUTPUTS}
    said |= {f"prediction_{name}": np.r_[1, 1, 1, np.zeros(ROWS - 3, int)] for name in OUTPUTS}
    table = load_table(write(tmp_path, OWN, **said), costs="own", label_names=["no", "yes"])
    assert table.predictions[:4, 0].tolist() == [1, 1, 1, 0]  # "Yes" is no label word, and so contradicts nothing
    expected = (
        "The column prediction_swift counts, not text_swift, which means another answer in 2 of 400 rows, first "
        "'no' in row 1."
    )
    assert expected in table.settings["remarks"]
