"""MACs of one forward pass, counted by fvcore with handles for what fvcore counts as zero.

A MAC is one multiply-add of matrix-like work: linear layers, convolutions, recurrent layers and attention products.
Element-wise work, normalisation, softmax, look-ups and bookkeeping are zero. FLOPs are two per MAC.

What is counted is what is *executed* for the given tokens, padding among them; which length a row is charged at is for
:func:`dial.costs.functions.charged_lengths` to say. Attention under a mask, a causal flag or a local window
(ModernBERT) is counted as the full product, because dense kernels compute it and then mask; only an implementation that
skips work, and therefore multiplies smaller matrices, is counted as less.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dial.costs.handles import HANDLES, REMEDY, is_negligible
from dial.costs.published import CONVENTIONS


@dataclass(frozen=True)
class OperationCount:
    """Multiply-adds of one forward pass, by what multiplies what.

    Attributes:
        linear: products of activations with weights (linear, convolution, recurrent layers), MACs.
        attention: products of two activations (queries with keys, attention with values), MACs.
        norm: fvcore's five operations per element of a layer norm; no MACs, kept for the convention of papers that
            count them.
    """

    linear: int
    attention: int
    norm: int

    @property
    def macs(self) -> int:
        """MACs: ``linear`` and ``attention``; normalisation is zero."""
        return self.linear + self.attention

    def by(self, convention: str) -> int:
        """The count in one of the conventions found in papers.

        Args:
            convention: one of :data:`dial.costs.published.CONVENTIONS`: ``mac``; ``flop``, which is
                2 x MAC; ``flop_without_attention``, which is 2 x (MAC without attention products); or
                ``flop_without_attention_with_norm``, which is 2 x (MAC without attention products + fvcore's layer
                norms): BERT-base at 128 tokens has 21.8 G in E-LANG's tables.

        Raises:
            ValueError: for another convention.

        Example:
            >>> OperationCount(linear=100, attention=20, norm=5).by("flop")
            240
            >>> OperationCount(linear=100, attention=20, norm=5).by("flop_without_attention")
            200
            >>> OperationCount(linear=100, attention=20, norm=5).by("flop_without_attention_with_norm")
            210
        """
        counts = {"mac": self.macs, "flop": 2 * self.macs, "flop_without_attention": 2 * self.linear}
        counts["flop_without_attention_with_norm"] = 2 * (self.linear + self.norm)
        if convention in counts:
            return counts[convention]
        raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}; got {convention!r}.")


def count_macs(module: nn.Module, example: Mapping[str, Tensor]) -> int:
    """MACs of ``module(**example)``; see :func:`count_operations`.

    Example:
        >>> count_macs(nn.Linear(3, 2), {"input": torch.zeros(5, 3)})
        30
    """
    return count_operations(module, example).macs


def count_operations(module: nn.Module, example: Mapping[str, Tensor]) -> OperationCount:
    """Trace ``module(**example)`` in evaluation mode and count its multiply-adds.

    Only shapes matter, so the trace first runs on torch's meta device, where it takes equally long at every length and
    width; a module that needs values (packed sequences) is traced for real instead. The trace takes the branch that the
    example takes: count each stage's path once, and weigh the paths by how often they are taken. It runs on a copy that
    shares the weights, so the module itself keeps its mode, hooks and values. A model that will be quantised is counted
    before: its products stay the same.

    Args:
        module: a path through a model, such as one stage's.
        example: its keyword arguments, tensors with the batch first; batch 1 gives MACs per example.

    Returns:
        The counts of the whole pass, for all rows of the example together.

    Raises:
        ValueError: naming every operator that is neither counted nor on the list of negligible ones, or where
            scripted control flow hides operators.
    """
    return _count(module, example)[""]


def count_steps(module: nn.Module, example: Mapping[str, Tensor]) -> list[int]:
    """MACs of each of ``module.steps`` within one pass ``module(**example)``; see :func:`count_operations`.

    Args:
        module: it calls each of its ``steps`` (``nn.ModuleList``) once.
        example: see there.

    Example:
        >>> class Path(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.steps = nn.ModuleList([nn.Linear(3, 2), nn.Linear(2, 7)])
        ...     def forward(self, input):
        ...         return self.steps[1](self.steps[0](input))
        >>> count_steps(Path(), {"input": torch.zeros(5, 3)})
        [30, 70]
    """
    counts = _count(module, example)
    return [counts[f"steps.{index}"].macs for index in range(len(module.steps))]  # type: ignore[arg-type]


def _count(module: nn.Module, example: Mapping[str, Tensor]) -> dict[str, OperationCount]:
    """What is counted of the whole pass (named by nothing) and of the module's steps."""
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise ValueError(f"module must be plain Python; got a scripted part of {type(module).__name__}. {REMEDY}")
    try:
        counts, unknown = _trace(_copy(module, "meta"), {name: x.to("meta") for name, x in example.items()})
    except Exception:  # whatever has a cause other than the missing values is raised again by the real pass
        counts, unknown = _trace(_copy(module, None), example)
    if unknown:
        raise ValueError(
            f"module must use only operators whose MACs are known; {type(module).__name__} also uses "
            f"{', '.join(sorted(unknown))}. Add a handle to HANDLES or, if it does no matrix-like work, its name to "
            "NEGLIGIBLE (dial/costs/handles.py)."
        )
    kinds = ("linear", "attention", "norm")
    return {name: OperationCount(**{kind: int(count.get(kind, 0)) for kind in kinds}) for name, count in counts.items()}


def _trace(module: nn.Module, example: Mapping[str, Tensor]) -> tuple[Mapping[str, Mapping[str, float]], set[str]]:
    """Counts by module and kind of work, and the operators without one."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # fvcore scripts and traces, which torch deprecates
        from fvcore.nn import FlopCountAnalysis  # here, as it takes a second

        counter = FlopCountAnalysis(_Keywords(module, tuple(example)), tuple(example.values()))
        counter.clear_op_handles().set_op_handle(**HANDLES)  # fvcore's products do not broadcast, its norms are work
        counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        counts = counter.by_module_and_operator()
    return counts, {name for name in counter.unsupported_ops() if not is_negligible(name)}


class _Keywords(nn.Module):
    """``module`` with positional tensors in and plain tensors out, as tracing wants it.

    It calls the module without owning it, so that its weights are constants of the trace and fvcore hooks nothing but
    its steps, if it has any.
    """

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.call, self.names = (module,), names
        self.steps = getattr(module, "steps", nn.ModuleList())

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        with _Results() as results:
            output = self.call[0](**dict(zip(self.names, tensors, strict=True)))
        return (*_tensors(output), *results.tensors)


class _Results(TorchFunctionMode):
    """Collects every result, to be an output: a trace forgets work that no output needs, though it was executed."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.tensors.extend(_tensors(result))
        return result


def _copy(module: nn.Module, device: str | None) -> nn.Module:
    """An evaluating copy that shares the weights; on ``meta`` they have a shape and no values."""

    def weight(tensor: Tensor) -> Tensor:
        return tensor.detach() if device is None else torch.empty_like(tensor, device=device)

    known: dict[int, Any] = {id(x): nn.Parameter(weight(x), requires_grad=False) for x in module.parameters()}
    known |= {id(x): weight(x) for x in module.buffers()}
    return deepcopy(module, known).eval()


def _tensors(output: Any) -> Iterator[Tensor]:
    """All tensors in nested mappings (model outputs are mappings), lists and tuples."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)
