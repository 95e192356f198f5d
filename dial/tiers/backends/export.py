"""A torch module as an ONNX file, which onnxruntime and OpenVINO both read."""

from __future__ import annotations

import ctypes
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

OPSET = 17
NO_MEMORY = ("allocate memory", "bad_alloc", "bad allocation")  # torch, OpenVINO and onnxruntime raise RuntimeErrors
MASKED = -1e30  # added to the score of a key that is not read; finite in bf16, too
HIDDEN = "hidden"  # what one segment of a model hands to the next


class NoExportError(Exception):
    """A module cannot be written as ONNX; says why in a few words."""


def export(module: nn.Module, example: Mapping[str, Tensor], file: Path) -> None:
    """Write a module for any number of rows and tokens.

    It is traced. torch's newer exporter takes ten times as long and does not know packed sequences (a BiLSTM's); what a
    trace gets wrong, because the model asks for values or shapes of its example, is found by the proof that follows.

    Args:
        module: takes the tensors of ``example`` by name; in float32, on a CPU.
        example: a batch, tensors ``(B, T)`` or ``(B, T, H)``.
        file: where to.

    Raises:
        NoExportError: an operation has no counterpart, or the module cannot be traced.
        OSError: the file cannot be written.
        MemoryError: there is too little memory.
    """
    axes = {name: {0: "rows", 1: "tokens"} for name in example}
    try:
        with torch.no_grad(), quietly(), _PlainAttention():
            torch.onnx.export(
                _Positional(module, tuple(example)).eval(),
                tuple(example.values()),
                file,
                dynamo=False,
                opset_version=OPSET,
                input_names=list(example),
                dynamic_axes=axes,
            )
    except Exception as error:  # of a dozen classes, some of them torch's own
        raise_of_machine(error)
        raise NoExportError(reason_of(error)) from error


def raise_of_machine(error: Exception) -> None:
    """Pass on an error that tells nothing of the module, but of the machine as it is now: a full disk, no memory.

    Raises:
        OSError: it is one.
        MemoryError: it is one, or what a library says in place of one.
    """
    if isinstance(error, OSError | MemoryError):
        raise error
    if any(words in str(error) for words in NO_MEMORY):
        raise MemoryError(reason_of(error)) from error


def reason_of(error: BaseException) -> str:
    """What an error says, in one short line."""
    return (" ".join(str(error).split()).split(". ")[0][:160] or type(error).__name__).rstrip(".")


@contextmanager
def quietly() -> Iterator[None]:
    """Without what libraries say of traces, of their own age, and of graphs that fail, some of it from C++."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), _descriptors_closed():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _descriptors_closed() -> Iterator[None]:
    """What the process writes to its standard output and error within this context is lost."""
    kept: dict[int, int] = {}
    _flush()
    with Path(os.devnull).open("wb") as nowhere:
        try:
            for number in (1, 2):
                with suppress(OSError):  # a process may have closed them
                    kept[number] = os.dup(number)
                    os.dup2(nowhere.fileno(), number)
            with redirect_stdout(io.StringIO()):
                yield
        finally:
            _flush()
            for number, copy in kept.items():
                os.dup2(copy, number)
                os.close(copy)


def _flush() -> None:
    """Have what Python and C keep for the standard streams written."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):
            stream.flush()
    ctypes.CDLL(None).fflush(None)


class _Positional(nn.Module):
    """A module whose named tensors come in order, as tracing wants it."""

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *tensors: Tensor) -> Tensor:
        output: Tensor = self.module(**dict(zip(self.names, tensors, strict=True)))
        return output


class _PlainAttention(TorchFunctionMode):
    """Attention as two products and a softmax, which OpenVINO computes as one operation.

    What torch's exporter writes for ``scaled_dot_product_attention`` has minus infinity for masked keys, and behind the
    softmax a search for the NaN of rows of which all keys are masked; with that in between OpenVINO computes each part
    by itself, and a single row takes a tenth longer. Here masked keys get a number so low that they count nothing, and
    rows without any key, which only padding has, stay finite.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Any function of torch as it is, but for attention."""
        return (_attention if func is scaled_dot_product_attention else func)(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``scaled_dot_product_attention`` with its arguments; itself where there is more to it than a mask and a scale.

    Args:
        query: ``(B, A, T, E)``.
        key: ``(B, A, S, E)``.
        value: ``(B, A, S, E)``.
        attn_mask: ``(B, 1, T, S)``, true where a key is read, or what is added to its score.
        dropout_p: share of weights that are dropped.
        is_causal: whether keys behind the query are masked.
        scale: of scores; default: one over the root of E.
        enable_gqa: whether several heads of the query share one of the keys.
    """
    if dropout_p or is_causal or enable_gqa:
        more: dict[str, Any] = {"scale": scale, "enable_gqa": enable_gqa}
        return scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, **more)
    # The product is scaled, not what goes into it: a backend then computes the layers before it as any other.
    scores = query @ key.transpose(-1, -2) * (float(query.shape[-1]) ** -0.5 if scale is None else scale)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores + torch.where(attn_mask, query.new_tensor(0.0), query.new_tensor(MASKED))
    elif attn_mask is not None:
        scores = scores + attn_mask.clamp(min=MASKED)
    return scores.softmax(-1) @ value
