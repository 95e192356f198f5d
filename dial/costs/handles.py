"""What each operator of a trace costs, in MACs, and which operators cost nothing.

fvcore knows convolutions and plain products; it gives zero for fused attention and for recurrent layers without a word,
does not broadcast, and counts normalisation as work. So every operator here has a handle of ours, apart from
convolutions. A handle takes the inputs and outputs of a traced operator and gives its MACs by kind: ``linear``
(activations by weights), ``attention`` (activations by activations) or ``norm`` (fvcore's operations, no MACs).
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch

Count = dict[str, int]
Handle = Callable[[list[Any], list[Any]], Any]
REMEDY = "Count it before torch.jit.script."


def _shape(value: Any) -> tuple[int, ...]:
    """Sizes of a traced tensor."""
    if not value.isCompleteTensor():
        raise ValueError(f"module must be traced with known shapes; {value.debugName()} has none: {value.type()}.")
    return tuple(value.type().sizes())


def _shapes(values: Sequence[Any]) -> list[tuple[int, ...]]:
    """Sizes of those inputs that are tensors (an absent bias is not one)."""
    return [_shape(value) for value in values if value.isCompleteTensor()]


def _listed(value: Any) -> list[Any]:
    """The elements of a traced list."""
    return list(value.node().inputs())


def _kind(left: tuple[int, ...], right: tuple[int, ...]) -> str:
    """Attention products have batch and head dimensions on both sides; a weight is a matrix or a vector."""
    return "attention" if min(len(left), len(right)) > 2 else "linear"


def _product(left: tuple[int, ...], right: tuple[int, ...]) -> Count:
    """``left @ right`` with the broadcasting of ``torch.matmul``."""
    rows = left if len(left) > 1 else (1, *left)
    columns = right if len(right) > 1 else (*right, 1)
    batch = torch.broadcast_shapes(rows[:-2], columns[:-2])
    return {_kind(left, right): prod(batch) * rows[-2] * rows[-1] * columns[-1]}


def _matmul(inputs: list[Any], outputs: list[Any]) -> Count:
    return _product(_shape(inputs[0]), _shape(inputs[1]))


def _added_matmul(inputs: list[Any], outputs: list[Any]) -> Count:
    return _product(_shape(inputs[1]), _shape(inputs[2]))


def _grouped_matmul(inputs: list[Any], outputs: list[Any]) -> Count:
    """Products of groups of rows, columns or terms, each with the matrix of its group (mixtures of experts)."""
    left, right = _shape(inputs[0]), _shape(inputs[1])
    groups = left[0] if (len(left), len(right)) == (3, 2) else 1  # each multiplies a share of the columns
    return {"linear": prod(left) * right[-1] // groups}


def _linear(inputs: list[Any], outputs: list[Any]) -> Count:
    return {"linear": prod(_shape(inputs[0])) * prod(_shape(inputs[1])[:-1])}


def _convolution(inputs: list[Any], outputs: list[Any]) -> Count:
    from fvcore.nn.jit_handles import conv_flop_jit

    return {"linear": int(conv_flop_jit(inputs, outputs)["conv"])}


def _fused_attention(inputs: list[Any], outputs: list[Any]) -> Count:
    """Queries (..., L, E) with keys (..., S, E), then weights (..., L, S) with values (..., S, V).

    Batches broadcast; grouped keys and values (fewer heads than queries) are executed once per query head. A mask or a
    causal flag changes nothing.
    """
    query, key, value = (_shape(x) for x in inputs[:3])
    heads = query[-3:-2]
    batch = torch.broadcast_shapes(query[:-2], (*key[:-3], *heads), (*value[:-3], *heads))
    return {"attention": prod(batch) * query[-2] * key[-2] * (query[-1] + value[-1])}


def _recurrent(inputs: list[Any], outputs: list[Any]) -> Count:
    """LSTM, GRU or plain RNN, stacked and bidirectional: at every step each weight matrix meets its input once.

    Padded input is (B, T, F) or (T, B, F) and pays for padding; packed input is (sum of the lengths, F) and does not.
    The gates' element-wise products are not counted.
    """
    weights = [x for x in inputs if x.node().kind() == "prim::ListConstruct"][-1]
    matrices = [shape for shape in _shapes(_listed(weights)) if len(shape) == 2]
    return {"linear": prod(_shape(inputs[0])[:-1]) * sum(map(prod, matrices))}


def _recurrent_cell(inputs: list[Any], outputs: list[Any]) -> Count:
    """One step: input and state each meet their matrix."""
    return {"linear": prod(_shape(inputs[0])[:-1]) * sum(prod(_shape(weight)) for weight in inputs[2:4])}


def _einsum(inputs: list[Any], outputs: list[Any]) -> Count:
    """Pairs contracted from left to right, each at the product of the sizes of all its indices."""
    operands, result = einsum_labels(inputs[0].toIValue(), shapes := _shapes(_listed(inputs[1])))
    sizes: dict[str, int] = {}
    for labels, shape in zip(operands, shapes, strict=True):
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))  # an ellipsis broadcasts
    count: Count = {}
    done, done_shape = operands[0], shapes[0]
    for index in range(1, len(operands)):
        together = list(dict.fromkeys([*done, *operands[index]]))
        kind = _kind(done_shape, shapes[index])
        count[kind] = count.get(kind, 0) + prod(sizes[label] for label in together)
        needed = set(result).union(*operands[index + 1 :])
        done = [label for label in together if label in needed]
        done_shape = tuple(sizes[label] for label in done)
    return count


def einsum_labels(equation: str, shapes: Sequence[tuple[int, ...]]) -> tuple[list[list[str]], list[str]]:
    """Index labels of each operand and of the result, an ellipsis spelt out from the right.

    Example:
        >>> einsum_labels("...ij,jk", [(7, 2, 3), (3, 4)])
        ([['.0', 'i', 'j'], ['j', 'k']], ['.0', 'i', 'k'])
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    operands, widest = [], 0
    for term, shape in zip(left.split(","), shapes, strict=True):
        before, dots, after = term.partition("...")
        hidden = len(shape) - len(before) - len(after) if dots else 0
        widest = max(widest, hidden)
        operands.append([*before, *(f".{k}" for k in reversed(range(hidden))), *after])
    ellipsis = [f".{k}" for k in reversed(range(widest))]
    if arrow:
        before, dots, after = right.partition("...")
        return operands, [*before, *(ellipsis if dots else []), *after]
    letters = sorted(letter for letter in set(left) if letter.isalpha() and left.count(letter) == 1)
    return operands, [*ellipsis, *letters]


