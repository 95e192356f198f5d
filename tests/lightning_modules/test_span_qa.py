"""Training of readers of spans: losses against plain loops, learning, distillation across tokenizers, validation."""

from __future__ import annotations

import dataclasses
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping

from datamodules import SQuADDataModule
from datamodules.windows import OUTSIDE, answer_tokens
from dial.cli.trainer import spare_emulation
from dial.models.lengths import Lengths
from dial.tiers.backends import lowered
from dial.tiers.loading import load_tier, save_tier
from dial.tiers.spans import SpanTier
from lightning_modules import Cascade, LengthAdaptiveSpanQA, SpanDistillation, SpanQA
from tests.squad_files import ROWS, TEST, asked, write
from tests.tiers.readers import STRIDE, WINDOW, WORDS, model, save_reader, tokenizer

METRICS = ["token_f1", "squad_em"]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("squad"), "parquet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_reader(tmp_path_factory.mktemp("reader"), layers=2)


def data_of(source: Path, tmp_path: Path, **settings: Any) -> SQuADDataModule:
    settings = {"batch_size": 8, "cache_dir": str(tmp_path / "cache"), "validation_fraction": 0.2, **settings}
    return SQuADDataModule(source=str(source), **settings)


def module_of(folder: Path, kind: Any = SpanQA, **settings: Any) -> SpanQA:
    arguments = {
        "max_length": WINDOW,
        "stride": STRIDE,
        "max_answer_tokens": 5,
        "label_names": ["*"],
        "metrics": METRICS,
    }
    return kind(path=str(folder), **arguments, **settings)


def fit(module: SpanQA, data: SQuADDataModule, tmp_path: Path, steps: int = 1, **settings: Any) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        max_steps=steps,
        default_root_dir=str(tmp_path),
        **{"limit_val_batches": 0, **settings},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, datamodule=data)
    return trainer


class Watched(SpanQA):
    """Keeps the batch, and the logits and the loss of a step."""

    def loss(self, batch: Any) -> Any:
        self.eval()  # no dropout
        self.batch, self.value = batch, super().loss(batch)
        encoding = batch["encodings"][self.tier.encoding_key]
        self.logits = self.reader.token_logits(encoding).detach()
        return self.value


class WatchedDistillation(Watched, SpanDistillation):
    """The same, with a teacher."""


def shares(values: list[float], temperature: float = 1.0) -> list[float]:
    exponentials = [math.exp(value / temperature) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def shared(mine: set[int], starts: list[int]) -> int:
    """Characters from the first to the last that begins a token in both of two windows."""
    theirs = [start for start in starts if start != OUTSIDE]
    return min(max(mine), max(theirs)) - max(min(mine), min(theirs))


def by_hand(module: Any) -> float:
    """Mean loss of the windows of the step that was watched."""
    return float(np.mean(window_losses(module.logits, module.batch["encodings"][module.tier.encoding_key])))


def window_losses(logits: torch.Tensor, encoding: Any) -> list[float]:
    """Cross-entropy of start and end over the context and the first token, window by window."""
    losses = []
    for window in range(len(logits)):
        possible, total = [0, *(encoding["starts"][window] != OUTSIDE).nonzero()[:, 0].tolist()], 0.0
        for side, name in enumerate(("answer_starts", "answer_ends")):
            p = shares([logits[window, token, side].item() for token in possible])
            total -= math.log(p[possible.index(int(encoding[name][window]))])
        losses.append(total / 2)
    return losses


def validation_losses(tier: SpanTier, rows: Any) -> list[float]:
    """Of all windows of all rows, each read alone."""
    tokeniser, losses = tier.tokeniser(), []
    for unit, span in zip(rows.units(), rows.spans, strict=True):
        batch: Any = tokeniser.collate(tokeniser([unit]))
        found = answer_tokens([span], batch["row"], batch["starts"], batch["ends"])
        batch["answer_starts"], batch["answer_ends"] = found
        with torch.no_grad():
            losses += window_losses(tier.token_logits(batch), batch)
    return losses


def test_the_loss_is_the_cross_entropy_of_both_ends(source: Path, folder: Path, tmp_path: Path) -> None:
    module: Any = module_of(folder, Watched)
    fit(module, data_of(source, tmp_path), tmp_path)
    assert module.value.item() == pytest.approx(by_hand(module), rel=1e-5)


def test_a_reader_learns(source: Path, folder: Path, tmp_path: Path) -> None:
    module = module_of(folder, optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-2))
    trainer = fit(
        module, data_of(source, tmp_path), tmp_path, steps=200, limit_val_batches=1.0, check_val_every_n_epoch=5
    )
    assert trainer.callback_metrics["validation/token_f1"] > 0.8
    assert trainer.callback_metrics["validation/quality"] == trainer.callback_metrics["validation/token_f1"]


