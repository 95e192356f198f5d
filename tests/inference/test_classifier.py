"""From a run folder to predictions: the rule that was chosen, answers as in the table, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dial import AdaptiveClassifier
from dial.costs.times import TierTimes, TimeTable
from dial.inference.operating_point import Sweep, read_point
from dial.inference.run import load_network
from dial.inference.staged import StagedModel
from dial.machine import describe_machine
from dial.stages.parquet import load_table
from dial.stages.table import StageTable
from dial.tiers.loading import load_tier, save_tier
from dial.tradeoff.events import replay
from dial.tradeoff.patience import agreement
from tests.inference.run_folder import copy_of, make_run, texts_of_split
from tests.tiers import small
from tests.tradeoff.choosing import chooser_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multi-exit Swift with two exits, and a Super with a tokenizer of its own."""
    torch.manual_seed(0)
    base = small.plain_tier("base")
    tiers = [small.exits_tier("swift", base, (1, 2)), small.plain_tier("super", 2, words=12)]
    return make_run(tmp_path_factory.mktemp("run"), tiers)


@pytest.fixture(scope="module")
def table(run: Path) -> StageTable:
    return load_table(run / "sweep" / "stages.parquet")


def stored(run: Path, rule: str, score: str, kind: str, target: float) -> list[float]:
    points = json.loads((run / "sweep" / "summary.json").read_text())["splits"]["test"]["points"]
    [found] = [p for p in points if (p["rule"], p["score"], p["kind"], p["target"]) == (rule, score, kind, target)]
    return [float(threshold) for threshold in found["thresholds"]]


def check_answers(classifier: AdaptiveClassifier, table: StageTable) -> None:
    """Predictions, stages and costs are those of the table's replay of the test rows."""
    rows, rule = table.of_split("test"), classifier.point.rule
    scores = agreement(rows.predictions) if rule.name == "patience" else rows.scores[rule.score]
    stages = replay(scores, np.asarray(rule.thresholds))
    numbered = zip(rows.sample_id.tolist(), texts_of_split(), strict=True)
    found = [classifier.prediction(answer) for answer in classifier.executor.run(numbered, numbered=True)]
    taken = np.arange(len(stages))
    assert [p.stage for p in found] == [rows.stage_names[s] for s in stages]
    assert [p.label for p in found] == rows.predictions[taken, stages].tolist()
    assert [p.label_name for p in found] == [small.CLASSES[i] for i in rows.predictions[taken, stages]]
    left_out = rule.left_out([stage.tier for stage in rows.stages])
    np.testing.assert_allclose([p.macs for p in found], rows.macs_without(left_out)[taken, stages])
    assert {name for name, work in classifier.executor.work.items() if not work.rows} >= set(left_out)
    if rule.name == "threshold" or not left_out:  # agreements are not counted where nobody can agree
        np.testing.assert_allclose([p.score for p in found], scores[taken, stages], atol=1e-5)


@pytest.mark.parametrize(
    ("rule", "score", "kind", "target"),
    [
        ("threshold", "softmax", "expected", 0.95),
        ("threshold", "energy", "confident", 0.9),
        ("per_stage", "softmax", "per_stage", 0.95),
        ("patience", "patience", "expected", 0.9),
    ],
)
def test_runs_by_a_point_of_the_sweep(
    run: Path, table: StageTable, rule: str, score: str, kind: str, target: float
) -> None:
    given = "patience" if rule == "patience" else "threshold"
    classifier = AdaptiveClassifier.from_run(run, target, kind, score=score, rule=given)
    points = json.loads((run / "sweep" / "summary.json").read_text())["splits"]["test"]["points"]
    [found] = [p for p in points if (p["score"], p["kind"], p["target"]) == (score, kind, target)]
    assert list(classifier.point.rule.thresholds) == [float(t) for t in found["thresholds"]]
    assert classifier.point.rule.temperatures == (1.0, 1.5, 2.0)
    check_answers(classifier, table)


def test_looks_up_a_target_that_was_not_chosen(run: Path, table: StageTable) -> None:
    classifier = AdaptiveClassifier.from_run(run, 0.93, score="softmax")
    chosen = chooser_of(table.of_split("calibration"), "softmax").expected(0.93)
    assert classifier.point.rule.thresholds == chosen.rule.thresholds
    assert classifier.point.promise.kept >= 0.93
    check_answers(classifier, table)