def _layer_norm(inputs: list[Any], outputs: list[Any]) -> Count:
    """fvcore's estimate: five operations per element, four without scale and shift."""
    return {"norm": prod(_shape(inputs[0])) * (5 if inputs[2].isCompleteTensor() else 4)}


def _hidden(inputs: list[Any], outputs: list[Any]) -> Count:
    raise ValueError(f"module must be plain Python; a scripted `if`, loop or call hides operators. {REMEDY}")


def _counter(handle: Handle) -> Handle:
    """fvcore adds up counters, not dicts."""
    from collections import Counter

    return lambda inputs, outputs: Counter(handle(inputs, outputs))


_BY_OPERATOR: dict[Handle, str] = {
    _matmul: "aten::matmul aten::mm aten::bmm aten::mv aten::dot aten::vdot aten::inner",
    _added_matmul: "aten::addmm aten::addmv aten::baddbmm aten::addbmm",
    _grouped_matmul: "aten::_grouped_mm",
    _linear: "aten::linear",
    _convolution: "aten::_convolution",
    _fused_attention: (
        "aten::scaled_dot_product_attention aten::_scaled_dot_product_flash_attention "
        "aten::_scaled_dot_product_flash_attention_for_cpu aten::_scaled_dot_product_efficient_attention "
        "aten::_scaled_dot_product_cudnn_attention aten::_scaled_dot_product_attention_math"
    ),
    _recurrent: "aten::lstm aten::gru aten::rnn_tanh aten::rnn_relu",
    _recurrent_cell: "aten::lstm_cell aten::gru_cell aten::rnn_tanh_cell aten::rnn_relu_cell",
    _einsum: "aten::einsum",
    _layer_norm: "aten::layer_norm",
    _hidden: "prim::If prim::Loop prim::CallMethod prim::CallFunction",
}
HANDLES: dict[str, Handle] = {
    name: _counter(handle) for handle, names in _BY_OPERATOR.items() for name in names.split()
}
"""Operator to handle; fvcore's signature."""

