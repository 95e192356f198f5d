"""Printed numbers agree with each other as the papers say, so that a slip in copying shows."""

from statistics import mean

import pytest

from dial.costs.printed import BERT_BASE_FLOPS, COLUMNS, REDUCTION, UNITS, Printed, printed_rows, read_printed, select
from dial.costs.published import CONVENTIONS

ROWS = printed_rows()


def rows_of(paper: str, table: str, **wanted: object) -> list[Printed]:
    rows = [row for row in ROWS if (row.paper, row.table) == (paper, table)]
    return [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]


def test_each_number_is_there_once() -> None:
    keys = [(row.paper, row.table, row.row, row.task, row.metric, row.value, row.convention) for row in ROWS]
    assert len(set(keys)) == len(keys)


def test_e_lang_s_speed_ups_follow_from_its_flops() -> None:
    """Table 4 prints 21.8 over the FLOPs of each task, and the mean of these ratios; Table 5 is told in the text."""
    counted = {row.task: row for row in rows_of("E-LANG", "4", row="E-LANG") if row.convention in CONVENTIONS}
    ratios = {row.task: row.cost for row in rows_of("E-LANG", "4", row="E-LANG", convention="speedup")}
    assert len(counted) == len(ratios) == 9
    for task, row in counted.items():
        assert task == "mean" or 21.8e9 / row.cost == pytest.approx(ratios[task], abs=0.06)
    single = [task for task in ratios if task not in ("mean", "mnli_mismatched")]
    assert mean(counted[task].cost for task in single) == pytest.approx(counted["mean"].cost, abs=0.06e9)
    assert mean(ratios[task] for task in single) == pytest.approx(ratios["mean"], abs=0.06)
    told = {"mnli_matched": 1.7, "sst2": 3.1, "qqp": 2.6}
    for task, ratio in told.items():
        costs = {row.row.split()[0]: row.cost for row in rows_of("E-LANG", "5", task=task) if "Swift" not in row.row}
        assert costs["DynaBERT"] / costs["E-LANG"] == pytest.approx(ratio, abs=0.06)


def test_e_lang_s_speed_ups_with_t5() -> None:
    """Table 1 prints 87 over the FLOPs of each task; Tables 2 and 3 print some of its rows again."""
    costs = {row.task: row for row in rows_of("E-LANG", "1", row="E-LANG", convention="as_printed")}
    ratios = rows_of("E-LANG", "1", row="E-LANG", convention="speedup")
    assert len(costs) == len(ratios) == 14
    for row in ratios:
        assert 87e11 / costs[row.task].cost == pytest.approx(row.cost, abs=0.06)
    again = [*rows_of("E-LANG", "2", row="energy of the encoder"), *rows_of("E-LANG", "3", row="E-LANG")]
    for row in again:
        assert row.value == costs[row.task].value
        # Of SST-2 Table 2 prints 32.0, where Tables 1 and 3 have 29.5.
        assert row.cost == costs[row.task].cost or (row.table, row.task, row.cost) == ("2", "sst2", 32.0e11)
    assert len(again) == 9 and all(row.flops is None for row in again)


def test_e_lang_s_averages_are_those_of_its_rows() -> None:
    """Over eight numbers, MNLI matched and mismatched each counted. The Swift's own are 79.7, and 78.5 is printed."""
    for name in ("BERT-base (Super)", "SqueezeBERT", "DynaBERT", "TinyBERT", "E-LANG"):
        rows = rows_of("E-LANG", "4", row=name)
        values = {row.task: row.value for row in rows if row.metric in ("accuracy", "mcc")}
        printed = {row.value for row in rows if row.metric == "mean"}
        assert len(values) == 8 and len(printed) == 1
        assert mean(values.values()) == pytest.approx(printed.pop(), abs=0.06)


