"""Training of encoder-decoders: losses against plain loops, validation counted once per row, distillation."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping

from datamodules import TextDataModule, TextToTextDataModule
from dial.stages.metrics.metrics import evaluate
from dial.tiers.loading import load_tier, save_tier
from dial.tiers.tokens import Tokeniser
from lightning_modules import Seq2Seq, Seq2SeqDistillation
from tests.models.test_generation import CLOSE

DIGITS = "zero one two three four five six seven eight nine".split()
PARITY = ["even", "odd"]
TINY = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 40}
STILL = {**TINY, "dropout_rate": 0.0}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """Numbers in words, their digits, and whether they are even: 120 rows to train on, 40 to validate on."""
    random, folder = np.random.default_rng(0), tmp_path_factory.mktemp("numbers")
    for role, rows in (("train", 120), ("validation", 40)):
        with (folder / f"{role}.csv").open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["source", "target", "parity"])
            for _ in range(rows):
                digits = random.integers(10, size=random.integers(1, 4)).tolist()
                words = " ".join(DIGITS[d] for d in digits)
                lines.writerow([words, "".join(map(str, digits)), PARITY[digits[-1] % 2]])
    return {f"{role}_file": str(folder / f"{role}.csv") for role in ("train", "validation")}


def data(files: dict[str, str], cache: Path, names: list[str] | None = None, **settings: Any) -> TextToTextDataModule:
    target = {} if names is None else {"target_column": "parity", "label_names": names}
    return TextToTextDataModule(**files, **target, batch_size=8, cache_dir=str(cache), **settings)


def fit(module: Seq2Seq, rows: TextToTextDataModule, tmp_path: Path, steps: int = 1, **settings: Any) -> Trainer:
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
    trainer.fit(module, datamodule=rows)
    return trainer


def forced_loss(model: Any, encoding: dict[str, Any], row: int) -> tuple[float, int]:
    """Summed loss of one row alone, without padding, and its pieces."""
    labels = encoding["labels"][row]
    labels = labels[labels != -100]
    ids = encoding["input_ids"][row][encoding["attention_mask"][row] == 1]
    before = torch.tensor([[model.config.decoder_start_token_id, *labels[:-1].tolist()]])
    with torch.no_grad():
        log_p = model(input_ids=ids[None], decoder_input_ids=before).logits[0].log_softmax(-1)
    return -sum(log_p[step, token].item() for step, token in enumerate(labels)), len(labels)


class Watching:
    """Keeps the batch, the model as it was, and the loss of a step."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.batch, self.state = batch, {k: v.clone() for k, v in self.tier.model.state_dict().items()}  # type: ignore[attr-defined]
        self.seen = super().training_step(batch, batch_idx)  # type: ignore[misc]
        return self.seen


class Watched(Watching, Seq2Seq):
    pass


class WatchedStudent(Watching, Seq2SeqDistillation):
    pass


def test_the_loss_is_that_of_a_plain_loop_over_pieces(files, tmp_path) -> None:
    module = Watched(config=STILL, tokenizer="characters", label_names=PARITY)
    fit(module, data(files, tmp_path, PARITY), tmp_path)
    model = module.tier.model
    model.load_state_dict(module.state)
    encoding = module.batch["encodings"][module.tier.encoding_key]
    each = [forced_loss(model.eval(), encoding, row) for row in range(len(encoding["labels"]))]
    assert len({pieces for _, pieces in each}) > 1  # rows of different lengths: a mean over rows would differ
    assert module.seen.item() == pytest.approx(sum(a for a, _ in each) / sum(n for _, n in each), abs=CLOSE)


@pytest.mark.parametrize("names", [None, PARITY])
def test_validation_writes_an_answer_to_each_row(files, tmp_path, names) -> None:
    metrics = ["exact_match", "bleu"] if names is None else ["accuracy"]
    module = Seq2Seq(
        config=TINY, tokenizer="characters", max_new_tokens=6, label_names=names or ["*"], metrics=metrics,
        optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2),
    )  # fmt: skip
    rows = data(files, tmp_path, names)
    trainer = fit(module, rows, tmp_path, steps=-1, max_epochs=3, limit_val_batches=1.0)
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    tokeniser = Tokeniser(module.tier)
    texts, losses = [], []
    module.eval()
    with torch.no_grad():
        for source in rows.rows("validation").text:
            texts += module.writer.write(tokeniser.collate(tokeniser([source])), torch.tensor([0])).texts
    for batch in rows.val_dataloader():
        encoding = batch["encodings"][module.tier.encoding_key]
        losses += [forced_loss(module.tier.model, encoding, row) for row in range(len(encoding["labels"]))]
    assert len(losses) == len(texts) == 40
    expected = sum(a for a, _ in losses) / sum(n for _, n in losses)
    assert logged["validation/loss"] == pytest.approx(expected, abs=CLOSE)
    for name in metrics:
        if names is None:
            value = evaluate(name, rows.references("validation"), np.array(texts, dtype=object))
        else:
            answers = [names.index(text) if text in names else -1 for text in texts]
            value = np.mean(np.array(answers) == rows.rows("validation").label)
        assert logged[f"validation/{name}"] == pytest.approx(value, abs=1e-6)
    value, loss = logged[f"validation/{metrics[0]}"], logged["validation/loss"]
    assert logged["validation/quality"] == pytest.approx(value if value > 0 else -loss / (1 + loss), abs=1e-6)


