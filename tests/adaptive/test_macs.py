"""Counts against torch's own counter, closed forms and plain loops."""

import itertools
import warnings
from collections.abc import Callable
from math import prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    PretrainedConfig,
    RobertaConfig,
)

from lightning_modules.adaptive.macs import OperationCount, count_macs, count_operations
from lightning_modules.models.bilstm import BiLSTMConfig, BiLSTMForSequenceClassification

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


def fused(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """FLOPs of CPU's fused attention, which torch's counter lacks; it gets shapes."""
    b, h, length, e = query
    return 2 * b * h * length * key[2] * (e + value[3])


def torch_macs(module: nn.Module, example: dict[str, Tensor]) -> float:
    """The same pass under torch's counter, which dispatches real operators and counts 2 per MAC."""
    mapping = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: fused}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        module.eval()(**example)
    return counter.get_total_flops() / 2


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
    assert count.by("flop_without_attention") / 1e9 == pytest.approx(21.8, abs=0.05)  # E-LANG's tables
    assert count.by("flop_without_attention") == 2 * (count.linear + count.norm)


def test_unknown_convention() -> None:
    with pytest.raises(ValueError, match="convention must be one of mac, flop, flop_without_attention; got 'macs'"):
        OperationCount(1, 1, 1).by("macs")


def test_rows_of_a_batch_add_up() -> None:
    model = build("bert", "sdpa")
    assert count_macs(model, tokens(20, True, rows=3)) == 3 * count_macs(model, tokens(20, True))


def test_fvcore_alone_gives_zero_for_fused_attention_and_lstm() -> None:
    """The trap that the handles are for; an fvcore that closes it should be noticed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis

        class Attend(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return F.scaled_dot_product_attention(x, x, x)

        for module, example in ((Attend(), torch.zeros(1, 2, 6, 4)), (nn.LSTM(4, 3), torch.zeros(6, 2, 4))):
            raw = FlopCountAnalysis(module, example).unsupported_ops_warnings(False).total()
            name = "x" if isinstance(module, Attend) else "input"
            assert raw == 0
            assert count_macs(module, {name: example}) > 0


class UnrolledLSTM(nn.Module):
    """A stacked bidirectional LSTM as one ``nn.LSTMCell`` per layer and direction, over one text."""

    def __init__(self, inputs: int, hidden: int, layers: int) -> None:
        super().__init__()
        widths = [inputs] + [2 * hidden] * (layers - 1)
        self.cells = nn.ModuleList(nn.ModuleList(nn.LSTMCell(w, hidden) for _ in range(2)) for w in widths)

    def forward(self, x: Tensor) -> Tensor:
        for forwards, backwards in self.cells:
            outputs = []
            for cell, steps in ((forwards, x.unbind()), (backwards, x.flip(0).unbind())):
                state, states = None, []
                for step in steps:
                    state = cell(step[None], state)
                    states.append(state[0][0])
                outputs.append(torch.stack(states))
            x = torch.cat([outputs[0], outputs[1].flip(0)], dim=1)
        return x


class Packed(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.layer(packed)[0], batch_first=True)[0]


def test_lstm_equals_unrolled_cells_and_closed_form() -> None:
    inputs, hidden, layers, steps = 5, 7, 3, 11
    lstm = nn.LSTM(inputs, hidden, layers, bidirectional=True, batch_first=True)
    unrolled = UnrolledLSTM(inputs, hidden, layers)
    expected = 0
    for layer in range(layers):
        width = inputs if layer == 0 else 2 * hidden
        expected += steps * 2 * 4 * hidden * (width + hidden)
    example = torch.zeros(steps, inputs)
    assert torch_macs(unrolled, {"x": example}) == expected
    assert count_macs(unrolled, {"x": example}) == expected
    assert count_macs(lstm, {"input": example[None]}) == expected
    assert count_macs(lstm, {"input": example}) == expected  # without a batch dimension
    assert count_macs(lstm, {"input": example.expand(4, -1, -1)}) == 4 * expected


def test_packed_lstm_pays_for_true_lengths_only() -> None:
    lstm, lengths = nn.LSTM(5, 7, 2, bidirectional=True, batch_first=True), torch.tensor([3, 11, 2])
    one_step = count_macs(lstm, {"input": torch.zeros(1, 1, 5)})
    assert count_macs(Packed(lstm), {"x": torch.zeros(3, 11, 5), "lengths": lengths}) == 16 * one_step
    assert count_macs(lstm, {"input": torch.zeros(3, 11, 5)}) == 33 * one_step


@pytest.mark.parametrize(("kind", "gates"), [(nn.GRU, 3), (nn.RNN, 1)])
def test_other_recurrent_layers(kind: type[nn.RNNBase], gates: int) -> None:
    layer = kind(5, 7, bidirectional=True, batch_first=True)
    expected = 2 * gates * 7 * (5 + 7)
    assert count_macs(layer, {"input": torch.zeros(2, 9, 5)}) == 18 * expected
    assert count_macs(Packed(layer), {"x": torch.zeros(2, 9, 5), "lengths": torch.tensor([9, 4])}) == 13 * expected


def test_lstm_with_projection() -> None:
    layer = nn.LSTM(5, 7, proj_size=3, batch_first=True)
    assert count_macs(layer, {"input": torch.zeros(1, 9, 5)}) == 9 * (4 * 7 * (5 + 3) + 7 * 3)


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


class Calls(nn.Module):
    """A function of keyword tensors as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, **tensors: Tensor) -> Any:
        return self.function(**tensors)