def test_tangobert_s_speed_ups_follow_from_its_throughput() -> None:
    """Table 3 prints both, the throughput in whole rows: the ratio lies within what their rounding allows."""
    for kept, share in ((99, 0.99), (98, 0.98)):
        for row in rows_of("TangoBERT", "3", convention="speedup_time"):
            if f"@{kept}" not in row.row:
                continue
            (ours,) = rows_of("TangoBERT", "3", row=row.row, task=row.task, convention="rows_per_second")
            alone_name = row.row.replace(f"TangoBERT@{kept}", "second tier")
            (alone,) = rows_of("TangoBERT", "3", row=alone_name, task=row.task, convention="rows_per_second")
            assert (
                (ours.cost - 0.5) / (alone.cost + 0.5) - 0.05
                <= row.cost
                <= (ours.cost + 0.5) / (alone.cost - 0.5) + 0.05
            )
            assert row.value == pytest.approx(share * alone.value, abs=0.15)


def test_tangobert_prints_what_its_text_says() -> None:
    """Section 6.1: 1.5 to 4.3 at 99 %, 1.5 to 6.1 at 98 %, DeeBERT 1.2 to 1.5 and 1.3 to 1.8."""
    for name, kept, ends in (
        ("TangoBERT", 99, (1.5, 4.3)),
        ("TangoBERT", 98, (1.5, 6.1)),
        ("DeeBERT", 99, (1.2, 1.5)),
        ("DeeBERT", 98, (1.3, 1.8)),
    ):
        costs = [row.cost for row in rows_of("TangoBERT", "2", value=kept) if row.row.split(",")[0] == name]
        assert (min(costs), max(costs)) == ends
        assert len(costs) == (6 if name == "TangoBERT" else 5)


def test_cost_eff_s_differences_on_simple_rows() -> None:
    """Table 3 prints in brackets by how much simple rows differ from all."""
    told = {"TinyBERT4": (0.4, -3.1, 0.0), "COST-EFF 8x": (0.9, 1.7, 0.1)}
    for name, differences in told.items():
        for task, difference in zip(("sst2", "mrpc", "qnli"), differences, strict=True):
            (simple,) = rows_of("COST-EFF", "3", row=f"{name}, simple rows", task=task)
            (whole,) = rows_of("COST-EFF", "3", row=name, task=task)
            assert simple.value - whole.value == pytest.approx(difference, abs=0.01)


def test_flops_of_every_way_of_counting() -> None:
    base = [row for row in ROWS if "BERT-base" in row.row and row.flops is not None]
    assert {row.paper for row in base} == {"E-LANG", "COST-EFF"}
    assert all(row.flops == pytest.approx(BERT_BASE_FLOPS, rel=0.002) for row in base)
    (slender,) = rows_of("COST-EFF", "3", row="COST-EFF 8x", task="sst2")
    assert slender.convention == REDUCTION and slender.flops == BERT_BASE_FLOPS / 19.0
    assert all(row.flops is None and row.point() is None for row in ROWS if row.convention in UNITS)


def test_what_is_asked_for_is_chosen() -> None:
    rows = select(["e-lang:5", "cost-eff"], "mnli")
    assert {row.task for row in rows} == {"mnli_matched"} and {row.table for row in rows} == {"3", "5"}
    with pytest.raises(ValueError, match=r"`published` must be papers or tables among cost-eff:3, .*'e-lang:9'"):
        select(["e-lang:9"], "sst2")
    with pytest.raises(ValueError, match=r"`task` must be one that e-lang:5 prints \(mnli_matched, qqp, sst2\)"):
        select(["e-lang:5"], "cola")


def test_damaged_rows_are_named(tmp_path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{','.join(COLUMNS)}\nA,1,b,sst2,accuracy,90,1e9,gflop,,\n")
    with pytest.raises(ValueError, match=r"a.csv`, line 2: a cost needs one of mac, .* but got '1e9' and 'gflop'"):
        list(read_printed(path))
    path.write_text("paper,value\nA,1\n")
    with pytest.raises(ValueError, match="must have the columns paper, table, row"):
        list(read_printed(path))
