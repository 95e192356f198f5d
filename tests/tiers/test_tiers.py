"""Tiers: folders in, folders out, labels in the data's order, costs' inputs."""

import logging
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel

from dial.tiers.loading import build_tier, load_tier, save_tier
from dial.tiers.tier import View
from dial.tiers.tokens import encoding_key
from tests.tiers.tiny_tiers import DATA, TEXTS, MakeBert, logits_of, words_tier

# ---- loading ----


def test_a_tier_gives_what_transformers_gives(tiny_bert: Path) -> None:
    tier = load_tier(str(tiny_bert), "super", DATA, "tiers[1]")
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert).eval()
    encoding = AutoTokenizer.from_pretrained(tiny_bert)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(logits_of(tier), model(**encoding).logits)
        assert tier(dict(encoding)).shape == (3, 1, 2)
    assert tier.stage_names == ["super"] and tier.exits == ["final"] and not tier.training and not tier.labels_assumed


def test_half_precision_files_are_computed_in_float32(make_tiny_bert: MakeBert) -> None:
    folder = make_tiny_bert()
    AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float16).save_pretrained(folder)
    tier = load_tier(str(folder), "t", DATA)
    assert {parameter.dtype for parameter in tier.parameters()} == {torch.float32}


@pytest.mark.parametrize("layers", [1, 2])
def test_a_cut_encoder_is_the_first_layers(make_tiny_bert: MakeBert, layers: int) -> None:
    folder = make_tiny_bert(layers=3)
    whole = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tier = load_tier({"path": str(folder), "layers": layers}, "t", DATA)
    whole.bert.encoder.layer = whole.bert.encoder.layer[:layers]
    with torch.no_grad():
        expected = whole(**tier.tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
    torch.testing.assert_close(logits_of(tier), expected)


@pytest.mark.parametrize("model_type", ["roberta", "electra", "distilbert", "modernbert", "bilstm"])
def test_other_classes_are_cut_and_come_back(model_type: str, tmp_path: Path) -> None:
    config = {"model_type": model_type, "vocab_size": 30, "hidden_size": 16, "num_attention_heads": 2}
    config |= {"num_hidden_layers": 3, "intermediate_size": 32}
    if model_type == "distilbert":
        config = {"model_type": model_type, "vocab_size": 30, "dim": 16, "n_heads": 2, "n_layers": 3, "hidden_dim": 32}
    if model_type == "bilstm":
        config = {"model_type": model_type, "vocab_size": 30, "num_hidden_layers": 3}
    built = build_tier(config, "words", DATA, 16)
    built.fit_tokenizer(lambda: TEXTS)
    save_tier(tmp_path / "whole", built, {})
    cut = load_tier({"path": str(tmp_path / "whole"), "layers": 2}, "t", DATA)
    assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in built.parameters())
    save_tier(tmp_path / "cut", cut, {})
    torch.testing.assert_close(logits_of(load_tier(str(tmp_path / "cut"), "t", DATA)), logits_of(cut))
    torch.testing.assert_close(logits_of(load_tier(str(tmp_path / "whole"), "t", DATA)), logits_of(built))


def test_token_types_are_dropped_where_the_model_takes_none(tiny_tokenizer, tmp_path: Path) -> None:
    config = {"model_type": "distilbert", "dim": 16, "n_heads": 2, "n_layers": 1, "hidden_dim": 32}
    tiny_tokenizer.save_pretrained(tmp_path)
    tier = build_tier(config, str(tmp_path), DATA, 16)
    assert "token_type_ids" in tier.tokenizer("a") and "token_type_ids" not in tier.example(3)
    assert logits_of(tier).shape == (3, 2)
    assert tier.model.config.vocab_size == len(tiny_tokenizer)


# ---- labels ----


@pytest.mark.parametrize("names", [("Positive", "NEGATIVE"), ("POSITIVE ", "negative!")])
def test_other_order_and_case_leave_the_accuracy(make_tiny_bert: MakeBert, names: tuple[str, str]) -> None:
    plain, renamed = make_tiny_bert(), make_tiny_bert(labels=names)
    texts = [f"{a} {b} {c}" for a in ("good", "bad", "dull") for b in ("not", "very", "film") for c in ("so", "poor")]
    encoding = dict(load_tier(str(plain), "t", DATA).tokenizer(texts, padding=True, return_tensors="pt"))
    model, exchanged = (
        AutoModelForSequenceClassification.from_pretrained(folder).eval() for folder in (plain, renamed)
    )
    with torch.no_grad():
        logits = model(**encoding).logits
        difference = logits[:, 1] - logits[:, 0]
        model.classifier.bias[1] -= difference.quantile(0.5)  # so that both classes are predicted
        exchanged.classifier.weight.copy_(model.classifier.weight.flip(0))
        exchanged.classifier.bias.copy_(model.classifier.bias.flip(0))
    model.save_pretrained(plain)
    exchanged.save_pretrained(renamed)
    one, other = (load_tier(str(folder), "t", DATA) for folder in (plain, renamed))
    labels = (difference > difference.quantile(0.5)).long()
    labels[:3] = 1 - labels[:3]
    with torch.no_grad():
        first, second = one(encoding)[:, 0], other(encoding)[:, 0]
    assert (first.argmax(-1) == labels).sum() == (second.argmax(-1) == labels).sum() == len(texts) - 3
    torch.testing.assert_close(first, second)


