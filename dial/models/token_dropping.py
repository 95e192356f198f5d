"""Tokens dropped inside an encoder by the attention that they receive (Kim and Cho 2021; Guskin et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dial.models.exits import find_layers
from dial.models.lengths import Lengths
from dial.models.pooling import Pooling, Reader
from dial.models.received_attention import RECEIVED, received_of


@dataclass(frozen=True)
class Seam:
    """Where a layer is cut between its attention and its feed-forward network; paths within the layer.

    Attributes:
        attention: gives as its second output what is received, or has a ``dropout`` of the attention weights.
        summed: gives what the feed-forward network and the connection around it read.
        own: whether the attention computes by itself, and not by a function that can be chosen.
    """

    attention: str
    summed: str
    own: bool = False


_BERT = Seam("attention.self", "attention")
SEAMS = {
    **dict.fromkeys(("bert", "roberta", "electra", "camembert", "xlm-roberta"), _BERT),
    "distilbert": Seam("attention", "sa_layer_norm"),
    "mpnet": Seam("attention.attn", "attention", own=True),
}
"""By model type. Their layers know of a token's position by its state alone, or, MPNet's, by a bias of the scores."""
MASK, BIAS = (1, "attention_mask"), (2, "position_bias")  # place and name among a layer's arguments

NONE_DROPPED = "leave `lengths` out"
"""What keeps all tokens of a tier."""


class TokenDropping:
    """Lets the stock layers of an encoder drop tokens.

    In each layer the tokens are ranked by the attention that they received, summed over the heads and the row's real
    tokens, and those that the length configuration keeps go on to the feed-forward network. The first token stays. No
    modelling code is copied: hooks gather states, masks and relative positions between the stock modules. What is
    dropped is decided per row, so that a row is answered alike in any batch.

    Args:
        encoder: a model of transformers.
        argument: how the user calls it.
        layers: name of the list of its layers, where it has not all of them; default: it is looked for.
        remedy: what keeps all tokens, as the user spells it.

    Raises:
        ValueError: the encoder is of an architecture in which no tokens can be dropped; names ``argument``.
    """

    def __init__(
        self, encoder: Any, argument: str = "path", layers: str | None = None, remedy: str = NONE_DROPPED
    ) -> None:
        config = encoder.config
        if config.model_type not in SEAMS or getattr(config, "position_embedding_type", "absolute") != "absolute":
            raise ValueError(
                f"`{argument}` must be an encoder whose layers allow tokens to be dropped ({', '.join(SEAMS)}), but "
                f"got {config.model_type}, whose layers place tokens by where they stand; take another encoder, or "
                f"{remedy}."
            )
        self.seam, self.depth = SEAMS[config.model_type], int(config.num_hidden_layers)
        self.layers_name = layers or find_layers(encoder, self.depth)

    @contextmanager
    def __call__(
        self, encoder: Any, lengths: Lengths, mask: Tensor | None, size: tuple[int, int], restore: bool = False
    ) -> Iterator[Pass]:
        """Within this context the encoder's next pass drops tokens; see :meth:`start`."""
        one_pass = self.start(encoder, lengths, mask, size, restore)
        with self.hooked(encoder, one_pass):
            yield one_pass

    def start(
        self, encoder: Any, lengths: Lengths, mask: Tensor | None, size: tuple[int, ...], restore: bool = False
    ) -> Pass:
        """A pass of a batch, before its first layer.

        Args:
            encoder: the one of the constructor, or a copy.
            lengths: as many as it has layers.
            mask: ``(B, T)``, 1 for a row's own tokens, which come first; None where nothing is padded.
            size: ``B`` and ``T``.
            restore: give states ``(B, T, H)`` of all tokens at the end, see :meth:`Pass.restore`.

        Raises:
            ValueError: the encoder's attention takes no masks of tokens, or the mask is of pairs of them.
        """
        usual = encoder.config._attn_implementation
        if usual not in ("sdpa", "eager"):
            raise ValueError(f"`attn_implementation` must be sdpa or eager where tokens are dropped, but got {usual}.")
        if mask is not None and mask.ndim != 2:
            raise ValueError(f"`attention_mask` must be (B, T) where tokens are dropped, but got {tuple(mask.shape)}.")
        one_pass = Pass(lengths, mask, size, plain_mask=usual == "sdpa" and not self.seam.own)
        one_pass.left = [] if restore else None
        return one_pass

    @contextmanager
    def hooked(self, encoder: Any, one_pass: Pass) -> Iterator[None]:
        """Within this context the encoder's next pass is the given one."""
        handles: list[Any] = []
        if one_pass.left is not None:
            handles.append(encoder.register_forward_hook(one_pass.put_back))
        for index, layer in enumerate(attrgetter(self.layers_name)(encoder)):
            if one_pass.drops[index]:
                handles += _Cut(self.seam, layer, one_pass, index).handles
            if any(one_pass.drops[:index]):
                handles.append(layer.register_forward_pre_hook(one_pass.before, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def dropping(
    way: TokenDropping | None, lengths: Lengths | None, model: Any, inputs: Mapping[str, Tensor], restore: bool = False
) -> Iterator[None]:
    """Within this context the next pass of a model's encoder drops tokens, if there are lengths.

    Args:
        way: of its architecture; needed with ``lengths``.
        lengths: of its layers; None: it keeps all tokens.
        model: with ``base_model``.
        inputs: of that pass, ``input_ids`` ``(B, T)`` and, where rows are padded, ``attention_mask`` ``(B, T)``.
        restore: dropped tokens are there again at the end, as a head needs that reads all of them.
    """
    if lengths is None or way is None:
        yield
        return
    size = tuple(int(n) for n in inputs["input_ids"].shape)
    with way(model.base_model, lengths, inputs.get("attention_mask"), size, restore):  # type: ignore[arg-type]
        yield


class Pass:
    """One pass in which tokens are dropped: who is left, and the states of those that are not.

    Args:
        lengths: of the layers.
        mask: ``(B, T)`` or None.
        size: ``B`` and ``T``.
        plain_mask: whether the attention takes bool masks; else they are added to the scores.

    Attributes:
        kept: ``(L, B)`` tokens of each row behind each layer.
        drops: for each layer whether any row loses a token there.
        positions: ``(B, K)`` where the tokens that are left stood at first; None before any was dropped.
        real: ``(B, K)`` bool, False for what fills up rows that have fewer; None where nothing does.
        left: what entered the layers that dropped tokens; None where it is not kept.
        trail: of each layer that dropped tokens its index, what each token received and which of them stayed; None
            where it is not kept.
    """

    def __init__(self, lengths: Lengths, mask: Tensor | None, size: tuple[int, ...], plain_mask: bool = False) -> None:
        self.size, self.plain_mask = size, plain_mask
        tokens = np.full(size[0], size[1])
        self.real: Tensor | None = None
        if mask is not None:
            own = mask.sum(dim=1).cpu().numpy()
            if len(own) and own.min() < size[1]:
                tokens, self.real = own, mask.bool()
        self.kept = lengths.kept(tokens)
        before = np.concatenate([tokens[None], self.kept[:-1]])
        self.drops: list[bool] = [bool(fewer.any()) for fewer in self.kept < before]
        self.positions: Tensor | None = None
        self.trail: list[tuple[int, Tensor, Tensor]] | None = None
        self._table: Tensor | None = None
        self._bias: Tensor | None = None
        self.left: list[tuple[Tensor | None, Tensor | None, Tensor]] | None = None

    def rank(self, received: Tensor, layer: int) -> Tensor:
        """Indices ``(B, K')`` of the tokens that a layer keeps, in their order; fillings come last.

        Args:
            received: attention ``(B, K)`` that each token received.
            layer: its index.
        """
        kept, width = self.kept[layer], received.shape[1]
        received = received.detach().clone()
        received[:, 0] = torch.inf
        if self.real is not None:
            received.masked_fill_(~self.real, -torch.inf)
        most = int(kept.max())
        order = received.argsort(dim=1, descending=True, stable=True)[:, :most]
        if int(kept.min()) == most:
            self.real = None
            return order.sort(dim=1).values
        counts = torch.as_tensor(kept, device=order.device)[:, None]
        self.real = torch.arange(most, device=order.device)[None] < counts
        return order.masked_fill(~self.real, width).sort(dim=1).values.clamp_(max=width - 1)

    def drop(self, summed: Tensor, received: Tensor, layer: int) -> Tensor:
        """States ``(B, K', H)`` of the tokens that a layer keeps, from those of all ``(B, K, H)``."""
        index = self.rank(received, layer)
        if self.trail is not None:
            self.trail.append((layer, received.detach(), index))
        self.positions = index if self.positions is None else self.positions.gather(1, index)
        self._bias = None
        return _gather(summed, index)

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Hand a later layer the mask and the position bias of the tokens that are left."""
        hidden = args[0] if args else kwargs["hidden_states"]
        mask = None
        if self.real is not None:
            mask = self.real[:, None, None, :]
            if not self.plain_mask:
                unseen = torch.finfo(hidden.dtype).min
                mask = torch.zeros(mask.shape, dtype=hidden.dtype, device=hidden.device).masked_fill_(~mask, unseen)
        args, kwargs = _put(args, kwargs, MASK, mask)
        if self._table is None or self.positions is None:
            return args, kwargs
        if self._bias is None:
            self._bias = _bias_of(self._table, self.positions)
        return _put(args, kwargs, BIAS, self._bias)

    def enter(self, hidden: Tensor, bias: Tensor | None) -> None:
        """Take note of the states ``(B, K, H)`` that enter a layer which drops some, and the first time of the bias."""
        if self.left is not None:
            self.left.append((self.positions, self.real, hidden))
        if self._table is None and bias is not None:
            self._table = bias[0]  # which is that of every row

    def leave(self, hidden: Tensor, stay: Tensor) -> Tensor:
        """States ``(R', K', H)`` of the rows that stay, from ``(R, K, H)``, without what filled them up: one gather.

        Args:
            hidden: of the rows so far.
            stay: indices ``(R',)`` of those that go on, one at least.
        """
        self.kept = self.kept[:, stay.cpu().numpy()]
        if self.positions is None:  # the masks are still the encoder's own
            self.real = None if self.real is None else self.real[stay]
            return hidden[stay]
        width = hidden.shape[1]
        self.positions = self.positions[stay]
        if self.real is not None:
            self.real = self.real[stay]
            counts = self.real.sum(dim=1)
            width = int(counts.max())
            self.real = None if int(counts.min()) == width else self.real[:, :width]
        self.positions = self.positions[:, :width]
        self._bias = None
        start = stay[:, None] * hidden.shape[1]
        index = (start + torch.arange(width, device=stay.device)).flatten()
        return hidden.flatten(0, 1).index_select(0, index).view(len(stay), width, -1)

    def reader(self, pooling: Pooling) -> Callable[..., Tensor]:
        """Gives what exits read of hidden states ``(R, K, H)`` of the rows and tokens that are left: ``(R, H)``.

        Raises:
            ValueError: exits read the last token, which may be dropped.
        """
        if pooling not in ("first", "mean"):
            raise ValueError(f"`pooling` must be first or mean where tokens are dropped, but got {pooling!r}.")

        def read(hidden: Tensor, rows: Tensor | None = None) -> Tensor:
            return Reader(None if self.real is None else self.real.long(), pooling)(hidden)

        return read if pooling == "mean" else lambda hidden, rows=None: hidden[:, 0]

    def put_back(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Hook of the encoder that restores the states in its output."""
        output.last_hidden_state = self.restore(output.last_hidden_state)
        return output

    def restore(self, hidden: Tensor) -> Tensor:
        """States ``(B, T, H)`` of all tokens: those dropped have the last one that they had (drop-and-restore).

        Args:
            hidden: the encoder's output ``(B, K, H)``.
        """
        if self.positions is None or self.left is None:
            return hidden
        (_, _, first), *others = self.left
        restored = first.flatten(0, 1).to(hidden.dtype)  # which a head in full precision has cast already
        for positions, real, states in (*others, (self.positions, self.real, hidden)):
            assert positions is not None
            start = torch.arange(len(states), device=states.device)[:, None] * self.size[1]
            places, values = (positions + start).flatten(), states.flatten(0, 1)
            if real is not None:
                places, values = places[real.flatten()], values[real.flatten()]
            restored = restored.index_copy(0, places, values.to(restored.dtype))
        return restored.view(*self.size, -1)


class _Cut:
    """Hooks of a layer that drops tokens.

    Args:
        seam: where the layer is cut.
        layer: its module.
        one_pass: whose tokens they are.
        index: of the layer.
    """

    def __init__(self, seam: Seam, layer: nn.Module, one_pass: Pass, index: int) -> None:
        self.seam, self.one_pass, self.index = seam, one_pass, index
        attention, summed = attrgetter(seam.attention)(layer), attrgetter(seam.summed)(layer)
        self.received: Tensor | None = None
        self._usual = "" if seam.own else str(attention.config._attn_implementation)
        self.handles = [
            layer.register_forward_pre_hook(self.enter, with_kwargs=True),
            summed.register_forward_hook(self.cut),
        ]
        if seam.own:
            self.handles.append(attention.dropout.register_forward_pre_hook(self.weigh))
        else:
            self.handles.append(attention.register_forward_pre_hook(self.ask))
            self.handles.append(attention.register_forward_hook(self.hear, always_call=True))

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        self.one_pass.enter(hidden, _get(args, kwargs, BIAS) if self.seam.own else None)

    def weigh(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.received = received_of(args[0], self.one_pass.real)  # whole: tokens are not ranked by what dropout left

    def ask(self, module: Any, args: tuple[Any, ...]) -> None:
        module.config._attn_implementation = RECEIVED

    def hear(self, module: Any, args: Any, output: Any) -> Any:
        module.config._attn_implementation = self._usual
        if output is None:  # it failed
            return None
        states, self.received = output
        return states, None

    def cut(self, module: nn.Module, args: Any, output: Any) -> Any:
        assert self.received is not None
        states, *others = (output,) if isinstance(output, Tensor) else output
        states = self.one_pass.drop(states, self.received, self.index)
        return states if isinstance(output, Tensor) else (states, *others)


def _gather(states: Tensor, index: Tensor) -> Tensor:
    """States ``(B, K', H)`` at indices ``(B, K')`` of ``(B, K, H)``; whole rows of memory are copied."""
    start = torch.arange(len(states), device=states.device)[:, None] * states.shape[1]
    return states.flatten(0, 1).index_select(0, (index + start).flatten()).view(*index.shape, -1)


def _bias_of(table: Tensor, positions: Tensor) -> Tensor:
    """Bias ``(B, A, K, K)`` of the scores between the tokens at positions ``(B, K)``, from all ``(A, T, T)``."""
    heads, tokens, _ = table.shape
    rows = table.index_select(1, positions.flatten()).view(heads, *positions.shape, tokens)
    index = positions[None, :, None, :].expand(heads, -1, positions.shape[1], -1)
    return rows.gather(3, index).transpose(0, 1)


Argument = tuple[int, str]


def _get(args: tuple[Any, ...], kwargs: Mapping[str, Any], which: Argument) -> Any:
    place, name = which
    return args[place] if len(args) > place else kwargs.get(name)


def _put(args: tuple[Any, ...], kwargs: dict[str, Any], which: Argument, value: Any) -> tuple[Any, dict[str, Any]]:
    place, name = which
    if len(args) > place:
        return (*args[:place], value, *args[place + 1 :]), kwargs
    return args, {**kwargs, name: value}
