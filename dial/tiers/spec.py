"""How a tier is looked at: which folder, cut to which layers, in which precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_args

from datamodules.labels import check_label_names
from dial.tiers.precision import Dtype


@dataclass(frozen=True)
class View:
    """A folder or hub id of a model and how it is used; a bare string is short for ``{path}``.

    Args:
        path: folder left by ``dial fit`` or by ``save_pretrained``, or a hub id.
        layers: keep only the first layers of the encoder, of an encoder-decoder in both halves; all if not given.
        dtype: numbers that the encoder computes in; the head always computes in float32. ``int8`` is for CPUs: weights
            and activations of linear layers are rounded to 8 bits, everything else is float32.
        max_length: tokens kept of a text or pair; default: the tokenizer's own maximum.
        batch_size: rows that the executor computes at once.
        label_names: names of the model's outputs in their order, where its configuration does not tell.
        temperature: divides the logits before a score is computed; it never changes a prediction.

    Raises:
        ValueError: a value is outside its range.
    """

    path: str
    layers: int | None = None
    dtype: Dtype = "float32"
    max_length: int | None = None
    batch_size: int | None = None
    label_names: list[str] | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not self.path:
            raise ValueError(f"`path` must be a folder or a hub id, but got {self.path!r}.")
        for name in ("layers", "max_length", "batch_size"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"`{name}` must be a whole number from 1 up, or left out, but got {value!r}.")
        if self.dtype not in get_args(Dtype):
            raise ValueError(f"`dtype` must be one of {', '.join(get_args(Dtype))}, but got {self.dtype!r}.")
        if not isinstance(self.temperature, int | float) or not 0 < self.temperature < float("inf"):
            raise ValueError(f"`temperature` must be a number above 0, but got {self.temperature!r}.")
        names = self.label_names
        if names is not None and (isinstance(names, str) or not all(isinstance(name, str) for name in names)):
            raise ValueError(f"`label_names` must be a list of strings (quote numbers), but got {names!r}.")
        if names is not None:
            check_label_names(names)

    @classmethod
    def parse(cls, spec: str | Mapping[str, Any] | View, argument: str = "tier") -> View:
        """Make a view from what a user may write.

        Args:
            spec: a path, a mapping of the arguments of :class:`View`, or a view (returned as it is).
            argument: how the user calls it, for the error message.

        Raises:
            ValueError: an unknown key, a missing ``path``, or a value outside its range; names ``argument``.

        Example:
            >>> View.parse({"path": "runs/super", "layers": 2}).layers
            2
            >>> View.parse({"path": "runs/super", "layer": 2}, "tiers[1]")
            Traceback (most recent call last):
                ...
            ValueError: `tiers[1]` allows the keys path, layers, dtype, max_length, batch_size, label_names,
            temperature, but got layer.
        """
        if isinstance(spec, View):
            return spec
        if isinstance(spec, str):
            spec = {"path": spec}
        if not isinstance(spec, Mapping):
            raise ValueError(f"`{argument}` must be a folder, a hub id or a mapping with `path`, but got {spec!r}.")
        allowed = [field.name for field in fields(cls)]
        unknown = [str(key) for key in spec if key not in allowed]
        if unknown:
            raise ValueError(f"`{argument}` allows the keys {', '.join(allowed)}, but got {', '.join(unknown)}.")
        if "path" not in spec:
            raise ValueError(f"`{argument}` must name a `path` (folder or hub id), but got {dict(spec)!r}.")
        try:
            return cls(**spec)
        except ValueError as error:
            raise ValueError(f"`{argument}`: {error}") from None