NEGLIGIBLE = frozenset(
    f"aten::{name}"
    for name in (
        # arithmetic, element by element
        "abs add add_ addcdiv addcmul clamp_max clamp_min clip cos cumsum cumsum_ div div_ exp exp_ floor_divide "
        "frac log log1p log2 maximum minimum mul mul_ neg pow reciprocal rsqrt rsub sign sin sqrt square sub sub_ "
        "trunc "
        # activations and normalisation
        "_fused_rms_norm _log_softmax _softmax batch_norm celu elu gelu gelu_ glu group_norm hardswish hardtanh "
        "instance_norm leaky_relu linalg_vector_norm log_sigmoid log_softmax mish norm prelu relu6 rms_norm selu "
        "sigmoid sigmoid_ silu silu_ softmax softplus softsign tanh tanh_ "
        # reductions and selection
        "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d all amax amin any argmax argmin argsort "
        "avg_pool1d avg_pool2d count_nonzero logsumexp max_pool1d max_pool2d mean min prod sort std std_mean sum "
        "cummax cummin cumprod kthvalue logcumsumexp median mode topk var var_mean "
        # comparison and logic
        "__or__ __xor__ bitwise_and bitwise_or bitwise_xor isfinite isinf isnan le logical_and logical_not "
        "logical_or logical_xor lt ne where "
        # look-ups, copies, shapes, types and fillings
        "Bool Float IntImplicit _cast_Float _cast_Long _pack_padded_sequence _pad_packed_sequence _reshape_alias "
        "_shape_as_tensor _to_copy _weight_norm alias as_strided bernoulli bernoulli_ bucketize clone col2im "
        "complex dequantize diagonal embedding embedding_bag empty_like expand_as eye fill fill_ flip im2col imag "
        "index_add index_select lift lift_fresh lift_fresh_copy linspace masked_fill_ masked_scatter masked_select "
        "meshgrid movedim new_ones nonzero_numpy normal_ numel numpy_T one_hot ones_like outer pad "
        "quantize_per_tensor rand rand_like randn randn_like random_ real repeat repeat_interleave reshape_as "
        "resolve_conj resolve_neg rot90 scalar_tensor scatter scatter_ scatter_add scatter_reduce select_scatter "
        "slice_scatter swapaxes swapdims take take_along_dim tensor_split tile tril tril_indices triu triu_indices "
        "unflatten unfold uniform_ unsafe_chunk unsafe_split view_as view_as_complex view_as_real zero_ "
        "_local_scalar_dense diag diag_embed dim index_copy index_fill item polar "
        # counting and searching
        "_is_all_true _is_any_true _unique _unique2 argwhere bincount equal histc isin is_nonzero searchsorted "
        "unique_consecutive unique_dim "
    ).split()
) | {"prim::PythonOp.GeLUFunction"}  # Bloom's own activation
"""Operators that count as zero beside those on fvcore's own list of shape operators, and beside what torch itself calls
element by element or a view; see :func:`is_negligible`."""


def is_negligible(operator: str) -> bool:
    """Whether a traced operator does no matrix-like work.

    Example:
        >>> is_negligible("aten::ceil"), is_negligible("aten::matmul")
        (True, False)
    """
    name = operator.removeprefix("aten::")
    if operator in NEGLIGIBLE or name == operator:
        return operator in NEGLIGIBLE
    packet = getattr(torch.ops.aten, name, None)
    overloads = [] if packet is None else [getattr(packet, overload) for overload in packet.overloads()]
    return any(torch.Tag.pointwise in overload.tags or _is_view(overload) for overload in overloads)


def _is_view(overload: Any) -> bool:
    """Whether an operator gives its input in another shape, without copying it."""
    aliases = [value.alias_info for value in overload._schema.returns]
    return bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)
