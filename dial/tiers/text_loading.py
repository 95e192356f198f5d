"""Encoder-decoders as tiers that write: from a folder, a hub id, or a configuration."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForSeq2SeqLM
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as WRITERS

from datamodules.labels import is_free_text
from datamodules.quiet import quiet
from datamodules.row_tokens import check_label_words
from dial.models.encoder_decoder import encoder_fingerprint, encoder_of, vocabulary_fingerprint
from dial.models.energy_head import EnergyHead
from dial.models.pieces import END, PAD, SPECIAL, Pieces
from dial.models.saved_head import check_head, has_head, load_head
from dial.tiers.batch_proof import check_padding, settle
from dial.tiers.places import check_place
from dial.tiers.precision import cast_encoder
from dial.tiers.reading import (
    cut_layers,
    default_of,
    length_kept,
    read_card,
    read_configuration,
    read_tokenizer,
    read_weights,
)
from dial.tiers.subnetworks import check_whole
from dial.tiers.text_to_text import TextToTextTier
from dial.tiers.tier import View

logger = logging.getLogger(__name__)
BUILT: tuple[str, ...] = Pieces.__args__  # type: ignore[attr-defined]  # tokenizers that are built from the text


def writes(config: Any, label_names: Sequence[str] | None) -> bool:
    """Whether a model of this configuration is to be loaded as one that writes.

    Args:
        config: of transformers.
        label_names: the data's; free text needs a writer, whatever the configuration says.
    """
    names = [str(name) for name in config.architectures or []]
    return is_free_text(label_names) or (config.is_encoder_decoder and any(name in WRITERS.values() for name in names))


def load_text_tier(
    view: View, name: str, label_names: Sequence[str], argument: str = "path", train: bool = False
) -> TextToTextTier:
    """Load an encoder-decoder with its tokenizer and, where there is one, its energy head.

    Args:
        view: what to load and how to use it.
        name: what the tier is called in tables and figures.
        label_names: the label words; ``*`` alone for free text, empty for numbers.
        argument: how the user calls ``view``, for error messages.
        train: give a model in training mode.

    Raises:
        ValueError: the folder is missing or incomplete, the hub cannot be reached, the model is no encoder-decoder, has
            fewer layers than asked for, was trained to write other label words, cannot spell these, or its answers
            depend on the batch; the head belongs to something else; names ``argument``.
    """
    path = check_place(view.path, argument)
    config = read_configuration(path, argument)
    check_encoder_decoder(config, view.path, argument)
    check_whole(view, "an encoder-decoder", argument)
    if view.lengths is not None:
        raise ValueError(
            f"`{argument}` must be an encoder for tokens to be dropped, but {view.path} writes; leave `lengths` out."
        )
    if view.layers is not None:
        cut_layers(config, view.layers, argument)
    card = read_card(path)
    if not train:
        check_words(card, label_names, view.path, argument)
    model = _read_model(path, config, argument)
    check_search(model.generation_config, view.path, argument)
    tokenizer = read_tokenizer(path, argument)
    if label_names and not is_free_text(label_names):
        check_label_words(label_names, tokenizer)
    max_length = length_kept(tokenizer, model, view.max_length, name, argument)
    head = None if train else _head(view, path, model, tokenizer, label_names, argument)
    tier = TextToTextTier(name, view, model, tokenizer, max_length, list(label_names), card=card, head=head)
    tier.train(train)
    settle(tier, argument)
    check_padding(tier, argument)
    if view.dtype == "int8":
        raise ValueError(f"`{argument}`: `dtype` must be float32 or bfloat16 for an encoder-decoder, but got 'int8'.")
    cast_encoder(model, view.dtype, argument)
    return tier


def check_search(config: Any, path: str, argument: str) -> None:
    """Refuse a search that looks at the source's pieces: only the encoder's states are at hand when texts are written.

    Raises:
        ValueError: naming the setting.
    """
    for name, unset in (("encoder_repetition_penalty", 1.0), ("encoder_no_repeat_ngram_size", 0)):
        value = getattr(config, name, None)
        if value is not None and value != unset:
            raise ValueError(
                f"`{argument}` must be generated from without `{name}`, which looks at the source's pieces, but "
                f"generation_config.json of {path} has {value}. Leave it out there."
            )


def check_writers_keys(view: View, argument: str) -> None:
    """Refuse what says how a model writes on one that does not.

    Raises:
        ValueError: naming the keys.
    """
    given = [name for name in ("head", "beams", "max_new_tokens") if getattr(view, name) is not None]
    if given:
        raise ValueError(
            f"`{argument}` must be an encoder-decoder that writes to have `{given[0]}`, but {view.path} does not "
            "write. Leave the key out."
        )


def check_words(card: Mapping[str, Any], label_names: Sequence[str], path: str, argument: str) -> None:
    """Refuse a tier that was trained to write something else than the data holds.

    Args:
        card: of the tier.
        label_names: the data's label words; ``*`` alone for free text, empty for numbers.
        path: of the tier.
        argument: how the user calls it.

    Raises:
        ValueError: it was; names ``argument``.
    """
    trained = card.get("label_names")
    if trained is not None and list(trained) != list(label_names):
        raise ValueError(
            f"`{argument}` must write the data's {_in_words(label_names)}, but {path} was trained to write "
            f"{_in_words(trained)}; give a tier that was trained on this task."
        )


def _in_words(label_names: Sequence[str]) -> str:
    if is_free_text(label_names):
        return "free text"
    return f"label words {', '.join(label_names)}" if label_names else "numbers"


def check_encoder_decoder(config: Any, path: str, argument: str) -> None:
    """Refuse a model that does not both read and write.

    Raises:
        ValueError: naming what it is.
    """
    if not config.is_encoder_decoder:
        kind = (config.architectures or [config.model_type])[0]
        raise ValueError(
            f"`{argument}` must be an encoder-decoder (T5, BART, Marian, ...), whose encoder decides before its "
            f"decoder writes, but {path} holds {kind}, which is not one; give another model, or take "
            "configs/model/span.yaml where answers are parts of a context."
        )
    if config.model_type not in WRITERS:
        raise ValueError(
            f"`{argument}` must be a model of AutoModelForSeq2SeqLM, but {path} holds one of type {config.model_type}; "
            "give another model."
        )


def _read_model(path: str, config: Any, argument: str) -> Any:
    """The encoder-decoder, with all of its weights."""
    model, misfits, missing = read_weights(AutoModelForSeq2SeqLM, path, config, argument)
    for what, names in (("do not fit its configuration", misfits), ("lack parameters", missing)):
        if names:
            raise ValueError(
                f"`{argument}`: the weights in {path} {what}, first {names[0]}; the file is damaged, belongs to "
                "another configuration, or holds an encoder alone."
            )
    return model


def _head(
    view: View, path: str, model: Any, tokenizer: Any, label_names: Sequence[str], argument: str
) -> EnergyHead | None:
    """The head that the view names, or that lies beside the model unless `layers` leaves another encoder."""
    place = view.head if view.head is not None else path if has_head(path) else None
    if place is None:
        return None
    head = load_head(Path(place).expanduser(), f"{argument}.head")
    words = None if is_free_text(label_names) else list(label_names)
    fingerprint = encoder_fingerprint(encoder_of(model))
    if view.head is None and view.layers is not None and head.config.encoder != fingerprint:
        logger.warning(
            "%s: the energy head in %s is left out, as it was not trained on the first %d layers.",
            *(argument, path, view.layers),
        )
        return None
    check_head(head, fingerprint, words, vocabulary_fingerprint(tokenizer), f"{argument}.head")
    return head


def build_text_tier(
    config: Mapping[str, Any],
    tokenizer: str,
    label_names: Sequence[str],
    max_length: int,
    max_new_tokens: int | None = None,
    beams: int | None = None,
    name: str = "model",
    argument: str = "config",
) -> TextToTextTier:
    """Make an untrained encoder-decoder from a configuration.

    Args:
        config: ``model_type`` (``t5``, ``bart``, ...) and any settings of its configuration class.
        tokenizer: folder or hub id; ``pieces`` or ``characters`` for one built from the training text by
            :meth:`TextToTextTier.fit_tokenizer`, of at most ``vocab_size`` entries.
        label_names: the label words; ``*`` alone for free text, empty for numbers.
        max_length: tokens kept of a source.
        max_new_tokens: pieces of an answer.
        beams: width of the search; default 1, greedy.
        name: what the tier is called in tables and figures.
        argument: how the user calls ``config``, for error messages.

    Raises:
        ValueError: an unknown ``model_type`` or setting, or no encoder-decoder; names the argument.
    """
    settings = dict(config)
    kind = settings.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"`{argument}` must have a `model_type` such as t5, bart or marian, but got {kind!r}.")
    check_encoder_decoder(CONFIG_MAPPING[kind](), "it", argument)
    default = default_of(kind, settings, argument)
    read = None
    if tokenizer not in BUILT:
        read = read_tokenizer(check_place(tokenizer, "tokenizer", weights=False), "tokenizer")
        settings.setdefault("vocab_size", len(read))
    special: dict[str, int | None] = {
        "pad": SPECIAL.index(PAD),
        "eos": SPECIAL.index(END),
        "decoder_start": SPECIAL.index(PAD),
    }
    if read is not None:
        special = {"pad": read.pad_token_id, "eos": read.eos_token_id, "decoder_start": read.pad_token_id}
    for key in ("bos", "forced_eos", "forced_bos"):
        if getattr(default, f"{key}_token_id", None) is not None:
            special[key] = special["eos"] if key == "forced_eos" else None
    for key, value in special.items():
        settings.setdefault(f"{key}_token_id", value)
    with quiet():
        model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(kind, **settings))
    kept = length_kept(read, model, max_length, name, argument)
    view = View(path=name, max_new_tokens=max_new_tokens, beams=beams)
    tier = TextToTextTier(name, view, model.train(), read, kept, list(label_names), pieces=tokenizer)
    if read is not None:
        settle(tier, argument, place=tokenizer)
        check_padding(tier, argument)
    return tier
