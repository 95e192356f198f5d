"""A tier: a whole model with its tokenizer, whose outputs are in the data's order of labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from datamodules.labels import check_label_names
from dial.models import BiLSTMConfig, build_word_tokenizer
from dial.models.lengths import Lengths, check_asked
from dial.models.token_dropping import NONE_DROPPED, TokenDropping, dropping
from dial.stages.task import task_of
from dial.tiers.backends.names import Backend, check_backend
from dial.tiers.batching import Batching, Encoding
from dial.tiers.contract import GoOn, TierContract
from dial.tiers.embeddings import start_embeddings
from dial.tiers.labels import is_generic
from dial.tiers.model_inputs import accepted_inputs
from dial.tiers.precision import Dtype, FullPrecisionHead, cast_encoder
from dial.tiers.tokens import encoding_key


@dataclass(frozen=True)
class View:
    """A folder or hub id of a model and how it is used; a bare string is short for ``{path}``.

    Args:
        path: folder left by ``dial fit`` or by ``save_pretrained``, or a hub id.
        layers: keep only the first layers of the encoder, of an encoder-decoder in both halves; all if not given.
        width: share of the heads and feed-forward neurons of each layer that is kept, of a model that was trained so
            (class_path: DynaBERT).
        depth: likewise of the layers, which are dropped evenly.
        dtype: numbers that the encoder computes in; the head always computes in float32. ``int8`` is for CPUs: weights
            and activations of linear layers are rounded to 8 bits, everything else is float32.
        backend: what computes the model: ``torch``, or on a CPU ``openvino`` or ``onnxruntime``, which are faster and
            extras of the installation; ``auto`` takes what is fastest here.
        max_length: tokens kept of a text or pair; default: the tokenizer's own maximum.
        batch_size: rows that the executor computes at once.
        label_names: names of the model's outputs in their order, where its configuration does not tell.
        temperature: divides the logits before a score is computed; it never changes a prediction.
        head: folder of an energy head for an encoder-decoder, where it is not its own.
        beams: width of an encoder-decoder's search; default 1, greedy.
        max_new_tokens: pieces that an encoder-decoder writes at most; default: those that it was trained for, else 64.
        lengths: tokens that each layer of an encoder keeps, see :class:`~dial.models.lengths.Lengths`; or a share of
            the MACs of all tokens, which takes the best configuration that ``dial lengths`` found within it.
        stride: tokens that two neighbouring windows of a context share, of a tier that answers by spans; default: as it
            was trained, where that leaves room for a question, else 128, or a third of a window where that is less.
        max_answer_tokens: longest span that answers; default 30.
        no_answer: whether "no answer" may be one; default: whether it was trained on such questions.

    Raises:
        ValueError: a value is outside its range.
    """

    path: str
    layers: int | None = None
    width: float | None = None
    depth: float | None = None
    dtype: Dtype = "float32"
    backend: Backend = "torch"
    max_length: int | None = None
    batch_size: int | None = None
    label_names: list[str] | None = None
    temperature: float = 1.0
    head: str | None = None
    beams: int | None = None
    max_new_tokens: int | None = None
    lengths: list[float] | float | None = None
    stride: int | None = None
    max_answer_tokens: int | None = None
    no_answer: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not self.path:
            raise ValueError(f"`path` must be a folder or a hub id, but got {self.path!r}.")
        for name in ("layers", "max_length", "batch_size", "beams", "max_new_tokens", "stride", "max_answer_tokens"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"`{name}` must be a whole number from 1 up, or left out, but got {value!r}.")
        for name in ("width", "depth"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ValueError(f"`{name}` must be a number, or left out, but got {value!r}.")
        if self.layers is not None and self.depth is not None:
            raise ValueError(
                f"`depth` must be left out beside `layers`, which keeps the first layers, but got depth {self.depth!r} "
                f"and layers {self.layers}; give one of them."
            )
        if self.dtype not in get_args(Dtype):
            raise ValueError(f"`dtype` must be one of {', '.join(get_args(Dtype))}, but got {self.dtype!r}.")
        if self.no_answer is not None and not isinstance(self.no_answer, bool):
            raise ValueError(f"`no_answer` must be true or false, or left out, but got {self.no_answer!r}.")
        check_backend(self.backend, self.dtype)
        if not isinstance(self.temperature, int | float) or not 0 < self.temperature < float("inf"):
            raise ValueError(f"`temperature` must be a number above 0, but got {self.temperature!r}.")
        names = self.label_names
        if names is not None and (isinstance(names, str) or not all(isinstance(name, str) for name in names)):
            raise ValueError(f"`label_names` must be a list of strings (quote numbers), but got {names!r}.")
        if names is not None:
            check_label_names(names)
        check_asked(self.lengths)
        if self.lengths is not None and self.backend not in ("torch", "auto"):
            raise ValueError(f"`backend` must be torch (or auto) where tokens are dropped, but got {self.backend!r}.")

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
            ValueError: `tiers[1]` allows the keys path, layers, width, depth, dtype, backend, max_length, batch_size,
            label_names, temperature, head, beams, max_new_tokens, lengths, stride,
            max_answer_tokens, no_answer, but got layer.
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


__all__ = ["Encoding", "GoOn", "Tier", "encoding_key", "own_names"]


class Tier(TierContract):
    """A sequence classifier (or regressor) with one exit, as a part of a :class:`StagedModel`.

    Args:
        name: what the tier is called in tables and figures.
        view: folder and how it is used.
        model: any class of ``AutoModelForSequenceClassification``.
        tokenizer: None for a word-level tokenizer that :meth:`fit_tokenizer` is to build.
        max_length: tokens kept of a text or pair.
        label_names: the data's names in the order of its integers; empty for regression.
        order: position of each of the data's labels among the model's outputs.
        assumed: whether that order is only assumed, because names are generic.
        card: what ``dial fit`` wrote about the model.
        word_vectors: file or model that word embeddings start from, once there is a tokenizer.

    Attributes:
        batching: what the model needs of its batches; :func:`~dial.tiers.batch_proof.settle` finds it
            out where a tier is loaded.
        keep_head: whether the head is saved; a fit that leaves it untrained says no.
        known_fingerprint: its fingerprint, where the weights are not at hand.
        lengths: tokens that each layer keeps; None: all.
    """

    model: Any  # a PreTrainedModel, whose attributes differ by class

    def __init__(
        self,
        name: str,
        view: View,
        model: Any,
        tokenizer: Any,
        max_length: int,
        label_names: list[str],
        order: list[int] | None = None,
        assumed: bool = False,
        card: dict[str, Any] | None = None,
        word_vectors: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.view = view
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.label_names, self.task = list(label_names), task_of(label_names)
        self.order = order or list(range(self.task.columns))
        self.labels_assumed = assumed
        self.card = card or {}
        self.word_vectors = word_vectors
        self.exits = ["final"]
        self.keep_head = True
        self.batching = Batching()
        self.known_fingerprint: str | None = None
        self._encoding_key: str | None = None
        self.lengths: Lengths | None = None
        self._dropping: TokenDropping | None = None
        self._full_precision_head = FullPrecisionHead(model)
        self._accepted = accepted_inputs(model)

    @property
    def own_label_names(self) -> list[str] | None:
        """The model's own names in the data's order; None if it has none that mean anything."""
        names = own_names(self.model.config) or []
        return None if is_generic(names) else [names[i] for i in self.order]

    @property
    def encoding_key(self) -> str:
        """Twelve hexadecimal digits that tokenizer and maximum length determine; the key of this tier's encodings."""
        if self.tokenizer is None:
            raise RuntimeError(f"Tier {self.name}: call fit_tokenizer before encodings are needed.")
        if self._encoding_key is None:  # once: it reads the whole vocabulary, and every batch asks for it
            self._encoding_key = encoding_key(self.tokenizer, self.max_length)
        return self._encoding_key

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that whatever can change an output determines: weights, sizes, view, labels.

        It is computed from the weights as they are now. Where the files lie, and the batch size, do not count.
        """
        return self.known_fingerprint or self._digest()

    def _digest(self) -> str:
        view = self.view
        settings: list[Any] = [view.dtype, view.temperature, self.max_length, self.label_names, self.order]
        settings += [] if view.backend == "torch" else [view.backend]
        settings += [] if self.lengths is None else [{"lengths": self.lengths.plain()}]
        return model_digest(self.model, *settings)

    def forward(self, encoding: Encoding) -> Tensor:
        """Logits of all exits, ``(B, 1, C)`` in float32 and in the data's order of labels; regression has ``C = 1``."""
        logits = self.batching.answer(self._logits, encoding)
        if self.order != sorted(self.order):
            logits = logits[:, self.order]
        return logits.unsqueeze(1)

    def _logits(self, encoding: Encoding) -> Tensor:
        inputs = {key: value for key, value in encoding.items() if key in self._accepted}
        if self.parts is not None:
            return self.parts[0](inputs)
        with dropping(self._dropping, self.lengths, self.model, inputs):
            logits: Tensor = self._full_precision_head(self.model, inputs).logits
        return logits.float()

    def drop_tokens(self, lengths: Lengths | None, argument: str = "path", remedy: str = NONE_DROPPED) -> None:
        """Have each layer keep so many tokens from now on.

        Args:
            lengths: of the layers; None: all tokens.
            argument: how the user calls the tier.
            remedy: what keeps all tokens, as the user spells it.

        Raises:
            ValueError: the model allows no tokens to be dropped, a backend computes it, which would keep them all, or
                the lengths do not fit it; names ``argument``.
        """
        if lengths is not None:
            if self.parts is not None:
                raise ValueError(
                    f"`{argument}`: `backend` must be torch where tokens are dropped, but {self.name} is computed by "
                    f"{self.computed_by}; give it `backend: torch`."
                )
            if self._dropping is None:
                self._dropping = TokenDropping(self.model.base_model, argument, remedy=remedy)
            lengths.check(self._dropping.depth, self.max_length, argument)
        self.lengths = lengths

    @contextmanager
    def at_lengths(self, lengths: Lengths | None) -> Iterator[None]:
        """Within this context each layer keeps so many tokens; see :meth:`drop_tokens`.

        Passes that drop tokens change the model while they run: one Python thread at a time may compute it.
        """
        before = self.lengths
        self.drop_tokens(lengths)
        try:
            yield
        finally:
            self.lengths = before

    def run(self, encoding: Encoding, go_on: GoOn, scores: bool = False) -> Any:
        """See :class:`TierContract`."""
        outputs = self(encoding)[:, 0]
        rows = torch.arange(len(outputs), device=outputs.device)
        go_on(0, rows, outputs, {}) if scores else go_on(0, rows, outputs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move the model; what was chosen for a CPU by ``backend: auto`` computes it no longer where it leaves that."""
        super()._apply(fn, recurse)
        if self.view.backend == "auto" and self.parts is not None and self.model.device.type != "cpu":
            self.compute_with(None)
            cast_encoder(self.model, self.view.dtype, self.name)  # its weights stayed float32 for the backend
        return self

    def segments(self) -> list[nn.Module]:
        """See :class:`TierContract`."""
        return [TierPath(self)] if self.lengths is None else []

    def path(self, exit_index: int) -> nn.Module:
        """See :class:`TierContract`."""
        if exit_index not in range(len(self.exits)):
            raise ValueError(f"`exit_index` must be below {len(self.exits)}, but got {exit_index}.")
        return TierPath(self)

    def reference_path(self) -> nn.Module | None:
        """The model with all tokens, where it drops some."""
        return None if self.lengths is None else TierPath(self, whole=True)

    def probe(self, inputs: dict[str, Tensor]) -> Tensor:
        """Outputs ``(B, ...)`` of the model's own inputs, by which it is proved how rows may be batched."""
        with dropping(self._dropping, self.lengths, self.model, inputs):
            logits: Tensor = self.model(**inputs).logits
        return logits

    def example(self, length: int) -> Encoding:
        """An encoding of one row of ``length`` tokens without padding, ``(1, length)``; it ends as a text ends."""
        device = next(self.model.parameters()).device
        taken = self.model.config.pad_token_id, self.batching.end_id
        word = next(token for token in range(len(taken) + 1) if token not in taken)
        ids = torch.full((1, length), word, dtype=torch.long, device=device)
        if self.batching.end_id is not None:
            ids[:, -1] = self.batching.end_id
        encoding = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        names = self.tokenizer.model_input_names if self.tokenizer is not None else []
        if "token_type_ids" in self._accepted and "token_type_ids" in names:
            encoding["token_type_ids"] = torch.zeros_like(ids)
        return encoding

    def save(self, folder: Path) -> None:
        """Write what a folder needs for :func:`~dial.tiers.loading.load_tier` and the Auto classes of transformers."""
        (self.model if self.keep_head else self.model.base_model).save_pretrained(folder)
        if getattr(self.tokenizer, "is_fast", False):
            # Calls leave their padding and truncation behind; the same tier is the same file, used before or not.
            self.tokenizer.backend_tokenizer.no_padding()
            self.tokenizer.backend_tokenizer.no_truncation()
        self.tokenizer.save_pretrained(folder)

    def describe(self) -> dict[str, Any]:
        """Where it came from, how it is used, its fingerprint and its size, and what computes it beside its view."""
        own = (self.view.backend, self.computed_by) == ("torch", "torch")
        return {
            "path": self.view.path,
            "fingerprint": self.fingerprint,
            "encoding": self.encoding_key,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "view": {k: v for k, v in vars(self.view).items() if v is not None and (k, v) != ("backend", "torch")},
            **({} if own else {"computed_by": self.computed_by}),
            **({} if self.lengths is None else {"lengths": self.lengths.plain()}),
        }

    def fit_tokenizer(self, texts: Callable[[], Iterable[Any]]) -> None:
        """Build the word-level tokenizer from the training text, and let word embeddings start where they are to.

        Does nothing for a tier that has a tokenizer.

        Args:
            texts: gives an iterable of strings, or of pairs of strings.
        """
        if self.tokenizer is not None:
            return
        encoder = not isinstance(self.model.config, BiLSTMConfig)
        self.tokenizer = build_word_tokenizer(texts(), self.model.config.vocab_size, self.max_length, encoder)
        self.start_embeddings()

    def start_embeddings(self) -> None:
        """Let the word embeddings start from ``word_vectors``, if there are any; prints the share of words found."""
        if self.word_vectors is not None:
            table = self.model.base_model.get_input_embeddings()
            share, words = start_embeddings(table, self.tokenizer, self.word_vectors)
            print(f"{self.name}: {share:.1%} of {words} words have a vector in {self.word_vectors}")


class TierPath(nn.Module):
    """The model of a tier as a plain module from an encoding's tensors to logits, for counting its operations.

    Args:
        tier: whose model it is.
        whole: drop no tokens, whatever the tier does.
        restore: put tokens that were dropped back before the head reads them.
        output: which of the model's outputs is given; a head computes those beside it with it.
    """

    def __init__(self, tier: Tier, whole: bool = False, restore: bool = False, output: str = "logits") -> None:
        super().__init__()
        self.restore, self.output = restore, output
        self.model = tier.model
        self._accepted, self._dropping = tier._accepted, tier._dropping
        self.lengths = None if whole else tier.lengths

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Logits ``(B, C)`` in the model's own order, or ``(B, T)`` where each token has one."""
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        inputs = {k: v for k, v in given.items() if v is not None and k in self._accepted}
        whole_rows = {"input_ids": input_ids}  # the rows of an example have no padding, which a trace could not see
        with dropping(self._dropping, self.lengths, self.model, whole_rows, restore=self.restore):
            logits: Tensor = getattr(self.model(**inputs), self.output)
        return logits


_NO_MATTER = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}


def model_digest(model: Any, *settings: Any) -> str:
    """Twelve hexadecimal digits that a model's configuration, its weights as they are now, and settings determine."""
    digest = hashlib.sha256()
    config = {k: v for k, v in model.config.to_dict().items() if k not in _NO_MATTER}
    digest.update(json.dumps([config, *settings], sort_keys=True, default=str).encode())
    _add_weights(digest, model)
    return digest.hexdigest()[:12]


def weights_digest(model: Any) -> str:
    """Twelve hexadecimal digits that a model's weights as they are now determine, whatever its labels are called."""
    digest = hashlib.sha256()
    _add_weights(digest, model)
    return digest.hexdigest()[:12]


def _add_weights(digest: Any, model: Any) -> None:
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        content = value.detach().cpu().contiguous().flatten()
        digest.update(content.view(torch.uint8).numpy().data if content.numel() else b"")


def own_names(config: Any) -> list[str] | None:
    """Label names of a transformers configuration in the order of its outputs."""
    names = getattr(config, "id2label", None)
    return [str(names[i]) for i in sorted(names)] if names else None
