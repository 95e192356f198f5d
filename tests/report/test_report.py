import dataclasses
import json
import os
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from dial.costs.functions import CostFunction, ModelCosts
from dial.report.report import FILES, SweepSettings, build_report, configuration
from dial.stages.parquet import load_table
from dial.tradeoff.calibration import Chooser, folds_of
from dial.tradeoff.events import replay
from tests.stages.population import logits_table
from tests.tradeoff.choosing import choose, chooser_of, crossfitted

QUICK = SweepSettings(scores=("energy", "softmax"), bootstrap=100, targets=(1.0, 0.99, 0.95))


@pytest.fixture(scope="module")
def table():
    return logits_table(300, seed=11)


@pytest.fixture(scope="module")
def report(table):
    return build_report(table, QUICK)


def points(report, split="test", **wanted):
    found = report.summary["splits"][split]["points"]
    return [p for p in found if all(p[key] == value for key, value in wanted.items())]


@pytest.mark.parametrize("kind", ["expected", "confident"])
def test_points_are_chosen_on_calibration_and_measured_on_test(report, table, kind):
    calibration, test = table.of_split("calibration"), table.of_split("test")
    super_quality = (test.predictions[:, 1] == test.label).mean()
    for target in QUICK.targets:
        chosen = choose(calibration, "softmax", target, kind)
        (point,) = points(report, score="softmax", kind=kind, target=target)
        threshold = chosen.rule.thresholds[0]
        stages = np.array([0 if score >= threshold else 1 for score in test.scores["softmax"][:, 0]])
        right = np.mean([test.predictions[i, s] == test.label[i] for i, s in enumerate(stages)])
        cost = np.mean([test.macs[i, s] for i, s in enumerate(stages)])
        cost = test.macs_reference.mean() if chosen.rule.only_super else cost
        assert point["quality"]["accuracy"] == pytest.approx(right)
        assert point["kept"] == pytest.approx(right / super_quality)
        assert point["macs"] == pytest.approx(cost)
        assert point["flops"] == pytest.approx(2 * cost)
        assert point["speedup"] == pytest.approx(test.macs_reference.mean() / cost)
        assert point["swift_ratio"] == pytest.approx((stages == 0).mean())
        assert point["held"] == (right >= target * super_quality - 1e-12)
        low, high = point["speedup_interval"]
        assert low <= point["speedup"] <= high
        assert point["calibration"]["quality"] == pytest.approx(chosen.promise.quality)


def test_speed_up_is_a_ratio_of_means_not_a_mean_of_ratios(report, table):
    (point,) = points(report, score="softmax", kind="expected", target=0.95)
    test = table.of_split("test")
    stages = replay(test.scores["softmax"], np.array([float(t) for t in point["thresholds"]]))
    ratios = (test.macs_reference / test.macs[np.arange(300), stages]).mean()
    assert abs(point["speedup"] - ratios) > 0.1


def test_in_sample_is_chosen_on_test_and_the_difference_is_the_inflation(report, table):
    for target in QUICK.targets:
        (in_sample,) = points(report, score="energy", kind="in_sample", target=target)
        (expected,) = points(report, score="energy", kind="expected", target=target)
        wanted = chooser_of(table.of_split("test"), "energy").expected(target)
        assert in_sample["macs"] == pytest.approx(wanted.promise.macs)
        assert in_sample["held"]
        test, spent = table.of_split("test"), 0.0
        fold = folds_of(test, 5)
        for k in range(5):
            threshold = chooser_of(test.take(fold != k), "energy").expected(target).rule.thresholds[0]
            for row in np.flatnonzero(fold == k):
                stays = test.scores["energy"][row, 0] >= threshold
                spent += test.macs_reference[row] if threshold == np.inf else test.macs[row, 0 if stays else 1]
        fitted = test.macs_reference.sum() / spent  # on the same rows: nothing but the selection differs
        assert expected["selection_inflation"] == pytest.approx(in_sample["speedup"] - fitted)
        assert expected["calibration_shift"] == pytest.approx(expected["speedup"] - fitted)


def test_scores_are_compared_in_pairs_and_identical_ones_said_to_be(table):
    report = build_report(table, dataclasses.replace(QUICK, scores=("energy", "softmax", "margin")))
    result = report.summary["splits"]["test"]
    (pair,) = [p for p in result["pairs"] if (p["first"], p["second"]) == ("energy", "softmax")]
    areas = {entry["score"]: entry["normalised_area"] for entry in result["scores"]}
    assert pair["normalised_area"] == pytest.approx(areas["energy"] - areas["softmax"])
    low, high = pair["normalised_area_interval"]
    assert low <= pair["normalised_area"] <= high
    same = {entry["score"]: entry["same_as"] for entry in result["scores"]}
    assert same == {"energy": [], "softmax": ["threshold/margin"], "margin": ["threshold/softmax"], "random": []}
    assert areas["random"] == 0
    assert "softmax = margin" in report.text()


