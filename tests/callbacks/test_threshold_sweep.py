"""The sweep's table against one built row by row, with each tier alone at batch 1 and plain Python arithmetic."""

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from callbacks import ThresholdSweep
from dial.costs.macs import count_macs
from dial.stages.metrics.metrics import evaluate
from lightning_modules import Cascade, Classifier
from lightning_modules.rows import RowGatherer
from tests.tiers.writers import save_writer

MNLI = ["entailment", "neutral", "contradiction"]


def naive_scores(logits: list[float], temperature: float) -> dict[str, float]:
    """Scores of one row by their definitions (E-LANG Eq. 3; softmax, margin and entropy of the probabilities)."""
    scaled = [value / temperature for value in logits]
    total = sum(math.exp(value) for value in scaled)
    probabilities = sorted((math.exp(value) / total for value in scaled), reverse=True)
    return {
        "energy": temperature * math.log(total),
        "softmax": probabilities[0],
        "margin": probabilities[0] - probabilities[1],
        "entropy": sum(p * math.log(p) for p in probabilities),
    }


class Naive:
    """A tier alone: one row at a time, tokens and logits from transformers, MACs counted at that row's length."""

    def __init__(self, folder, names: list[str]) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        own = [self.model.config.id2label[i] for i in range(self.model.config.num_labels)]
        self.order = [own.index(name) for name in names] if names else [0]
        self.counted: dict[int, int] = {}

    def __call__(self, texts: tuple[str, ...]) -> tuple[int, list[float]]:
        encoding = self.tokenizer(*texts, return_tensors="pt")
        with torch.no_grad():
            logits = self.model(**encoding).logits[0].tolist()
        return encoding["input_ids"].shape[1], [logits[i] for i in self.order]

    def macs(self, length: int) -> int:
        if length not in self.counted:
            ids = torch.ones(1, length, dtype=torch.long)
            example = {"input_ids": ids, "attention_mask": ids.clone(), "token_type_ids": torch.zeros_like(ids)}
            self.counted[length] = count_macs(self.model, example)
        return self.counted[length]


@pytest.fixture(scope="module")
def three(make_tiny_bert):
    """Folders of three MNLI tiers; the second names its classes in another order and case."""
    return [
        make_tiny_bert(layers=1, labels=tuple(MNLI), seed=1),
        make_tiny_bert(layers=2, labels=("CONTRADICTION", "Entailment", "neutral"), seed=2),
        make_tiny_bert(layers=3, labels=tuple(MNLI), seed=3),
    ]


def test_table_equals_one_built_row_by_row(sweep, three) -> None:
    tiers = [{"path": str(folder), "temperature": t} for folder, t in zip(three, (1.0, 2.0, 0.5), strict=True)]
    done = sweep(lambda data: Cascade(tiers, label_names=data.label_names, metrics=data.metrics), task="mnli")
    table, data = done.table, done.data
    assert table.splits == ("calibration", "test_matched", "test_mismatched")
    assert table.stage_names == ("tier1", "tier2", "tier3")
    naive = [
        Naive(folder, names)
        for folder, names in zip(three, (MNLI, ["Entailment", "neutral", "CONTRADICTION"], MNLI), strict=True)
    ]
    place = 0
    for split in table.splits:
        rows = data.rows(split)
        for texts, label, sample_id in sorted(
            zip(rows.units(), rows.label, rows.sample_id, strict=True), key=lambda r: r[2]
        ):
            assert (table.split[place], table.sample_id[place], table.label[place]) == (split, sample_id, label)
            spent = 0
            for s, tier in enumerate(naive):
                length, logits = tier(texts)
                counts = length in naive[0].counted or len(naive[0].counted) < 4  # a count takes longer than a row
                spent += tier.macs(length) if counts else 0
                np.testing.assert_allclose(table.outputs[place, s], logits, rtol=0, atol=2e-5)
                assert table.predictions[place, s] == max(range(3), key=table.outputs[place, s].__getitem__)
                assert table.lengths[f"tier{s + 1}"][place] == length <= table.padded[f"tier{s + 1}"][place]
                assert not counts or table.macs[place, s] == table.decide_macs[place, s] == spent
                stored = [float(value) for value in table.outputs[place, s]]
                for name, score in naive_scores(stored, (1.0, 2.0, 0.5)[s]).items():
                    assert table.scores[name][place, s] == pytest.approx(score, rel=1e-9, abs=1e-12), name
            assert not counts or table.macs_reference[place] == naive[2].macs(length)
            place += 1
    assert place == len(table)
    for split in table.splits:
        part = table.of_split(split)
        for s, stage in enumerate(table.stage_names):
            right = sum(int(p == y) for p, y in zip(part.predictions[:, s], part.label, strict=True)) / len(part)
            assert done.metrics[f"{split}/accuracy/{stage}"] == pytest.approx(right)