def test_takes_the_sweep_s_first_score_and_ninety_nine_percent_by_default(run: Path, table: StageTable) -> None:
    """Not the cheapest of several, which would be chosen on the rows that its promise rests on."""
    chooser = chooser_of(table.of_split("calibration"), "energy")
    point = AdaptiveClassifier.from_run(run).point
    assert point.promise.target == 0.99 and point.rule.score == "energy"
    assert point.rule.thresholds == chooser.expected(0.99).rule.thresholds
    assert AdaptiveClassifier.from_run(run, 0.9, "confident").point.rule.score == "energy"
    middle = float(table.of_split("calibration").macs.mean())
    assert AdaptiveClassifier.from_run(run, budget=middle).point.rule.score == "energy"


def test_the_super_alone_runs_alone(run: Path, table: StageTable) -> None:
    """Nothing may stop early: the Swift sees no row, and every row costs what the reference does."""
    rows = table.of_split("test")
    for rule, score in (("threshold", "softmax"), ("patience", None)):
        classifier = AdaptiveClassifier.from_run(run, threshold=float("inf"), score=score, rule=rule, batch_sizes=7)
        answers = list(classifier.executor.run(texts_of_split()))
        assert classifier.executor.work["swift"].rows == 0 and classifier.executor.work["super"].rows == 80
        assert [answer.stage for answer in answers] == [2] * 80
        assert [answer.prediction for answer in answers] == rows.predictions[:, 2].tolist()
        np.testing.assert_allclose([answer.macs for answer in answers], rows.macs_reference)
        np.testing.assert_allclose([answer.reference for answer in answers], rows.macs_reference)


def test_budget_and_threshold(run: Path, table: StageTable) -> None:
    rows = table.of_split("calibration")
    middle = float(rows.macs.mean())
    classifier = AdaptiveClassifier.from_run(run, budget=f"{2 * middle}flop", score="energy")
    assert classifier.point.rule.thresholds == chooser_of(rows, "energy").budget(middle).rule.thresholds
    assert classifier.point.promise.macs <= middle
    one = AdaptiveClassifier.from_run(run, threshold=0.8, score="softmax")
    assert one.point.rule.thresholds == (0.8, 0.8)
    check_answers(one, table)
    two = AdaptiveClassifier.from_run(run, threshold=[0.9, 0.7], score="softmax")
    assert (two.point.rule.name, two.point.rule.thresholds) == ("per_stage", (0.9, 0.7))
    check_answers(two, table)
    check_answers(AdaptiveClassifier.from_run(run, threshold=1, rule="patience"), table)
    check_answers(AdaptiveClassifier.from_run(run, threshold=0.5, score="random"), table)


def test_a_text_a_pair_and_nothing(run: Path) -> None:
    classifier = AdaptiveClassifier.from_run(run)
    [alone] = classifier("good film")
    assert alone.label_name in small.CLASSES and 1 / 3 <= (alone.probability or 0) <= 1
    assert len(classifier([("good film", "bad plot"), "fine"])) == 2
    assert classifier([]) == []
    with pytest.raises(ValueError, match="row 1 must be a text or a pair of texts, but got 3"):
        classifier(["good", 3])  # type: ignore[list-item]


def test_the_probability_is_at_the_stage_s_temperature(run: Path) -> None:
    classifier = AdaptiveClassifier.from_run(run, threshold=float("inf"), score="softmax")
    [answer] = classifier.executor.run(["good film"])
    expected = torch.tensor(answer.outputs, dtype=torch.float64).div(2.0).softmax(0).max()
    assert answer.stage == 2 and answer.probability == pytest.approx(float(expected))


def test_a_point_survives_json(run: Path) -> None:
    point = Sweep(run).at_threshold([float("inf"), -float("inf")], "softmax")
    again = read_point(json.loads(json.dumps(point.to_json())))
    assert again == point
    assert AdaptiveClassifier.from_run(run, point=again).point is again


def test_a_moved_run_is_found_by_relative_paths_and_by_name(run: Path, tmp_path: Path) -> None:
    moved = copy_of(run, tmp_path / "moved")
    path = moved / "sweep" / "summary.json"
    summary = json.loads(path.read_text())
    for name, about in summary["table"]["tiers"].items():
        about["view"]["path"] = f"tiers/{name}"
    path.write_text(json.dumps(summary))
    expected = [p.label for p in AdaptiveClassifier.from_run(run)(texts_of_split()[:5])]
    assert [p.label for p in AdaptiveClassifier.from_run(moved)(texts_of_split()[:5])] == expected
    for about in summary["table"]["tiers"].values():
        about["view"]["path"] = "nowhere/at/all"
    path.write_text(json.dumps(summary))
    with pytest.raises(ValueError, match=r"`tiers\.swift` must be an existing folder or a hub id"):
        AdaptiveClassifier.from_run(moved)
    places = {name: str(run.parent / "tiers" / name) for name in ("swift", "super")}
    assert [p.label for p in AdaptiveClassifier.from_run(moved, tiers=places)(texts_of_split()[:5])] == expected