def test_a_model_that_writes_nothing_right_yet_trains_on_while_its_loss_falls(files, tmp_path) -> None:
    """From scratch the metric stands at 0 at first; early stopping must not take that for the end."""
    module = Seq2Seq(
        config=STILL, tokenizer="characters", max_new_tokens=2, label_names=["*"], metrics=["exact_match"],
        optimizer=lambda p: torch.optim.AdamW(p, lr=1e-4),
    )  # fmt: skip
    stopping = EarlyStopping("validation/quality", mode="max", patience=2)
    trainer = fit(
        module, data(files, tmp_path), tmp_path, steps=-1, max_epochs=5, limit_val_batches=1.0, callbacks=[stopping]
    )
    assert trainer.callback_metrics["validation/exact_match"] == 0
    assert trainer.current_epoch == 5 and stopping.stopped_epoch == 0


def test_validation_by_loss_writes_nothing(files, tmp_path) -> None:
    module = Seq2Seq(config=TINY, tokenizer="characters", validation="loss", label_names=["*"], metrics=["exact_match"])
    module.writer.write = lambda *_: pytest.fail("a decoder wrote")  # type: ignore[method-assign,assignment]
    trainer = fit(module, data(files, tmp_path), tmp_path, steps=-1, max_epochs=1, limit_val_batches=1.0)
    assert trainer.callback_metrics["validation/quality"] == -trainer.callback_metrics["validation/loss"]


@pytest.fixture
def teacher(files, tmp_path) -> Path:
    """Folder of a tier with the tokenizer of the data, which writes some text."""
    module = Seq2Seq(
        config={**STILL, "num_layers": 2}, tokenizer="characters", max_new_tokens=4, label_names=["*"],
        metrics=["exact_match"], optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2),
    )  # fmt: skip
    fit(module, data(files, tmp_path), tmp_path, steps=20)
    return save_tier(tmp_path / "teacher", module.eval().tier, {"label_names": ["*"]})


def student(teacher: Path, limit: int | None = None, **settings: Any) -> WatchedStudent:
    path, view = str(save_small(teacher)), {"path": str(teacher), "max_new_tokens": limit}
    return WatchedStudent(
        path=path, teacher=view, label_names=["*"], metrics=["exact_match"], max_new_tokens=4, **settings
    )


def save_small(teacher: Path) -> Path:
    """The teacher's first layer as a folder of its own."""
    tier = load_tier({"path": str(teacher), "layers": 1}, "x", ["*"])
    folder = teacher.with_name("student")
    return folder if folder.exists() else save_tier(folder, tier, {"label_names": ["*"]})


def test_word_level_distillation_is_that_of_a_plain_loop(files, tmp_path, teacher) -> None:
    module = student(teacher, distillation_weight=0.3, distillation_temperature=3.0)
    fit(module, data(files, tmp_path), tmp_path)
    model = module.tier.model
    model.load_state_dict(module.state)
    other = load_tier(str(teacher), "t", ["*"]).model
    encoding = module.batch["encodings"][module.tier.encoding_key]
    task, taught, pieces = 0.0, 0.0, 0
    for row in range(len(encoding["labels"])):
        loss, count = forced_loss(model.eval(), encoding, row)
        labels = encoding["labels"][row][:count]
        ids = encoding["input_ids"][row][encoding["attention_mask"][row] == 1][None]
        before = torch.tensor([[0, *labels[:-1].tolist()]])
        with torch.no_grad():
            own, theirs = (m(input_ids=ids, decoder_input_ids=before).logits[0] for m in (model, other.eval()))
        size = len(module.tier.tokenizer)
        for a, b in zip(own[:, :size], theirs[:, :size], strict=True):
            taught -= ((b / 3).softmax(-1) * (a / 3).log_softmax(-1)).sum().item() * 9
        task, pieces = task + loss, pieces + count
    assert module.seen.item() == pytest.approx(0.7 * task / pieces + 0.3 * taught / pieces, abs=1e-3)


