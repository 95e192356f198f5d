"""Exits on any encoder of transformers whose layers run in sequence (DeeBERT, PABEE, ElasticBERT, COST-EFF)."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import ModelOutput

from dial.models.autocast import without_autocast
from dial.models.exit_weights import copy_weights, read_source
from dial.models.exits import (
    RowTensors,
    Visit,
    Visits,
    find_final_norm,
    find_layers,
    first_layers,
    learn_row_tensors,
    take_out_norm,
)
from dial.models.lengths import Lengths
from dial.models.multi_exit_config import SHAPES, MultiExitConfig, encoder_settings
from dial.models.pooling import Pooling, Reader, natural_pooling
from dial.models.segments import Part, visit_in_parts
from dial.models.token_dropping import Pass, TokenDropping
from dial.stages.task import task_of


class ExitHead(nn.Module):
    """Classifier of one exit: norm and dense layer with tanh where wanted, dropout, linear layer.

    It computes without autocast in the precision of its own weights: bf16 logits hold three digits.

    Args:
        hidden_size: width of a hidden state.
        outputs: number of classes, 1 for regression.
        dropout: before the linear layer.
        norm: the exit's own norm, for encoders that leave their hidden states without one; None for the others.
        pooler: put a dense layer with tanh before the dropout, as BERT's pooler does.
    """

    def __init__(
        self, hidden_size: int, outputs: int, dropout: float, norm: nn.Module | None = None, pooler: bool = False
    ) -> None:
        super().__init__()
        self.norm = norm
        self.dense = nn.Linear(hidden_size, hidden_size) if pooler else None
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden_size, outputs)
        self._only_linear = norm is None and not pooler

    def forward(self, token: Tensor) -> Tensor:
        """Logits ``(B, C)`` from pooled hidden states ``(B, H)``."""
        with without_autocast(token.device.type):
            token = token.to(self.linear.weight.dtype)
            if self.norm is not None:
                token = self.norm(token)
            if self.dense is not None:
                token = torch.tanh(self.dense(token))
            logits: Tensor = self.linear(self.dropout(token))
            return logits

    def plain_forward(self, token: Tensor) -> Tensor:
        """What :meth:`forward` gives; only where :meth:`is_plain` holds.

        Between the layers of a single row each call of a module and each question to it shows in the row's time.
        """
        if not self._only_linear:
            return self(token)  # type: ignore[no-any-return]
        linear = self.linear
        return nn.functional.linear(token, linear.weight, linear.bias)

    def is_plain(self, hidden: Tensor) -> bool:
        """Whether nothing is to be cast or dropped for such a hidden state."""
        device = hidden.device.type
        cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        return not self.training and not cast and hidden.dtype == self.linear.weight.dtype

    def linears(self) -> list[nn.Linear]:
        """Its linear layers in order."""
        return [self.linear] if self.dense is None else [self.dense, self.linear]


class CertaintyHead(nn.Module):
    """Says from a hidden state how far the exit there is to be trusted; one for all exits of a model.

    That is the learning-to-exit module of BERxiT (Xin et al. 2021): ``u = sigmoid(c · h + b)`` with ``c`` and ``b``
    shared by all layers. It computes without autocast, as the exits do.

    Args:
        hidden_size: width of a hidden state.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)

    def forward(self, token: Tensor, norm: nn.Module | None = None) -> Tensor:
        """``c · h + b`` ``(B,)``, before the sigmoid, from pooled hidden states ``(B, H)``.

        Args:
            token: the hidden states.
            norm: that of the exit, if it has one.
        """
        with without_autocast(token.device.type):
            token = token.to(self.linear.weight.dtype)
            output: Tensor = self.linear(token if norm is None else norm(token))
            return output[:, 0]


# (exit, rows, logits) or (..., certainty) to a bool for each row; None: all go on, False: none
GoOn = Callable[..., Tensor | Literal[False] | None]


@dataclass
class MultiExitOutput(ModelOutput):
    """Logits ``(B, E, C)`` in float32, and where asked for ``H_0 ... H_L``, each ``(B, T, H)``.

    A model with ``certainty`` also says how far each exit is to be trusted, ``(B, E)`` before the sigmoid.
    """

    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    certainty: Tensor | None = None