@pytest.mark.parametrize("length", ["padded", 16])
def test_costs_at_other_lengths(sweep, make_tiny_bert, length) -> None:
    folders = [make_tiny_bert(layers=1, seed=1), make_tiny_bert(layers=2, seed=2)]
    done = sweep(
        lambda data: Cascade([str(f) for f in folders], label_names=data.label_names), length=length, reference="swift"
    )
    swift, larger = (Naive(folder, ["negative", "positive"]) for folder in folders)
    table = done.table
    assert len(set(table.padded["swift"])) > 1
    for row in range(len(table)):
        charged = 16 if length == 16 else int(table.padded["swift"][row])
        first, second = swift.macs(charged), larger.macs(charged)
        assert (table.macs[row, 0], table.macs[row, 1]) == (first, first + second)
        assert table.macs_reference[row] == first


def test_padded_is_the_longest_of_the_batch(sweep, make_tiny_bert) -> None:
    tiers = [str(make_tiny_bert(layers=1, seed=1)), str(make_tiny_bert(layers=1, seed=2))]
    done = sweep(lambda data: Cascade(tiers, label_names=data.label_names))
    part = done.table.of_split("test")
    by_length = sorted(part.lengths["swift"], reverse=True)
    expected = sorted((max(by_length[i - i % 8 : i - i % 8 + 8]) for i in range(len(by_length))), reverse=True)
    assert sorted(part.padded["swift"], reverse=True) == expected


def test_regression_routes_by_random_only(sweep, make_tiny_bert) -> None:
    tiers = [str(make_tiny_bert(layers=n, seed=n, labels=("score",))) for n in (1, 2)]
    done = sweep(
        lambda data: Cascade(tiers, label_names=data.label_names, metrics=data.metrics), task="stsb", report=True
    )
    assert set(done.table.scores) == {"random"} and done.table.label_names == ()
    naive = Naive(tiers[0], [])
    rows = done.data.rows("test")
    units = dict(zip(rows.sample_id.tolist(), rows.units(), strict=True))
    part = done.table.of_split("test")
    for row in range(0, len(part), 7):
        assert part.predictions[row, 0] == pytest.approx(naive(units[part.sample_id[row]])[1][0], abs=2e-5)
    summary = json.loads((done.folder / "summary.json").read_text())
    assert summary["metrics"] == ["pearson", "spearman"]
    import pyarrow.parquet

    lines = pyarrow.parquet.read_table(done.folder / "curve.parquet").to_pandas()
    assert set(zip(lines["score"], lines["rule"], strict=True)) >= {("random", "threshold")}
    assert "oracle" in set(lines["rule"]) | set(lines["score"])
    with pytest.raises(ValueError, match=r"sweep\.scores.*random.*'energy'"):
        sweep(lambda data: Cascade(tiers, label_names=[], metrics=data.metrics), task="stsb", scores=["energy"])


def test_crossfit_where_the_data_has_no_calibration_rows(sweep, make_tiny_bert) -> None:
    tiers = [str(make_tiny_bert(layers=n, seed=n)) for n in (1, 2)]
    done = sweep(
        lambda data: Cascade(tiers, label_names=data.label_names),
        data={"calibration": "crossfit"},
        folds=3,
        report=True,
    )
    assert done.table.splits == ("test",)
    summary = json.loads((done.folder / "summary.json").read_text())
    assert summary["calibration"] == {"method": "crossfit", "rows": {"test": 40}, "folds": 3}


def test_one_classifier_is_a_single_stage(sweep, tiny_bert) -> None:
    done = sweep(lambda data: Classifier(path=str(tiny_bert), label_names=data.label_names))
    part = done.table.of_split("test")
    assert part.stage_names == ("model",)
    np.testing.assert_array_equal(part.macs[:, 0], part.macs_reference)
    assert done.metrics["test/accuracy/model"] == pytest.approx(
        evaluate("accuracy", part.label, part.predictions[:, 0])
    )


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """SST-2 files whose label says whether the sentence has the word good, so that a tier can be right."""
    import pandas as pd

    from tests.cli.glue_files import sentences

    folder = tmp_path_factory.mktemp("labelled")
    (folder / "sst2").mkdir()
    for split, rows, seed in (("train", 300, 0), ("validation", 60, 1)):
        frame = sentences(rows, seed)
        frame["label"] = [int("good" in text.split()) for text in frame["sentence"]]
        pd.DataFrame(frame).to_parquet(folder / "sst2" / f"{split}.parquet")
    return folder


