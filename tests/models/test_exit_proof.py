"""Which encoders can have exits: those whose exits say what the stock model says, whoever leaves before."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dial.models import MultiExitConfig, MultiExitForSequenceClassification, exit_proof
from dial.models.exit_proof import prove_exits, prove_layers
from dial.models.exits import UnsuitableEncoderError
from tests.models.families import DECODERS, classifier, tokens

SUITABLE = ["bert", "roberta", "megatron-bert", "electra", "distilbert", "modernbert", "mpnet", "deberta", "deberta-v2"]


@pytest.fixture(autouse=True)
def _nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exit_proof, "_proved", set())


def with_exits(name: str, **settings: Any) -> MultiExitForSequenceClassification:
    return MultiExitForSequenceClassification.from_encoder(classifier(name), **settings).eval()


@torch.no_grad()
def rows_alone(model: MultiExitForSequenceClassification, inputs: dict[str, Tensor]) -> Tensor:
    """Logits ``(B, E, C)``, each row by itself."""
    rows = [
        model(**{key: value[i : i + 1] for key, value in inputs.items()}).logits
        for i in range(len(inputs["input_ids"]))
    ]
    return torch.cat(rows)


@torch.no_grad()
def check_leaving(model: MultiExitForSequenceClassification, inputs: dict[str, Tensor], leaves: list[int]) -> None:
    """Row ``i`` leaves at exit ``leaves[i]``; whatever is said of the others is what is said of them alone."""
    alone, seen = rows_alone(model, inputs), []

    def go_on(index: int, rows: Tensor, logits: Tensor) -> Tensor:
        torch.testing.assert_close(logits, alone[rows, index], atol=2e-4, rtol=1e-4)
        seen.append(rows.tolist())
        return torch.tensor([leaves[row] > index for row in rows.tolist()])

    model.run(inputs, go_on)
    assert seen == [[i for i in range(len(leaves)) if leaves[i] >= e] for e in range(max(leaves) + 1)]


# ---- families that can ----


@pytest.mark.parametrize("name", [*SUITABLE, *DECODERS, "mpt", "fnet"])
def test_suitable_encoders_pass(name: str) -> None:
    prove_exits(with_exits(name))


@pytest.mark.parametrize("padded", ["right", "left"])
@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_the_last_exit_of_a_decoder_is_its_stock_classifier(name: str, padded: str) -> None:
    stock = classifier(name)
    model = MultiExitForSequenceClassification.from_encoder(stock).eval()
    assert model.config.pooling == "last"
    inputs = tokens(6, 9, padded)
    torch.testing.assert_close(model(**inputs).logits[:, -1], stock(**inputs).logits, atol=1e-5, rtol=1e-5)
    seen: list[Tensor] = []

    def go_on(index: int, rows: Tensor, logits: Tensor) -> Tensor:
        seen.append(logits)
        return rows % 2 == 0

    model.run(inputs, go_on)
    torch.testing.assert_close(seen[-1], stock(**inputs).logits[::2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["bert", "roberta", "megatron-bert", "mpnet"])
@torch.no_grad()
def test_the_last_exit_of_an_encoder_with_a_tanh_pooler_is_its_stock_classifier(name: str) -> None:
    stock = classifier(name)
    model = MultiExitForSequenceClassification.from_encoder(stock, pooler=True).eval()
    inputs = tokens(5, 8)
    torch.testing.assert_close(model(**inputs).logits[:, -1], stock(**inputs).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["electra", "distilbert", "deberta-v2"])
def test_a_head_that_is_another_function_is_not_taken_over(name: str, caplog: pytest.LogCaptureFixture) -> None:
    stock = classifier(name)
    model = MultiExitForSequenceClassification.from_encoder(stock, pooler=True)
    assert "computes its answer in another way than an exit does" in caplog.text
    weights = [weight for key, weight in stock.named_parameters() if weight.ndim == 2 and weight.shape == (3, 16)]
    assert not any(torch.equal(model.heads[-1].linear.weight, weight) for weight in weights)


# ---- rows that leave, in batches as large as something else ----


@pytest.mark.parametrize("name", ["deberta", "deberta-v2"])
@pytest.mark.parametrize("rows", [11, 12, 13])
def test_as_many_rows_as_relative_positions(name: str, rows: int) -> None:
    model = with_exits(name)
    sizes = {value.shape[0] for key, value in model.state_dict().items() if "rel_embeddings.weight" in key}
    assert sizes == {12}
    check_leaving(model, tokens(rows, 7), [0, 2, 1] + [i % 3 for i in range(rows - 3)])


@pytest.mark.parametrize("name", [*SUITABLE, *DECODERS, "mpt"])
def test_as_many_rows_as_tokens_heads_or_layers(name: str) -> None:
    model = with_exits(name)
    for rows, length in ((4, 6), (3, 5), (6, 6), (5, 5)):  # 4 heads, 3 layers
        for padded in ("right", None):
            check_leaving(model, tokens(rows, length, padded), [2, 0, *(i % 3 for i in range(rows - 2))])


def test_the_proof_tries_such_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_exits("deberta-v2")
    tried: list[int] = []
    plain = exit_proof._Trial.as_many_rows_as_entries
    monkeypatch.setattr(
        exit_proof._Trial, "as_many_rows_as_entries", lambda self, size, *a: (tried.append(size), plain(self, size, *a))
    )
    prove_exits(model)
    assert tried == [5, 12]


def test_a_table_taken_for_rows_is_noticed() -> None:
    """Were tensors cut by their size, which is wrong only in batches of one size, the proof would fail."""
    model = with_exits("deberta-v2")
    known = model.row_tensors
    place = next(place for place in known.others if "rel_embeddings" in place)
    known.others.remove(place)
    known.rows.add(place)
    known.take = lambda value, size, rows, *place: by_size(value, size, rows)  # type: ignore[method-assign]
    with pytest.raises(UnsuitableEncoderError, match="DebertaV2Model"):
        prove_exits(model)


def by_size(value: Any, size: int, rows: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[rows] if value.ndim and value.shape[0] == size else value
    if isinstance(value, dict):
        return {key: by_size(item, size, rows) for key, item in value.items()}
    return type(value)(by_size(item, size, rows) for item in value) if isinstance(value, tuple | list) else value


# ---- families that cannot ----


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flaubert", "do nothing with the hidden states of its last layer but norm them, but FlaubertModel does more"),
        ("xlm", "do nothing with the hidden states of its last layer but norm them, but XLMModel does more"),
        ("squeezebert", "run its 3 layers in sequence, .* but SqueezeBertModel does not call them so"),
        ("longformer", "hidden states (4, 5, 16), but LongformerModel has (4, 8, 16)"),
        ("bloom", "first dimension is the batch or fixed, but argument alibi has 8 entries for 2 rows and 12 for 3"),
        ("xlnet", "have the batch as the first dimension of its hidden states, but XLNetLayer got (5, 4, 16)"),
    ],
)
def test_unsuitable_encoders_are_refused_in_one_line(name: str, message: str) -> None:
    model = with_exits(name)
    with pytest.raises(UnsuitableEncoderError, match=re.escape(message).replace(r"\.\*", ".*")) as error:
        prove_exits(model)
    assert "\n" not in str(error.value) and str(error.value).startswith("`encoder` must")


@pytest.mark.parametrize("name", DECODERS)
def test_the_first_token_of_a_decoder_sees_only_itself(name: str) -> None:
    with pytest.raises(UnsuitableEncoderError, match=r"`pooling` must be a token that sees the others.* take last"):
        prove_exits(with_exits(name, pooling="first"))
    prove_exits(with_exits(name, pooling="mean"))


class ByNeighbours(nn.Module):
    """A layer that norms over the batch."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        hidden: Tensor = self.layer(hidden_states, *args, **kwargs)
        return hidden - hidden.mean(dim=0, keepdim=True)