def test_validation_is_of_each_row_s_answer(source: Path, folder: Path, tmp_path: Path) -> None:
    module, data = module_of(folder), data_of(source, tmp_path)
    found = fit(module, data, tmp_path, limit_val_batches=1.0, val_check_interval=1).callback_metrics
    rows, tier = data.rows("validation"), module.reader.eval()
    tokeniser, right = tier.tokeniser(), []
    for unit, targets in zip(rows.units(), rows.targets, strict=True):
        with torch.no_grad():
            text = tier.write(tokeniser.collate(tokeniser([unit])), torch.tensor([0])).texts[0]
        right.append(text.lower() in [target.lower() for target in targets])
    assert found["validation/squad_em"] == pytest.approx(np.mean(right))
    losses = validation_losses(tier, rows)
    assert len(losses) > len(right) and found["validation/loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_one_that_drops_tokens_is_validated_with_most_dropped_and_with_none(
    source: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module, data = module_of(folder, LengthAdaptiveSpanQA, length_drop=0.6, drawn=0), data_of(source, tmp_path)
    found = fit(module, data, tmp_path, limit_val_batches=1.0, val_check_interval=1).callback_metrics
    rows, tier = data.rows("validation"), module.reader.eval()
    tokeniser, right = tier.tokeniser(), {}
    for name, lengths in (("shortest", Lengths((0.4, 0.16))), ("whole", None)):
        answers = []
        with torch.no_grad(), tier.at_lengths(lengths):
            for unit in rows.units():
                answers += tier.write(tokeniser.collate(tokeniser([unit])), torch.tensor([0])).texts
        pairs = zip(answers, rows.targets, strict=True)
        right[name] = np.mean([text.lower() in map(str.lower, targets) for text, targets in pairs])
        assert found[f"validation/squad_em/{name}"] == pytest.approx(right[name])
    assert right["shortest"] != right["whole"]
    assert found["validation/squad_em"] == pytest.approx(sum(right.values()) / 2)
    each = [np.mean(validation_losses(tier, rows))]
    with tier.at_lengths(Lengths((0.4, 0.16))):
        each.append(np.mean(validation_losses(tier, rows)))
    assert found["validation/loss"] == pytest.approx(np.mean(each), rel=1e-5)
    assert found["validation/quality"] == found["validation/token_f1"] and "(shortest " in capsys.readouterr().out


def test_a_reader_that_answers_nothing_right_yet_trains_on_while_its_loss_falls(
    source: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F1 may stand at 0 at first; early stopping must not take that for the end."""
    monkeypatch.setattr("lightning_modules.span_qa.evaluate", lambda *_: 0.0)
    module = module_of(folder, optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-3))
    stopping = EarlyStopping("validation/quality", mode="max", patience=1)
    trainer = fit(
        module, data_of(source, tmp_path), tmp_path, steps=-1, max_epochs=4, limit_val_batches=1.0, callbacks=[stopping]
    )
    found = trainer.callback_metrics
    assert found["validation/token_f1"] == 0 and found["validation/quality"] == -found["validation/loss"] / (
        1 + found["validation/loss"]
    )
    assert trainer.current_epoch == 4 and stopping.stopped_epoch == 0


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """Of another kind: other pieces, no token types, longer windows."""
    folder = tmp_path_factory.mktemp("teacher")
    words = [*reversed(WORDS), "zürich", "paragraph", "n"]
    model(seed=5, words=len(words)).save_pretrained(folder)
    tokenizer(words, window=40, types=False).save_pretrained(folder)
    tier = load_tier({"path": str(folder), "stride": 9}, "x", ["*"])
    save_tier(folder / "tier", tier, tier.kept_settings)
    return folder / "tier"


def test_distillation_is_of_both_ends_at_the_same_characters(
    source: Path, folder: Path, teacher: Path, tmp_path: Path
) -> None:
    settings = {"teacher": str(teacher), "distillation_weight": 0.3, "distillation_temperature": 2.0}
    module: Any = module_of(folder, WatchedDistillation, **settings)
    fit(module, data_of(source, tmp_path), tmp_path)
    teaching = module._teacher[0]
    encoding = module.batch["encodings"][module.tier.encoding_key]
    read = module.batch["encodings"][teaching.encoding_key]
    assert teaching.encoding_key.endswith("stride9") and not teaching.training
    with torch.no_grad():
        theirs = teaching.token_logits(read)
    known: dict[tuple[int, int, int], float] = {}
    for side, name in enumerate(("starts", "ends")):
        for window, row in enumerate(read["row"].tolist()):
            for token, place in enumerate(read[name][window].tolist()):
                if place != OUTSIDE:
                    value = theirs[window, token, side].item()
                    known[side, row, place] = max(value, known.get((side, row, place), -math.inf))
    total, count = 0.0, 0
    for window, row in enumerate(encoding["row"].tolist()):
        mine = {start for start in encoding["starts"][window].tolist() if start != OUTSIDE}
        like = max(  # the teacher's window that shares most
            (other for other, of in enumerate(read["row"].tolist()) if of == row),
            key=lambda other: shared(mine, read["starts"][other].tolist()),
        )
        for side, name in enumerate(("starts", "ends")):
            of_window = enumerate(encoding[name][window].tolist())
            places = [(t, place) for t, place in of_window if (side, row, place) in known]
            p = shares([theirs[like, 0, side].item()] + [known[side, row, place] for _, place in places], 2.0)
            q = shares([module.logits[window, token, side].item() for token in [0, *(t for t, _ in places)]], 2.0)
            total -= sum(a * math.log(b) for a, b in zip(p, q, strict=True)) * 4
            count += 1
    assert module.value.item() == pytest.approx(0.7 * by_hand(module) + 0.3 * total / count, rel=1e-4)
    assert not any(key.startswith("teacher") or "_teacher" in key for key in module.state_dict())


def test_questions_without_an_answer_are_learnt(folder: Path, tmp_path: Path) -> None:
    def some(rows: list[Any]) -> list[Any]:  # "who" asks of nobody
        return [
            {**row, "answers": {"text": [], "answer_start": []}} if "who" in row["question"] else row for row in rows
        ]

    source = write(tmp_path / "squad", "2.0", some(ROWS), some(TEST))
    module = module_of(folder, optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-2))
    trainer = fit(
        module, data_of(source, tmp_path, no_answer=True), tmp_path,
        steps=200, limit_val_batches=1.0, check_val_every_n_epoch=5,
    )  # fmt: skip
    assert module.reader.no_answer and module.reader.kept_settings["no_answer"]
    assert trainer.callback_metrics["validation/token_f1"] > 0.8
    tier = module.reader.eval()
    tokeniser = tier.tokeniser()
    units = [(row["question"], row["context"]) for row in (asked(79, 0), asked(79, 2))]
    with torch.no_grad():
        assert tier.write(tokeniser.collate(tokeniser(units)), torch.arange(2)).texts == ["1066", ""]


def test_what_cannot_be_trained_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`data` must hold questions with contexts .* its answers are the labels"):
        SpanQA(path=str(folder), label_names=["a", "b"])
    with pytest.raises(ValueError, match="`teacher` must name a trained tier to distil from"):
        module_of(folder, SpanDistillation)
    with pytest.raises(ValueError, match="`distillation_temperature` must be above 0"):
        module_of(folder, SpanDistillation, teacher=str(folder), distillation_temperature=0)
    from datamodules import NumberWordsDataModule

    rows = NumberWordsDataModule(train_rows=40, calibration_rows=60, test_rows=20, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(
        ValueError, match="`data` must hold questions with contexts, but NumberWordsDataModule does not"
    ):
        fit(module_of(folder), rows, tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("whose", ["model", "teacher"])
def test_a_question_without_room_is_told_with_whose_windows_are_short(
    whose: str, source: Path, folder: Path, teacher: Path, tmp_path: Path
) -> None:
    """Student and teacher have windows of their own: what to raise is the one's or the other's."""
    module = module_of(folder, SpanDistillation, teacher={"path": str(teacher), "stride": 9})
    reader: Any = module.tiers_at_work[whose == "teacher"]
    reader.stride = reader.max_length - 6  # room for two tokens
    said = (
        rf"of 4 tokens, but windows of {reader.max_length} .* leave room for 2 in {whose} \({reader.view.path}\); raise"
    )
    with pytest.raises(ValueError, match=said):
        fit(module, data_of(source, tmp_path), tmp_path)


def test_bf16_without_instructions_is_left_to_what_learns(folder: Path, teacher: Path, monkeypatch) -> None:
    monkeypatch.setattr(lowered, "has_bf16", lambda: False)
    low = {"path": str(teacher), "dtype": "bfloat16"}
    module, cpu = module_of(folder, SpanDistillation, teacher=low), torch.device("cpu")
    student, taught_by = module.tiers_at_work
    student.model.bfloat16()
    student.view = dataclasses.replace(student.view, dtype="bfloat16")
    spare_emulation(module, "fit", cpu)
    found = [{parameter.dtype for parameter in tier.model.parameters()} for tier in (student, taught_by)]
    assert found == [{torch.bfloat16}, {torch.float32}] and student.parts is None
    cascade = Cascade([low, str(folder)], label_names=["*"], metrics=METRICS)
    spare_emulation(cascade, "test", cpu)
    assert {parameter.dtype for parameter in cascade.network.tiers[0].model.parameters()} == {torch.float32}


def test_tiers_that_read_the_same_windows_are_told_together(folder: Path, tmp_path: Path) -> None:
    tiers = [{"path": str(folder), "stride": stride} for stride in (6, 9, 6)]
    module = Cascade(tiers, label_names=["*"], metrics=METRICS)
    first, other, _ = module.network.tiers
    assert module.window_readers == {
        first.encoding_key: f"tier1 ({folder}) and tier3 ({folder})", other.encoding_key: f"tier2 ({folder})"
    }  # fmt: skip
