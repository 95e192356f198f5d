"""Each operator's MACs against plain loops, unrolled cells and closed forms."""

import itertools
import warnings
from collections.abc import Callable
from math import prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dial.costs.macs import OperationCount, count_macs, count_operations
from tests.costs.counted import Calls, Packed, torch_macs


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


def grouped(left: Tensor, right: Tensor, ends: Tensor) -> Tensor:
    return torch._grouped_mm(left, right, ends)


@pytest.mark.parametrize("kind", ["rows", "terms", "columns"])
def test_products_of_groups(kind: str) -> None:
    """Three groups of 8, 0 and 16 of the rows, the terms or the columns; by hand, one product a group."""
    ends, sizes = torch.tensor([8, 8, 24], dtype=torch.int32), (8, 0, 16)
    shapes = {
        "rows": ((24, 16), (3, 16, 8), sum(n * 16 * 8 for n in sizes)),
        "terms": ((16, 24), (24, 8), sum(16 * n * 8 for n in sizes)),
        "columns": ((3, 8, 16), (16, 24), sum(8 * 16 * n for n in sizes)),
    }
    left, right, expected = shapes[kind]
    example = {"left": torch.zeros(left), "right": torch.zeros(right), "ends": ends}
    assert count_macs(Calls(grouped), example) == expected


@pytest.mark.parametrize(
    "function",
    [
        torch.ceil, torch.erf, torch.acos, torch.floor, torch.round, torch.nan_to_num,
        lambda x: torch._is_all_true(x > 0), lambda x: torch.unique_consecutive(x), lambda x: torch.unique(x),
        lambda x: torch.bincount(x.flatten().long()), lambda x: torch.histc(x), lambda x: torch.isin(x, x),
        lambda x: torch.cummax(x, 0)[0], lambda x: torch.median(x), lambda x: torch.diag_embed(x), F.glu,
        lambda x: x.scatter_reduce(0, x.long(), x, "sum"), lambda x: x.view(-1).ceil_(), lambda x: x.mT,
    ],
)  # fmt: skip
def test_what_is_no_matrix_work_is_zero(function: Callable[[Tensor], Tensor]) -> None:
    assert count_macs(Calls(lambda x: function(x)), {"x": torch.full((2, 2), 0.5)}) == 0


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