@pytest.fixture(scope="module")
def generic(make_tiny_bert, labelled):
    """Folder of a tier that finds the word good, but whose generic labels are the other way round."""
    folder = make_tiny_bert(layers=1, labels=("LABEL_0", "LABEL_1"), seed=5)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    from tests.cli.glue_files import sentences

    texts = sentences(300, 7)["sentence"].tolist()
    label = torch.tensor([int("good" not in text.split()) for text in texts])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    for _ in range(40):
        loss = model(**batch, labels=label).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2
    model.save_pretrained(folder)
    return folder


def test_generic_labels_in_another_order_are_refused_by_name(
    sweep, make_tiny_bert, generic, labelled, tmp_path
) -> None:
    second = str(make_tiny_bert(layers=2, seed=2))
    data = {"source": str(labelled)}

    def build(tier):
        return lambda module: Cascade([tier, second], label_names=module.label_names)

    with pytest.raises(ValueError, match=r"swift.*as positive, negative they fit.*label_names: \[positive, negative\]"):
        sweep(build(str(generic)), data=data)
    assert not (tmp_path / "sweep").exists()
    settled = sweep(build({"path": str(generic), "label_names": ["positive", "negative"]}), data=data)
    part = settled.table.of_split("test")
    assert np.mean(part.predictions[:, 0] == part.label) > 0.9


def test_generic_labels_in_another_order_are_refused_before_a_tier_that_writes(
    sweep, generic, labelled, tmp_path
) -> None:
    second = str(save_writer(tmp_path / "super"))
    with pytest.raises(ValueError, match=r"swift.*as positive, negative they fit.*label_names: \[positive, negative\]"):
        sweep(
            lambda module: Cascade([str(generic), second], label_names=module.label_names),
            data={"source": str(labelled)},
        )


def test_a_logit_that_is_not_finite_names_tier_and_row(sweep, make_tiny_bert, tmp_path) -> None:
    tiers = [str(make_tiny_bert(layers=1, seed=1)), str(make_tiny_bert(layers=1, seed=6))]

    def build(data) -> Cascade:
        cascade = Cascade(tiers, label_names=data.label_names)
        with torch.no_grad():  # only now: what is not finite on every row is refused when a tier is loaded
            cascade.network.tiers[1].model.classifier.bias[0] = float("nan")
        return cascade

    with pytest.raises(ValueError, match=r"super.*sample_id"):
        sweep(build)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("limit", [{"limit_test_batches": 1}, {"limit_test_batches": 0.5}, {"fast_dev_run": True}])
def test_a_part_of_the_rows_is_marked_and_sizes_are_not_checked(sweep, make_tiny_bert, limit) -> None:
    tiers = [str(make_tiny_bert(layers=n, seed=n)) for n in (1, 2)]
    done = sweep(
        lambda data: Cascade(tiers, label_names=data.label_names),
        data={"min_calibration": 1000},
        trainer=limit,
        report=True,
    )
    assert done.table.settings["partial"] is True
    assert json.loads((done.folder / "summary.json").read_text())["partial"] is True
    assert (done.table.split == "test").sum() < 40


def test_ranks_are_joined_and_one_may_have_no_rows(monkeypatch) -> None:
    def batch(*ids: int) -> dict:
        return {"sample_id": torch.tensor(ids), "lengths": {"swift": torch.tensor(ids) * 2}}

    ranks = [RowGatherer() for _ in range(3)]
    for rank, split, rows in ((0, "test", batch(1, 2)), (0, "test", batch(3)), (2, "test", batch(2))):
        ranks[rank].add(rows, split)
    ranks[2].add(batch(9), "other")
    monkeypatch.setattr("lightning_modules.rows.gather", lambda own: [dict(each._batches) for each in ranks])
    joined = ranks[0].gather()
    assert joined["test"]["sample_id"].tolist() == [1, 2, 3, 2] and joined["other"]["sample_id"].tolist() == [9]
    assert joined["test"]["lengths"]["swift"].tolist() == [2, 4, 6, 4]


