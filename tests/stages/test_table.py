import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from dial.stages.scores import compute
from dial.stages.stage import Stage
from dial.stages.table import StageTable
from tests.stages.tables import random_table, regression_table

SCORES = ["energy", "energy_released", "softmax", "margin", "entropy", "random"]


def test_rows_are_taken_from_every_column() -> None:
    table = random_table(30, 3, splits=("calibration", "test")).with_scores(["energy"])
    table = dataclasses.replace(table, group=np.arange(30) // 2, statistics={"em": table.scores["energy"] > 1})
    assert table.splits == ("calibration", "test")
    part = table.of_split("test")
    rows = [row for row in range(30) if table.split[row] == "test"]
    assert part.sample_id.tolist() == [table.sample_id[row] for row in rows]
    assert part.splits == ("test",)
    again = table.take(np.array(rows))
    for one in (part, again):
        for item in dataclasses.fields(StageTable):
            value = getattr(table, item.name)
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(getattr(one, item.name), value[rows], err_msg=item.name)
            elif isinstance(value, dict) and item.name != "settings":
                for key in value:
                    np.testing.assert_array_equal(getattr(one, item.name)[key], value[key][rows])
            else:
                assert getattr(one, item.name) == value
    with pytest.raises(ValueError, match="`split` must be one of: calibration, test; but got 'tset'"):
        table.of_split("tset")


def test_repeats_of_a_distributed_sampler_are_dropped() -> None:
    table = random_table(13, splits=("calibration", "test"))
    table = dataclasses.replace(table, sample_id=np.r_[0:7, 0:6])  # the splits count their rows separately
    ranks = np.array([12, 3, 4, 8, 7, 3, 0, 1, 2, 3, 9, 10, 11, 5, 6, 12, 0])
    gathered = table.take(ranks)
    assert len(gathered) == 17
    clean = gathered.without_repeats()
    order = [*range(7, 13), *range(7)]  # `test` came first here
    assert list(zip(clean.split.tolist(), clean.sample_id.tolist(), strict=True)) == [
        (table.split[row], table.sample_id[row]) for row in order
    ]
    np.testing.assert_array_equal(clean.outputs, table.outputs[order])
    named = dataclasses.replace(gathered, sample_id=np.char.add("row", gathered.sample_id.astype(str)))
    assert len(named.without_repeats()) == 13


def twice(noise: float, **changes: Any) -> StageTable:
    """300 rows, and the same ids and labels again with outputs that are off by a share of the largest."""
    table = dataclasses.replace(random_table(300), scores={}, **changes)
    again = table.take(np.r_[0:300, 0:300])
    random = np.random.default_rng(1)
    outputs = again.outputs.copy()
    outputs[300:] += noise * np.abs(outputs).max() * random.uniform(-1, 1, size=outputs[300:].shape)
    return dataclasses.replace(again, outputs=outputs)


def test_repeats_may_differ_by_rounding_and_are_counted() -> None:
    """Noise of bf16, 0.4 %, as rows of other batches have it."""
    once = twice(0.004, split=np.repeat(["calibration", "test"], 150)).without_repeats()
    assert len(once) == 300
    assert once.settings["repeats"] == {"calibration": 150, "test": 150}
    assert once.without_repeats().settings["repeats"] == {"calibration": 150, "test": 150}
    assert "repeats" not in random_table(10).without_repeats().settings


def test_rows_with_the_labels_but_not_the_outputs_of_another_are_no_repeats() -> None:
    with pytest.raises(ValueError, match=r"got \d+ with different outputs in split 'test' \(\d\d\d such rows\)"):
        twice(1.0).without_repeats()


def test_what_a_sampler_repeated_may_come_out_otherwise_but_not_be_another_row() -> None:
    """In bf16 another batch may drop another token, and all that follows; ids of data modules are unique."""
    table = twice(1.0)
    with pytest.warns(UserWarning, match=r"\d\d\d of 300 repeated rows have other outputs than in another batch"):
        once = table.without_repeats(sampled=True)
    np.testing.assert_array_equal(once.outputs, table.outputs[:300])  # the first of each
    other = dataclasses.replace(table, label=np.r_[table.label[:300], 1 - table.label[300:]])
    with pytest.raises(ValueError, match="with different labels"):
        other.without_repeats(sampled=True)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"lengths": {"tier0": np.arange(8)}}, "lengths for tier0"),
        ({"predictions": np.r_[[1] * 7, 0][:, None] * [1, 1]}, "predictions"),
        ({"scores": {"trust": np.r_[0:7, 9.0][:, None] * [1, 1]}}, "`trust`"),
        ({"statistics": {"em": np.r_[0:7, 9.0][:, None] * [1, 1]}}, "`em`"),
    ],
    ids=["lengths", "predictions", "own scores", "statistics"],
)
def test_what_else_tells_two_rows_apart(changes: dict[str, Any], what: str) -> None:
    """Rows 3 and 7 of eight have one id."""
    ids = np.array([0, 1, 2, 3, 4, 5, 6, 3])
    table = dataclasses.replace(random_table(8), label=np.ones(8), sample_id=ids, lengths={}, outputs=None)
    table = dataclasses.replace(table, predictions=np.ones((8, 2)))
    with pytest.raises(ValueError, match=f"got 3 with different {what} in split 'test'. Number"):
        dataclasses.replace(table, **changes).without_repeats()


