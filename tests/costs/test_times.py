"""The table of measured times: interpolation, cascades, grouping, and what a sweep makes of it."""

import json
from pathlib import Path

import numpy as np
import pytest

from dial.cli.tables import SweepCommand
from dial.costs.times import TierTimes, TimeTable, grouped_lengths
from dial.stages.parquet import save_table
from dial.stages.stage import Stage
from dial.stages.table import StageTable
from dial.tradeoff.calibration import Chooser
from tests.stages.tables import random_table


def tier(name: str, slope: float, exits: int = 1, sizes: tuple[int, ...] = (1, 8)) -> TierTimes:
    """Exit e at batch size b takes slope * (e + 1) * (2 + length) / b."""
    lengths = (4, 10, 30)
    values = {b: np.array([[slope * (e + 1) * (2 + n) / b for n in lengths] for e in range(exits)]) for b in sizes}
    return TierTimes(name, lengths, values)


def test_straight_between_measured_lengths_level_below_and_going_on_above() -> None:
    times = tier("f", 0.5)
    assert times.at(0, [4, 7, 10, 20, 30, 40], 1).tolist() == pytest.approx([3, 4.5, 6, 11, 16, 21])
    assert times.at(0, [1, 3], 1).tolist() == [3, 3]
    assert times.at(0, [[10]], 8).tolist() == [[pytest.approx(0.75)]]
    with pytest.raises(ValueError, match=r"`batch_sizes` must be among those that were measured \(1, 8\), but got 4"):
        times.at(0, [4], 4)


def test_a_disturbed_measurement_does_not_make_longer_rows_cheaper() -> None:
    times = TierTimes("f", (4, 8, 16), {1: np.array([[1.0, 5.0, 3.0]])})
    assert times.at(0, [4, 8, 16], 1).tolist() == [1, 4, 4]


@pytest.mark.parametrize("lengths", [(), (4, 4), (8, 4), (0, 3)])
def test_lengths_ascend(lengths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="`lengths` must be one or more ascending"):
        TierTimes("f", lengths, {1: np.ones((1, len(lengths)))})


def test_times_are_positive() -> None:
    with pytest.raises(ValueError, match="`milliseconds` of batch size 1 must be positive"):
        TierTimes("f", (4, 8), {1: np.array([[1.0, float("nan")]])})


def test_a_stage_costs_all_tiers_before_it_and_its_own_path() -> None:
    times = TimeTable({"a": tier("fa", 0.1), "b": tier("fb", 1.0, exits=2)}, {"a": 8, "b": 1})
    stages = [Stage("a", "a"), Stage("b.one", "b", 0), Stage("b.two", "b", 1)]
    lengths = {"a": np.array([5, 9]), "b": np.array([7, 12])}
    found = times.stage_times(stages, lengths, {"a": 8, "b": 1})
    for row in range(2):
        first = 0.1 * (2 + lengths["a"][row]) / 8
        exits = [(e + 1) * (2 + lengths["b"][row]) for e in range(2)]
        assert found[row].tolist() == pytest.approx([first, first + exits[0], first + exits[1]])
    assert np.array_equal(found, times.stage_times(stages, lengths))  # the best sizes are the default


def test_grouping_pads_to_the_longest_of_each_batch_in_order_of_length() -> None:
    lengths = np.random.default_rng(0).integers(3, 40, 53)
    found = grouped_lengths(lengths, 8)
    ranked = sorted(range(53), key=lambda row: lengths[row])
    for start in range(0, 53, 8):
        batch = ranked[start : start + 8]
        assert {found[row] for row in batch} == {max(lengths[row] for row in batch)}
    assert np.array_equal(grouped_lengths(lengths, 1), lengths)


def stages_table(rows: int = 60) -> tuple[StageTable, TimeTable]:
    table = random_table(rows, splits=("calibration", "test")).with_scores(["softmax"])
    known = {name: {"fingerprint": f"f-{name}"} for name in table.stage_names}
    table.settings["tiers"] = known
    table.settings["reference"] = "tier1"
    tiers = {"tier0": tier("f-tier0", 0.02), "tier1": tier("f-tier1", 1.0)}
    return table, TimeTable(tiers, {"tier0": 8, "tier1": 8}, {"processor": "some", "threads": 2})


def test_a_timed_table_costs_what_batches_of_its_own_split_take() -> None:
    table, times = stages_table()
    timed = times.timed(table)
    for split in table.splits:
        rows = np.flatnonzero(table.split == split)
        padded = {name: grouped_lengths(table.lengths[name][rows], 8) for name in table.stage_names}
        for place, row in enumerate(rows):
            first = times.row_times("tier0", 0, padded["tier0"][place], 8)
            second = times.row_times("tier1", 0, padded["tier1"][place], 8)
            assert timed.macs[row].tolist() == pytest.approx([first, first + second])
            assert timed.macs_reference[row] == pytest.approx(second)
    alone = times.timed(table, 1)
    assert alone.macs[3, 0] == pytest.approx(0.02 * (2 + max(4, table.lengths["tier0"][3])))
    assert timed.settings["unit"] == "milliseconds per row" and "unit" not in table.settings