def test_generic_names_warn_and_can_be_settled(make_tiny_bert: MakeBert, caplog: pytest.LogCaptureFixture) -> None:
    folder = str(make_tiny_bert(labels=("LABEL_0", "LABEL_1")))
    assumed = load_tier(folder, "swift", DATA, "tiers[0]")
    assert assumed.labels_assumed and "LABEL_0, LABEL_1) are taken in the data's order" in caplog.text
    settled = load_tier({"path": folder, "label_names": ["positive", "negative"]}, "swift", DATA, "tiers[0]")
    assert not settled.labels_assumed
    torch.testing.assert_close(logits_of(settled), logits_of(assumed).flip(-1))
    assert settled.own_label_names == DATA and assumed.own_label_names is None


def test_a_settled_order_is_saved(make_tiny_bert: MakeBert, tmp_path: Path) -> None:
    view = {"path": str(make_tiny_bert(labels=("LABEL_0", "LABEL_1"))), "label_names": ["positive", "negative"]}
    settled = load_tier(view, "t", DATA, train=True)
    save_tier(tmp_path / "new", settled, {})
    torch.testing.assert_close(logits_of(load_tier(str(tmp_path / "new"), "t", DATA)), logits_of(settled))


@pytest.mark.parametrize(
    ("labels", "data", "message"),
    [
        (("bad", "good"), DATA, r"`tiers\[1\]` must have the data's labels negative, positive .* it has bad, good"),
        (("a", "b", "c"), DATA, r"`tiers\[1\]` must have the data's 2 labels \(negative, positive\), but .* has 3"),
        (("a", "b"), [], r"`tiers\[1\]` must have the data's 1 output \(regression\), but .* has 2"),
        (("score",), DATA, r"`tiers\[1\]` must have the data's 2 labels .* has 1"),
    ],
)
@pytest.mark.parametrize("train", [False, True])
def test_labels_that_differ(make_tiny_bert: MakeBert, labels: tuple, data: list, message: str, train: bool) -> None:
    with pytest.raises(ValueError, match=message):
        load_tier(str(make_tiny_bert(labels=labels)), "t", data, "tiers[1]", train=train)


def test_regression(make_tiny_bert: MakeBert) -> None:
    tier = load_tier(str(make_tiny_bert(labels=("score",))), "t", [])
    assert logits_of(tier).shape == (3, 1)


# ---- heads ----


@pytest.fixture
def bare_encoder(tmp_path: Path, tiny_tokenizer) -> Path:
    config = BertConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).half().save_pretrained(tmp_path / "encoder")
    tiny_tokenizer.save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.mark.parametrize("data", [DATA, ["a", "b", "c"], []])
def test_an_encoder_gets_a_new_head_for_training(
    bare_encoder: Path, data: list[str], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture, tmp_path: Path
) -> None:
    tier = load_tier(str(bare_encoder), "swift", data, train=True)
    assert tier.training and tier.model.config.num_labels == max(1, len(data))
    ours = [record for record in caplog.records if record.name.startswith("dial.")]
    assert [record.message for record in ours] == [
        f"swift: {bare_encoder} has no trained classification head; a new one starts untrained."
    ]
    assert len(caplog.records) == 1 and "LOAD REPORT" not in "".join(capfd.readouterr())
    assert {parameter.dtype for parameter in tier.parameters()} == {torch.float32}
    save_tier(tmp_path / "trained", tier, {})
    again = load_tier(str(tmp_path / "trained"), "t", data[::-1])
    torch.testing.assert_close(logits_of(again), logits_of(tier).flip(-1))


def test_an_encoder_without_head_cannot_answer(bare_encoder: Path) -> None:
    with pytest.raises(ValueError, match=r"`tiers\[0\]` must be a trained classifier, .* without classification head"):
        load_tier(str(bare_encoder), "t", DATA, "tiers[0]")


