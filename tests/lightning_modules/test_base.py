"""Validation counts every row once, by the task's own metric."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from sklearn.metrics import accuracy_score, f1_score

from lightning_modules import Cascade, Classifier, MultiExit

NAMES = ["negative", "positive"]


def validate(module, batches):
    """Feed batches to the validation loop's hooks; gives what was logged."""
    logged = {}
    module.log_dict = lambda values, **_: logged.update(values)
    module._trainer = type("Stub", (), {"is_global_zero": False, "sanity_checking": False, "barebones": False})()
    for index, batch in enumerate(batches):
        module.validation_step(batch, index)
    module.on_validation_epoch_end()
    return {name: float(value) for name, value in logged.items()}


def batches(module, labels, ids):
    key = module.tier.encoding_key
    torch.manual_seed(1)
    ids_of_tokens = torch.randint(5, 20, (len(ids), 6))
    for start in range(0, len(ids), 4):
        rows = slice(start, start + 4)
        encoding = {"input_ids": ids_of_tokens[ids[rows]], "attention_mask": torch.ones(len(ids[rows]), 6).long()}
        yield {"sample_id": ids[rows], "label": labels[ids[rows]], "encodings": {key: encoding}}


def test_quality_is_the_first_metric_over_distinct_rows(tiny_bert) -> None:
    module = Classifier(path=str(tiny_bert), label_names=NAMES, metrics=["f1", "accuracy"]).eval()
    ids = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 3])  # two repeats, as a distributed sampler gives
    labels = torch.tensor([0, 1, 1, 0, 1, 1, 0, 1, 0, 1])
    with torch.no_grad():
        logged = validate(module, batches(module, labels, ids))
        chosen = [
            int(module(batch["encodings"])[row, -1].argmax())
            for batch in batches(module, labels, ids[:10])
            for row in range(len(batch["label"]))
        ]
    assert logged["validation/f1"] == pytest.approx(f1_score(labels, chosen))
    assert logged["validation/accuracy"] == pytest.approx(accuracy_score(labels, chosen))
    assert logged["validation/quality"] == logged["validation/f1"] != logged["validation/accuracy"]


def test_a_model_that_diverged_is_named_with_the_row(tiny_bert) -> None:
    module = Classifier(path=str(tiny_bert), label_names=NAMES).eval()
    with torch.no_grad():
        module.tier.model.classifier.bias[0] = float("inf")
        with pytest.raises(ValueError, match=r"`model` must give finite logits.*10 of 10 validation rows.*sample_id 0"):
            validate(module, batches(module, torch.zeros(10).long(), torch.arange(10)))


def test_a_cascade_is_judged_by_its_last_tier(make_tiny_bert) -> None:
    tiers = [str(make_tiny_bert(layers=1, seed=seed)) for seed in (1, 5)]
    module = Cascade(tiers, label_names=NAMES).eval()
    key = module.network.tiers[0].encoding_key
    ids = torch.randint(5, 20, (12, 6))
    encodings = {key: {"input_ids": ids, "attention_mask": torch.ones_like(ids)}}
    with torch.no_grad():
        first, last = (module(encodings)[:, stage].argmax(dim=-1) for stage in (0, -1))
        logged = validate(module, [{"sample_id": torch.arange(12), "label": last, "encodings": encodings}])
    assert (first != last).any()
    assert logged["validation/accuracy"] == 1.0


def test_rows_have_lengths_per_tier(make_tiny_bert) -> None:
    tiers = [{"path": str(make_tiny_bert(layers=1)), "max_length": 8}, str(make_tiny_bert(layers=2))]
    module = Cascade(tiers, names=["small", "large"], label_names=NAMES).eval()
    keys = [tier.encoding_key for tier in module.network.tiers]
    assert list(module.tokenizers()) == keys and keys[0] != keys[1]
    masks = [torch.tensor([[1, 1, 0], [1, 0, 0]]), torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])]
    encodings = {k: {"input_ids": m * 6, "attention_mask": m} for k, m in zip(keys, masks, strict=True)}
    with torch.no_grad():
        rows = module.test_step({"sample_id": torch.arange(2), "label": torch.ones(2), "encodings": encodings}, 0)
    assert rows["logits"].shape == (2, 2, 2) and rows["logits"].dtype == torch.float32
    assert rows["lengths"]["small"].tolist() == [2, 1] and rows["lengths"]["large"].tolist() == [4, 5]
    assert rows["padded"]["small"].tolist() == [3, 3] and rows["padded"]["large"].tolist() == [5, 5]
    np.testing.assert_array_equal(rows["sample_id"], [0, 1])


