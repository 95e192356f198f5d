import dataclasses
import itertools
import json
import shutil

import numpy as np
import pyarrow.csv
import pytest

from dial.cli.tables import CompareCommand
from dial.costs.published import flops_of, read_points
from dial.report.compare import Comparison, pareto_hull, read_run
from dial.report.report import SweepSettings, build_report
from tests.stages.population import logits_table

SETTINGS = SweepSettings(scores=("softmax", "energy"), bootstrap=100, targets=(0.99, 0.98))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, strengths in (("a", (1.2, 2.5)), ("b", (0.8, 2.0))):
        build_report(logits_table(200, seed=1, strengths=strengths), SETTINGS).write(folder / name / "sweep")
    table = dataclasses.replace(logits_table(200, seed=1), metrics=("mcc",))
    build_report(table, SETTINGS).write(folder / "mcc" / "sweep")
    return folder


def naive_hull(flops, quality):
    """Points that no mixture of two others (and no cheaper single point) reaches or beats."""
    kept = []
    for k, (x, y) in enumerate(zip(flops, quality, strict=True)):
        others = [i for i in range(len(flops)) if i != k]
        beaten = any(flops[i] <= x and quality[i] >= y and (flops[i], quality[i]) != (x, y) for i in others)
        for i, j in itertools.permutations(others, 2):
            if flops[i] < x < flops[j]:
                share = (x - flops[i]) / (flops[j] - flops[i])
                beaten |= quality[i] + share * (quality[j] - quality[i]) >= y
        if not beaten:
            kept.append(k)
    return sorted(kept, key=lambda k: flops[k])


@pytest.mark.parametrize("seed", range(5))
def test_hull_is_what_no_mixture_beats(seed):
    rng = np.random.default_rng(seed)
    flops = rng.random(25)
    quality = np.sqrt(flops) + 0.2 * rng.random(25)
    assert pareto_hull(flops, quality).tolist() == naive_hull(flops, quality)


def test_hull_of_equal_costs_and_single_points():
    assert pareto_hull(np.array([1.0, 1.0, 1.0]), np.array([0.2, 0.5, 0.3])).tolist() == [1]
    assert pareto_hull(np.array([2.0]), np.array([0.2])).tolist() == [0]


def test_conventions_are_converted_to_two_flops_a_multiply_add():
    assert flops_of(11.174e9, "mac") == pytest.approx(22.348e9)
    assert flops_of(22.35e9, "flop") == 22.35e9
    per_layer_all = 2 * (12 * 128 * 768**2 + 2 * 128**2 * 768)
    per_layer_without = 2 * 12 * 128 * 768**2
    assert flops_of(12 * per_layer_without, "flop_without_attention") == pytest.approx(12 * per_layer_all)
    per_layer_norms = 2 * 2 * 5 * 128 * 768
    published = 12 * (per_layer_without + per_layer_norms)
    assert flops_of(published, "flop_without_attention_with_norm") == pytest.approx(12 * per_layer_all)
    assert flops_of(1.0, "flop_without_attention", length=512, hidden=1024) == pytest.approx(1 + 512 / 6144)
    with pytest.raises(ValueError, match="`convention` must be one of mac, flop, flop_without_attention"):
        flops_of(1.0, "gflop")