def test_a_trained_head_is_kept_for_training(tiny_bert: Path) -> None:
    torch.testing.assert_close(
        logits_of(load_tier(str(tiny_bert), "t", DATA, train=True)), logits_of(load_tier(str(tiny_bert), "t", DATA))
    )


def test_the_real_encoder(models_folder: Path) -> None:
    folder = models_folder / "minilm-l6-h384"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    tier = load_tier({"path": str(folder), "layers": 1, "max_length": 128}, "t", DATA, train=True)
    assert len(tier.model.bert.encoder.layer) == 1 and tier.max_length == 128
    assert next(tier.parameters()).dtype == torch.float32 and torch.isfinite(logits_of(tier)).all()


# ---- lengths, keys, fingerprints ----


def test_max_length(tiny_bert: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_tier(str(tiny_bert), "t", DATA).max_length == 32
    assert load_tier({"path": str(tiny_bert), "max_length": 8}, "t", DATA).max_length == 8
    assert not caplog.records
    assert load_tier({"path": str(tiny_bert), "max_length": 64}, "t", DATA).max_length == 32
    assert "`max_length` 64 is more than the model's 32 positions" in caplog.text
    roberta = {"model_type": "roberta", "vocab_size": 30, "hidden_size": 16, "num_attention_heads": 2}
    roberta |= {"num_hidden_layers": 1, "intermediate_size": 8, "max_position_embeddings": 34, "pad_token_id": 1}
    tier = build_tier(roberta, "words", DATA, 100)
    assert tier.max_length == 32  # positions count from behind the padding index
    tier.eval()(tier.example(32))


def test_a_folder_keeps_its_length_and_its_key(make_tiny_bert: MakeBert, tmp_path: Path) -> None:
    folder = make_tiny_bert()
    tier = load_tier({"path": str(folder), "max_length": 8}, "t", DATA)
    fresh = encoding_key(tier.tokenizer, 8)
    tier.tokenizer("a " * 50, truncation=True, max_length=5, padding="max_length")  # leaves traces in the backend
    assert encoding_key(tier.tokenizer, 8) == fresh
    save_tier(tmp_path / "new", tier, {})
    again = load_tier(str(tmp_path / "new"), "t", DATA)
    assert again.max_length == 8 and again.encoding_key == tier.encoding_key
    assert encoding_key(again.tokenizer, 8) == encoding_key(tier.tokenizer, 8) != encoding_key(tier.tokenizer, 9)
    assert load_tier(str(folder), "t", DATA).encoding_key != tier.encoding_key
    assert words_tier().encoding_key != tier.encoding_key and len(tier.encoding_key) == 12


def test_the_fingerprint_follows_weights_and_view_but_not_the_place(make_tiny_bert: MakeBert, tmp_path: Path) -> None:
    folder = make_tiny_bert()
    tier = load_tier(str(folder), "t", DATA)
    save_tier(tmp_path / "copy", tier, {})
    assert load_tier(str(tmp_path / "copy"), "other", DATA).fingerprint == tier.fingerprint
    assert load_tier({"path": str(folder), "batch_size": 7}, "t", DATA).fingerprint == tier.fingerprint
    others = {tier.fingerprint}
    for change in ({"layers": 1}, {"dtype": "bfloat16"}, {"max_length": 8}, {"temperature": 2.0}):
        others.add(load_tier({"path": str(folder), **change}, "t", DATA).fingerprint)
    others.add(load_tier(str(folder), "t", DATA[::-1]).fingerprint)
    with torch.no_grad():
        next(tier.model.classifier.parameters())[0, 0] += 1e-6
    others.add(tier.fingerprint)
    assert len(others) == 7


@pytest.mark.parametrize("length", [1, 5])
def test_path_and_example(tiny_bert: Path, length: int) -> None:
    for tier in (load_tier(str(tiny_bert), "t", DATA), words_tier().eval()):
        example = tier.example(length)
        assert example["input_ids"].shape == (1, length) and example["attention_mask"].all()
        assert (example["input_ids"] != tier.tokenizer.pad_token_id).all()
        with torch.no_grad():
            torch.testing.assert_close(tier.path(0)(**example), tier(example)[:, 0])
        with pytest.raises(ValueError, match="`exit_index` must be below 1, but got 1"):
            tier.path(1)


def test_loading_does_not_change_logging(tiny_bert: Path) -> None:
    from transformers.utils import logging as transformers_logging

    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    load_tier(View(path=str(tiny_bert)), "t", DATA)
    assert (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()) == (level, bars)
    assert logging.getLogger("transformers").level == level
