"""Rows of an augmentation are labelled by the teacher, the others keep their labels."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from datamodules import TextDataModule
from datamodules.augmentation.file import FIRST_ID, about_rows, write
from datamodules.augmentation.generation import Generated
from lightning_modules import Classifier, Distillation
from tests.cli.glue_files import sentences


class Watched(Distillation):
    """Keeps ids and labels of each training step."""

    def training_step(self, batch, batch_idx):
        self.seen = [
            *getattr(self, "seen", []),
            *zip(batch["sample_id"].tolist(), batch["label"].tolist(), strict=True),
        ]
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("numbers", [False, True])
def test_new_texts_have_the_teacher_s_answers(numbers, make_tiny_bert, tmp_path, monkeypatch) -> None:
    names = [] if numbers else ["negative", "positive"]
    frame = sentences(60, 0)
    frame["label"] = np.linspace(0, 5, 60) if numbers else frame["label"]
    frame.to_csv(tmp_path / "train.csv", index=False)
    arguments = {"train_file": str(tmp_path / "train.csv"), "text_column": "sentence", "label_names": names}
    arguments |= {"cache_dir": str(tmp_path / "cache"), "batch_size": 8}
    rows = TextDataModule(**arguments).rows("train")
    new = [
        Generated(int(i), [(f"not {text}",), (f"very {text}",)])
        for i, text in zip(rows.sample_id, rows.text, strict=True)
    ]
    write(tmp_path / "new.parquet", new, rows, about_rows(rows, names, {}))
    data = TextDataModule(**arguments, augmentation=str(tmp_path / "new.parquet"))
    labels = ("LABEL_0",) if numbers else tuple(names)
    teacher, student = make_tiny_bert(seed=9, labels=labels), make_tiny_bert(layers=1, labels=labels)
    settings = {"path": str(student), "max_length": 24, "label_names": names}
    module = Watched(**settings, teacher=str(teacher), distillation="logits_mse")
    fit(module, data, tmp_path)
    stock, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(teacher).eval(),
        AutoTokenizer.from_pretrained(teacher),
    )
    known = dict(zip(rows.sample_id.tolist(), rows.label.tolist(), strict=True))
    texts = [text for each in new for (text,) in each.units]
    assert len(module.seen) == len(dict(module.seen)) == 3 * len(rows)
    for i, label in module.seen:
        if i < FIRST_ID:
            assert label == known[i]
            continue
        with torch.inference_mode():
            logits = stock(**tokenizer(texts[i - FIRST_ID], return_tensors="pt")).logits[0]
        assert label == (pytest.approx(float(logits[0]), abs=1e-4) if numbers else int(logits.argmax()))
    with pytest.raises(
        ValueError, match=r"`--model.teacher` must name a tier .* the texts of `--data.augmentation` have"
    ):
        fit(Classifier(**settings), data, tmp_path)


def fit(module, data, folder) -> None:
    import warnings

    from lightning.pytorch import Trainer

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "num_sanity_val_steps": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Trainer(
            accelerator="cpu", max_epochs=1, limit_val_batches=0, use_distributed_sampler=False,
            enable_model_summary=False, default_root_dir=str(folder), **quiet,
        ).fit(module, datamodule=data)  # fmt: skip