def test_points_are_read_from_csv_and_json(tmp_path):
    rows = [
        {"name": "one", "quality": 93.0, "cost": 1e9, "convention": "mac"},
        {
            "name": "two",
            "quality": 90,
            "cost": 2e9,
            "convention": "flop_without_attention",
            "length": 64,
            "hidden": 512,
        },
    ]
    (tmp_path / "points.json").write_text(json.dumps(rows))
    header = "name,quality,cost,convention,length,hidden\n"
    (tmp_path / "points.csv").write_text(header + "one,93.0,1e9,mac,,\ntwo,90,2e9,flop_without_attention,64,512\n")
    for name in ("points.json", "points.csv"):
        one, two = read_points(tmp_path / name)
        assert (one.name, one.quality, one.flops) == ("one", 0.93, 2e9)
        assert two.quality == 0.9
        assert two.flops == pytest.approx(2e9 * (1 + 64 / (6 * 512)))
    (tmp_path / "fractions.csv").write_text("name,quality,cost,convention\none,0.93,1e9,flop\n")
    assert read_points(tmp_path / "fractions.csv")[0].quality == 0.93


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,quality,cost\none,90,1e9\n", "point 1 of .* lacks convention"),
        ("name,quality,cost,convention\none,90,1e9,mac\ntwo,high,1e9,mac\n", "point 2"),
        ("name,quality,cost,convention\none,90,1e9,gmac\n", "`convention` must be one of"),
        ("", "at least one point"),
    ],
)
def test_bad_points_name_the_line(tmp_path, text, message):
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_points(tmp_path / "points.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [('["one"]', "must hold objects"), ('[{"name": "a", "quality": [1], "cost": 1, "convention": "mac"}]', "point 1")],
)
def test_bad_json_points_are_refused(tmp_path, content, message):
    (tmp_path / "points.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_points(tmp_path / "points.json")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="`points` must be a CSV or JSON file"):
        read_points(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="`runs` must be folders"):
        read_run(tmp_path)


def test_run_is_read_from_its_folder_or_its_sweep_folder(runs):
    run, same = read_run(runs / "a"), read_run(runs / "a" / "sweep")
    np.testing.assert_array_equal(run.flops, same.flops)
    stages = run.result.stages
    assert run.flops[0] == pytest.approx(2 * stages[0].macs)
    assert run.quality[-1] == pytest.approx(stages[-1].quality["accuracy"])
    assert read_run(runs / "a", score="energy").score == "energy"
    with pytest.raises(ValueError, match="`score` must be one of softmax, energy, random"):
        read_run(runs / "a", score="margin")
    with pytest.raises(ValueError, match="`split` must be one of test"):
        read_run(runs / "a", split="dev")


def test_metrics_must_agree(runs):
    with pytest.raises(ValueError, match="`runs` must have one primary metric, but got a: accuracy, mcc: mcc"):
        Comparison([read_run(runs / "a"), read_run(runs / "mcc")])


def test_runs_on_other_rows_of_the_same_number_are_said_to_be(runs, tmp_path, capsys):
    table = logits_table(200, seed=1)
    shifted = dataclasses.replace(table, sample_id=table.sample_id + 10_000)
    build_report(shifted, SETTINGS).write(tmp_path / "c")
    warning = "measured on different rows"
    pairs = {"b": (runs / "a", runs / "b"), "c": (runs / "a", tmp_path / "c")}
    for name, (one, other) in pairs.items():
        assert CompareCommand.main([str(one), str(other), "--out", str(tmp_path / f"with-{name}")]) == 0
        assert (warning in capsys.readouterr().out) == (name == "c")
        assert json.loads((tmp_path / f"with-{name}/compare.json").read_text())["same_rows"] == (name == "b")
    (tmp_path / "c/stages.parquet").unlink()  # nothing tells the rows any more
    assert warning not in Comparison([read_run(runs / "a"), read_run(tmp_path / "c")]).text()


def test_unreadable_results_are_named(runs, tmp_path):
    shutil.copytree(runs / "a", tmp_path / "a")
    (tmp_path / "a/sweep/summary.json").write_text('{"metrics": ')
    with pytest.raises(ValueError, match=r"`runs` must lead to readable files, but .*summary.json is damaged"):
        read_run(tmp_path / "a")


def test_command_writes_plot_table_and_hull_with_published_points(runs, tmp_path, capsys):
    run = read_run(runs / "a")
    best = 100 * run.quality.max() + 0.5
    (tmp_path / "points.csv").write_text(
        f"name,quality,cost,convention\ngood,{best},{run.flops[0] / 2},mac\npoor,1.5,{run.flops[-1]},flop\n"
    )
    arguments = [
        str(runs / "a"),
        str(runs / "b"),
        "--points",
        str(tmp_path / "points.csv"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert CompareCommand.main(arguments) == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert " yes" in lines["good"]
    assert " yes" not in lines["poor"]
    assert "[" in lines["a"]
    hull = pyarrow.csv.read_csv(tmp_path / "out" / "compare.csv").to_pandas()
    assert hull["name"].tolist()[-1] == "good"
    assert (np.diff(hull["flops"]) > 0).all()
    assert (tmp_path / "out" / "compare.png").read_bytes()[:4] == b"\x89PNG"
    rows = json.loads((tmp_path / "out" / "compare.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["a", "b", "good", "poor"]
    assert CompareCommand.main(arguments) == 0  # the same again: fine
    with pytest.raises(ValueError, match="`--out` must be a new folder"):
        CompareCommand.main([str(runs / "a"), "--out", str(tmp_path / "out")])
    with pytest.raises(ValueError, match="`--out` must be a new folder"):
        CompareCommand.main([str(runs / "a"), "--out", str(runs / "a" / "sweep")])


def test_runs_of_one_name_are_told_apart(runs):
    names = Comparison([read_run(runs / "a"), read_run(runs / "a" / "sweep"), read_run(runs / "b" / "sweep")]).names
    assert len(set(names)) == 3


def test_printed_numbers_are_laid_over(runs, tmp_path, capsys):
    """Counts of FLOPs become points of the runs' metric; times, ratios and other metrics are told below the table."""
    chosen = ["--published", "e-lang:4", "tangobert:3", "--task", "sst2", "--out", str(tmp_path / "out")]
    assert CompareCommand.main([str(runs / "a"), *chosen]) == 0
    content = json.loads((tmp_path / "out/compare.json").read_text())
    rows = {row["name"]: row for row in content["rows"]}
    assert rows["E-LANG 4: E-LANG"]["quality"] == pytest.approx(0.937)
    assert rows["E-LANG 4: E-LANG"]["flops"] == pytest.approx(flops_of(6.3e9, "flop_without_attention_with_norm"))
    assert "E-LANG 4: ELECTRA" not in rows and not any(name.startswith("TangoBERT") for name in rows)
    told = capsys.readouterr().out.partition("Printed in another metric")[2]
    assert "TangoBERT 3: TangoBERT@99, best batch sizes: accuracy 94.9, 4.8 times as fast" in told
    assert "E-LANG 4: ELECTRA: accuracy 88.3, 3.7e+09 FLOPs as printed" in told
    assert len(content["printed"]) == len([line for line in told.splitlines() if line.startswith("  ")])
    with pytest.raises(ValueError, match="`--task` must be one that e-lang:4 prints"):
        CompareCommand.main([str(runs / "a"), "--published", "e-lang:4"])
    with pytest.raises(ValueError, match="`--task` says whose numbers `--published` are"):
        CompareCommand.main([str(runs / "a"), "--task", "sst2"])
