"""What exits need of an encoder: its layers; hooks that see every layer and drop rows."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

Inputs = dict[str, Tensor]
M = TypeVar("M", bound=nn.Module)
SPECIAL = tuple(f"{name}_token_id" for name in ("pad", "bos", "eos", "cls", "sep", "mask"))


class UnsuitableEncoderError(ValueError):
    """An encoder cannot have exits; says why in one line."""


def trial_inputs(encoder: Any, rows: int, length: int, mask: str | None = "padded") -> Inputs:
    """Tokens ``(rows, length)`` that no special token is among; neighbouring rows differ.

    Args:
        encoder: a model of transformers.
        rows: of the batch.
        length: tokens of the longest row, at least 2 where rows are padded.
        mask: ``padded``: every row but the first is shorter, with padding on the right; ``full``: a mask of ones;
            ``pairs``: the additive mask ``(rows, 1, length, length)`` of padded rows; None: no mask.
    """
    config, device = encoder.config, next(encoder.parameters()).device
    special = {getattr(config, name, None) for name in SPECIAL}
    every = range(min(_vocabulary(encoder), 100))
    plain = [token for token in every if token not in special]
    allowed = torch.tensor(plain if len(plain) > 1 else list(every), device=device)
    places = torch.arange(rows, device=device).unsqueeze(1) + torch.arange(length, device=device)
    ids = allowed[places % len(allowed)]
    lengths = length - torch.arange(rows, device=device) % max(1, length - 1)
    real = (torch.arange(length, device=device) < lengths.unsqueeze(1)).long()
    if mask == "padded":
        ids = torch.where(real.bool(), ids, getattr(config, "pad_token_id", None) or 0)
    masks = {"padded": real, "full": torch.ones_like(real), "pairs": _additive(real, encoder)}
    inputs = {"input_ids": ids} | ({} if mask is None else {"attention_mask": masks[mask]})
    accepted = inspect.signature(encoder.forward).parameters
    return {name: value for name, value in inputs.items() if name in accepted}


def _vocabulary(encoder: Any) -> int:
    try:
        return int(encoder.get_input_embeddings().num_embeddings)
    except (AttributeError, NotImplementedError):  # CANINE reads characters and hashes them
        return 100


def _additive(real: Tensor, encoder: Any) -> Tensor:
    dtype = next(encoder.parameters()).dtype
    unseen = torch.finfo(dtype).min * (1 - real.to(dtype))
    return unseen[:, None, None, :].expand(-1, 1, real.shape[1], -1).contiguous()


def twin(encoder: M) -> M:
    """A copy that shares the weights, without dropout and without hooks: trial passes are nobody's business."""
    shared = {id(tensor): tensor for tensor in (*encoder.parameters(), *encoder.buffers())}
    copied = deepcopy(encoder, shared).eval()
    for part in copied.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    return copied


@contextmanager
def trial_mode(encoder: nn.Module) -> Iterator[None]:
    """Without gradients, and in the precision of the weights."""
    device = next(encoder.parameters()).device.type
    with torch.no_grad(), torch.autocast(device, enabled=False):
        yield


Place = tuple[str | int, ...]
SIZES = (2, 3)
LENGTH = 5
FIRST_LAYERS = 4
"""Layers that are looked at: encoders that mix kinds of layers (ModernBERT) have all kinds among so many."""


class Seen(Exception):  # noqa: N818  (no error: it unwinds the encoder)
    """The layers that are looked at have run."""


class RowTensors:
    """Takes rows out of what goes into a layer and what comes out of it, by the place where each tensor stands.

    A place is an argument's position or name, or ``output``, and the keys within containers.

    Attributes:
        rows: places of tensors with an entry for each row.
        others: places of all other tensors.
        fixed: sizes of the first dimension of those that are not broadcast over the rows.
    """

    def __init__(self) -> None:
        self.rows: set[Place] = set()
        self.others: set[Place] = set()
        self.fixed: set[int] = set()

    def take(self, value: Any, size: int, rows: Tensor, *place: str | int) -> Any:
        """The rows' entries of every tensor that has them, also in nested containers; all else as it is.

        Args:
            value: arguments of a layer, or with the place ``output`` what it gave.
            size: rows of the batch, more than ``rows``. What comes from the layer before has only ``rows`` already.
            rows: indices of those that are left.
            place: of ``value``.

        Raises:
            UnsuitableEncoderError: a tensor stands where none stood when the encoder was tried, or has another size.
        """
        if isinstance(value, Tensor):
            return value[rows] if self._whole(value, size, len(rows), place) else value
        if isinstance(value, dict):
            return {key: self.take(item, size, rows, *place, key) for key, item in value.items()}
        if isinstance(value, tuple | list):
            return type(value)(self.take(item, size, rows, *place, index) for index, item in enumerate(value))
        return value

    def _whole(self, tensor: Tensor, size: int, left: int, place: Place) -> bool:
        """Whether a tensor has an entry for every row of the batch."""
        first = tensor.shape[0] if tensor.ndim else 1
        if first == 1 or place in self.others:
            return False
        if place in self.rows and first in (size, left):
            return first == size
        raise UnsuitableEncoderError(
            f"`encoder` must hand its layers what it handed them when it was tried, for rows to leave in between, but "
            f"{in_words(place)} is a tensor {tuple(tensor.shape)} for {size} rows; take another encoder, or no exits."
        )

    def compare(self, few: Mapping[Place, Tensor], many: Mapping[Place, Tensor]) -> None:
        """Learn from the tensors of one layer in two passes, of 2 and of 3 rows.

        Raises:
            UnsuitableEncoderError: a first dimension follows the number of rows in another way, or does not always.
        """
        for place in few.keys() & many.keys():
            sizes = tuple(tensor.shape[0] if tensor.ndim else 1 for tensor in (few[place], many[place]))
            if sizes == SIZES:
                self.rows.add(place)
            elif sizes[0] != sizes[1]:
                raise UnsuitableEncoderError(
                    f"`encoder` must hand its layers tensors whose first dimension is the batch or fixed, but "
                    f"{in_words(place)} has {sizes[0]} entries for {SIZES[0]} rows and {sizes[1]} for {SIZES[1]}; take "
                    "another encoder."
                )
            elif sizes[0] > 1:
                self.others.add(place)
                self.fixed.add(sizes[0])
        unclear = sorted(self.rows & self.others, key=str)
        if unclear:
            raise UnsuitableEncoderError(
                f"`encoder` must hand its layers the same kind of tensor each time, but the first dimension of "
                f"{in_words(unclear[0])} is not always the batch; take another encoder."
            )