def test_text_shows_tiers_readings_lines_and_how_it_was_chosen(report):
    text = report.text()
    for part in (
        "swift",
        "super",
        "reference alone",
        "expected",
        "confident",
        "in-sample",
        "random routing",
        "oracle",
        "calibration split (300 rows)",
        "normalised area",
        "Selection inflation",
    ):
        assert part in text
    (point,) = points(report, score="energy", kind="expected", target=0.95)
    low, high = point["speedup_interval"]
    (line,) = [line for line in text.splitlines() if line.split()[:2] == ["95", "expected"]]
    assert f"{point['speedup']:.2f} [{low:.2f}, {high:.2f}]" in line
    assert f"{100 * point['kept']:.1f}" in line
    assert ("yes" if point["held"] else "no") in line.split()
    assert max(map(len, text.splitlines())) < 170


def test_written_files_hold_the_results(report, table, tmp_path):
    report.write(tmp_path / "sweep")
    folder = tmp_path / "sweep"
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)
    assert json.loads((folder / "summary.json").read_text())["splits"]["test"]["rows"] == 300
    exact = pq.read_table(folder / "curve.parquet").to_pandas()
    assert set(exact["score"]) == {"energy", "softmax", "random", "oracle"}
    assert set(exact["split"]) == {"test"}
    energy = exact[exact["score"] == "energy"]
    assert len(energy) == 1 + len(np.unique(table.of_split("test").scores["energy"][:, 0]))
    assert len(pyarrow.csv.read_csv(folder / "curve.csv")) <= 2000 * 4
    again = load_table(folder / "stages.parquet")
    np.testing.assert_array_equal(again.scores["energy"], table.scores["energy"])
    for name in ("curve.png", "scores.png", "shares.png"):
        assert (folder / name).read_bytes()[:4] == b"\x89PNG"
    report.write(folder)  # the same configuration again: fine


def test_what_a_killed_sweep_left_half_written_goes(report, tmp_path):
    scratch = tmp_path / f".curve.{'0a' * 6}.part.csv"
    scratch.touch()
    os.utime(scratch, (1, 1))
    report.write(tmp_path)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_folder_with_other_results_is_refused_and_stays_as_it_is(report, table, tmp_path):
    report.write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = build_report(table, dataclasses.replace(QUICK, seed=1))
    trial = build_report(dataclasses.replace(table, settings={**table.settings, "partial": True}), QUICK)
    for result in (other, trial):
        with pytest.raises(ValueError, match=r"`out` must be a new folder") as caught:
            result.write(tmp_path)
        assert "\n" not in str(caught.value)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_other_rows_of_the_same_number_are_another_configuration(report, table, tmp_path):
    report.write(tmp_path)
    before = (tmp_path / "summary.json").read_bytes()
    other = build_report(dataclasses.replace(table, sample_id=table.sample_id + 100_000), QUICK)
    with pytest.raises(ValueError, match=r"`out` must be a new folder"):
        other.write(tmp_path)
    assert (tmp_path / "summary.json").read_bytes() == before


def test_where_tiers_lie_is_no_part_of_the_configuration(table):
    """A path spelt in another way, or a moved folder; what the tier is tells its fingerprint."""

    def about(place: str, fingerprint: str = "0f", **view: object) -> dict[str, object]:
        return {"path": place, "fingerprint": fingerprint, "view": {"path": place, **view}}

    def with_tier(tier: dict[str, object]) -> str:
        return configuration(replace(table, settings={"tiers": {"swift": tier}}), QUICK)

    before = with_tier(about("runs/a/tier", layers=2))
    assert with_tier(about("/somewhere/runs/a/tier/", layers=2)) == before
    for other in (about("runs/a/tier", "1f", layers=2), about("runs/a/tier", layers=1), about("runs/a/tier")):
        assert with_tier(other) != before


def test_the_order_of_the_rows_is_no_part_of_the_configuration(table):
    turned = np.arange(len(table.label))[::-1]
    named = dataclasses.replace(table, settings={**table.settings, "tiers": {"swift": {}, "super": {}}})
    assert configuration(named, QUICK) == configuration(named.take(turned), QUICK)


