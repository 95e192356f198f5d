"""Configuration of multi-exit models: a stock encoder's, the exits, and the shapes of a slender encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoConfig, PretrainedConfig

from dial.models.exits import check_exits
from dial.models.pooling import Pooling

SHAPES = ("heads", "intermediate", "embedding_rank")  # settings of a slender encoder
# Of the model that an encoder was part of, or of the file that it came from; not of the encoder.
NOT_ITS_OWN = (
    "_name_or_path architectures dtype torch_dtype transformers_version id2label label2id num_labels problem_type "
    "classifier_dropout finetuning_task subnetworks"
).split()


class MultiExitConfig(PretrainedConfig):
    """What a :class:`MultiExitForSequenceClassification` is made of.

    Sizes such as ``hidden_size`` or ``num_hidden_layers`` are those of the encoder and are read through properties.

    Args:
        encoder: settings of a configuration class of transformers, with its ``model_type``.
        exits: layers, counted from 1, after which an answer exists; ascending, the last layer among them. None: all.
        pooler: put a dense layer with tanh into each exit.
        pooling: what an exit reads: the ``first`` token, the ``last`` one (of decoders), or the ``mean`` over all.
        dropout: in the exits.
        heads: attention heads kept in each layer; None: all.
        intermediate: width of the feed-forward network of each layer; None: the encoder's.
        embedding_rank: rank of the factorised word embeddings; None: not factorised.
        certainty: have one more output that says how far each exit is to be trusted (BERxiT's learning-to-exit).

    Raises:
        ValueError: an unknown encoder, exits outside its depth or without its last layer, or shapes that no encoder of
            this size can have.
    """

    model_type = "multi_exit"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        exits: list[int] | None = None,
        pooler: bool = False,
        pooling: Pooling = "first",
        dropout: float = 0.1,
        heads: list[int] | None = None,
        intermediate: list[int] | None = None,
        embedding_rank: int | None = None,
        certainty: bool = False,
        pad_token_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.encoder = dict(encoder or {"model_type": "bert"})
        if "vocab_size" in kwargs:
            self.encoder["vocab_size"] = kwargs.pop("vocab_size")
        if pad_token_id is not None:
            self.encoder["pad_token_id"] = pad_token_id
        config = self.encoder_config()
        depth = getattr(config, "num_hidden_layers", None)
        if depth is None or config.is_encoder_decoder or type(config) not in MODEL_MAPPING:
            raise ValueError(
                f"`encoder` must be an encoder whose layers run in sequence, but got {self.encoder['model_type']!r}; "
                "take bert, roberta, electra, distilbert, modernbert, ..."
            )
        self.exits = list(range(1, depth + 1)) if exits is None else list(exits)
        check_exits(self.exits, depth)
        if pooling not in get_args(Pooling):
            raise ValueError(f"`pooling` must be one of {', '.join(get_args(Pooling))}, but got {pooling!r}.")
        self.pooler, self.pooling, self.dropout, self.certainty = pooler, pooling, dropout, certainty
        self.heads, self.intermediate, self.embedding_rank = heads, intermediate, embedding_rank
        super().__init__(pad_token_id=config.pad_token_id, **kwargs)
        self._check_shapes(config)

    def encoder_config(self) -> Any:
        """The encoder's configuration, a new object at every call.

        Raises:
            ValueError: ``encoder`` has no ``model_type`` that transformers knows.
        """
        settings = dict(self.encoder)
        kind = settings.pop("model_type", None)
        if kind not in CONFIG_MAPPING or kind == self.model_type:
            raise ValueError(
                f"`encoder` must have a `model_type` that transformers knows (bert, roberta, modernbert, ...), but got "
                f"{kind!r}."
            )
        return AutoConfig.for_model(kind, **settings)

    @property
    def slender(self) -> bool:
        """Whether any shape differs from the stock encoder's."""
        return any(getattr(self, name) is not None for name in SHAPES)

    @property
    def hidden_size(self) -> int:
        """Width of a hidden state."""
        return int(self.encoder_config().hidden_size)

    @property
    def num_attention_heads(self) -> int:
        """Attention heads of a layer of the stock encoder."""
        return int(self.encoder_config().num_attention_heads)

    @property
    def max_position_embeddings(self) -> int | None:
        """Positions that the encoder has embeddings for."""
        return getattr(self.encoder_config(), "max_position_embeddings", None)

    @property
    def initializer_range(self) -> float:
        """Standard deviation of new weights."""
        return float(getattr(self.encoder_config(), "initializer_range", 0.02))

    @property
    def vocab_size(self) -> int:
        """Entries of the table of word embeddings."""
        return int(self.encoder_config().vocab_size)

    @vocab_size.setter
    def vocab_size(self, value: int) -> None:
        self.encoder = {**self.encoder, "vocab_size": value}

    @property
    def num_hidden_layers(self) -> int:
        """Layers of the encoder; setting it cuts the model after one of its exits."""
        return int(self.encoder_config().num_hidden_layers)

    @num_hidden_layers.setter
    def num_hidden_layers(self, value: int) -> None:
        if value not in self.exits:
            allowed = ", ".join(map(str, self.exits))
            raise ValueError(f"`layers` of a multi-exit model must be one of its exits {allowed}, but got {value}.")
        self.cut(value, [layer for layer in self.exits if layer <= value])

    def cut(self, layers: int, exits: Sequence[int] | None) -> None:
        """Keep the first layers, and exits among them (None: after each), in place.

        Raises:
            ValueError: the encoder has fewer layers, or the exits do not fit.
        """
        config = self.encoder_config()
        depth = config.num_hidden_layers
        if not 1 <= layers <= depth:
            raise ValueError(f"`layers` must be from 1 to {depth}, but got {layers}.")
        chosen = list(range(1, layers + 1)) if exits is None else list(exits)
        check_exits(chosen, layers)
        if layers < depth:
            config.num_hidden_layers = layers
            if getattr(config, "layer_types", None):
                config.layer_types = config.layer_types[:layers]
            self.encoder = encoder_settings(config)
            self.heads = self.heads and self.heads[:layers]
            self.intermediate = self.intermediate and self.intermediate[:layers]
        self.exits = chosen

    def _check_shapes(self, config: Any) -> None:
        """Refuses numbers of heads and neurons, and a rank, that the encoder cannot have."""
        names = {"heads": "num_attention_heads", "intermediate": "intermediate_size"}
        limits = {name: getattr(config, attribute, None) for name, attribute in names.items()}
        for name, limit in limits.items():
            shape = getattr(self, name)
            if shape is None:
                continue
            high = limit or "the encoder's"
            if len(shape) != config.num_hidden_layers or not all(n >= 1 and (not limit or n <= limit) for n in shape):
                raise ValueError(
                    f"`{name}` must be one number from 1 to {high} for each of {config.num_hidden_layers} layers, "
                    f"but got {shape}."
                )
        rank = self.embedding_rank
        if rank is not None and not 1 <= rank <= config.hidden_size:
            raise ValueError(f"`embedding_rank` must be from 1 to {config.hidden_size}, but got {rank}.")


def encoder_settings(config: Any) -> dict[str, Any]:
    """What makes an encoder of a configuration: its settings that are no defaults, with ``model_type``.

    Args:
        config: of a stock encoder or classifier.
    """
    settings = {key: value for key, value in config.to_diff_dict().items() if key not in NOT_ITS_OWN}
    return {**settings, "model_type": config.model_type}