@pytest.mark.parametrize("limit", [None, 1])
def test_sequence_level_distillation_trains_on_what_the_teacher_writes(
    files, tmp_path, teacher, monkeypatch, capsys, limit
) -> None:
    module = student(teacher, limit, distillation="sequence", distillation_weight=1.0)
    fit(module, data(files, tmp_path), tmp_path)
    tier = load_tier({"path": str(teacher), "max_new_tokens": limit}, "t", ["*"])
    tokeniser = Tokeniser(tier)
    known = data(files, tmp_path).rows("train")
    total, pieces, cut = 0.0, 0, 0
    module.tier.model.load_state_dict(module.state)
    for row in module.batch["sample_id"].tolist():
        source = known.text[known.sample_id.tolist().index(row)]
        with torch.no_grad():
            written = tier.write(tokeniser.collate(tokeniser([source])), torch.tensor([0]))
        encoding = tokeniser.collate(tokeniser([source]))
        ids = list(tokeniser(written.texts)[0].ids)
        if len(ids) > 4:
            cut, ids = cut + 1, ids[:3]  # the student's limit is 4 with the end, which this text does not have there
        elif written.limited.item():
            cut, ids = cut + 1, ids[:-1]
        target = {**encoding, "labels": torch.tensor([ids])}
        target.setdefault("attention_mask", torch.ones_like(encoding["input_ids"]))
        loss, count = forced_loss(module.tier.model.eval(), target, 0)
        total, pieces = total + loss, pieces + count
    assert module.seen.item() == pytest.approx(total / pieces, abs=1e-3)
    if limit:
        assert cut and "the teacher's text was cut off at its limit in" in capsys.readouterr().out
    again = student(teacher, limit, distillation="sequence", distillation_weight=1.0)
    monkeypatch.setattr(type(tier), "write", lambda *_: pytest.fail("the teacher wrote again"))
    fit(again, data(files, tmp_path), tmp_path)


def test_a_teacher_with_other_pieces_is_refused_for_words(files, tmp_path, teacher, make_tiny_t5) -> None:
    module = WatchedStudent(path=str(make_tiny_t5()), teacher=str(teacher), label_names=["*"], metrics=["exact_match"])
    with pytest.raises(ValueError, match="`teacher` must have the student's pieces for word-level distillation"):
        fit(module, data(files, tmp_path), tmp_path)


def test_arguments_are_checked(tiny_bert) -> None:
    with pytest.raises(ValueError, match="give exactly one of them"):
        Seq2Seq(label_names=["*"], metrics=["exact_match"])
    with pytest.raises(ValueError, match="`path` must be an encoder-decoder"):
        Seq2Seq(path=str(tiny_bert), label_names=["*"], metrics=["exact_match"])
    with pytest.raises(ValueError, match="`validation` must be generation or loss, but got 'bleu'"):
        Seq2Seq(config=TINY, validation="bleu", label_names=["*"], metrics=["exact_match"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`teacher` must name a trained tier"):
        Seq2SeqDistillation(config=TINY, label_names=["*"], metrics=["exact_match"])


def test_names_of_classes_are_written_where_data_has_no_targets(files, tmp_path, make_tiny_t5) -> None:
    rows = TextDataModule(
        **files, text_column="source", label_column="parity", batch_size=8, cache_dir=str(tmp_path / "cache")
    )
    module = Watched(path=str(make_tiny_t5(dropout_rate=0.0)), label_names=PARITY)
    fit(module, rows, tmp_path)
    model = module.tier.model
    model.load_state_dict(module.state)
    encoding = dict(module.batch["encodings"][module.tier.encoding_key])
    assert "labels" not in encoding
    words = [module.tier.tokenizer(PARITY[label])["input_ids"] for label in module.batch["label"].tolist()]
    encoding["labels"] = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(word) for word in words], batch_first=True, padding_value=-100
    )
    each = [forced_loss(model.eval(), encoding, row) for row in range(len(words))]
    assert module.seen.item() == pytest.approx(sum(a for a, _ in each) / sum(n for _, n in each), abs=CLOSE)


def test_numbers_need_data_that_says_how_they_are_written(files, tmp_path, make_tiny_t5) -> None:
    rows = TextDataModule(
        **files, text_column="source", label_column="target", label_names=[], cache_dir=str(tmp_path / "cache")
    )
    module = Seq2Seq(path=str(make_tiny_t5()), label_names=[])
    with pytest.raises(ValueError, match="`data` must say how its numbers are written, but TextDataModule does not"):
        fit(module, rows, tmp_path)