@pytest.mark.parametrize(
    ("names", "metrics", "message"),
    [
        (
            ["a", "b", "c"],
            ["accuracy", "f1"],
            r"classification of 3 classes must be of: accuracy, macro_f1, mcc, group_accuracy; .*'f1'",
        ),
        (NAMES, ["bleu"], r"classification of 2 classes must be of: accuracy, f1, .*'bleu'"),
        (NAMES, ["pearson"], r"classification of 2 classes .*'pearson'"),
        ([], ["accuracy"], r"regression .* must be of: pearson, spearman; but got 'accuracy'"),
    ],
)
@pytest.mark.parametrize("method", [Cascade, Classifier, MultiExit])
def test_metrics_of_other_tasks_are_refused_before_any_model_is_loaded(method, names, metrics, message) -> None:
    """Checkpoints are chosen by the first metric: one that means nothing here would choose at random."""
    settings = {"tiers": ["/none", "/none"]} if method is Cascade else {"path": "/none"}
    with pytest.raises(ValueError, match=message):
        method(**settings, label_names=names, metrics=metrics)


class Turned:
    """Computes a tier in the int8 of a backend that answers one row of each batch otherwise."""

    name = "onnxruntime int8"

    def __init__(self, tier):
        self.tier = tier

    def __call__(self, inputs):
        logits = self.tier.model(**inputs).logits
        return torch.cat([-logits[:1], logits[1:]])


class Reached(Callback):
    """Notes which epochs came so far that callbacks may write."""

    def __init__(self):
        self.ends = []

    def on_test_epoch_end(self, trainer, pl_module):
        self.ends.append("test")

    def on_predict_epoch_end(self, trainer, pl_module):
        self.ends.append("predict")


def test_what_auto_chose_is_said(tiny_bert, capsys) -> None:
    tiers = [str(tiny_bert), {"path": str(tiny_bert), "backend": "auto"}]
    module = Cascade(tiers, names=["swift", "super"], label_names=NAMES).eval()
    module.tier = module.network.tiers[-1]
    rows = list(batches(module, torch.zeros(8).long(), torch.arange(8)))
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.test(module, torch.utils.data.DataLoader(rows, batch_size=None))
    said = capsys.readouterr().out
    assert f"super is computed by {module.tier.computed_by}" in said and "swift is computed by" not in said


@pytest.mark.parametrize("kind", ["test", "predict"])
def test_int8_is_compared_where_there_are_few_rows_before_anything_is_written(tiny_bert, kind, capsys) -> None:
    module = Cascade([str(tiny_bert)] * 2, names=["swift", "super"], label_names=NAMES).eval()
    module.tier = tier = module.network.tiers[-1]
    rows = list(batches(module, torch.zeros(20).long(), torch.arange(20)))
    reached = Reached()
    settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    run = getattr(Trainer(**settings, callbacks=[reached]), kind)
    turned = Turned(tier)
    tier.compute_with([turned])
    with pytest.raises(ValueError, match=rf"`dtype` of {tier.name} must change no more than 0.5%.*5 of 20 rows"):
        run(module, torch.utils.data.DataLoader(rows, batch_size=None))
    assert reached.ends == []
    turned.name = "openvino bfloat16"
    for _ in range(2):  # each pass is compared anew
        run(module, torch.utils.data.DataLoader(rows, batch_size=None))
        assert "is computed by openvino bfloat16: 5 of 20 answers changed" in capsys.readouterr().out
    assert reached.ends == [kind] * 2
