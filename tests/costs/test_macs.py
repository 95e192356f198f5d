"""Counts against torch's own counter, closed forms and plain loops."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    PretrainedConfig,
    RobertaConfig,
)

from dial.costs.macs import OperationCount, count_macs, count_operations
from dial.costs.published import CONVENTIONS, flops_of
from dial.models.bilstm import BiLSTMConfig, BiLSTMForSequenceClassification
from tests.costs.counted import Calls, Packed, torch_macs

D, LAYERS, HEADS, FF, EMBEDDING, LABELS = 32, 3, 4, 80, 16, 3
SIZES = {"hidden_size": D, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": FF}
COMMON = {"vocab_size": 40, "num_labels": LABELS, "pad_token_id": 0}
CONFIGS = {
    "bert": BertConfig(**SIZES, **COMMON),
    "roberta": RobertaConfig(**SIZES, **COMMON, max_position_embeddings=130),
    "electra": ElectraConfig(**SIZES, **COMMON, embedding_size=EMBEDDING),
    "distilbert": DistilBertConfig(dim=D, n_layers=LAYERS, n_heads=HEADS, hidden_dim=FF, **COMMON),
    "minilm": BertConfig(hidden_size=48, num_hidden_layers=6, num_attention_heads=12, intermediate_size=192, **COMMON),
    # The window (9) is shorter than the text, so a count of windows alone would come out lower.
    "modernbert": ModernBertConfig(**SIZES, **COMMON, local_attention=8, global_attn_every_n_layers=2),
}


def closed_form(name: str, n: int) -> int:
    """MACs of one text of n tokens, written down from the architectures."""
    d, layers, ff = (48, 6, 192) if name == "minilm" else (D, LAYERS, FF)
    attention = 2 * n * n * d
    projections = 4 * n * d * d
    feed_forward = (3 if name == "modernbert" else 2) * n * d * ff  # ModernBERT's is gated
    head = d * d + d * LABELS  # pooler or dense, then the classes, on one token
    factorised = n * EMBEDDING * d if name == "electra" else 0
    return layers * (attention + projections + feed_forward) + head + factorised


def build(name: str, implementation: str) -> nn.Module:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(CONFIGS[name], attn_implementation=implementation)


def tokens(length: int, mask: bool, rows: int = 1) -> dict[str, Tensor]:
    example = {"input_ids": torch.arange(rows * length).reshape(rows, length) % 39 + 1}
    return {**example, "attention_mask": torch.ones(rows, length, dtype=torch.long)} if mask else example


@pytest.mark.parametrize("mask", [False, True], ids=["no mask", "mask"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_encoders_equal_torch_counter_and_closed_form(name: str, implementation: str, mask: bool) -> None:
    model, length = build(name, implementation), 48
    macs = count_macs(model, tokens(length, mask))
    assert macs == torch_macs(model, tokens(length, mask))
    assert macs == pytest.approx(closed_form(name, length), rel=1e-3)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_bert_base_at_128_tokens(implementation: str) -> None:
    with torch.device("meta"):  # no weights needed
        model = AutoModelForSequenceClassification.from_config(BertConfig(), attn_implementation=implementation)
    count = count_operations(model, tokens(128, mask=True))
    assert count.macs / 1e9 == pytest.approx(11.174, abs=5e-4)
    assert count.linear / 1e9 == pytest.approx(10.872, abs=5e-4)
    assert count.attention == 12 * 2 * 128 * 128 * 768
    assert count.norm == 25 * 128 * 768 * 5
    assert count.by("flop") / 1e9 == pytest.approx(22.35, abs=5e-3)
    assert count.by("flop_without_attention") == 2 * count.linear
    assert count.by("flop_without_attention_with_norm") == 2 * (count.linear + count.norm)
    assert count.by("flop_without_attention_with_norm") / 1e9 == pytest.approx(21.77, abs=0.005)  # E-LANG: 21.8


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_convention_is_counted_and_converted_alike(convention: str) -> None:
    """What is published in a convention is converted to what is counted in another; the pooler is no layer."""
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(BertConfig())
    count = count_operations(model, tokens(128, mask=True))
    assert flops_of(count.by(convention), convention) == pytest.approx(count.by("flop"), rel=1e-4)


def test_unknown_convention() -> None:
    with pytest.raises(
        ValueError, match=r"convention must be one of mac, flop, flop_without_attention, .*; got 'macs'"
    ):
        OperationCount(1, 1, 1).by("macs")


def test_rows_of_a_batch_add_up() -> None:
    model = build("bert", "sdpa")
    assert count_macs(model, tokens(20, True, rows=3)) == 3 * count_macs(model, tokens(20, True))


@pytest.mark.parametrize("length", [1, 40])
def test_bilstm_classifier_closed_form(length: int) -> None:
    model = BiLSTMForSequenceClassification(BiLSTMConfig())
    per_word = 2 * 4 * 64 * (50 + 64) + 2 * 4 * 64 * (128 + 64)
    assert count_macs(model, tokens(length, mask=True)) == length * per_word + 128 * 200 + 200 * 2
    padded = {
        "input_ids": torch.ones(1, 50, dtype=torch.long),
        "attention_mask": (torch.arange(50) < length)[None].long(),
    }
    assert count_macs(model, padded) == count_macs(model, tokens(length, mask=True))


def test_scripted_parts_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")

        @torch.jit.script
        def loop(x: Tensor, times: int) -> Tensor:
            for _ in range(times):
                x = x @ x
            return x

        scripted = torch.jit.script(nn.Linear(3, 3))
    with pytest.raises(ValueError, match=r"module must be plain Python.*torch\.jit\.script"):
        count_macs(Calls(lambda x: loop(x, x.shape[0])), {"x": torch.eye(3)})
    with pytest.raises(ValueError, match=r"module must be plain Python.*torch\.jit\.script"):
        count_macs(nn.Sequential(nn.ReLU(), scripted), {"input": torch.eye(3)})


def test_errors_of_the_module_come_through() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        count_macs(nn.Linear(3, 2), {"input": torch.zeros(4, 5)})


def test_module_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.LSTM(8, 4, batch_first=True))
    module.train()
    module[1].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    first = count_macs(module, {"input": torch.randn(2, 5, 8)})
    assert [part.training for part in module] == [True, False, True, True]
    assert module.training
    assert all(p.requires_grad and p.grad is None and p.device.type == "cpu" for p in module.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    assert count_macs(module, {"input": torch.randn(2, 5, 8)}) == first
    assert module[0](torch.randn(2, 8)).requires_grad


def test_dropout_is_off_and_data_dependent_parts_are_traced_for_real() -> None:
    class Halves(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                return x
            return x[: int((x[:, 0] > 0).sum())] @ x.T  # needs values

    assert count_macs(Halves().train(), {"x": torch.tensor([[1.0, 1], [2, 1], [-1, 1]])}) == 2 * 2 * 3


def test_counts_inside_a_test_loop() -> None:
    """Lightning tests under inference mode, and often under autocast."""
    encoder, lstm = build("bert", "sdpa"), Packed(nn.LSTM(5, 7, batch_first=True))
    packed = {"x": torch.zeros(2, 9, 5), "lengths": torch.tensor([9, 4])}
    expected = count_macs(encoder, tokens(12, True)), count_macs(lstm, packed)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert (count_macs(encoder, tokens(12, True)), count_macs(lstm, packed)) == expected
    assert count_macs(encoder.to(torch.bfloat16), tokens(12, True)) == expected[0]


class UnusedHead(nn.Module):
    """What an exit that is passed on the way, or a pooler that no head reads, looks like to a trace."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.state = nn.Linear(4, 4), nn.Linear(4, 2), nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        self.head(x)
        self.state(x)
        return self.body(x)


def test_work_that_no_output_needs_is_executed_and_counted() -> None:
    example = {"x": torch.zeros(2, 3, 4)}
    assert count_macs(UnusedHead(), example) == 2 * 3 * (4 * 4 + 4 * 2 + 2 * 4 * 4 * 4)


def test_outputs_may_be_nested() -> None:
    module = Calls(lambda x: {"a": (x @ x, [x @ x]), "none": None, "number": 3})
    assert count_macs(module, {"x": torch.eye(4)}) == 2 * 4**3


def test_shared_weights_count_once_per_use() -> None:
    layer = nn.Linear(4, 4)
    assert count_macs(nn.Sequential(layer, nn.ReLU(), layer), {"input": torch.zeros(3, 4)}) == 2 * 3 * 16


def test_no_warnings_and_no_log(caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder) -> None:
    count_macs(build("bert", "sdpa"), tokens(8, True))
    assert not caplog.records
    assert not [warning for warning in recwarn if "trac" in str(warning.message).lower()]


def test_pretrained_config_is_not_changed() -> None:
    model = build("modernbert", "sdpa")
    config: PretrainedConfig = model.config
    before = config.to_dict()
    count_macs(model, tokens(8, True))
    assert config.to_dict() == before
