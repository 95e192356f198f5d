"""Proof, on a few small passes, that an encoder can have exits: families are tried rather than assumed.

What is proved for the encoder at hand: its layers run in sequence on hidden states ``(B, T, H)``; nothing but the final
norm comes behind the last one; the stock classifier of the family hands it nothing more than exits do (Longformer's
adds global attention); the token that exits read sees the others; and rows that leave between layers change no other
row, whatever else has as many entries as the batch has rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from dial.models.exits import (
    FIRST_LAYERS,
    LENGTH,
    Inputs,
    RowTensors,
    UnsuitableEncoderError,
    Visits,
    find_final_norm,
    find_layers,
    trial_inputs,
    trial_mode,
    twin,
)
from dial.models.pooling import Pooling

ROWS = 4
MOST_ROWS = 1024
"""Coincidences of larger batches with the size of a tensor are not tried."""
REMEDY = "take another encoder, or a classifier without exits"
_proved: set[str] = set()


def prove_exits(model: Any) -> None:
    """Raise an error unless exits on a model's encoder are what they are meant to be.

    What was proved once holds for every model of the same configuration in this process.

    Args:
        model: a multi-exit model with float32 weights.

    Raises:
        UnsuitableEncoderError: says in one line what does not hold.
    """
    attention = str(model.encoder.config._attn_implementation)
    fingerprint = json.dumps([attention, model.config.to_dict()], sort_keys=True, default=str)
    if fingerprint in _proved:
        return
    with _as_one_line(model.encoder):
        trial = _Trial(model.encoder, model.layers_name, model.norm_name)
        trial.prove(model.config.pooling, model.row_tensors)
    _proved.add(fingerprint)


def prove_layers(encoder: Any) -> None:
    """Raise an error unless an encoder runs its layers in sequence, with nothing but a norm behind the last one.

    Args:
        encoder: a model of transformers whose hidden states are to be read layer by layer.

    Raises:
        UnsuitableEncoderError: it does not.
    """
    with _as_one_line(encoder):
        layers = find_layers(encoder, encoder.config.num_hidden_layers)
        trial = _Trial(encoder, layers, find_final_norm(encoder, layers))
        with trial_mode(encoder):
            trial.layer_by_layer(trial_inputs(encoder, ROWS, LENGTH))


@contextmanager
def _as_one_line(encoder: Any) -> Iterator[None]:
    """Turns whatever an unknown encoder raises into an error of one line that names it."""
    try:
        yield
    except UnsuitableEncoderError:
        raise
    except Exception as error:  # whatever an unknown encoder does
        reason = " ".join(f"{type(error).__name__} {error}".split())[:150]
        raise UnsuitableEncoderError(
            f"`encoder` must run layer by layer, but {type(encoder).__name__} does not ({reason}); {REMEDY}."
        ) from error


class _Trial:
    """The passes of one encoder.

    Args:
        encoder: a model of transformers.
        layers: name of the list of its layers.
        norm: name of the norm behind them, which may be an identity by now; None: there is none.
    """

    def __init__(self, encoder: Any, layers: str, norm: str | None) -> None:
        self.encoder: Any = twin(encoder)
        self.name = type(encoder).__name__
        self.layers = list(self.encoder.get_submodule(layers).children())
        self.some = min(FIRST_LAYERS, len(self.layers))
        self.norm = None if norm is None else self.encoder.get_submodule(norm)

    def prove(self, pooling: Pooling, tensors: RowTensors) -> None:
        """Raise an error at the first part of the proof that fails.

        Args:
            pooling: what exits read.
            tensors: which tensors between the layers have an entry for each row.
        """
        with trial_mode(self.encoder):
            inputs = trial_inputs(self.encoder, ROWS, LENGTH)
            states = self.layer_by_layer(inputs)
            self.as_in_the_stock_classifier(inputs, states)
            if pooling != "mean":
                self.what_is_read_sees_the_others(pooling)
            self.rows_leave(inputs, states, tensors)
            for size in sorted({LENGTH, *tensors.fixed}):
                if ROWS <= size <= MOST_ROWS:
                    self.as_many_rows_as_entries(size, tensors)

    def states(self, inputs: Inputs, last: int | None = None, model: Any = None) -> tuple[list[Tensor], Any]:
        """``H_0, H_1, ...`` as they come, and what the encoder gives.

        Args:
            inputs: of the encoder.
            last: layer behind which the pass ends; None: it goes on to the end.
            model: what is run; default: the encoder.
        """
        seen: list[Tensor] = []
        output = None

        def visit(layer: int, hidden: Tensor) -> Literal[False] | None:
            seen.append(hidden if layer == len(seen) else hidden[:0])  # out of order: no row is right
            return False if layer == last else None

        with Visits(self.layers, len(inputs["input_ids"]), visit)():
            output = (model or self.encoder)(**inputs)
        return seen, output

    def layer_by_layer(self, inputs: Inputs) -> list[Tensor]:
        """The hidden states, after a look at their order, dimensions and end."""
        normed: list[Tensor] = []
        handle = self.norm and self.norm.register_forward_pre_hook(lambda _, args: normed.append(args[0]))
        states, output = self.states(inputs)
        if handle is not None:
            handle.remove()
        wanted = (*inputs["input_ids"].shape, self.encoder.config.hidden_size)
        others = [tuple(hidden.shape) for hidden in states if tuple(hidden.shape) != wanted]
        if others or len(states) != len(self.layers) + 1:
            raise UnsuitableEncoderError(
                f"`encoder` must run its {len(self.layers)} layers in sequence, here on hidden states {wanted}, but "
                f"{self.name} {f'has {others[0]}' if others else 'does not call them so'}; {REMEDY}."
            )
        last = getattr(output, "last_hidden_state", output[0])
        if not equal(last, states[-1] if self.norm is None else self.norm(states[-1]), inputs):
            raise UnsuitableEncoderError(
                f"`encoder` must do nothing with the hidden states of its last layer but norm them, but {self.name} "
                f"does more; {REMEDY}."
            )
        if self.norm is not None and not (len(normed) == 1 and equal(normed[0], states[-1], inputs)):
            raise UnsuitableEncoderError(
                f"`encoder` must have the norm of its hidden states behind the last layer, but {self.name} has "
                f"{type(self.norm).__name__} elsewhere; {REMEDY}."
            )
        return states

    def as_in_the_stock_classifier(self, inputs: Inputs, states: list[Tensor]) -> None:
        """The stock classifier around this very encoder; its head is never run and needs no weights."""
        kind = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(self.encoder.config), None)
        if kind is None:
            return
        with torch.device("meta"):
            classifier = kind(self.encoder.config).eval()
        given: list[str] = []
        if isinstance(getattr(classifier, classifier.base_model_prefix, None), type(self.encoder)):
            setattr(classifier, classifier.base_model_prefix, self.encoder)
            handle = self.encoder.register_forward_pre_hook(
                lambda _, args, kwargs: given.extend(k for k, v in kwargs.items() if isinstance(v, Tensor)),
                with_kwargs=True,
            )
            own, _ = self.states(inputs, self.some, classifier)
            handle.remove()
            if len(own) == self.some + 1 and equal(own[-1], states[self.some], inputs):
                return
        more = " and ".join(name for name in given if name not in inputs)
        raise UnsuitableEncoderError(
            f"`encoder` must give the same hidden states under exits as in {kind.__name__}, but that gives {self.name} "
            f"{more or 'something'} that exits do not; {REMEDY}."
        )

    def what_is_read_sees_the_others(self, pooling: Pooling) -> None:
        """In a decoder the first token sees only itself, so an exit that reads it would say the same of every text."""
        inputs = trial_inputs(self.encoder, 2, LENGTH, None)
        place, other = (0, 1) if pooling == "first" else (LENGTH - 1, LENGTH - 2)
        changed = inputs["input_ids"][1, other].clone()
        inputs["input_ids"][1] = inputs["input_ids"][0]
        inputs["input_ids"][1, other] = changed
        states, _ = self.states(inputs, self.some)
        if torch.equal(states[-1][0, place], states[-1][1, place]):
            remedy = "last, as its own classifier does, or mean" if pooling == "first" else "first or mean"
            raise UnsuitableEncoderError(
                f"`pooling` must be a token that sees the others, but in {self.name} the {pooling} one does not; "
                f"take {remedy}."
            )

    def rows_leave(self, inputs: Inputs, states: list[Tensor], tensors: RowTensors) -> None:
        """One row leaves after each layer, until one is left: each must go on as if all were there."""
        rows = torch.arange(ROWS, device=states[0].device)

        def visit(layer: int, hidden: Tensor) -> Tensor | Literal[False] | None:
            """Compares a layer with the full pass; then a row leaves at one end, and no other row may change."""
            nonlocal rows
            here = {name: value[rows] for name, value in inputs.items()}
            if len(hidden) != len(rows) or not equal(hidden, states[layer][rows], here):
                raise self.neighbours_matter(ROWS)
            if layer == len(self.layers):
                return False
            if layer == 0 or len(rows) == 1:
                return None
            keep = torch.ones_like(rows, dtype=torch.bool)
            keep[0 if layer % 2 else -1] = False
            rows = rows[keep]
            return keep

        with Visits(self.layers, ROWS, visit, tensors)():
            self.encoder(**inputs)

    def as_many_rows_as_entries(self, size: int, tensors: RowTensors) -> None:
        """All rows but two leave after the first layer, where another tensor is as long as the batch.

        The rows are two texts in turn, so that the first layer need not compute each of them.
        """
        few = trial_inputs(self.encoder, 2, LENGTH if size == LENGTH else 2, None)
        first, outputs = self.layers[0], []
        handle = first.register_forward_hook(lambda module, args, output: outputs.append(output))
        last = min(2, len(self.layers))
        wanted, _ = self.states(few, last)
        handle.remove()
        turns = torch.arange(size, device=wanted[0].device) % 2

        def visit(layer: int, hidden: Tensor) -> Tensor | Literal[False] | None:
            if layer > 0 and not equal(hidden[:2], wanted[layer], few):
                raise self.neighbours_matter(size)
            if layer == last:
                return False
            return None if layer == 0 else torch.arange(size, device=hidden.device) < 2

        first.forward = lambda *args, **kwargs: tensors.take(outputs[0], 2, turns, "output")  # type: ignore[method-assign]
        with Visits(self.layers, size, visit, tensors)():
            self.encoder(**{name: value[turns] for name, value in few.items()})
        del first.forward

    def neighbours_matter(self, size: int) -> UnsuitableEncoderError:
        """The error of the last two parts."""
        return UnsuitableEncoderError(
            f"`encoder` must compute each row by itself, for rows to leave between its layers, but in a batch of "
            f"{size} rows of {self.name} those that stay change when others leave; {REMEDY}."
        )


def equal(left: Tensor, right: Tensor, inputs: Inputs) -> bool:
    """Whether hidden states ``(B, T, H)`` agree at all tokens, up to rounding; padding may differ."""
    if left.shape != right.shape:
        return False
    real = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
    left, right = left[real], right[real]
    return torch.allclose(left, right, rtol=1e-4, atol=1e-4 * float(right.std()))
