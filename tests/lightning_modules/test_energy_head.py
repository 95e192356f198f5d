"""Heads on a frozen encoder: what is trained, what is kept, what a checkpoint and a folder hold."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, BartConfig, BartForConditionalGeneration

from datamodules import TextToTextDataModule
from dial.models.encoder_decoder import encoder_fingerprint, encoder_of
from dial.models.energy_head import ClassHead, VocabularyHead
from dial.models.kept_states import KeptStates
from dial.models.saved_head import load_head
from dial.tiers.loading import load_tier, save_tier
from lightning_modules import EnergyHead

NAMES = ["negative", "positive"]


def module(path: Path, **settings: Any) -> EnergyHead:
    return EnergyHead(path=str(path), label_names=NAMES, max_length=32, **settings)


class Watching(EnergyHead):
    """Keeps what every step saw: how many rows the encoder read, and its mode."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.read: list[int] = []
        encoder_of(self.tier.model).register_forward_hook(
            lambda encoder, args, kwargs, output: self.read.append(0 if encoder.training else len(output[0])),
            with_kwargs=True,
        )
        self.tier.model.get_decoder().register_forward_hook(lambda *_: pytest.fail("the decoder ran"))


def test_the_frozen_model_is_bit_identical_afterwards_and_the_head_is_not(tiny_t5: Path, fit: Any) -> None:
    trained = module(tiny_t5)
    before = copy.deepcopy(trained.tier.model.state_dict())
    head = copy.deepcopy(trained.tier.head.state_dict())
    fit(trained, steps=5)
    after = trained.tier.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    fresh = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5)
    assert encoder_fingerprint(encoder_of(fresh)) == trained.tier.head.config.encoder
    assert all(not torch.equal(head[name], value) for name, value in trained.tier.head.state_dict().items())
    assert all(parameter.grad is None for parameter in trained.tier.model.parameters())


def test_the_encoder_runs_once_for_each_row_without_dropout_and_the_decoder_never(tiny_t5: Path, fit: Any) -> None:
    trained = Watching(path=str(tiny_t5), label_names=NAMES, max_length=32)
    trainer = fit(trained, steps=-1, max_epochs=3, limit_val_batches=1.0)
    data = trainer.datamodule
    assert sum(trained.read) == len(data.rows("train")) + len(data.rows("validation"))
    assert min(trained.read) > 0  # 0 would be one in training mode


def test_a_step_equals_logistic_regression_on_pooled_states(tiny_t5: Path, fit: Any) -> None:
    seen: dict[str, Any] = {}

    class Kept(EnergyHead):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            seen.update(batch=batch, head=copy.deepcopy(self.tier.head), loss=super().training_step(batch, batch_idx))
            return seen["loss"]

    trained = Kept(path=str(tiny_t5), label_names=NAMES, max_length=32)
    fit(trained)
    encoding = seen["batch"]["encodings"][trained.tier.encoding_key]
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5).eval()
    losses = []
    for ids, mask, label in zip(encoding["input_ids"], encoding["attention_mask"], seen["batch"]["label"], strict=True):
        with torch.no_grad():
            states = model.encoder(input_ids=ids[mask == 1][None]).last_hidden_state[0]
        logits = seen["head"].output(states.mean(dim=0))
        losses.append(-logits.log_softmax(dim=0)[int(label)])
    torch.testing.assert_close(seen["loss"], sum(losses) / len(losses), rtol=1e-5, atol=1e-5)