def attention_loops(query: Tensor, key: Tensor, value: Tensor) -> int:
    """Multiply-adds of attention, one by one, every query head reading a whole key and value head."""
    count = 0
    for _row, _head, _position in itertools.product(*map(range, query.shape[:3])):
        for _other in range(key.shape[2]):
            for _ in range(query.shape[3]):
                count += 1
            for _ in range(value.shape[3]):
                count += 1
    return count


@pytest.mark.parametrize(
    ("query", "key", "value", "options"),
    [
        ((2, 4, 5, 3), (2, 4, 6, 3), (2, 4, 6, 7), {}),
        ((2, 4, 5, 3), (2, 2, 6, 3), (2, 2, 6, 3), {"enable_gqa": True}),
        ((2, 4, 5, 3), (1, 4, 6, 3), (1, 4, 6, 3), {}),  # broadcast batch
        ((2, 4, 5, 3), (2, 4, 5, 3), (2, 4, 5, 3), {"is_causal": True}),  # executed in full
    ],
)
def test_fused_attention_equals_loops(query: Any, key: Any, value: Any, options: dict[str, Any]) -> None:
    module = Calls(lambda **qkv: F.scaled_dot_product_attention(qkv["q"], qkv["k"], qkv["v"], **options))
    example = {"q": torch.zeros(query), "k": torch.zeros(key), "v": torch.zeros(value)}
    count = count_operations(module, example)
    assert count == OperationCount(linear=0, attention=attention_loops(*example.values()), norm=0)


@pytest.mark.parametrize("masked", [False, True])
def test_fused_attention_without_batch_or_with_mask(masked: bool) -> None:
    mask = torch.ones(5, 6, dtype=torch.bool) if masked else None

    def attend(q: Tensor, k: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, k, None if mask is None else mask.to(q.device))

    for batch in ((), (4,), (2, 4)):
        example = {"q": torch.zeros(*batch, 5, 3), "k": torch.zeros(*batch, 6, 3)}
        assert count_macs(Calls(attend), example) == prod(batch) * 5 * 6 * (3 + 3)