class MultiExitForSequenceClassification(PreTrainedModel):
    """A stock encoder with a classifier of one token, or of the mean, after each of the chosen layers.

    No modelling code is copied: hooks on the stock layers see the hidden states. An encoder that norms only after its
    last layer (ModernBERT) gives that norm away: every exit has one of its own. ``H_L`` is then un-normed, as the
    others are.
    """

    config_class = MultiExitConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: MultiExitConfig) -> None:
        asked = config._attn_implementation  # before PreTrainedModel puts its own default there
        super().__init__(config)
        self.num_labels = config.num_labels
        self.exits = list(config.exits)
        self.encoder = _make_encoder(config.encoder_config(), asked)
        config._attn_implementation = self.encoder.config._attn_implementation  # not all encoders have our default
        self.layers_name = find_layers(self.encoder, config.num_hidden_layers)
        self.norm_name = find_final_norm(self.encoder, self.layers_name)  # where the identity is now
        norm = take_out_norm(self.encoder, self.norm_name)
        self.heads = nn.ModuleList(
            ExitHead(config.hidden_size, config.num_labels, config.dropout, copy.deepcopy(norm), config.pooler)
            for _ in self.exits
        )
        self.certainty = CertaintyHead(config.hidden_size) if config.certainty else None
        self.certainty_detached = False  # True: learning it leaves the encoder alone
        self._accepted = set(inspect.signature(self.encoder.forward).parameters)
        self._row_tensors: dict[str, RowTensors] = {}
        self._dropping: TokenDropping | None = None
        self.parts: Sequence[Part] | None = None  # what computes its segments where a backend does
        if config.slender:
            from dial.models.slender.encoder import shape_model  # here, as it shapes models of this class

            shape_model(self, config)
        self.post_init()

    @property
    def layers(self) -> nn.ModuleList:
        """The encoder's stock layers."""
        found: nn.ModuleList = attrgetter(self.layers_name)(self.encoder)
        return found

    def get_input_embeddings(self) -> nn.Module:
        """The table of word embeddings."""
        table: nn.Module = self.encoder.get_input_embeddings()
        return table

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the table of word embeddings."""
        self.encoder.set_input_embeddings(value)

    def set_attn_implementation(self, attn_implementation: Any, **kwargs: Any) -> None:
        """Change the encoder's attention (``eager``, ``sdpa``, ...)."""
        self.encoder.set_attn_implementation(attn_implementation, **kwargs)
        self.config._attn_implementation = self.encoder.config._attn_implementation

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool = False,
        lengths: Lengths | None = None,
    ) -> MultiExitOutput:
        """All exits of all rows.

        Args:
            input_ids: ``(B, T)``.
            attention_mask: ``(B, T)`` or ``(B, 1, T, T)``, or None where nothing is padded.
            token_type_ids: ``(B, T)``; encoders without segments do without.
            output_hidden_states: also give ``H_0`` (the input of the first layer) to ``H_L``.
            lengths: tokens that each layer keeps, which exits read; None: all.
        """
        tokens: dict[int, Tensor] = {}
        states: list[Tensor] = []
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        one_pass = self._pass(lengths, inputs)
        read = Reader(attention_mask, self.config.pooling) if one_pass is None else one_pass.reader(self.config.pooling)

        def visit(layer: int, hidden: Tensor) -> None:
            if layer in self.exits:
                # Heads come later, outside of checkpointed layers; a view would keep the whole state until then.
                tokens[layer] = read(hidden).clone()
            if output_hidden_states:
                states.append(hidden)

        self._encode(inputs, visit, one_pass=one_pass)
        logits = [head(tokens[layer]) for layer, head in zip(self.exits, self.heads, strict=True)]
        return MultiExitOutput(
            logits=torch.stack(logits, dim=1),
            hidden_states=tuple(states) if output_hidden_states else None,
            certainty=self._certainty([tokens[layer] for layer in self.exits]),
        )

    def _certainty(self, tokens: Sequence[Tensor]) -> Tensor | None:
        """How far the exits are to be trusted, ``(B, E)``, from the hidden states ``(B, H)`` at each."""
        if self.certainty is None:
            return None
        seen = [token.detach() for token in tokens] if self.certainty_detached else tokens
        found = [self.certainty(token, head.norm) for token, head in zip(seen, self.heads, strict=True)]
        return torch.stack(found, dim=1)

    def add_certainty(self) -> None:
        """Give the model an untrained :class:`CertaintyHead`, unless it has one."""
        if self.certainty is None:
            made = CertaintyHead(self.config.hidden_size)
            nn.init.normal_(made.linear.weight, std=self.config.initializer_range)
            nn.init.zeros_(made.linear.bias)
            self.certainty = made.to(self.device)
            self.config.certainty = True

    def run(
        self,
        encoding: Mapping[str, Tensor | None],
        go_on: GoOn,
        certainty: bool = False,
        lengths: Lengths | None = None,
    ) -> None:
        """Compute layer after layer, ask after each exit which rows go on, and drop the others.

        Args:
            encoding: the arguments of :meth:`forward`, tensors ``(B, T)``.
            go_on: gets the exit's index, the rows ``(R,)`` that reached it and their logits ``(R, C)``; returns a bool
                ``(R,)``, or None for all, or False for none. It is asked after the last exit too.
            certainty: give ``go_on`` a fourth argument: how far the exit is to be trusted, ``(R,)`` before the sigmoid.
            lengths: tokens that each layer keeps, which exits read; None: all.
        """
        exit_of = {layer: index for index, layer in enumerate(self.exits)}
        ids, mask = encoding["input_ids"], encoding.get("attention_mask")
        assert ids is not None
        rows = torch.arange(len(ids), device=ids.device)
        # All that is the same at each exit is looked up here, as after a layer's products everything is slower.
        one_pass, last = self._pass(lengths, encoding), self.exits[-1]
        read = Reader(mask, self.config.pooling) if one_pass is None else one_pass.reader(self.config.pooling)
        certainty_head = self.certainty if certainty else None
        heads: list[Any] = list(self.heads)
        plain = False

        def visit(layer: int, hidden: Tensor) -> Tensor | Literal[False] | None:
            """Heads of an exit on the rows that are left, and what the caller says of these."""
            nonlocal rows, plain
            index = exit_of.get(layer)
            if index is None:
                if layer == 0:  # all heads are in one mode and of one dtype
                    plain = heads[0].is_plain(hidden)
                return None
            token = read(hidden, None if len(rows) == len(ids) else rows)
            head = heads[index]
            logits = head.plain_forward(token) if plain else head(token)
            if certainty_head is None:
                keep = go_on(index, rows, logits)
            else:
                keep = go_on(index, rows, logits, certainty_head(token, head.norm))
            if layer == last or keep is False:  # no row goes on: the encoder need not finish
                return False
            if keep is None:
                return None
            keep = keep.to(device=rows.device, dtype=torch.bool)
            rows = rows[keep]
            return keep

        if len(ids):
            self._encode(encoding, visit, self.row_tensors if len(ids) > 1 else None, one_pass)

    def _pass(self, lengths: Lengths | None, inputs: Mapping[str, Tensor | None]) -> Pass | None:
        """The pass of a batch in which tokens are dropped; None where none are."""
        ids = inputs["input_ids"]
        if lengths is None or ids is None:
            return None
        if self._dropping is None:
            self._dropping = TokenDropping(self.encoder, layers=self.layers_name)
        return self._dropping.start(self.encoder, lengths, inputs.get("attention_mask"), tuple(ids.shape))

    def _encode(
        self,
        inputs: Mapping[str, Tensor | None],
        visit: Visit,
        tensors: RowTensors | None = None,
        one_pass: Pass | None = None,
    ) -> None:
        """Runs the encoder with a visit after every layer, as one module or part by part."""
        ids = inputs["input_ids"]
        assert ids is not None
        given = {key: value for key, value in inputs.items() if value is not None and key in self._accepted}
        if self.parts is not None:
            visit_in_parts(self.parts, self.exits, given, visit)
            return
        leave = None if one_pass is None else one_pass.leave
        with ExitStack() as stack:
            if one_pass is not None:
                assert self._dropping is not None
                stack.enter_context(self._dropping.hooked(self.encoder, one_pass))
            stack.enter_context(Visits(list(self.layers), len(ids), visit, tensors, leave)())
            self.encoder(**given)

    @property
    def row_tensors(self) -> RowTensors:
        """Which tensors between the layers have an entry for each row; seen in a few small passes, once."""
        attention = str(self.encoder.config._attn_implementation)
        if attention not in self._row_tensors:
            self._row_tensors[attention] = learn_row_tensors(self.encoder, self.layers_name)
        return self._row_tensors[attention]

    def first_exits(self, count: int) -> MultiExitForSequenceClassification:
        """The model up to one of its exits, sharing all weights: what a row that leaves there has been through.

        Args:
            count: exits that it has, from 1; layers after the last of them are gone.
        """
        clone = copy.copy(self)
        clone._modules = dict(self._modules)
        clone.exits, clone.parts = self.exits[:count], None
        clone.encoder = first_layers(self.encoder, self.layers_name, self.exits[count - 1])
        clone.heads = nn.ModuleList(list(self.heads)[:count])
        return clone

    @classmethod
    def from_encoder(
        cls,
        source: str | PreTrainedModel,
        exits: Sequence[int] | None = None,
        label_names: Sequence[str] | None = None,
        pooler: bool = False,
        pooling: Pooling | None = None,
        layers: int | None = None,
        **settings: Any,
    ) -> MultiExitForSequenceClassification:
        """Put exits on a pretrained encoder.

        The head of a fine-tuned classifier becomes the last exit where that is then the same function (BERT's with
        ``pooler``, GPT-2's without); all other exits start at random.

        Args:
            source: folder or hub id of an encoder, a classifier or an ElasticBERT; or a loaded model.
            exits: layers, counted from 1; the last must be among them. None: all layers, or those of a multi-exit
                ``source``.
            label_names: names of the outputs; empty for regression. None: those of ``source``.
            pooler: put a dense layer with tanh into each exit; those of a multi-exit ``source`` stay.
            pooling: what an exit reads, see :class:`MultiExitConfig`. None: as in ``source``, else the first token, or
                in a decoder, whose first token sees only itself, the last.
            layers: keep only the first layers of the encoder.
            settings: more of :class:`MultiExitConfig`.

        Raises:
            ValueError: the encoder has no layers in sequence, or the exits do not fit it.
        """
        if isinstance(source, str):
            source = read_source(source, pooler)
        config = source.config
        if isinstance(config, MultiExitConfig):
            encoder = dict(config.encoder)
            pooler = pooler or config.pooler
            if exits is None:
                exits = [layer for layer in config.exits if layer <= (layers or config.num_hidden_layers)]
            settings = {**{key: getattr(config, key) for key in (*SHAPES, "certainty")}, **settings}
        else:
            encoder = encoder_settings(config)
        names = {"num_labels": config.num_labels, "id2label": config.id2label, "label2id": config.label2id}
        if label_names is not None:
            names = task_of(label_names).head_settings()
        settings["pooling"] = pooling or getattr(config, "pooling", None) or natural_pooling(source.base_model)
        made = MultiExitConfig(encoder=encoder, exits=None, pooler=pooler, **{**names, **settings})
        made.cut(made.num_hidden_layers if layers is None else layers, exits)
        model = cls(made)
        copy_weights(source, model)
        return model


def _make_encoder(config: PretrainedConfig, attention: str | None) -> Any:
    kind = MODEL_MAPPING[type(config)]
    accepted = inspect.signature(kind.__init__).parameters
    settings: dict[str, Any] = {"add_pooling_layer": False} if "add_pooling_layer" in accepted else {}
    if attention is not None:
        settings["attn_implementation"] = attention
    return AutoModel.from_config(config, **settings)


AutoConfig.register(MultiExitConfig.model_type, MultiExitConfig, exist_ok=True)
AutoModelForSequenceClassification.register(MultiExitConfig, MultiExitForSequenceClassification, exist_ok=True)