def test_training_ends_where_logistic_regression_does(tiny_t5: Path, fit: Any, capsys: Any) -> None:
    """The loss is convex: many kept epochs come to scikit-learn's optimum on the states of stock transformers."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    trained = module(tiny_t5, optimizer=lambda groups: torch.optim.AdamW(groups, lr=0.05, weight_decay=0.0))
    trainer = fit(trained, steps=-1, max_epochs=60, limit_val_batches=1.0)
    assert "epoch 59: validation/accuracy" in capsys.readouterr().out
    rows, encoder = trainer.datamodule.rows("train"), AutoModelForSeq2SeqLM.from_pretrained(tiny_t5).eval().encoder
    with torch.no_grad():
        texts = [trained.tier.tokenizer(text, return_tensors="pt") for text in rows.text]
        states = torch.stack([encoder(**text).last_hidden_state[0].mean(dim=0) for text in texts])
        shares = trained.tier.head.of_pooled(states).softmax(dim=1).numpy()
    best = LogisticRegression(C=1e4, max_iter=2000).fit(states.numpy(), rows.label)
    optimum = log_loss(rows.label, best.predict_proba(states.numpy()))
    assert optimum < 0.6 and log_loss(rows.label, shares) == pytest.approx(optimum, abs=0.03)


def test_a_checkpoint_holds_the_head_alone_and_fits_no_other_encoder(
    tiny_t5: Path, make_tiny_t5: Any, fit: Any, tmp_path: Path
) -> None:
    trained = module(tiny_t5, pooling="first")
    fit(trained, steps=2).save_checkpoint(tmp_path / "head.ckpt")
    checkpoint = torch.load(tmp_path / "head.ckpt", weights_only=True)
    assert sorted(value.shape for value in checkpoint["state_dict"].values()) == [(2,), (2, 16)]
    restored = EnergyHead.load_from_checkpoint(tmp_path / "head.ckpt")
    for name, value in trained.tier.state_dict().items():
        assert torch.equal(value, restored.tier.state_dict()[name]), name
    with pytest.raises(ValueError, match="`--ckpt_path` must be a checkpoint of this encoder's head, but its encoder"):
        EnergyHead.load_from_checkpoint(tmp_path / "head.ckpt", path=str(make_tiny_t5(seed=1)))
    with pytest.raises(ValueError, match="its pooling differ"):
        EnergyHead.load_from_checkpoint(tmp_path / "head.ckpt", pooling="mean")


@pytest.mark.parametrize("layers", [None, 1])
@pytest.mark.parametrize("apart", [False, True])
def test_the_head_is_saved_beside_the_tier_or_apart(
    tiny_t5: Path, tmp_path: Path, apart: bool, layers: int | None
) -> None:
    trained = module(tiny_t5, apart=apart, layers=layers)
    folder = save_tier(tmp_path / "tier", trained.tier, {"label_names": NAMES})
    assert (folder / "model.safetensors").exists() is not apart
    spec: Any = {"path": str(tiny_t5), "head": str(folder), "layers": layers} if apart else str(folder)
    tier: Any = load_tier(spec, "swift", NAMES)
    ids = {"input_ids": torch.tensor([[5, 6, 1], [7, 1, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    with torch.no_grad():
        trained.eval()
        expected = trained.tier.head.energy(encoder_of(trained.tier.model)(**ids)[0], ids["attention_mask"])
        assert torch.equal(tier.decide(ids)[1]["energy"][:, 0], expected)
    assert load_head(folder).config == trained.tier.head.config


def test_heads_are_of_the_kind_that_answers_are(tiny_t5: Path) -> None:
    assert isinstance(module(tiny_t5).tier.head, ClassHead) and not module(tiny_t5).reads_targets
    small = module(tiny_t5, kind="vocabulary", bottleneck=4, reading="bag", layers=1)
    assert isinstance(small.tier.head, VocabularyHead) and small.reads_targets
    assert small.tier.head.config.outputs == len(small.tier.tokenizer)
    assert isinstance(EnergyHead(path=str(tiny_t5)).tier.head, VocabularyHead)  # numbers have no energy
    with pytest.raises(ValueError, match="`kind` must be vocabulary where answers are no label words"):
        EnergyHead(path=str(tiny_t5), kind="classes")
    with pytest.raises(ValueError, match="`bottleneck` must be a width from 1 up of a head to the vocabulary"):
        module(tiny_t5, bottleneck=4)


def test_other_models_are_refused(tiny_bert: Path, tiny_t5: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`path` must be an encoder-decoder"):
        module(tiny_bert)
    other = save_tier(tmp_path / "tier", load_tier(str(tiny_t5), "swift", NAMES), {"label_names": ["yes", "no"]})
    with pytest.raises(ValueError, match=r"`path` must write .* was trained to write label words yes, no; give a tier"):
        module(other)


def test_a_run_that_goes_on_ends_where_one_in_a_go_does(tiny_t5: Path, fit: Any, tmp_path: Path) -> None:
    whole, other = module(tiny_t5), module(tiny_t5)
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=9, save_top_k=-1)
    fit(whole, steps=16, callbacks=[keep], enable_checkpointing=True)
    fit(other, steps=16, ckpt_path=str(tmp_path / "step=9.ckpt"))
    short = module(tiny_t5)
    fit(short, steps=15)
    for name, value in whole.tier.state_dict().items():
        # States are kept as the first epoch that reads them gives them: other batches of it round in other ways.
        torch.testing.assert_close(other.tier.state_dict()[name], value, rtol=0, atol=1e-7, msg=name)
        if name == "head.output.weight":
            assert (short.tier.state_dict()[name] - value).abs().max() > 1e-5  # a step more or less shows


def bart(folder: Path, tokenizer: Any) -> Path:
    ends = {
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 0,
        "decoder_start_token_id": 1,
        "forced_eos_token_id": 1,
    }
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 64, "d_model": 12}
    BartForConditionalGeneration(BartConfig(vocab_size=len(tokenizer), **sizes, **ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_head_on_another_family(tiny_t5: Path, fit: Any, tmp_path: Path) -> None:
    trained = module(bart(tmp_path / "bart", AutoTokenizer.from_pretrained(tiny_t5)))
    fit(trained, steps=3)
    folder = save_tier(tmp_path / "tier", trained.tier, {})
    tier: Any = load_tier(str(folder), "swift", NAMES)
    ids = {"input_ids": torch.tensor([[5, 6, 1], [7, 1, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    with torch.no_grad():
        states = AutoModelForSeq2SeqLM.from_pretrained(folder).eval().get_encoder()(**ids).last_hidden_state
        expected = [
            torch.logsumexp(tier.head.output(row[mask == 1].mean(dim=0)), dim=0).item()
            for row, mask in zip(states, ids["attention_mask"], strict=True)
        ]
        assert tier.decide(ids)[1]["energy"][:, 0].tolist() == pytest.approx(expected, abs=1e-5)


def test_kept_states_are_computed_once_in_any_order() -> None:
    states, asked = torch.randn(6, 3), []
    ids = torch.tensor([2, 3, 5, 8, 13, 21])
    kept = KeptStates(ids)
    for rows in ([4, 0], [0, 1, 4, 5], [2, 3, 0], [5, 4, 3, 2, 1, 0]):

        def compute(missing: Tensor, rows: list[int] = rows) -> Tensor:
            asked.extend(rows[i] for i in missing.tolist())
            return states[[rows[i] for i in missing.tolist()]]

        assert torch.equal(kept(ids[rows], compute), states[rows])
    assert sorted(asked) == list(range(6))


# ---- heads over the vocabulary ----


def words_as_texts(folder: Path) -> TextToTextDataModule:
    rows = [("a good film", "positive"), ("the plot was dull", "negative"), ("great cast", "positive")] * 8
    path = folder / "train.csv"
    path.write_text("source,target\n" + "".join(f"{source},{target}\n" for source, target in rows))
    return TextToTextDataModule(
        train_file=str(path),
        test_file=str(path),
        label_names=NAMES,
        batch_size=4,
        validation_file=str(path),
        cache_dir=str(folder / "cache"),
    )


@pytest.mark.parametrize("reading", ["position", "bag"])
def test_a_head_over_the_vocabulary_learns_the_target_s_pieces(tiny_t5: Path, tmp_path: Path, reading: Any) -> None:
    trained = Watching(
        path=str(tiny_t5),
        label_names=NAMES,
        max_length=32,
        kind="vocabulary",
        reading=reading,
        bottleneck=8,
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=0.05),
    )
    data = words_as_texts(tmp_path)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        max_epochs=30,
        default_root_dir=str(tmp_path),
    )
    trainer.fit(trained, datamodule=data)
    assert float(trainer.callback_metrics["validation/quality"]) == -float(trainer.callback_metrics["validation/loss"])
    tokenizer, head = trained.tier.tokenizer, trained.tier.head
    ids = tokenizer("great cast", return_tensors="pt")
    pieces = tokenizer("positive")["input_ids"]
    with torch.no_grad():
        logits = head.logits(trained.tier.model.encoder(**ids).last_hidden_state)[0]
    if reading == "position":  # cut to the source's length, or padded
        length = len(logits)
        assert logits.argmax(dim=1).tolist() == (pieces + [0] * length)[:length]
    else:
        top = [set(row.topk(len(set(pieces))).indices.tolist()) for row in logits]
        assert all(best == set(pieces) for best in top)