def test_a_full_disk_leaves_earlier_results_and_no_half_file(report, tmp_path, monkeypatch):
    report.write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        report.write(tmp_path)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_partial_results_are_marked_unchecked_and_give_way(table, tmp_path):
    few = dataclasses.replace(table.take(np.r_[0:3, 300:305]), settings={**table.settings, "partial": True})
    report = build_report(few, QUICK)
    assert report.partial
    assert report.text().startswith("PARTIAL")
    report.write(tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["partial"] is True
    assert "partial" in (tmp_path / "curve.csv").read_text().splitlines()[0]
    assert b'"partial": true' in pq.read_schema(tmp_path / "curve.parquet").metadata[b"dial"]
    build_report(table, QUICK).write(tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["partial"] is False


def test_too_few_rows_or_one_class_to_choose_on_are_refused(table):
    with pytest.raises(ValueError, match=r"`calibration` must have at least 20 rows .* but got 5"):
        build_report(table.take(np.r_[0:5, 300:400]), QUICK)
    one = np.flatnonzero((table.split == "test") | (table.label == 1))
    with pytest.raises(ValueError, match="`calibration` must have rows of more than one class"):
        build_report(table.take(one), QUICK)
    with pytest.raises(ValueError, match="must name rows to report on"):
        build_report(table.of_split("calibration"), QUICK)
    with pytest.raises(ValueError, match="`calibration` must be 'crossfit'"):
        build_report(table.of_split("test"), QUICK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": (0.0,)}, "`targets` must be"),
        ({"confidence": 0.3}, "`confidence` must be"),
        ({"budgets": (-1.0,)}, "`budgets`"),
        ({"bootstrap": 5}, "`bootstrap` must be"),
        ({"folds": 1}, "`folds` must be"),
        ({"calibration": "test"}, "`calibration` must be"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SweepSettings(**change)


def test_two_test_splits_and_three_tiers_by_crossfit():
    table = logits_table(150, seed=2, splits=("test_matched", "test_mismatched"), strengths=(1.0, 1.6, 2.5), classes=3)
    report = build_report(table, dataclasses.replace(QUICK, calibration="crossfit", targets=(0.97,), folds=3))
    assert list(report.summary["splits"]) == ["test_matched", "test_mismatched"]
    assert report.summary["calibration"]["method"] == "crossfit"
    assert "cross-fitting" in report.text()
    for split in report.summary["splits"]:
        (shared,) = points(report, split, score="softmax", rule="threshold", kind="expected", target=0.97)
        (each,) = points(report, split, score="softmax", kind="per_stage", target=0.97)
        assert len(shared["folds"]) == len(each["folds"]) == 3
        assert len(each["thresholds"]) == 2
        assert each["calibration"]["macs"] <= shared["calibration"]["macs"] * (1 + 1e-9)
        assert points(report, split, rule="patience", kind="expected")
        rows = table.of_split(split)
        assert shared["shares"].keys() == set(rows.stage_names)
        assert sum(shared["shares"].values()) == pytest.approx(1)


def test_crossfit_decisions_of_the_report_are_those_of_crossfit():
    rows = logits_table(120, seed=7, splits=("test",))
    report = build_report(rows, dataclasses.replace(QUICK, calibration="crossfit", targets=(0.97,), folds=4))
    for kind in ("expected", "confident"):
        taken, chosen = crossfitted(rows, "softmax", 4, partial(getattr(Chooser, kind), target=0.97))
        (point,) = points(report, score="softmax", kind=kind)
        assert point["macs"] == pytest.approx(taken.macs.mean())
        assert [fold["macs"] for fold in point["folds"]] == pytest.approx([each.promise.macs for each in chosen])


def test_budget_is_reported_with_whether_it_held(table):
    budget = float(table.macs.mean())
    report = build_report(table, dataclasses.replace(QUICK, budgets=(budget,)))
    (point,) = points(report, score="energy", kind="budget")
    assert point["calibration"]["macs"] <= budget
    assert point["held"] == (point["macs"] <= budget)
    assert "budget" in report.text()


def test_a_budget_that_a_fold_does_not_reach_is_a_remark():
    """At the cost of the Swift alone, the mean over all rows is affordable, but not over the folds of longer rows."""
    rows = logits_table(120, seed=7, splits=("test",))
    budget = float(rows.macs[:, 0].mean())
    settings = dataclasses.replace(QUICK, calibration="crossfit", targets=(0.97,), folds=4, budgets=(budget,))
    report = build_report(rows, settings)
    fold = folds_of(rows, 4)
    dearer = sum(rows.macs[fold != k, 0].mean() > budget for k in range(4))
    assert 0 < dearer < 4
    for point in points(report, kind="budget"):
        if point["rule"] == "threshold":
            assert point["note"] == f"not reached in {dearer} of 4 folds"
            assert point["swift_ratio"] > 0.95  # only where it is affordable may a few rows go on
    assert f"MAC, `energy`: not reached in {dearer} of 4 folds; the cheapest is taken." in report.text()
    (point, *_) = points(build_report(rows, dataclasses.replace(settings, budgets=(budget / 2,))), kind="budget")
    assert point["note"].startswith("not reached, as the cheapest point costs ") and point["held"] is False


def test_regression_has_random_and_oracle_only():
    rng = np.random.default_rng(0)
    base = logits_table(200, seed=0)
    truth = rng.random(400) * 5
    outputs = np.stack([truth + rng.normal(size=400), truth + 0.3 * rng.normal(size=400)], axis=1)[..., None].astype(
        np.float32
    )
    changes = {
        "label": truth,
        "outputs": outputs,
        "predictions": outputs[..., 0].astype(float),
        "scores": {},
        "label_names": (),
    }
    table = dataclasses.replace(base, metrics=("pearson", "spearman"), **changes)
    report = build_report(table, SweepSettings(bootstrap=100))
    assert {curve.score for curve in report.curves} == {"random", "oracle"}
    assert set(report.summary["splits"]["test"]["stages"][0]["quality"]) == {"pearson", "spearman"}
    assert report.densities == {}
    with pytest.raises(ValueError, match="random"):
        build_report(table, SweepSettings(scores=("energy",)))
    with pytest.raises(ValueError, match="additive metric"):
        build_report(dataclasses.replace(table, metrics=("spearman",)), SweepSettings())


def test_a_single_stage_has_quality_and_cost_only(table, tmp_path):
    first = {name: getattr(table, name)[:, :1] for name in ("outputs", "predictions", "decide_macs", "macs")}
    single = dataclasses.replace(table, stages=table.stages[:1], scores={}, **first)
    report = build_report(single, QUICK)
    assert "points" not in report.summary["splits"]["test"]
    report.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"summary.json", "stages.parquet", "costs.json"}
    assert "swift" in report.text()


def test_costs_at_true_padded_and_fixed_length(table):
    linear = {
        name: {0: CostFunction(coefficients=(0, factor, 0))} for name, factor in (("swift", 10**6), ("super", 10**7))
    }
    report = build_report(table, QUICK, costs=ModelCosts(linear))
    (point,) = points(report, score="softmax", kind="expected", target=0.95)
    test = table.of_split("test")
    stages = replay(test.scores["softmax"], np.array([float(t) for t in point["thresholds"]]))
    for name, length in (("true", test.lengths["swift"]), ("padded", test.padded["swift"]), ("128", np.full(300, 128))):
        macs = np.where(stages == 0, 10**6 * length, 11 * 10**6 * length).mean()
        assert point["speedup_by_length"][name] == pytest.approx((10**7 * length).mean() / macs)
    assert point["speedup_by_length"]["true"] == pytest.approx(point["speedup"])


def test_a_length_convention_that_cannot_be_stated_is_said_to_be_left_out(table):
    """A table without padded lengths, and a cost that was never counted at 128 tokens."""
    counts = {length: 10**6 * length for length in range(1, 64)}
    costs = ModelCosts({name: {0: CostFunction(counts=counts)} for name in ("swift", "super")})
    report = build_report(dataclasses.replace(table, padded={}), QUICK, costs=costs)
    result = report.summary["splits"]["test"]
    assert all(set(point["speedup_by_length"]) == {"true"} for point in result["points"])
    assert result["lengths_left_out"].keys() == {"padded", "128"}
    remarks = report.text().split("Remarks:")[1]
    assert "Speed-ups at padded length are left out: the table lacks padded_swift." in remarks
    assert "Speed-ups at 128 tokens are left out: " in remarks
    bare = build_report(dataclasses.replace(table, lengths={}, padded={}), QUICK, costs=costs)
    assert "Speed-ups at true length are left out: the table lacks length_swift." in bare.text()


def test_other_references_are_another_configuration() -> None:
    from dial.report.configuration import rows_fingerprint

    ids, label = np.arange(3), np.arange(3)
    one = rows_fingerprint(ids, label, None, [("a",), ("b", "c"), ("d",)])
    assert one == rows_fingerprint(ids[::-1], label[::-1], None, [("d",), ("b", "c"), ("a",)])
    assert one != rows_fingerprint(ids, label, None, [("a",), ("b",), ("d",)])
    assert one != rows_fingerprint(ids, label)
