"""Reports of multi-exit models: compression, simple instances, patience, the quality of each exit."""

import dataclasses

import numpy as np
import pytest

from dial.cli.tables import CompareCommand, SweepCommand
from dial.report.compare import Comparison
from dial.report.figures.exits import compare_exits_figure, exits_figure
from dial.report.report import SweepSettings, build_report
from dial.report.runs import read_run
from dial.stages.table import StageTable
from tests.stages.exits import exits_table
from tests.stages.population import logits_table

QUICK = SweepSettings(scores=("entropy",), bootstrap=100, targets=(0.99, 0.95), patience=(2,))
LAYERS = (1, 2, 4, 6)


@pytest.fixture(scope="module")
def table():
    return exits_table(150, seed=1, layers=LAYERS)


@pytest.fixture(scope="module")
def report(table):
    return build_report(table, QUICK)


def last_stage(table: StageTable) -> StageTable:
    """The same model with its last exit alone."""
    kept = ("outputs", "predictions", "decide_macs", "macs")
    scores = {name: values[:, -1:] for name, values in table.scores.items()}
    columns = {name: getattr(table, name)[:, -1:] for name in kept}
    return dataclasses.replace(table, stages=table.stages[-1:], scores=scores, **columns)


@pytest.fixture(scope="module")
def runs(table, report, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    report.write(folder / "exits" / "sweep")
    build_report(logits_table(150, seed=3), dataclasses.replace(QUICK, patience=())).write(folder / "cascade")
    build_report(last_stage(table), dataclasses.replace(QUICK, patience=())).write(folder / "single")
    return folder


def test_compression_is_that_of_all_parameters_and_of_those_beside_the_embeddings(report):
    assert report.summary["compression"] == {
        "model": {"parameters": 5e6, "unpruned": 20e6, "factor": 4.0, "factor_without_embeddings": 8.0}
    }
    (line,) = [line for line in report.text().splitlines() if line.split()[:1] == ["model"]]
    assert line.split() == ["model", "5.00", "M", "20.0", "M", "4.00×", "8.00×"]


def test_simple_instances_are_the_rows_shorter_than_the_median(report, table):
    test = table.of_split("test")
    lengths = sorted(test.lengths["model"].tolist())
    median = (lengths[74] + lengths[75]) / 2
    rows = [i for i in range(150) if test.lengths["model"][i] < median]
    result = report.summary["splits"]["test"]
    simple = result["simple"]
    assert (simple["rows"], simple["median"], simple["tier"]) == (len(rows), median, "model")
    for stage, found in enumerate(simple["stages"]):
        right = sum(int(test.predictions[i, stage] == test.label[i]) for i in rows)
        assert found["quality"] == pytest.approx(right / len(rows))
    assert {(p["kind"], p["target"]) for p in simple["points"]} == {
        (kind, target) for kind in ("expected", "confident") for target in (0.99, 0.95)
    }
    for found in simple["points"]:
        (whole,) = [
            p
            for p in result["points"]
            if (p["score"], p["kind"], p["target"]) == ("entropy", found["kind"], found["target"])
        ]
        right, cost, reference = 0, 0.0, 0.0
        for i in rows:
            scores, limits = test.scores["entropy"][i], [float(t) for t in whole["thresholds"]]
            stage = next((s for s in range(3) if scores[s] >= limits[s]), 3)
            right += int(test.predictions[i, stage] == test.label[i])
            cost, reference = cost + test.macs[i, stage], reference + test.macs_reference[i]
        assert found["quality"] == pytest.approx(right / len(rows))
        assert found["kept"] == pytest.approx(right / len(rows) / simple["stages"][-1]["quality"])
        assert found["speedup"] == pytest.approx(reference / cost)
        low, high = found["speedup_interval"]
        assert low <= found["speedup"] <= high
    assert f"Simple instances: {len(rows)} rows of fewer than {median:g} tokens" in report.text()


def test_rows_of_one_length_have_no_simple_ones(table):
    same = dataclasses.replace(table, lengths={"model": np.full(len(table), 9)})
    report = build_report(same, QUICK)
    assert report.summary["splits"]["test"]["simple"]["rows"] == 0
    assert "Simple instances" not in report.text() and "exits.png" in report.figures()


def test_the_text_has_patience_and_what_it_was_asked_for(report):
    text = report.text()
    table = text[text.index("Operating points of patience") :].split("\n\n")[0].splitlines()[2:]
    assert [line.split()[:2] for line in table if line.split()[1] != "given"] == [
        [target, kind] for target in ("99", "95") for kind in ("expected", "confident", "in-sample")
    ]
    (given,) = [line.split() for line in table if line.split()[:2] == ["as", "given"]]
    assert given[2] == "2"


def test_a_cascade_without_exits_says_nothing_of_all_this():
    report = build_report(logits_table(60, seed=2), dataclasses.replace(QUICK, patience=()))
    assert report.summary["compression"] == {} and exits_figure(report.results) is None
    assert not any(word in report.text() for word in ("Compression", "Simple instances", "patience"))


def test_exits_are_drawn_at_their_layers_with_their_quality(report):
    made = report.figures()
    (axis,) = made["exits.png"].axes
    stages = report.summary["splits"]["test"]["stages"]
    lines = {str(line.get_label()): line for line in axis.lines}
    assert lines["all rows"].get_xdata().tolist() == list(LAYERS)
    assert lines["all rows"].get_ydata() == pytest.approx([100 * s["quality"]["accuracy"] for s in stages])
    simple = report.summary["splits"]["test"]["simple"]["stages"]
    assert list(lines["shorter than the median"].get_ydata()) == pytest.approx([100 * s["quality"] for s in simple])


def test_nobody_measured_the_reference_of_a_model_with_exits(report):
    (axis, *_) = report.figures()["curve.png"].axes
    assert not any("alone" in text.get_text() for text in axis.texts)
    assert axis.get_xlabel() == "mean cost per row, % of the encoder unpruned, without exits"
    costs = [line.get_xdata().max() for line in axis.lines if line.get_label() == "entropy"]
    assert axis.get_xlim()[1] < 1.5 * costs[0] < 100


def test_runs_with_and_without_exits_are_compared(runs):
    comparison = Comparison([read_run(runs / name) for name in ("exits", "cascade", "single")])
    (axis,) = compare_exits_figure(comparison.runs).axes
    lines = {str(line.get_label()): line for line in axis.lines}
    assert lines["exits"].get_xdata().tolist() == list(LAYERS)
    for name in ("cascade", "single"):
        assert set(lines[name].get_ydata()) == {100 * read_run(runs / name).best}
    rows = {row["name"]: row for row in comparison.rows}
    # The cost of the model, not of the unpruned one that it was made from, whose quality nobody knows.
    stages = read_run(runs / "exits").result.stages
    assert rows["exits"]["flops"] == pytest.approx(2 * stages[-1].macs)
    assert rows["exits"]["quality"] == stages[-1].quality["accuracy"]
    assert rows["cascade"]["flops"] == pytest.approx(2 * read_run(runs / "cascade").result.reference_macs)
    assert compare_exits_figure([read_run(runs / "cascade")]) is None


def test_a_run_can_be_compared_by_patience(runs, tmp_path, capsys):
    names = [f"{runs}/exits@patience", str(runs / "single")]
    assert CompareCommand.main([*names, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/compare_exits.png").read_bytes()[:4] == b"\x89PNG"
    patience, entropy = read_run(names[0]), read_run(runs / "exits")
    assert (patience.score, entropy.score) == ("patience", "entropy") and len(patience.flops) <= 5 < len(entropy.flops)
    assert "patience" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"`score` must be one of entropy, random, patience of .*'margin'"):
        read_run(f"{runs}/exits@margin")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--patience", "0"], r"`--patience` must be at least 1"),
        (
            ["--patience", "4"],
            r"`--patience` must be from 1 to 3, as 4 exits agree at most 3 times in a row, but got 4",
        ),
        (["--tolerance", "-1"], r"`--tolerance` must be 0 or more, but got -1"),
        (["--tolerance", "0.5"], r"`--tolerance` is for regression"),
        (["--scores", "learned"], r"`--scores` .*'learned', which only a model that learnt to exit"),
    ],
)
def test_dial_sweep_refuses_what_cannot_be(runs, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        SweepCommand.main([str(runs / "exits/sweep/stages.parquet"), *arguments, "--out", str(tmp_path / "out")])
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