def test_repeated_rows_are_counted_once(sweep, make_tiny_bert, monkeypatch) -> None:
    """As with two processes and an odd number of rows: the last round is filled with rows that were there before."""
    monkeypatch.setattr("lightning_modules.rows.gather", lambda value: [value, {k: v[:2] for k, v in value.items()}])
    tiers = [str(make_tiny_bert(layers=n, seed=n)) for n in (1, 2)]
    done = sweep(lambda data: Cascade(tiers, label_names=data.label_names), report=True)
    rows = list(zip(done.table.split.tolist(), done.table.sample_id.tolist(), strict=True))
    assert len(rows) == len(set(rows)) and sum(split == "test" for split, _ in rows) == 40
    part = done.table.of_split("test")
    accuracy = evaluate("accuracy", part.label, part.predictions[:, 0])
    assert done.metrics["test/accuracy/swift"] == pytest.approx(accuracy)
    summary = json.loads((done.folder / "summary.json").read_text())
    assert summary["splits"]["test"]["rows"] == 40


def test_without_labels_a_repeat_that_comes_out_otherwise_is_still_one(tiny_bert) -> None:
    """Labels are then the answers of the last stage, which another batch may change where it is unsure."""
    module = Classifier(path=str(tiny_bert), max_length=32, label_names=["negative", "positive"])
    logits = np.array([[[0.0, 1.0]], [[2.0, 0.0]], [[1.0, 0.0]]], dtype=np.float32)
    lengths = {"model": np.array([4, 9, 4])}
    rows = {"sample_id": np.array([7, 3, 7]), "label": np.full(3, -1), "logits": logits, "model_scores": {}}
    data = SimpleNamespace(calibration="crossfit", labelled=False, rows=lambda split: SimpleNamespace(group=None))
    limits = {f"limit_{loop}_batches": 1.0 for loop in ("train", "val", "test", "predict")}
    run = SimpleNamespace(datamodule=data, fast_dev_run=False, overfit_batches=0, **limits)
    with pytest.warns(UserWarning, match="1 of 1 repeated rows have other outputs"):
        table = ThresholdSweep().table(run, module, {"test": {**rows, "lengths": lengths, "padded": lengths}})
    assert table.sample_id.tolist() == [3, 7] and table.label.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scores": ["foo"]}, r"`sweep\.scores`.*energy.*'foo'"),
        ({"length": 0}, r"`sweep\.length`.*got 0"),
        ({"targets": [3.0]}, r"`sweep\.targets`.*3\.0"),
        ({"confidence": 0.2}, r"`sweep\.confidence`.*0\.2"),
        ({"budgets": ["4e9flip"]}, r"`sweep\.budgets`.*4e9flip"),
        ({"budgets": [-1.0]}, r"`sweep\.budgets`.*-1"),
        ({"folds": 1}, r"`sweep\.folds`.*got 1"),
    ],
)
def test_bad_settings_are_refused_before_any_model_runs(settings, message) -> None:
    with pytest.raises(ValueError, match=message) as error:
        ThresholdSweep(**settings)
    assert "\n" not in str(error.value)


def test_budgets_in_flops_are_halved() -> None:
    assert ThresholdSweep(budgets=["4e9flop", 1e6]).choices.budgets == (2e9, 1e6)


def test_unknown_reference(sweep, make_tiny_bert) -> None:
    tiers = [str(make_tiny_bert(layers=n, seed=n)) for n in (1, 2)]
    with pytest.raises(ValueError, match=r"sweep\.reference.*swift.*super.*'foo'"):
        sweep(lambda data: Cascade(tiers, label_names=data.label_names), reference="foo")


def test_groups_of_the_data_are_those_of_the_table(sweep, three, monkeypatch):
    """Each row's group is looked up by its number, as loaders and processes give rows in another order."""
    from datamodules import GLUEDataModule

    read = GLUEDataModule.read

    def grouped(self, role):
        rows = read(self, role)
        return dataclasses.replace(rows, group=np.array([f"g{i // 3}" for i in rows.sample_id]))

    monkeypatch.setattr(GLUEDataModule, "read", grouped)
    tested = sweep(lambda data: Cascade([str(f) for f in three[:2]], label_names=data.label_names), task="mnli")
    assert tested.table.group.tolist() == [f"g{i // 3}" for i in tested.table.sample_id]
    assert len(set(tested.table.group)) < len(tested.table) / 2