def test_the_mean_time_groups_only_the_rows_that_get_to_a_tier() -> None:
    times = TimeTable({"a": tier("fa", 0.1, exits=2), "b": tier("fb", 1.0)}, {"a": 8, "b": 1})
    stages = [Stage("a.one", "a", 0), Stage("a.two", "a", 1), Stage("b", "b", 0)]
    random = np.random.default_rng(0)
    lengths = {name: random.integers(4, 30, 41) for name in ("a", "b")}
    taken = random.integers(0, 3, 41)
    total = 0.0
    for name, first, last, size in (("a", 0, 1, 8), ("b", 2, 2, 8)):
        rows = sorted((row for row in range(41) if taken[row] >= first), key=lambda row: lengths[name][row])
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            longest = max(lengths[name][row] for row in batch)
            for row in batch:
                exit_index = min(taken[row], last) - first
                alone = times.row_times(name, exit_index, longest, 1)
                full = times.row_times(name, exit_index, longest, size)
                total += (alone + (len(batch) - 1) / (size - 1) * (size * full - alone)) / len(batch)
    assert times.mean_time(stages, lengths, taken, 8) == pytest.approx(total / 41)


def test_a_small_batch_lies_between_those_that_were_measured() -> None:
    measured = {2: np.array([[4.0, 8.0]]), 6: np.array([[2.0, 4.0]])}  # whole batches: 8 and 12, 16 and 24
    times = TierTimes("f", (10, 20), measured)
    assert times.in_batch_of(0, [10, 20], 2).tolist() == [4.0, 8.0]
    assert times.in_batch_of(0, [10, 20], 6).tolist() == [2.0, 4.0]
    np.testing.assert_allclose(times.in_batch_of(0, [10, 20, 15], 4), [10 / 4, 20 / 4, 15 / 4])
    assert times.in_batch_of(0, 10, 1) == 4.0 and times.in_batch_of(0, 10, 9) == 2.0


def test_a_point_is_chosen_for_time() -> None:
    """Where the first tier takes longer than the second, no budget in time is met by asking it first."""
    table, times = stages_table(200)
    slow = TimeTable({"tier0": tier("f-tier0", 2.0), "tier1": times.tiers["tier1"]}, times.batch_sizes)
    for which in (times, slow):
        timed = which.timed(table).of_split("calibration")
        point = Chooser(timed, "softmax").budget(timed.macs.mean())
        assert point.taken(timed).macs.mean() <= timed.macs.mean() + 1e-9
    chosen = Chooser(slow.timed(table).of_split("calibration"), "softmax").expected(0.98)
    assert chosen.only_super  # nothing that asks the slow tier first is worth its time
    assert chosen.macs == pytest.approx(slow.timed(table).of_split("calibration").macs_reference.mean())


def test_times_of_other_tiers_are_refused() -> None:
    table, times = stages_table()
    table.settings["tiers"]["tier1"]["fingerprint"] = "other"
    with pytest.raises(ValueError, match="tier1 has the fingerprint other there and f-tier1 in the times"):
        times.timed(table)
    with pytest.raises(ValueError, match="not of tier0"):
        TimeTable({"tier1": tier("f", 1.0)}, {"tier1": 1}).timed(table)


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    _, times = stages_table()
    times.save(tmp_path / "times.json")
    again = TimeTable.load(tmp_path / "times.json")
    assert again.to_json() == times.to_json() and again.machine == {"processor": "some", "threads": 2}
    (tmp_path / "times.json").write_text(json.dumps(times.to_json() | {"schema": 2}))
    with pytest.raises(ValueError, match="schema 1"):
        TimeTable.load(tmp_path / "times.json")
    with pytest.raises(ValueError, match=r"`times` must be a file that the study left, but .*none.json cannot be read"):
        TimeTable.load(tmp_path / "none.json")
    for content in (b"[]", b"PAR1\xff", b"{", json.dumps(times.to_json() | {"tiers": [1]}).encode()):
        (tmp_path / "times.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"`times` must be a file that the study left, but .* cannot be read"):
            TimeTable.load(tmp_path / "times.json")


def test_dial_sweep_chooses_for_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, times = stages_table(200)
    save_table(table, tmp_path / "stages.parquet")
    times.save(tmp_path / "times.json")
    files = [str(tmp_path / "stages.parquet"), "--times", str(tmp_path / "times.json")]
    assert SweepCommand.main([*files, "--scores", "softmax", "--bootstrap", "100", "--budgets", "2"]) == 0
    said = capsys.readouterr().out
    assert "costs are ms per row" in said and "ms to here" in said and "MAC" not in said and "2 ms" in said
    summary = json.loads((tmp_path / "stages-times" / "summary.json").read_text())
    wanted = times.timed(table).of_split("test").macs_reference.mean()
    assert summary["splits"]["test"]["reference_macs"] == pytest.approx(wanted)
    with pytest.raises(ValueError, match="`--batch-size` needs `--times`"):
        SweepCommand.main([files[0], "--batch-size", "4"])