def in_words(place: Place) -> str:
    """A place as an error names it.

    >>> in_words(("attention_mask",)), in_words((1, 0)), in_words(("output", 0))
    ('argument attention_mask', 'argument 1.0', 'output 0')
    """
    first, *rest = place
    return f"output {'.'.join(map(str, rest))}" if first == "output" else f"argument {'.'.join(map(str, place))}"


def learn_row_tensors(encoder: Any, layers: str) -> RowTensors:
    """Try an encoder with masks of all kinds that it takes, and see which tensors follow the batch.

    Args:
        encoder: a model of transformers.
        layers: name of the list of its layers.

    Raises:
        UnsuitableEncoderError: see :meth:`RowTensors.compare`.
    """
    learnt, encoder = RowTensors(), twin(encoder)
    looked_at = list(encoder.get_submodule(layers).children())[:FIRST_LAYERS]
    with trial_mode(encoder):
        for mask in (None, "full", "padded", "pairs"):
            passes = []
            try:
                for rows in SIZES:
                    inputs = trial_inputs(encoder, rows, LENGTH, mask)
                    passes.append(tensors_of_layers(lambda given=inputs: encoder(**given), looked_at))  # type: ignore[misc]
            except Exception:
                if mask == "padded":
                    raise
                continue  # it takes no mask of this kind
            for few, many in zip(*passes, strict=True):
                learnt.compare(few, many)
    return learnt


def tensors_of_layers(run: Callable[[], Any], layers: Sequence[nn.Module]) -> list[dict[Place, Tensor]]:
    """The tensors that go into each layer and come out of it in one pass, which ends behind the last of the layers."""
    found: list[dict[Place, Tensor]] = [{} for _ in layers]
    handles = []

    def watch(index: int) -> None:
        """Notes which tensors one layer is given and gives; the last layer ends the pass."""

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found[index] |= dict(_tensors(args)) | dict(_tensors(kwargs))

        def after(module: nn.Module, args: Any, output: Any) -> None:
            found[index] |= dict(_tensors(output, "output"))
            if index == len(layers) - 1:
                raise Seen

        handles.append(layers[index].register_forward_pre_hook(before, with_kwargs=True))
        handles.append(layers[index].register_forward_hook(after))

    for index in range(len(layers)):
        watch(index)
    try:
        run()
    except Seen:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found


def _tensors(value: Any, *place: str | int) -> Iterator[tuple[Place, Tensor]]:
    """Every tensor inside nested arguments, with the place where it is."""
    if isinstance(value, Tensor):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _tensors(item, *place, key)
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from _tensors(item, *place, index)


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
    return replaced(encoder, layers, nn.ModuleList(list(encoder.get_submodule(layers).children())[:count]))


def replaced(encoder: nn.Module, name: str, module: nn.Module) -> Any:
    """A copy of an encoder that has another module in one place and shares all other weights with it.

    Args:
        encoder: a model of transformers.
        name: of the place.
        module: what stands there in the copy.
    """
    clone = copy.copy(encoder)
    clone._modules = dict(encoder._modules)
    first, _, rest = name.partition(".")
    clone._modules[first] = replaced(encoder.get_submodule(first), rest, module) if rest else module
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
        leave: gives the hidden states of the rows ``(R',)`` that stay, from ``(R, T, H)``; default: as they are.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        size: int,
        visit: Visit,
        tensors: RowTensors | None = None,
        leave: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.layers, self.size, self.visit, self.tensors, self.leave = layers, size, visit, tensors, leave
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
        """A hook behind one layer that asks who goes on, and takes the rows that do not out of what follows."""

        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            """What is kept of the layer's output: all, some rows, or nothing more to compute."""
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
            if self.leave is not None:
                hidden = self.leave(hidden, left)
                return hidden if isinstance(output, Tensor) else (hidden, *output[1:])
            return self.tensors.take(output, len(rows), left, "output")

        return hook