def test_rows_that_see_their_neighbours_are_refused() -> None:
    model = with_exits("bert")
    for index, layer in enumerate(model.layers):
        model.layers[index] = ByNeighbours(layer)
    with pytest.raises(UnsuitableEncoderError, match=r"compute each row by itself, .* batch of 4 rows of BertModel"):
        prove_exits(model)


def test_a_norm_that_stands_elsewhere_is_no_final_norm() -> None:
    """An encoder that norms its embeddings, and nothing behind its layers."""
    model = with_exits("bert")
    model.norm_name = "embeddings.LayerNorm"
    with pytest.raises(UnsuitableEncoderError, match=r"of its last layer but norm them|have the norm .* elsewhere"):
        prove_exits(model)


def test_what_the_stock_classifier_adds_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    class Shifted(BertForSequenceClassification):
        def forward(self, input_ids: Tensor, **inputs: Any) -> Any:
            return super().forward(input_ids, token_type_ids=torch.ones_like(input_ids), **inputs)

    monkeypatch.setattr(exit_proof, "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING", {BertConfig: Shifted})
    with pytest.raises(UnsuitableEncoderError, match="as in Shifted, but that gives BertModel token_type_ids"):
        prove_exits(with_exits("bert"))


def test_an_encoder_that_fails_is_refused_in_one_line() -> None:
    model = with_exits("bert")
    del model.encoder.embeddings.position_ids
    with pytest.raises(UnsuitableEncoderError, match="must run layer by layer, but BertModel does not") as error:
        prove_exits(model)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "fine"), [("bert", True), ("modernbert", True), ("flaubert", False), ("xlnet", False)]
)
def test_layers_of_a_teacher_are_proved_alone(name: str, fine: bool) -> None:
    encoder = classifier(name).base_model
    if fine:
        prove_layers(encoder)
    else:
        with pytest.raises(UnsuitableEncoderError):
            prove_layers(encoder)


# ---- what the proof leaves behind ----


def test_it_is_done_once_for_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    prove_exits(with_exits("bert"))
    monkeypatch.setattr(exit_proof._Trial, "prove", lambda *a: pytest.fail("again"))
    prove_exits(MultiExitForSequenceClassification.from_encoder(classifier("bert", seed=5)))
    with pytest.raises(pytest.fail.Exception):
        prove_exits(with_exits("bert", pooling="mean"))


def test_nobody_sees_it_and_nothing_changes() -> None:
    model = with_exits("bert").train()
    model.heads[0].eval()
    calls: list[int] = []
    for part in model.modules():
        part.register_forward_hook(lambda *a: calls.append(1))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    prove_exits(model)
    assert not calls and torch.equal(torch.get_rng_state(), random)
    assert model.training and model.layers[0].training and not model.heads[0].training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())


def test_a_configuration_of_a_decoder_reads_its_last_token() -> None:
    encoder = {**classifier("gpt2").config.to_dict(), "model_type": "gpt2"}
    model = MultiExitForSequenceClassification(MultiExitConfig(encoder=encoder, pooling="last", num_labels=3))
    prove_exits(model)
