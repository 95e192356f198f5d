"""Rows that may be computed together, and those that are, against plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from datamodules import TextDataModule
from dial.inference.executor import Executor
from dial.inference.staged import StagedModel
from dial.study.timing import TableTimer
from dial.tiers.batching import Batching, Encoding
from dial.tiers.contract import GoOn
from dial.tiers.loading import load_tier
from dial.tradeoff.rules import rule_named
from lightning_modules.classifier import Classifier
from tests.tiers import families
from tests.tiers.test_batch_proof import answers, batches, load, units

END = 9


def random_batch(seed: int, left: bool) -> tuple[list[list[int]], Encoding]:
    """Rows of ids from 1 to 9, some of them with several ends, and the batch that holds them."""
    random = np.random.default_rng(seed)
    rows = [[*random.integers(1, 10, random.integers(0, 7)).tolist(), END] for _ in range(random.integers(1, 12))]
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(len(row))
        ids[index, place], mask[index, place] = torch.tensor(row), 1
    return rows, {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids % 2}


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("needs", [Batching(equal_length=True), Batching(end_id=END), Batching(True, True, end_id=END)])
def test_rows_meet_only_rows_that_they_may(needs: Batching, left: bool) -> None:
    for seed in range(30):
        rows, encoding = random_batch(seed, left)

        def compute(part: Encoding) -> Tensor:
            given = [row[row != 0].tolist() for row in part["input_ids"]]
            if needs.equal_length:
                assert len(set(map(len, given))) == 1 and (part["input_ids"] != 0).all()
                assert ("attention_mask" in part) == needs.masked
            if needs.end_id is not None:
                assert len({row.count(END) for row in given}) == 1
            assert torch.equal(part["token_type_ids"], part["input_ids"] % 2)
            return torch.tensor([[float(sum((i + 1) * token for i, token in enumerate(row)))] for row in given])

        found = needs.answer(compute, encoding)
        expected = [[float(sum((i + 1) * token for i, token in enumerate(row)))] for row in rows]
        assert found.tolist() == expected


def test_a_batch_without_needs_stays_whole() -> None:
    _, encoding = random_batch(1, False)
    assert Batching().arranged(encoding) is encoding
    plain = {"input_ids": encoding["input_ids"]}
    assert Batching(pad_id=5).arranged(plain) is plain
    filled = Batching(pad_id=5).arranged(encoding)["input_ids"]
    assert torch.equal(filled == 5, (encoding["attention_mask"] == 0) | (encoding["input_ids"] == 5))
    assert Batching(masked=True).arranged(plain)["attention_mask"].all()
    assert Batching(masked=True).arranged(encoding) is encoding


@pytest.mark.parametrize("grouped", [True, False])
def test_an_executor_s_batches_are_of_one_length(tiny_tokenizer, grouped: bool, tmp_path: Path) -> None:
    tier = load(families.save(tmp_path, "convbert", tiny_tokenizer))
    texts = units(120, False)
    run, shapes = tier.run, []

    def watched(encoding: Encoding, go_on: GoOn, scores: bool = False) -> object:
        assert "attention_mask" not in encoding  # nothing is padded
        shapes.append(tuple(encoding["input_ids"].shape))
        return run(encoding, go_on, scores)

    tier.run = watched  # type: ignore[method-assign]
    executor = Executor(
        StagedModel([tier]),
        rule_named("threshold", "random", stages=("t",), thresholds=()),
        16,
        group_by_length=grouped,
        max_pending=500,
    )
    found = np.stack([answer.outputs for answer in executor.run(texts)])
    np.testing.assert_allclose(found, families.one_by_one(tmp_path, texts), atol=2e-5)
    assert sum(rows for rows, _ in shapes) == 120 and max(rows for rows, _ in shapes) <= 16
    lengths = [len(tiny_tokenizer(text)["input_ids"]) for text in texts]
    assert len(shapes) == sum(-(-lengths.count(length) // 16) for length in set(lengths)), "no batch was cut in vain"
    assert executor.work["t"].padded == executor.work["t"].tokens == sum(lengths)


def test_a_cascade_of_such_tiers(tiny_tokenizer, tmp_path: Path) -> None:
    folders = [families.save(tmp_path / name, name, tiny_tokenizer) for name in ("fnet", "bart")]
    tiers = [load_tier({"path": str(f), "max_length": 28}, f.name, families.CLASSES) for f in folders]
    texts = [*units(60, False), *(f"film [SEP] {text}" for text in units(9, False, seed=2))]
    swift, expert = (families.one_by_one(folder, texts) for folder in folders)
    surest = torch.softmax(torch.from_numpy(swift).double(), dim=1).amax(dim=1).numpy()
    threshold = float(np.median(surest)) + 1e-4
    decision = rule_named("threshold", "softmax", stages=("fnet", "bart"), thresholds=(threshold,))
    found = np.stack([a.outputs for a in Executor(StagedModel(tiers), decision, {"fnet": 8, "bart": 5}).run(texts)])
    np.testing.assert_allclose(found, np.where((surest >= threshold)[:, None], swift, expert), atol=2e-5)


def test_rows_that_are_not_padded_are_not_charged_for_padding(tiny_tokenizer, tmp_path: Path) -> None:
    path = families.save(tmp_path / "model", "fnet", tiny_tokenizer)
    module = Classifier(path=str(path), label_names=families.CLASSES, max_length=28)
    tier = module.tier.eval()
    for batch in batches(tier, units(14, False), tmp_path):
        count = len(batch["input_ids"])
        rows = module.rows_of(
            {"sample_id": torch.arange(count), "label": torch.zeros(count), "encodings": {tier.encoding_key: batch}}
        )
        assert torch.equal(rows["padded"]["model"], rows["lengths"]["model"])
        assert torch.equal(rows["lengths"]["model"], batch["attention_mask"].sum(dim=1))


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_short_rows_are_refused_before_any_is_computed(tiny_tokenizer, stage: str, tmp_path: Path) -> None:
    path = families.save(tmp_path / "model", "canine", tiny_tokenizer)
    lines = [f"{text},{families.CLASSES[i % 3]}" for i, text in enumerate([*units(60, False), "good"])]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines]))
    file = str(tmp_path / "rows.csv")
    data = TextDataModule(train_file=file, validation_file=file, test_file=file, calibration="crossfit")
    module = Classifier(path=str(path), label_names=families.CLASSES, max_length=28)
    computed = []
    module.tier.model.register_forward_hook(lambda *args: computed.append(args))
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"^\w+: the row with sample_id 60 has 3 tokens, but `model` computes no rows"):
        getattr(trainer, stage)(module, datamodule=data)
    assert not computed


def test_times_are_measured_on_rows_that_end_once(tiny_tokenizer, tmp_path: Path) -> None:
    tier = load(families.save(tmp_path, "t5", tiny_tokenizer))
    timer = TableTimer([tier], {"t": np.array([4, 9])}, {"t": [3]})
    for length in (4, 9):
        ids = timer._encoding(tier, 3, length)["input_ids"]
        assert ((ids == 3).sum(dim=1) == 1).all() and (ids[:, -1] == 3).all()
    timer.round()
    assert answers(tier, units(5, False), 2).shape == (5, 3)
