"""Reading configurations, weights and tokenizers of transformers, with errors that name what the user wrote."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer

from datamodules.quiet import quiet
from dial.files import read_json
from dial.models import BiLSTMConfig
from dial.tiers.model_inputs import check_max_length, longest
from dial.tiers.places import CONFIG, code_refused

CARD = "card.json"
DECODER_LAYERS = ("decoder_layers", "num_decoder_layers")  # BART's and T5's name
PER_LAYER = ("layer_types", "attention_window", "attention_layers")  # settings with an entry for each layer
logger = logging.getLogger(__name__)


def cut_layers(config: Any, layers: int, argument: str) -> None:
    """Set the number of layers, of an encoder-decoder in both halves, in place.

    Raises:
        ValueError: the model has fewer layers, or no such number.
    """
    decoder = [name for name in DECODER_LAYERS if config.is_encoder_decoder and hasattr(config, name)]
    halves = [getattr(config, name, None) or 0 for name in ["num_hidden_layers", *decoder]]
    depth = min(halves) if decoder or not config.is_encoder_decoder else 0
    if not depth or not 1 <= layers <= depth:
        allowed = f"from 1 to {depth}" if depth else "left out (this model has no such setting)"
        remedy = "; `--model.layers` says otherwise than a configuration" if argument == "path" else ""
        raise ValueError(f"`{argument}`: `layers` must be {allowed}, but got {layers}{remedy}.")
    for name in (key for key in PER_LAYER if len(getattr(config, key, None) or ()) == config.num_hidden_layers):
        setattr(config, name, getattr(config, name)[:layers])
    for name in ["num_hidden_layers", *decoder]:
        try:
            setattr(config, name, layers)
        except NotImplementedError as error:  # Funnel: its layers stand in blocks
            raise ValueError(f"`{argument}`: `layers` must be left out for {config.model_type}: {error}") from error


def read_tokenizer(path: str, argument: str) -> Any:
    """Tokenizer of a folder or hub id.

    Raises:
        ValueError: it cannot be read; names ``argument``.
    """
    return read_with(AutoTokenizer, path, argument, "tokenizer")


def read_configuration(path: str, argument: str) -> Any:
    """Configuration of a folder or hub id whose model needs no code of its own.

    Raises:
        ValueError: it cannot be read, or needs some; names ``argument``.
    """
    config = read_with(AutoConfig, path, argument, "configuration")
    if getattr(config, "auto_map", None):
        raise ValueError(code_refused(path, argument, f"`auto_map` in its {CONFIG}"))
    return config


def read_weights(kind: Any, path: str, config: Any, argument: str) -> tuple[Any, list[str], list[str]]:
    """Model in float32, and names of parameters that do not fit the configuration, and that the files lack.

    Args:
        kind: the Auto class.
        path: folder or hub id.
        config: what the model is to be.
        argument: how the user calls it.

    Raises:
        ValueError: the weights cannot be read; names ``argument``.
    """
    settings = {"config": config, "dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, report = read_with(kind, path, argument, "weights", **settings)
    return model, sorted(str(key) for key in report["mismatched_keys"]), sorted(report["missing_keys"])


def default_of(kind: str, settings: Mapping[str, Any], argument: str) -> Any:
    """Configuration of a kind of model as it comes, which must know all settings.

    Raises:
        ValueError: it does not; names ``argument``.
    """
    default = CONFIG_MAPPING[kind]()
    if unknown := [key for key in settings if not hasattr(default, key)]:
        allowed = ", ".join(sorted(key for key in default.to_dict() if not key.startswith("_")))
        raise ValueError(f"`{argument}` of {kind} allows {allowed}, but got {', '.join(unknown)}.")
    return default


def read_card(path: str) -> dict[str, Any]:
    """What ``dial fit`` wrote beside a model; empty for models from elsewhere.

    Raises:
        ValueError: the card cannot be read.
    """
    file = Path(path) / CARD
    return read_json(file, "path") if file.is_file() else {}


def read_with(kind: Any, path: str, argument: str, what: str, **settings: Any) -> Any:
    """What an Auto class makes of a folder or hub id, without running code of theirs.

    Args:
        kind: the Auto class.
        path: folder or hub id.
        argument: how the user calls it.
        what: it reads, for errors.
        settings: of ``from_pretrained``.

    Raises:
        ValueError: it cannot be read; names ``argument``.
    """
    try:
        with quiet():
            return kind.from_pretrained(path, trust_remote_code=False, **settings)
    except Exception as error:  # readers of damaged files raise whatever they meet
        if "custom code" in str(error):
            raise ValueError(code_refused(path, argument, f"for its {what}")) from error
        if Path(path).is_dir():
            raise ValueError(f"`{argument}`: the {what} in {path} cannot be read: {reason_of(error)}.") from error
        raise ValueError(
            f"`{argument}` must be a folder or the id of a model on the hub, but there is no folder {path!r}, and the "
            f"hub did not give its {what} ({reason_of(error)}); check name and connection, or download it and give the "
            "folder."
        ) from error


def reason_of(error: BaseException) -> str:
    """What is wrong with a file that was read, in a few words.

    >>> reason_of(OSError("no such key. See https://..."))
    'no such key'
    """
    text = " ".join(str(error).split())
    if "weights_only" in text or "Weights only" in text:
        return "it holds pickled objects beside numbers, which could run code"
    return text.split(". ")[0][:200] or type(error).__name__


def length_kept(tokenizer: Any, model: Any, asked: int | None, name: str, argument: str) -> int:
    """Tokens kept of a text, as asked for and as far as the model has positions; the tokenizer remembers them."""
    check_max_length(asked, special_tokens(tokenizer, model), argument)
    length, cut = longest(tokenizer, model, asked)
    if cut:
        logger.warning("%s: `max_length` %s is more than the model's %s positions; %s.", name, asked, length, length)
    if tokenizer is not None:
        tokenizer.model_max_length = length  # saved with the tokenizer, so that a folder keeps its length
    return length


def special_tokens(tokenizer: Any, model: Any) -> int:
    """Special tokens that a single text gets from its tokenizer, or from the word-level one that is still to be built.

    Args:
        tokenizer: of the model; None for the word-level one.
        model: which says how that one will lay out rows.
    """
    if tokenizer is None:
        return 0 if isinstance(model.config, BiLSTMConfig) else 2
    return int(tokenizer.num_special_tokens_to_add(pair=False))