@pytest.mark.parametrize("kind", [int, str])
def test_one_id_of_two_rows_is_no_repeat(kind: type) -> None:
    table = random_table(4)
    table = dataclasses.replace(table, sample_id=np.array([5, 6, 5, 7]).astype(kind), label=np.array([0, 1, 1, 0]))
    with pytest.raises(ValueError, match=r"`sample_id` must be unique .* got 5 with different labels in split 'test'"):
        table.without_repeats()


def test_the_same_id_in_two_splits_is_two_rows() -> None:
    table = dataclasses.replace(random_table(2, splits=("test_matched", "test_mismatched")), sample_id=np.array([7, 7]))
    assert table.without_repeats().splits == ("test_matched", "test_mismatched")


def test_scores_of_the_table_are_those_of_inference() -> None:
    """A tier hands its logits to the score as a tensor; the table recomputes it from what was stored."""
    table = random_table(50, 2, 3).with_scores(SCORES)
    for name in SCORES[:-1]:
        for stage, temperature in enumerate((2.0, 1.0)):  # tier0 has a temperature of its own
            at_inference = compute(name, torch.from_numpy(table.outputs[:, stage]), temperature)
            np.testing.assert_allclose(table.scores[name][:, stage], at_inference.numpy(), rtol=1e-13)


def test_random_scores_follow_the_seed_of_the_table() -> None:
    table = random_table(20)
    first, same = table.with_scores(["random"]), table.with_scores(["random"], seed=3)
    np.testing.assert_array_equal(first.scores["random"], same.scores["random"])
    assert (first.scores["random"] != table.with_scores(["random"], seed=4).scores["random"]).all()
    assert (first.scores["random"][:, 0] != first.scores["random"][:, 1]).all()


def test_scores_that_cannot_be_computed_are_refused() -> None:
    with pytest.raises(ValueError, match="`scores` for regression must be one of: random; but got 'softmax'"):
        regression_table().with_scores(["softmax"])
    without_logits = dataclasses.replace(random_table(), outputs=None)
    assert "random" in without_logits.with_scores(["random"]).scores
    with pytest.raises(ValueError, match=r"without logits must be of: random; but got 'energy'. Add the columns"):
        without_logits.with_scores(["energy"])


def test_types_are_those_promised() -> None:
    table = random_table()
    changed = dataclasses.replace(table, label=table.label.astype(np.float32), outputs=table.outputs.astype(np.float64))
    assert changed.label.dtype == np.int64
    assert changed.outputs.dtype == np.float32
    assert changed.macs.dtype == np.float64
    assert regression_table().predictions.dtype == np.float64
    assert not regression_table().task.exact
    assert table.task.exact


def broken(name: str, row: int, value: float) -> dict[str, np.ndarray]:
    values = np.array(getattr(random_table(), name), dtype=np.float32 if name == "outputs" else np.float64)
    values[row] = value
    return {name: values}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (broken("outputs", 4, np.nan), ["`outputs` must be finite", "tier 'tier0'", "sample_id 13 "]),
        (broken("outputs", 5, -np.inf), ["`outputs` must be finite", "sample_id 16 ", "-inf"]),
        (broken("macs", 2, np.nan), ["`macs` must be finite", "sample_id 7 "]),
        (broken("label", 3, 2), ["`label` must be 0 to 1", "['a', 'b']", "got 2", "sample_id 10 ", "'test'"]),
        (broken("label", 3, -1), ["`label` must be 0 to 1", "-1"]),
        (broken("label", 3, 0.5), ["`label` must be 0 to 1", "0.5"]),
        (broken("label", 3, np.nan), ["`label` must be 0 to 1", "nan"]),
        ({"macs": np.ones((40, 3))}, ["`macs` must have shape (40, 2)", "got (40, 3)"]),
        ({"label": np.zeros(39)}, ["`label` must have shape (40,)", "(39,)"]),
        ({"scores": {"energy": np.zeros(40)}}, ["`scores['energy']` must have shape (40, 2)"]),
        ({"outputs": np.zeros((40, 2, 3))}, ["`outputs` must have one logit for each of the 2 labels", "got 3"]),
        ({"outputs": np.zeros((40, 2))}, ["`outputs` must have shape (40, 2, 2)"]),
        ({"stages": (Stage("a", "a"), Stage("a", "b"))}, ["`stages`", "['a', 'a']"]),
        ({"metrics": ("accuracy", "blue")}, ["`metrics` must name one or more of: accuracy", "'blue'"]),
        ({"metrics": ()}, ["`metrics` must name one or more", "'none'"]),
        ({"metrics": ("pearson",)}, ["`metrics` for classification of 2 classes must be of: accuracy", "'pearson'"]),
        (
            {"metrics": ("macro_f1", "f1"), "label_names": ("a", "b", "c"), "outputs": None},
            [
                "`metrics` for classification of 3 classes must be of: accuracy, macro_f1, mcc, group_accuracy;",
                "'f1'",
                "take macro_f1",
            ],
        ),
    ],
)
def test_bad_tables_are_refused(change: dict, words: list[str]) -> None:
    with pytest.raises(ValueError, match="`") as error:
        dataclasses.replace(random_table(), **change)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


def test_stage_names_fit_into_column_names() -> None:
    with pytest.raises(ValueError, match=r"`name` of a stage must consist of .* but got 'bert base'"):
        Stage("bert base", "bert")


def test_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys; import dial.report.configuration, dial.stages.parquet, dial.tradeoff.curve;"
        "print([name for name in ('torch', 'lightning', 'transformers', 'matplotlib', 'pandas', 'sklearn')"
        " if name in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