@pytest.mark.parametrize(
    ("equation", "shapes", "kind"),
    [
        ("bhid,bhjd->bhij", [(2, 3, 4, 5), (2, 3, 6, 5)], "attention"),
        ("bij,jk->bik", [(2, 3, 4), (4, 5)], "linear"),
        ("i,j->ij", [(3,), (4,)], "linear"),
        ("bij, bkj", [(2, 3, 4), (2, 5, 4)], "attention"),
        ("ij->ji", [(3, 4)], "linear"),  # one operand: nothing to multiply
    ],
)
def test_einsum_equals_loops(equation: str, shapes: list[tuple[int, ...]], kind: str) -> None:
    terms = equation.replace(" ", "").split("->")[0].split(",")
    sizes = {label: n for term, shape in zip(terms, shapes, strict=True) for label, n in zip(term, shape, strict=True)}
    expected = sum(1 for _ in itertools.product(*map(range, sizes.values()))) if len(terms) > 1 else 0
    example = {f"x{k}": torch.zeros(shape) for k, shape in enumerate(shapes)}
    count = count_operations(Calls(lambda **x: torch.einsum(equation, *x.values())), example)
    assert getattr(count, kind) == count.macs == expected


def test_einsum_of_three_contracts_from_the_left() -> None:
    module = Calls(lambda x, y, z: torch.einsum("ab,bc,cd->ad", x, y, z))
    example = {"x": torch.zeros(2, 3), "y": torch.zeros(3, 4), "z": torch.zeros(4, 5)}
    assert count_macs(module, example) == 2 * 3 * 4 + 2 * 4 * 5


def test_einsum_ellipsis_broadcasts() -> None:
    module = Calls(lambda x, y: torch.einsum("...ij,...jk->...ik", x, y))
    example = {"x": torch.zeros(7, 1, 2, 3), "y": torch.zeros(6, 3, 4)}
    assert count_macs(module, example) == 7 * 6 * 2 * 3 * 4


@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        (torch.matmul, [(5, 1, 2, 3), (6, 3, 4)], 5 * 6 * 2 * 3 * 4),  # both batches broadcast; fvcore: a sixth of it
        (torch.matmul, [(5, 2, 3), (3,)], 5 * 2 * 3),
        (torch.matmul, [(3,), (3,)], 3),
        (torch.matmul, [(3,), (5, 3, 2)], 5 * 3 * 2),
        (torch.bmm, [(5, 2, 3), (5, 3, 4)], 5 * 2 * 3 * 4),
        (torch.mm, [(2, 3), (3, 4)], 2 * 3 * 4),
        (torch.mv, [(2, 3), (3,)], 2 * 3),
        (torch.baddbmm, [(5, 2, 4), (5, 2, 3), (5, 3, 4)], 5 * 2 * 3 * 4),
        (torch.addmm, [(4,), (2, 3), (3, 4)], 2 * 3 * 4),
        (F.linear, [(5, 2, 3), (4, 3)], 5 * 2 * 3 * 4),
        (F.conv1d, [(2, 4, 9), (6, 4, 3)], 2 * 6 * 7 * 4 * 3),
    ],
)
def test_products(function: Callable[..., Tensor], shapes: list[tuple[int, ...]], expected: int) -> None:
    example = {f"x{k}": torch.zeros(shape) for k, shape in enumerate(shapes)}
    assert count_macs(Calls(lambda **x: function(*x.values())), example) == expected


def test_normalisation_and_element_wise_work_are_zero() -> None:
    module = nn.Sequential(nn.LayerNorm(8), nn.GELU(), nn.BatchNorm1d(5), nn.Softmax(dim=-1), nn.Dropout())
    assert count_operations(module, {"input": torch.zeros(2, 5, 8)}) == OperationCount(0, 0, norm=5 * 2 * 5 * 8)


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x @ x


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (torch.linalg.inv, r"aten::linalg_inv"),
        (lambda x: torch.cdist(x, x), r"aten::cdist"),
        (lambda x: F.interpolate(x[None, None], scale_factor=2), r"aten::upsample_nearest2d"),  # fvcore has a handle
        (Product.apply, r"prim::PythonOp\.Product"),
    ],
)
def test_unknown_operators_are_named(function: Callable[[Tensor], Tensor], name: str) -> None:
    module = Calls(lambda x: function(x))
    with pytest.raises(ValueError, match=rf"module must use only operators .* {name}\..*NEGLIGIBLE"):
        count_macs(module, {"x": torch.eye(3)})


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
