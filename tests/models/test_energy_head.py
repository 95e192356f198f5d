"""Energy heads against loops over Eq. 7 and Eq. 8, and heads that belong to something else."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from dial.models import energy_head
from dial.models.encoder_decoder import (
    encoder_fingerprint,
    encoder_of,
    encoder_states,
    hidden_size,
    vocabulary_fingerprint,
)
from dial.models.energy_head import (
    HEAD_SCORES,
    ClassHead,
    EnergyHead,
    HeadConfig,
    VocabularyHead,
    build_head,
    piece_scores,
)
from dial.models.saved_head import check_head, has_head, load_head, save_head
from dial.stages.scores import compute

LENGTHS = (5, 2, 4)
CLASSES = HeadConfig("classes", 6, 3, encoder="e", label_words=("no", "so", "yes"))
PIECES = HeadConfig("vocabulary", 6, 11, encoder="e", vocabulary="v")


def batch(width: int = 6, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    mask = torch.tensor([[1] * length + [0] * (5 - length) for length in LENGTHS])
    states = scale * torch.randn(len(LENGTHS), 5, width, generator=torch.Generator().manual_seed(1))
    return states, mask


def naive(kind: str, logits: list[float]) -> float:
    total = sum(math.exp(z) for z in logits)
    shares = [math.exp(z) / total for z in logits]
    return {
        "energy": math.log(total),
        "softmax": max(shares),
        "entropy": sum(p * math.log(p) for p in shares),
    }[kind]


def line(head: Any, state: Tensor) -> list[float]:
    return [
        sum(w * x for w, x in zip(row, state.tolist(), strict=True)) + bias
        for row, bias in zip(head.output.weight.tolist(), head.output.bias.tolist(), strict=True)
    ]


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_scores_of_classes_equal_equation_7(pooling: Any) -> None:
    head = build_head(replace(CLASSES, pooling=pooling))
    states, mask = batch()
    scores = head.scores(states, mask)
    assert set(scores) == {"energy", "softmax", "entropy"}
    for row, length in enumerate(LENGTHS):
        real = states[row, : length if pooling == "mean" else 1]
        logits = line(head, sum(real) / len(real))
        assert head.logits(states, mask)[row].tolist() == pytest.approx(logits, rel=1e-5)
        for name, values in scores.items():
            assert values.dtype is torch.float64 and values.shape == (3,)
            assert float(values[row]) == pytest.approx(naive(name, logits), rel=1e-5), (name, row)
    assert torch.equal(head.energy(states, mask), scores["energy"])


@pytest.mark.parametrize("bottleneck", [None, 2])
@pytest.mark.parametrize("chunk", [1, 30, 2**20])
def test_scores_of_a_vocabulary_are_means_over_unpadded_positions(
    bottleneck: int | None, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy_head, "CHUNK", chunk)
    head = build_head(replace(PIECES, bottleneck=bottleneck))
    states, mask = batch()
    scores = head.scores(states, mask)
    for row, length in enumerate(LENGTHS):
        for name, values in scores.items():
            each = []
            for position in range(length):
                state = states[row, position]
                if bottleneck is not None:
                    state = torch.stack([(weights * state).sum() for weights in head.narrow.weight])
                each.append(naive(name, line(head, state)))
            assert float(values[row]) == pytest.approx(sum(each) / length, rel=1e-5), (name, row)
    assert head.logits(states, mask).shape == (3, 5, 11)


@pytest.mark.parametrize("config", [CLASSES, replace(CLASSES, pooling="first"), PIECES, replace(PIECES, bottleneck=2)])
def test_a_row_alone_scores_as_in_a_padded_batch(config: HeadConfig) -> None:
    head = build_head(config)
    states, mask = batch()
    states = states.masked_fill(mask[..., None] == 0, 1e3)  # what stands in padding is not read
    together = head.energy(states, mask)
    for row, length in enumerate(LENGTHS):
        alone = head.energy(states[row : row + 1, :length])
        assert float(together[row]) == pytest.approx(float(alone[0]), abs=1e-5)


@pytest.mark.parametrize("config", [CLASSES, PIECES])
def test_autocast_and_a_bf16_encoder_do_not_lower_the_head_s_precision(config: HeadConfig) -> None:
    head = build_head(config)
    states, mask = batch()
    states = states.bfloat16()
    outside = head.energy(states.float(), mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, logits = head.energy(states, mask), head.logits(states, mask)
    assert logits.dtype is torch.float32
    assert torch.equal(inside, outside)


@pytest.mark.parametrize("config", [CLASSES, PIECES])
def test_huge_logits_stay_finite_and_temperature_divides_them(config: HeadConfig) -> None:
    head = build_head(config)
    states, mask = batch(scale=1e5)
    assert all(torch.isfinite(values).all() for values in head.scores(states, mask).values())
    states, mask = batch()
    warm, direct = head.energy(states, mask, 2.0), build_head(config)
    direct.load_state_dict({name: value / (1 if "narrow" in name else 2) for name, value in head.state_dict().items()})
    torch.testing.assert_close(warm, 2 * direct.energy(states, mask), rtol=1e-5, atol=1e-6)


# ---- on disk ----


@pytest.mark.parametrize("config", [CLASSES, replace(PIECES, bottleneck=2, reading="bag")])
def test_a_saved_head_comes_back_beside_other_files(tmp_path: Path, config: HeadConfig) -> None:
    head = build_head(config)
    (tmp_path / "model.safetensors").write_text("the tier's")
    save_head(head, tmp_path)
    assert has_head(tmp_path) and (tmp_path / "model.safetensors").read_text() == "the tier's"
    read = load_head(tmp_path)
    assert read.config == config and not read.training
    assert torch.equal(read.energy(*batch()), head.energy(*batch()))


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`tiers\[0\].head` must be a folder with energy_head.json, but .* has none"):
        load_head(tmp_path, "tiers[0].head")
    save_head(build_head(CLASSES), tmp_path)
    (tmp_path / "energy_head.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(ValueError, match=r"`head`: the weights of the energy head in .* cannot be read"):
        load_head(tmp_path)
    (tmp_path / "energy_head.json").write_text('{"kind": "classes"}')
    with pytest.raises(ValueError, match=r"energy_head.json cannot be read.*Train the head again"):
        load_head(tmp_path)


@pytest.mark.parametrize(
    ("config", "given", "message"),
    [
        (CLASSES, {"encoder": "f", "label_words": CLASSES.label_words}, "trained on this tier's encoder .f., but"),
        (
            CLASSES,
            {"encoder": "e", "label_words": ("yes", "no")},
            "label words yes, no in this order, but got one of no,",
        ),
        (CLASSES, {"encoder": "e", "vocabulary": "v"}, "over the vocabulary, as answers are free text"),
        (PIECES, {"encoder": "e", "vocabulary": "w"}, "tokenizer .pieces w., but got one of other pieces .v."),
    ],
)
def test_a_head_of_something_else_is_refused_in_one_line(
    config: HeadConfig, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^`head` must .*{message}.*energy_head.yaml") as refused:
        check_head(build_head(config), **given)
    assert "\n" not in str(refused.value)


def test_a_fitting_head_is_taken() -> None:
    check_head(build_head(CLASSES), "e", label_words=["no", "so", "yes"])
    check_head(build_head(PIECES), "e", vocabulary="v")
    check_head(build_head(PIECES), "e", label_words=["a", "b"], vocabulary="v")  # WSC's answers by Eq. 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "words"}, "`kind` must be one of classes, vocabulary, but got 'words'"),
        ({"pooling": "last"}, "`pooling` must be one of mean, first"),
        ({"bottleneck": 2}, "`bottleneck` must be a width from 1 up of a head to the vocabulary"),
        ({"outputs": 1, "label_words": ("x",)}, "a number has no energy"),
        ({"outputs": 4}, "must be the 3 label words, but got 4"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CLASSES, **settings)


# ---- encoders ----


def t5(seed: int = 0, layers: int = 2) -> T5ForConditionalGeneration:
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=40, d_model=16, d_kv=4, d_ff=24, num_layers=layers, num_heads=2, decoder_start_token_id=0
    )
    return T5ForConditionalGeneration(config).eval()


def test_the_fingerprint_is_of_the_encoder_alone(tmp_path: Path) -> None:
    model = t5()
    model.save_pretrained(tmp_path)
    own = encoder_fingerprint(encoder_of(model))
    assert own == encoder_fingerprint(encoder_of(AutoModelForSeq2SeqLM.from_pretrained(tmp_path)))
    assert own != encoder_fingerprint(encoder_of(t5(seed=1)))
    assert own != encoder_fingerprint(encoder_of(AutoModelForSeq2SeqLM.from_pretrained(tmp_path, num_layers=1)))
    with torch.no_grad():
        model.decoder.block[0].layer[0].SelfAttention.q.weight.add_(1)
        assert own == encoder_fingerprint(encoder_of(model))
        model.encoder.block[0].layer[0].SelfAttention.q.weight[0, 0] += 1e-3
        assert own != encoder_fingerprint(encoder_of(model))


@torch.no_grad()
def test_states_are_the_encoder_s_last() -> None:
    ids, mask = torch.tensor([[5, 6, 1], [7, 1, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    model = t5()
    expected = model(input_ids=ids, attention_mask=mask, decoder_input_ids=ids).encoder_last_hidden_state
    assert torch.equal(encoder_states(encoder_of(model), ids, mask), expected) and hidden_size(model) == 16
    bert = BertModel(
        BertConfig(vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    ).eval()
    assert torch.equal(encoder_states(encoder_of(bert), ids, mask), bert(ids, mask).last_hidden_state)
    assert hidden_size(bert) == 8


def test_the_vocabulary_s_fingerprint_is_of_pieces_and_ids(tiny_tokenizer: Any) -> None:
    class Swapped:
        def get_vocab(self) -> dict[str, int]:
            vocabulary = dict(tiny_tokenizer.get_vocab())
            vocabulary["film"], vocabulary["plot"] = vocabulary["plot"], vocabulary["film"]
            return vocabulary

    assert vocabulary_fingerprint(tiny_tokenizer) == vocabulary_fingerprint(tiny_tokenizer)
    assert vocabulary_fingerprint(tiny_tokenizer) != vocabulary_fingerprint(Swapped())


def test_kinds_are_built_as_they_are_named() -> None:
    assert isinstance(build_head(CLASSES), ClassHead) and isinstance(build_head(PIECES), VocabularyHead)
    assert issubclass(VocabularyHead, EnergyHead)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_scores_of_many_pieces_equal_those_of_classes(temperature: float) -> None:
    logits = 4 * torch.randn(7, 300)
    logits[0, 3] = 80.0  # nearly certain: probabilities of the others underflow
    found = piece_scores(logits.clone(), HEAD_SCORES, temperature)
    for name in HEAD_SCORES:
        torch.testing.assert_close(found[name], compute(name, logits, temperature), rtol=1e-6, atol=1e-6)
