"""Reading models and tokenizers of transformers, with errors that name what the user wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from dial.files import read_json
from dial.tiers.labels import remedy_of_numbers
from dial.tiers.places import CONFIG, code_refused
from dial.tiers.tier import own_names

CARD = "card.json"
DECODER_LAYERS = ("decoder_layers", "num_decoder_layers")  # BART's and T5's name
PER_LAYER = ("layer_types", "attention_window", "attention_layers")  # settings with an entry for each layer
NO_LIMIT = 512  # tokens kept by default where neither the model nor its tokenizer has a limit


def read_config(path: str, layers: int | None, label_names: Sequence[str], argument: str) -> tuple[Any, bool]:
    """Configuration, cut to its first ``layers``, and whether it declares a classification head.

    A configuration of a bare encoder gets the data's labels.

    Raises:
        ValueError: it cannot be read, has too few layers, or its head has another number of outputs than the data.
    """
    config = _read(AutoConfig, path, argument, "configuration")
    if getattr(config, "auto_map", None):
        raise ValueError(code_refused(path, argument, f"`auto_map` in its {CONFIG}"))
    if layers is not None:
        cut_layers(config, layers, argument)
    declared = any("ForSequenceClassification" in name for name in config.architectures or [])
    if not declared:
        name_labels(config, label_names)
    elif config.num_labels != max(1, len(label_names)):
        wanted = f"{len(label_names)} labels ({', '.join(label_names)})" if label_names else "1 output (regression)"
        remedy = "give a tier that was trained on this task, or an encoder without a head to train one."
        own = (own_names(config) or []) if label_names else []
        if "label_names:" in (given := remedy_of_numbers(own, label_names)):
            remedy = given
        named = f" ({', '.join(own[:20])})" if own else ""
        raise ValueError(
            f"`{argument}` must have the data's {wanted}, but the head in {path} has {config.num_labels}{named}; "
            f"{remedy}"
        )
    else:
        _check_kind(config, label_names, path, argument)
    return config, declared


def _check_kind(config: Any, label_names: Sequence[str], path: str, argument: str) -> None:
    """Refuse a head of as many outputs as the data needs that means something else by them."""
    kind = config.problem_type
    if kind == "multi_label_classification" or (kind == "regression" and len(label_names) > 1):
        means = "any number of its labels may hold at once" if kind != "regression" else "its outputs are quantities"
        wanted = "one of the data's labels" if label_names else "a number"
        raise ValueError(
            f"`{argument}` must answer with {wanted}, but the head in {path} is of `problem_type` {kind}: {means}; "
            "give a tier that was trained on this task, or an encoder without a head to train one."
        )


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
        raise ValueError(f"`{argument}`: `layers` must be {allowed}, but got {layers}.")
    for name in (key for key in PER_LAYER if len(getattr(config, key, None) or ()) == config.num_hidden_layers):
        setattr(config, name, getattr(config, name)[:layers])
    for name in ["num_hidden_layers", *decoder]:
        try:
            setattr(config, name, layers)
        except NotImplementedError as error:  # Funnel: its layers stand in blocks
            raise ValueError(f"`{argument}`: `layers` must be left out for {config.model_type}: {error}") from error


def name_labels(config: Any, label_names: Sequence[str]) -> None:
    """Write the data's labels into a configuration, in place; none means regression."""
    config.num_labels = max(1, len(label_names))
    if label_names:
        config.id2label = dict(enumerate(label_names))
        config.label2id = {name: i for i, name in enumerate(label_names)}
    config.problem_type = "single_label_classification" if label_names else "regression"


def read_model(path: str, config: Any, argument: str) -> tuple[nn.Module, list[str]]:
    """Model in float32, and the names of parameters of its head that the files lack and that are therefore random.

    Raises:
        ValueError: the weights cannot be read, do not fit the configuration, or lack a part of the encoder.
    """
    settings = {"config": config, "dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, report = _read(AutoModelForSequenceClassification, path, argument, "weights", **settings)
    if report["mismatched_keys"]:
        first = sorted(str(key) for key in report["mismatched_keys"])[0]
        raise ValueError(
            f"`{argument}`: the weights in {path} do not fit its configuration and the data, first {first}."
        )
    encoder = f"{model.base_model_prefix}."
    missing = sorted(report["missing_keys"])
    # A pooler is part of the head that was trained with it; encoders pretrained without one come without it.
    inside = [key for key in missing if key.startswith(encoder) and ".pooler." not in key]
    if inside:
        raise ValueError(
            f"`{argument}`: the weights in {path} lack {len(inside)} parameters of the encoder, first {inside[0]}; "
            "the file is damaged or belongs to another configuration."
        )
    return model, missing


def read_tokenizer(path: str, argument: str) -> Any:
    """Tokenizer of a folder or hub id.

    Raises:
        ValueError: it cannot be read; names ``argument``.
    """
    return _read(AutoTokenizer, path, argument, "tokenizer")


def read_card(path: str) -> dict[str, Any]:
    """What ``dial fit`` wrote beside a model; empty for models from elsewhere.

    Raises:
        ValueError: the card cannot be read.
    """
    file = Path(path) / CARD
    return read_json(file, "path") if file.is_file() else {}


def _read(kind: Any, path: str, argument: str, what: str, **settings: Any) -> Any:
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


def longest(tokenizer: Any, model: Any, asked: int | None) -> tuple[int, bool]:
    """Tokens kept of a text, and whether more were asked for than the model has positions."""
    limit = getattr(model.config, "max_position_embeddings", None)
    limit = limit if limit and limit > 0 else None  # XLNet says -1: its positions have no end
    if limit:
        for key, module in model.named_modules():
            if key.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
                limit -= module.padding_idx + 1  # RoBERTa counts positions from behind the padding index
    if asked is not None:
        return (min(asked, limit), asked > limit) if limit else (asked, False)
    own = tokenizer.model_max_length if tokenizer is not None else NO_LIMIT
    own = own if own < 10**9 else (limit or NO_LIMIT)
    return min(own, limit or own), False


def check_max_length(asked: int | None, special: int, argument: str) -> None:
    """Refuse a length at which nothing would be kept of a text.

    Args:
        asked: tokens to keep; None: no such wish.
        special: how many of them are special tokens.
        argument: how the user calls the tier.

    Raises:
        ValueError: no room is left beside the special tokens.
    """
    if asked is not None and asked <= special:
        beside = f", as {special} are special tokens" if special else ""
        raise ValueError(f"`{argument}`: `max_length` must be at least {special + 1}{beside}, but got {asked}.")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and load reports of transformers: what matters in them is said in one line."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
