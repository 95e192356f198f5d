"""What exits need of an encoder: its layers; hooks that see every layer and drop rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dial.models.row_tensors import RowTensors
from dial.models.trial import UnsuitableEncoderError

Visit = Callable[[int, Tensor], Tensor | Literal[False] | None]


def check_exits(exits: Sequence[int], depth: int) -> None:
    """Refuse exits that are no layers, or that leave rows without an answer.

    Args:
        exits: layers, counted from 1.
        depth: layers of the encoder.

    Raises:
        ValueError: no exits, one outside the depth, not ascending, or without the last layer.

    Example:
        >>> check_exits([2, 5], 6)
        Traceback (most recent call last):
            ...
        ValueError: `exits` must end with the last layer 6, as rows that are unsure everywhere need an answer,
        but got [2, 5]; add 6.
    """
    given = list(exits)
    if not given or not all(isinstance(k, int) and not isinstance(k, bool) and 1 <= k <= depth for k in given):
        raise ValueError(f"`exits` must be layers from 1 to {depth}, but got {given}; leave it out for all layers.")
    if sorted(set(given)) != given:
        raise ValueError(f"`exits` must be in ascending order, each layer once, but got {given}; sort them.")
    if given[-1] != depth:
        raise ValueError(
            f"`exits` must end with the last layer {depth}, as rows that are unsure everywhere need an answer, "
            f"but got {given}; add {depth}."
        )


def find_layers(encoder: nn.Module, depth: int) -> str:
    """Name of the list of an encoder's layers.

    Args:
        encoder: a model of transformers.
        depth: its number of layers.

    Raises:
        ValueError: there is no list of that many equal modules, as in ALBERT, whose layers are one.
    """
    found = [
        name
        for name, module in encoder.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth and len({type(layer) for layer in module}) == 1
    ]
    if not found:
        raise UnsuitableEncoderError(
            f"`encoder` must run {depth} layers in sequence (BERT, RoBERTa, ELECTRA, DistilBERT, ModernBERT, ...), but "
            f"{type(encoder).__name__} has no list of {depth} equal modules; take another encoder."
        )
    return min(found, key=lambda name: name.count("."))


def find_final_norm(encoder: nn.Module, layers: str) -> str | None:
    """Name of the norm that an encoder applies after its last layer; None for encoders that norm within each layer.

    Args:
        encoder: a model of transformers.
        layers: name of the list of its layers.
    """
    parent = layers.rpartition(".")[0]
    for prefix in dict.fromkeys((parent, "")):
        module = encoder.get_submodule(prefix)
        if hasattr(module, "norm_rel_ebd"):  # DeBERTa: the norm beside its layers is one of relative positions
            continue
        for name, child in module.named_children():
            if type(child).__name__.lower().endswith(("norm", "norm1p")):
                return f"{prefix}.{name}".lstrip(".")
    return None


def take_out_norm(encoder: nn.Module, name: str | None) -> nn.Module | None:
    """Replace the final norm of a pre-norm encoder by the identity, in place; gives the norm.

    Between the layers of such an encoder the hidden states are not normed, so that each exit needs a norm of its own;
    the last exit then has one too, and the encoder's own would only be a second one.

    Args:
        encoder: a model of transformers.
        name: of the norm, see :func:`find_final_norm`; None: there is none.
    """
    if name is None:
        return None
    norm = encoder.get_submodule(name)
    parent, _, attribute = name.rpartition(".")
    setattr(encoder.get_submodule(parent), attribute, nn.Identity())
    return norm


def first_layers(encoder: nn.Module, layers: str, count: int) -> Any:
    """A copy of an encoder that has only its first layers and shares all weights with it."""
    clone = copy.copy(encoder)
    clone._modules = dict(encoder._modules)
    first, _, rest = layers.partition(".")
    child = encoder.get_submodule(first)
    assert isinstance(child, nn.Module)
    if rest:
        clone._modules[first] = first_layers(child, rest, count)
    else:
        clone._modules[first] = nn.ModuleList(list(child.children())[:count])
    return clone


class Stop(Exception):  # noqa: N818  (no error: it unwinds the encoder when no row is left)
    """No row needs a further layer."""


class Visits:
    """Shows ``H_0 ... H_L`` of one pass to ``visit``, and takes rows out of the pass where it says so.

    Hooks before the first and after each stock layer do it, and once rows have left hooks before the others, too: at
    batch size 1 they would cost a share of the time that shows. The encoder still hands the whole batch's mask to every
    layer; it and the other tensors of rows are cut to the rows that are left, tables of positions stay as they are.

    Args:
        layers: the encoder's layers.
        size: rows of the batch.
        visit: gets ``k`` and ``H_k`` ``(R, T, H)`` of the rows that are left: the input of the first layer for 0, then
            the output of layer ``k``; returns a bool ``(R,)``, which rows go on, or None for all (always for 0), or
            False for none, which for one row is quicker than a tensor.
        tensors: which tensors have an entry for each row; None where ``visit`` never lets some rows leave.
    """

    def __init__(self, layers: Sequence[nn.Module], size: int, visit: Visit, tensors: RowTensors | None = None) -> None:
        self.layers, self.size, self.visit, self.tensors = layers, size, visit, tensors
        self.rows: Tensor | None = None  # None: the whole batch
        self._handles: list[Any] = []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hooks are there within this context, which also catches the :class:`Stop` of an empty batch."""
        self._handles = [self.layers[0].register_forward_pre_hook(self._first, with_kwargs=True)]
        self._handles += [layer.register_forward_hook(self._after(index)) for index, layer in enumerate(self.layers)]
        try:
            yield
        except Stop:
            pass
        finally:
            for handle in self._handles:
                handle.remove()

    def _first(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        if hidden.shape[0] != self.size:
            raise UnsuitableEncoderError(
                f"`encoder` must have the batch as the first dimension of its hidden states, but "
                f"{type(module).__name__} got {tuple(hidden.shape)} for {self.size} rows; take another encoder."
            )
        self.visit(0, hidden)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert self.rows is not None and self.tensors is not None
        return self.tensors.take(args, self.size, self.rows), self.tensors.take(kwargs, self.size, self.rows)

    def _after(self, index: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            hidden = output if isinstance(output, Tensor) else output[0]
            keep = self.visit(index + 1, hidden)
            if keep is None:
                return None
            if keep is False:
                raise Stop
            if bool(keep.all()):
                return None
            first = self.rows is None
            rows = torch.arange(self.size, device=hidden.device) if self.rows is None else self.rows
            left = keep.nonzero().flatten()
            self.rows = rows[left]
            if len(left) == 0:
                raise Stop
            for layer in self.layers[index + 1 :] if first else ():
                self._handles.append(layer.register_forward_pre_hook(self._before, with_kwargs=True))
            assert self.tensors is not None
            return self.tensors.take(output, len(rows), left, "output")

        return hook
