"""Sweeps of multi-exit models: a score that the model gives itself, patience, and what neither can be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from callbacks import ThresholdSweep
from dial.stages.parquet import load_table, save_slim, save_table
from dial.stages.table import StageTable
from dial.tiers.loading import load_tier, save_tier
from dial.tradeoff.events import replay
from lightning_modules import Cascade, MultiExit
from tests.stages.test_parquet import assert_equal

LABELS = ["negative", "positive"]


@pytest.fixture(scope="module")
def exits(make_tiny_bert, tmp_path_factory) -> Callable[..., Path]:
    """Function: folder of a model with exits after each of four layers, as a fit would leave it."""

    def make(labels: list[str], certainty: bool, layers: int = 4) -> Path:
        torch.manual_seed(3)
        bert = make_tiny_bert(layers=layers, labels=tuple(labels) or ("score",), seed=4)
        settings = {"certainty": "joint"} if certainty else {}
        module = MultiExit(path=str(bert), max_length=32, label_names=labels, **settings)
        for head in module.tier.model.heads:
            torch.nn.init.normal_(head.linear.weight)
        if certainty:
            torch.nn.init.normal_(module.tier.model.certainty.linear.weight)
        return save_tier(tmp_path_factory.mktemp("exits") / "tier", module.tier.eval(), {})

    return make


@pytest.fixture(scope="module")
def number(exits) -> Path:
    return exits([], certainty=True)


@pytest.fixture(scope="module")
def sentiment(exits) -> Path:
    return exits(LABELS, certainty=False)


def module_of(folder: Path) -> Callable[[Any], MultiExit]:
    return lambda data: MultiExit(path=str(folder), max_length=32, label_names=data.label_names, metrics=data.metrics)


def points(folder: Path, **wanted: object) -> list[dict[str, Any]]:
    found = json.loads((folder / "summary.json").read_text())["splits"]["test"]["points"]
    return [point for point in found if all(point[key] == value for key, value in wanted.items())]


def test_regression_exits_by_what_it_learnt(sweep, number) -> None:
    done = sweep(module_of(number), task="stsb", report=True, tolerance=9.0, patience=[2])
    table = done.table
    assert list(table.scores) == ["learned", "random"] and table.stage_names == tuple(
        f"model.layer{k}" for k in range(1, 5)
    )
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(number), AutoTokenizer.from_pretrained(number)
    rows = done.data.rows("test")
    units = dict(zip(rows.sample_id.tolist(), rows.units(), strict=True))
    part = table.of_split("test")
    for row in range(0, len(part), 9):
        with torch.no_grad():
            alone = model.eval()(**tokenizer(*units[part.sample_id[row]], return_tensors="pt"))
        np.testing.assert_allclose(part.scores["learned"][row], torch.sigmoid(alone.certainty[0]), atol=1e-5)
        np.testing.assert_allclose(part.predictions[row], alone.logits[0, :, 0], atol=1e-5)
    for kind in ("expected", "confident"):
        assert len(points(done.folder, score="learned", kind=kind)) == 4
        assert len(points(done.folder, score="patience", kind=kind)) == 4
    shares = [point["shares"]["model.layer4"] for point in points(done.folder, score="learned", kind="in_sample")]
    assert min(shares) < 1  # rows do leave early
    # Two answers agree if they differ by less than 9; two agreements in a row are wanted.
    (fixed,) = points(done.folder, kind="fixed")
    assert fixed["tolerance"] == 9 and fixed["thresholds"] == [2.0] * 3 and fixed["held"] is None
    stages = [
        next((s for s in (2, 3) if abs(p[s] - p[s - 1]) < 9 and abs(p[s - 1] - p[s - 2]) < 9), 3)
        for p in part.predictions
    ]
    assert 0 < sum(s == 2 for s in stages) < len(stages)
    assert fixed["macs"] == pytest.approx(part.macs[np.arange(len(part)), stages].mean())


@pytest.mark.parametrize(("task", "length"), [("sst2", "padded"), ("stsb", "true")])
def test_a_tested_table_is_kept_slim_and_comes_back_whole(
    sweep, sentiment, number, tmp_path, monkeypatch, task, length
) -> None:
    """Only what the model alone knows stays: logits, lengths, and the certainty that it has learnt."""

    def write(self: ThresholdSweep, trainer: Any, module: Any, table: StageTable) -> None:
        save_table(table, self.folder(trainer) / "stages.parquet")
        save_slim(table, tmp_path / "slim.parquet", self._costs)

    monkeypatch.setattr(ThresholdSweep, "write", write)
    folder = sentiment if task == "sst2" else number
    done = sweep(module_of(folder), task=task, report=True, length=length)
    assert_equal(load_table(tmp_path / "slim.parquet"), done.table)
    stages = done.table.stage_names
    kept = {"split", "sample_id", "label", "length_model", "padded_model", *(f"output_{stage}" for stage in stages)}
    kept |= {f"learned_{stage}" for stage in stages} if task == "stsb" else set()
    assert set(pq.read_schema(tmp_path / "slim.parquet").names) == kept


@torch.no_grad()
def test_running_by_the_learnt_score_is_the_table_s_replay(sweep, number) -> None:
    table = sweep(module_of(number), task="stsb").table
    module = MultiExit(path=str(number), max_length=32, label_names=[]).eval()
    (tier,) = module.network.tiers
    encoding = tier.tokenizer(
        ["the film", "good but dull", "a great cast and plot", "bad"], padding=True, return_tensors="pt"
    )
    outputs, decisions = module.network.decide({tier.encoding_key: dict(encoding)})
    assert set(decisions) == {"learned"} and decisions["learned"].dtype == torch.float64
    limits = np.quantile(table.scores["learned"][:, :-1], 0.5, axis=0)

    def go_on(stage: int, rows: Tensor, own: Tensor, given: dict[str, Tensor]) -> Tensor:
        torch.testing.assert_close(given["learned"], decisions["learned"][rows, stage], atol=1e-6, rtol=1e-5)
        return given["learned"] < limits[stage]

    answers, stage = module.network.run({tier.encoding_key: dict(encoding)}, go_on, scores=True)
    expected = replay(decisions["learned"].numpy(), limits)
    assert stage.tolist() == expected.tolist() and len(set(expected)) > 1
    torch.testing.assert_close(answers, outputs[torch.arange(4), stage], atol=1e-5, rtol=1e-4)


def test_a_cascade_has_the_score_where_its_last_tier_lacks_it(sweep, exits, make_tiny_bert) -> None:
    first, last = exits(LABELS, certainty=True, layers=2), make_tiny_bert(layers=2, seed=2)
    done = sweep(
        lambda data: Cascade([str(first), str(last)], label_names=data.label_names), scores=["learned", "energy"]
    )
    learned = done.table.scores["learned"]
    assert learned.shape[1] == 3 and np.isfinite(learned[:, :2]).all() and np.isnan(learned[:, 2]).all()
    # The other way round a tier that decides lacks it.
    with pytest.raises(ValueError, match=r"`sweep.scores` .*'learned', which only a model that learnt to exit"):
        sweep(lambda data: Cascade([str(last), str(first)], label_names=data.label_names), scores=["learned"])
    table = sweep(lambda data: Cascade([str(last), str(first)], label_names=data.label_names)).table
    assert "learned" not in table.scores


def test_patience_has_operating_points_of_every_kind(sweep, sentiment) -> None:
    done = sweep(module_of(sentiment), report=True, patience=[1, 3], budgets=[1e9])
    part = done.table.of_split("test")
    for kind, count in (("expected", 4), ("confident", 4), ("budget", 1), ("fixed", 2), ("in_sample", 4)):
        found = points(done.folder, score="patience", kind=kind)
        assert len(found) == count, kind
        for point in found:
            # A count of agreements, or one of the ends: all stop at once, none stops.
            assert all(t in ("-inf", "inf", 1.0, 2.0, 3.0) for t in point["thresholds"])
            agreements = [
                next(
                    (s for s in range(3) if run(p, s) >= float(point["thresholds"][s])),
                    3,
                )
                for p in part.predictions.tolist()
            ]
            assert point["macs"] == pytest.approx(part.macs[np.arange(len(part)), agreements].mean())
    text = (done.folder / "summary.json").read_text()
    assert '"tolerance": 0.0' in text


def run(predictions: list[int], stage: int) -> int:
    """How many stages in a row have repeated their predecessor, up to this one."""
    count = 0
    while stage > 0 and predictions[stage] == predictions[stage - 1]:
        count, stage = count + 1, stage - 1
    return count


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("sst2", {"patience": [4]}, r"`sweep\.patience` must be from 1 to 3, as 4 exits .* but got 4"),
        ("sst2", {"tolerance": 0.1}, r"`sweep\.tolerance` is for regression.*got 0\.1"),
        ("sst2", {"scores": ["learned"]}, r"`sweep\.scores` .*'learned', which .*`--model\.certainty joint`"),
        ("stsb", {"patience": [2]}, r"`sweep\.tolerance` must be given with a patience"),
        ("stsb", {"scores": ["entropy"]}, r"`sweep\.scores` for regression must be one of: random, learned.*'entropy'"),
    ],
)
def test_what_a_model_cannot_do_is_refused_before_it_runs(
    sweep, sentiment, number, monkeypatch, task, settings, message
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(MultiExit, "test_step", never)
    with pytest.raises(ValueError, match=message) as error:
        sweep(module_of(sentiment if task == "sst2" else number), task=task, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patience": [0]}, r"`sweep\.patience` must be at least 1.*\[0\]"),
        ({"tolerance": -0.5}, r"`sweep\.tolerance` must be 0 or more.*-0\.5"),
    ],
)
def test_settings_out_of_range(settings, message) -> None:

    with pytest.raises(ValueError, match=message):
        ThresholdSweep(**settings)


def test_certainty_is_charged(number) -> None:
    from dial.costs.counting import path_cost

    tier = load_tier(str(number), "model", [])
    plain = load_tier(str(number), "model", [])
    plain.model.certainty = None
    for index in (0, 3):
        with_it, without = (path_cost(each, each.path(index), [6])([6])[0] for each in (tier, plain))
        assert with_it - without == 16 * (index + 1)  # hidden units, once at each exit on the way
    assert tier.model_scores == ("learned",) and plain.model_scores == ()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sst2", "stsb"])
def test_results_of_another_configuration_are_refused_before_any_model_runs(
    sweep, sentiment, number, task, tmp_path, monkeypatch
) -> None:
    folder, settings = (sentiment, {}) if task == "sst2" else (number, {"tolerance": 9.0})
    settings |= {"out": str(tmp_path / "sweep"), "scores": ["random"], "targets": [0.99], "task": task}
    for _ in range(2):  # the same again is no other configuration
        sweep(module_of(folder), report=True, **settings)
    monkeypatch.setattr(MultiExit, "test_step", lambda *args: pytest.fail("a model runs"))
    for changes in ({"targets": [0.9]}, {"data": {"calibration": "crossfit"}}, {"data": {"max_rows": {"test": 30}}}):
        with pytest.raises(ValueError, match=r"`--sweep\.out` must be a new folder .* results of another conf.*remove"):
            sweep(module_of(folder), report=True, **{**settings, **changes})
    with pytest.raises(ValueError, match=r"`--sweep\.out` must be a new folder .* whole results and these are partial"):
        sweep(module_of(folder), trainer={"limit_test_batches": 1}, **settings)