def test_refuses_tiers_that_were_not_tested(run: Path, tmp_path: Path) -> None:
    moved = copy_of(run, tmp_path / "moved")
    other = small.plain_tier("super", 2, words=12)
    save_tier(tmp_path / "other", other, {})
    with pytest.raises(ValueError, match=r"`tiers\.super` must be the model that was tested, with the fingerprint"):
        AdaptiveClassifier.from_run(moved, tiers={"super": str(tmp_path / "other")})
    with pytest.raises(ValueError, match="`tiers` allows swift, super, but got supper"):
        AdaptiveClassifier.from_run(moved, tiers={"supper": "x"})


def test_a_point_is_refused_by_other_tiers_views_labels_and_stages(run: Path) -> None:
    point = Sweep(run).at_threshold(0.5, "softmax")
    places = {name: str(run.parent / "tiers" / name) for name in ("swift", "super")}

    def network(**view: object) -> StagedModel:
        views = {"swift": {"path": places["swift"]}, "super": {"path": places["super"], **view}}
        return StagedModel([load_tier(v, name, small.CLASSES).eval() for name, v in views.items()])

    AdaptiveClassifier(network(), point)
    AdaptiveClassifier(network(batch_size=3), point)  # changes no output
    for view in ({"temperature": 2.0}, {"max_length": 8}, {"dtype": "bfloat16"}, {"layers": 1}):
        with pytest.raises(ValueError, match="`point` was chosen for a tier super with the fingerprint"):
            AdaptiveClassifier(network(**view), point)
    with pytest.raises(ValueError, match="`point` is for the labels a, b, c, but the model has bad, fair, good"):
        AdaptiveClassifier(network(), dataclasses.replace(point, label_names=("a", "b", "c")))
    alone = StagedModel([load_tier(places["super"], "super", small.CLASSES).eval()])
    with pytest.raises(ValueError, match=r"is for the stages swift\.layer1, swift\.layer2, super, but the model has s"):
        AdaptiveClassifier(alone, point)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": 0.9, "budget": 1e3}, "`target` and `budget` both say what to do; give one of"),
        ({"target": 0.0}, "`target` must be a share of the Super's quality above 0, such as 0.99, but got 0"),
        ({"target": float("nan")}, "`target` must be a share of the Super's quality above 0"),
        ({"ms": float("nan")}, "`ms` must be a number of milliseconds above 0, but got nan"),
        ({"target": 1.4}, "`target` 1.4 is reached nowhere on the curve of .*: the best there is .* of the Super's"),
        ({"budget": 1.0}, "`budget` must be at least .* MACs per row, which the cheapest point costs"),
        ({"target": 0.9, "reading": "hopeful"}, "`reading` must be one of expected, confident, per_stage, but got"),
        ({"target": 0.9, "score": "margin"}, r"`score` must be one that the sweep of this run looked at \(energy, s"),
        ({"threshold": 0.9}, "`score` must say what the threshold is of: one of energy, softmax, random"),
        ({"threshold": [0.9, 0.8, 0.7], "score": "softmax"}, "`threshold` must be one number, or one for each of"),
        ({"target": 0.9, "split": "tests"}, "`split` must be one of test, but got 'tests'"),
        ({"ms": 3.0}, "`ms` needs measured times, but .* has no study"),
        ({"batch_sizes": {"swift": 0}}, "`batch_sizes` must be whole numbers from 1 up"),
    ],
)
def test_refuses(run: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptiveClassifier.from_run(run, **settings)  # type: ignore[arg-type]


def test_milliseconds_come_from_the_study(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    moved = copy_of(run, tmp_path / "moved")
    sweep = Sweep(moved)
    tiers = {
        name: TierTimes(
            about["fingerprint"], (1, 16), {8: np.array([[1.0, 2.0]] * exits) * np.arange(1, exits + 1)[:, None] * cost}
        )
        for (name, about), exits, cost in zip(sweep.settings["tiers"].items(), (2, 1), (0.5, 4.0), strict=True)
    }
    machine = {"processor": "abacus", "threads": torch.get_num_threads()}
    times = TimeTable(tiers, {"swift": 8, "super": 8}, machine)
    times.save(moved / "study" / "times.json")
    rows = times.timed(sweep.table.of_split("calibration"))
    classifier = AdaptiveClassifier.from_run(moved, ms=3.0, score="softmax")
    assert classifier.point.rule.thresholds == chooser_of(rows, "softmax").budget(3.0).rule.thresholds
    assert classifier.point.to_json()["about"]["calibration"]["ms"] <= 3.0
    assert classifier.executor.batch_sizes == {"swift": 8, "super": 8}
    assert "measured elsewhere: processor abacus there and" in caplog.text and "threads" not in caplog.text
    elsewhere = AdaptiveClassifier.from_run(moved, target=0.9)  # another machine's best sizes are not this one's
    assert elsewhere.executor.batch_sizes == {"swift": 32, "super": 32}
    assert "best batch sizes were measured elsewhere (processor abacus there and" in caplog.text
    assert AdaptiveClassifier.from_run(moved, batch_sizes=5).executor.batch_sizes == {"swift": 5, "super": 5}
    with pytest.raises(ValueError, match="`batch_sizes` must be among those that were measured"):
        AdaptiveClassifier.from_run(moved, ms=3.0, batch_sizes=5)
    with pytest.raises(ValueError, match=r"`ms` must be at least .* ms per row, which the cheapest point costs"):
        AdaptiveClassifier.from_run(moved, ms=0.01)


def test_best_batch_sizes_of_this_machine_are_taken(run: Path, tmp_path: Path) -> None:
    moved = copy_of(run, tmp_path / "moved")
    tiers = {
        name: TierTimes(about["fingerprint"], (1,), {8: np.ones((exits, 1))})
        for (name, about), exits in zip(Sweep(moved).settings["tiers"].items(), (2, 1), strict=True)
    }
    TimeTable(tiers, {"swift": 8, "super": 4}, describe_machine()).save(moved / "study" / "times.json")
    assert AdaptiveClassifier.from_run(moved, target=0.9).executor.batch_sizes == {"swift": 8, "super": 4}
    assert AdaptiveClassifier.from_run(moved, target=0.9, batch_sizes=5).executor.batch_sizes["super"] == 5


def test_refuses_points_that_mean_nothing(run: Path) -> None:
    sweep = Sweep(run)
    point = sweep.for_target(0.9)
    guessed = dataclasses.replace(point, rule=dataclasses.replace(point.rule, score="guess"))
    with pytest.raises(ValueError, match="`point` decides by the score 'guess', which the model does not have"):
        AdaptiveClassifier(load_network(sweep, {}, "cpu"), guessed)
    whole = point.to_json()
    for broken in ({"decision": {}}, {"decision": None}, {"tiers": None}, {"label_names": 3}):
        with pytest.raises(ValueError, match="`point` must be a file that `dial predict` left"):
            read_point(whole | broken)


def test_tunes_its_batch_sizes_once(run: Path, tmp_path: Path) -> None:
    classifier = AdaptiveClassifier.from_run(run, threshold=0.5, score="softmax")
    found = classifier.tune(small.texts(16), tmp_path)
    assert set(found) == {"swift", "super"} and all(1 <= size <= 16 for size in found.values())
    assert classifier.executor.batch_sizes == found
    assert len(list(tmp_path.rglob("*.json"))) == 2
    assert AdaptiveClassifier.from_run(run, threshold=0.5, score="softmax").tune(small.texts(16), tmp_path) == found


def test_refuses_what_is_no_run(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`run` must be a folder that `dial test` left, with sweep/summary.json, but"):
        AdaptiveClassifier.from_run(tmp_path)
    moved = copy_of(run, tmp_path / "moved")
    path = moved / "sweep" / "summary.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps({**summary, "partial": True}))
    with pytest.raises(ValueError, match=r"`run` must hold a whole sweep, but .* is of a trial run"):
        AdaptiveClassifier.from_run(moved, 0.9)
    path.write_text(json.dumps({**summary, "table": {"foreign": True}}))
    with pytest.raises(ValueError, match=r"`run` must hold a sweep of models, but .* was made from a table alone"):
        AdaptiveClassifier.from_run(moved, 0.9)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"summary.json cannot be read"):
        AdaptiveClassifier.from_run(moved, 0.9)


def test_crossfit_points_are_those_of_all_rows(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tiers = [small.plain_tier("swift"), small.plain_tier("super", 2)]
    run = make_run(tmp_path, tiers, rows=60, calibration="crossfit")
    rows = load_table(run / "sweep" / "stages.parquet").of_split("test")
    for target in (0.9, 0.87):  # chosen by the sweep, and not
        point = AdaptiveClassifier.from_run(run, target, score="softmax").point
        assert point.rule.thresholds == chooser_of(rows, "softmax").expected(target).rule.thresholds


def test_runs_on_rows_that_are_more_than_a_text_or_pair_read_no_others() -> None:
    sweep: Any = SimpleNamespace(settings={"tiers": {}, "source_form": "", "task": "wic"}, run=Path("wic/cascade"))
    with pytest.raises(ValueError, match=r"`RUN` must have been tested on rows that are a text or a pair .* of 'wic'"):
        load_network(sweep, {}, "cpu")
