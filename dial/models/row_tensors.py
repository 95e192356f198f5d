"""Which of the tensors that an encoder hands to its layers have an entry for each row of the batch.

A tensor's size does not tell: DeBERTa's table of relative positions has ``2 * position_buckets`` entries, as a batch
may have rows, and a text may have as many tokens. Whether the size follows the batch tells: the encoder is run with two
rows and with three.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dial.models.trial import UnsuitableEncoderError, trial_inputs, trial_mode, twin

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
    if isinstance(value, Tensor):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _tensors(item, *place, key)
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from _tensors(item, *place, index)
