"""Reading models and tokenizers of transformers, with errors that name what the user wrote."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForSequenceClassification

from datamodules.labels import is_free_text
from datamodules.quiet import quiet
from datamodules.scratch import scratch
from dial.models import BiLSTMConfig, MultiExitConfig, word_vectors_width
from dial.models.slender.subnetworks import FIELD
from dial.stages.task import Regression, Task, task_of
from dial.tiers.backends.attach import attach
from dial.tiers.backends.choice import fastest_backend
from dial.tiers.batch_proof import settle
from dial.tiers.embeddings import is_model
from dial.tiers.fronts import lengths_of
from dial.tiers.labels import match_labels, remedy_of_numbers
from dial.tiers.multi_exit import MultiExitTier, check_exits_hold
from dial.tiers.places import check_place
from dial.tiers.precision import cast_encoder
from dial.tiers.reading import (
    CARD,
    cut_layers,
    default_of,
    length_kept,
    read_card,
    read_configuration,
    read_tokenizer,
    read_weights,
    read_with,
    reason_of,
)
from dial.tiers.span_loading import check_no_reader, check_span_keys, extracts, load_span_tier
from dial.tiers.subnetworks import cut_as_trained
from dial.tiers.text_loading import check_writers_keys, load_text_tier, writes
from dial.tiers.tier import Encoding, GoOn, Tier, View, encoding_key, own_names

KINDS: dict[str, type[Tier]] = {MultiExitConfig.model_type: MultiExitTier}
"""Tiers of models that do more than answer once, by the `model_type` of their configuration."""


def read_config(path: str, layers: int | None, label_names: Sequence[str], argument: str) -> tuple[Any, bool]:
    """Configuration, cut to its first ``layers``, and whether it declares a classification head.

    A configuration of a bare encoder gets the data's labels.

    Raises:
        ValueError: it cannot be read, has too few layers, or its head has another number of outputs than the data.
    """
    config, task = read_configuration(path, argument), task_of(label_names)
    if layers is not None:
        cut_layers(config, layers, argument)
    declared = any("ForSequenceClassification" in name for name in config.architectures or [])
    if not declared:
        name_labels(config, label_names)
    elif config.num_labels != task.columns:
        remedy = "give a tier that was trained on this task, or an encoder without a head to train one."
        own = (own_names(config) or []) if task.exact else []
        if "label_names:" in (given := remedy_of_numbers(own, label_names)):
            remedy = given
        named = f" ({', '.join(own[:20])})" if own else ""
        raise ValueError(
            f"`{argument}` must have the data's {task.head_in_words}, but the head in {path} has "
            f"{config.num_labels}{named}; {remedy}"
        )
    else:
        _check_kind(config, task, path, argument)
    return config, declared


def _check_kind(config: Any, task: Task, path: str, argument: str) -> None:
    """Refuse a head of as many outputs as the data needs that means something else by them."""
    kind = config.problem_type
    if kind == "multi_label_classification" or (kind == Regression.problem_type and task.columns > 1):
        means = (
            "any number of its labels may hold at once"
            if kind != Regression.problem_type
            else "its outputs are quantities"
        )
        raise ValueError(
            f"`{argument}` must answer with {task.answer_in_words}, but the head in {path} is of `problem_type` "
            f"{kind}: {means}; give a tier that was trained on this task, or an encoder without a head to train one."
        )


def name_labels(config: Any, label_names: Sequence[str]) -> None:
    """Write the data's labels into a configuration, in place; none means regression."""
    task = task_of(label_names)
    for name, value in task.head_settings().items():
        setattr(config, name, value)
    config.problem_type = task.problem_type


def read_model(path: str, config: Any, argument: str) -> tuple[nn.Module, list[str]]:
    """Model in float32, and the names of parameters of its head that the files lack and that are therefore random.

    Raises:
        ValueError: the weights cannot be read, do not fit the configuration, or lack a part of the encoder.
    """
    model, misfits, missing = read_weights(AutoModelForSequenceClassification, path, config, argument)
    if misfits:
        raise ValueError(
            f"`{argument}`: the weights in {path} do not fit its configuration and the data, first {misfits[0]}."
        )
    encoder = f"{model.base_model_prefix}."
    # A pooler is part of the head that was trained with it; encoders pretrained without one come without it.
    inside = [key for key in missing if key.startswith(encoder) and ".pooler." not in key]
    if inside:
        raise ValueError(
            f"`{argument}`: the weights in {path} lack {len(inside)} parameters of the encoder, first {inside[0]}; "
            "the file is damaged or belongs to another configuration."
        )
    return model, missing


__all__ = [
    "CARD",
    "Encoding",
    "GoOn",
    "Tier",
    "View",
    "build_tier",
    "encoding_key",
    "load_tier",
    "read_card",
    "reason_of",
    "save_tier",
]

WORDS = "words"  # the tokenizer that is built from the training text
logger = logging.getLogger(__name__)


def load_tier(
    view: View | str | Mapping[str, Any],
    name: str,
    label_names: list[str],
    argument: str = "path",
    train: bool = False,
    head: bool = True,
) -> Tier:
    """Load a model and its tokenizer.

    Args:
        view: what to load and how to use it.
        name: what the tier is called in tables and figures.
        label_names: the data's names in the order of its integers; empty for regression.
        argument: how the user calls ``view``, for error messages.
        train: give a model in training mode, and allow one without classification head, which then gets a new one.
        head: False where its head will not be asked, and may be missing.

    Raises:
        ValueError: the folder is missing or incomplete, the hub cannot be reached, the labels do not fit, or there are
            fewer layers than asked for, or its answers depend on the batch; names ``argument``.
    """
    view = View.parse(view, argument)
    path = check_place(view.path, argument)
    if is_free_text(label_names) or not train:
        kept = read_with(AutoConfig, path, argument, "configuration")
        if extracts(kept, label_names):
            check_writers_keys(view, argument)
            return load_span_tier(view, name, label_names, argument, train)
        if head:
            check_no_reader(kept, label_names, view.path, argument)
        check_span_keys(view, argument)
        if writes(kept, label_names):
            return load_text_tier(view, name, label_names, argument, train)
    check_writers_keys(view, argument)
    check_span_keys(view, argument)
    config, declared = read_config(path, view.layers, label_names, argument)
    model, missing = read_model(path, config, argument)
    if view.width is not None or view.depth is not None:
        cut_as_trained(model, view, name, argument)
    if train and hasattr(model.config, FIELD):
        setattr(model.config, FIELD, None)  # of the weights as they were
    tokenizer = read_tokenizer(path, argument)
    if missing and head and not train:
        raise ValueError(
            f"`{argument}` must be a trained classifier, but {view.path} has no {missing[0]}"
            f"{'' if declared else ' (an encoder without classification head)'}; train it with `dial fit` first."
        )
    if missing and head:
        logger.warning("%s: %s has no trained classification head; a new one starts untrained.", name, view.path)
    own = list(label_names) if missing else view.label_names or own_names(model.config)
    order, assumed = _order(view, own, label_names, name, argument)
    if missing or (train and assumed):
        name_labels(model.config, label_names)  # training makes it true
    elif view.label_names:
        name_labels(model.config, view.label_names)
    if train and view.backend != "torch":
        raise ValueError(f"`{argument}`: `backend` must be torch for training, but got {view.backend!r}.")
    if train and view.dtype == "int8":
        raise ValueError(f"`{argument}`: `dtype` must be float32 or bfloat16 for training, but got 'int8'.")
    check_exits_hold(model, argument)
    max_length = length_kept(tokenizer, model, view.max_length, name, argument)
    kind = _kind(model)
    tier = kind(name, view, model, tokenizer, max_length, label_names, order, assumed, card=read_card(path))
    tier.train(train)
    if view.lengths is not None:
        tier.drop_tokens(lengths_of(view, path, argument, model, max_length), argument)
    settle(tier, argument)  # in float32, whose noise is small
    backend: str = "torch" if view.lengths is not None else view.backend  # no other drops tokens
    if backend == "auto":
        backend = fastest_backend(tier, view.dtype).route.backend
    if backend == "torch" or not attach(tier, backend, view.dtype):
        cast_encoder(model, view.dtype, argument)
    return tier


def build_tier(
    config: Mapping[str, Any],
    tokenizer: str,
    label_names: list[str],
    max_length: int | None = None,
    layers: int | None = None,
    embeddings: str | None = None,
    name: str = "model",
    argument: str = "config",
) -> Tier:
    """Make an untrained model from a configuration.

    Args:
        config: ``model_type`` (``bilstm``, ``bert``, ...) and any settings of its configuration class.
        tokenizer: folder or hub id; ``words`` for one built from the training text by :meth:`Tier.fit_tokenizer`, of
            at most ``vocab_size`` entries.
        label_names: the data's names in the order of its integers; empty for regression.
        max_length: tokens kept of a text or pair.
        layers: number of layers, at most those of ``config``.
        embeddings: what the word embeddings start from: a file of word vectors for a word-level model, whose width sets
            a BiLSTM's; or a model (see :func:`~dial.tiers.embeddings.model_vectors`).
        name: what the tier is called in tables and figures.
        argument: how the user calls ``config``, for error messages.

    Raises:
        ValueError: an unknown ``model_type`` or setting, a vocabulary smaller than the tokenizer's, or word vectors
            that do not fit; names the argument.
    """
    settings = dict(config)
    vectors = embeddings is not None and not is_model(embeddings)
    if embeddings is not None and vectors:
        if tokenizer != WORDS:
            raise ValueError(f"`embeddings` needs the tokenizer {WORDS!r} (word-level), but got {tokenizer!r}.")
        width = word_vectors_width(embeddings, "embeddings")
        if settings.get("model_type") == BiLSTMConfig.model_type:
            settings["embedding_size"] = width
    read = (
        None if tokenizer == WORDS else read_tokenizer(check_place(tokenizer, "tokenizer", weights=False), "tokenizer")
    )
    made = _make_config(settings, read, argument)
    if layers is not None:
        cut_layers(made, layers, argument)
    name_labels(made, label_names)
    with quiet():
        model = AutoModelForSequenceClassification.from_config(made)
    if vectors and model.base_model.get_input_embeddings().embedding_dim != width:
        wanted = model.base_model.get_input_embeddings().embedding_dim
        raise ValueError(f"`embeddings` must have the model's embedding width {wanted}, but {embeddings} has {width}.")
    check_exits_hold(model, argument)
    longest_text = length_kept(read, model, max_length, name, argument)
    kind = _kind(model)
    tier = kind(name, View(path=name), model.train(), read, longest_text, label_names, word_vectors=embeddings)
    if read is None:
        return tier
    tier.start_embeddings()
    return settle(tier, argument, place=tokenizer)


def _kind(model: Any) -> type[Tier]:
    return KINDS.get(model.config.model_type, Tier)


def _make_config(settings: dict[str, Any], tokenizer: Any, argument: str) -> Any:
    """A configuration of ``settings``, with the special tokens of ``tokenizer`` (None: the word-level one)."""
    model_type = settings.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"`{argument}` must have a `model_type` that transformers knows (bilstm, bert, roberta, electra, "
            f"distilbert, modernbert, ...), but got {model_type!r}."
        )
    default = default_of(model_type, settings, argument)
    special = {"pad": 0, "cls": 2, "sep": 3, "bos": 2, "eos": 3}  # as laid out by build_word_tokenizer
    if tokenizer is not None:
        special = {key: getattr(tokenizer, f"{key}_token_id") for key in special}
        settings.setdefault("vocab_size", len(tokenizer))
        if settings["vocab_size"] < len(tokenizer):
            raise ValueError(
                f"`{argument}`: `vocab_size` must be at least the tokenizer's {len(tokenizer)}, "
                f"but got {settings['vocab_size']}; leave it out."
            )
    for key, value in special.items():
        if key == "pad" or getattr(default, f"{key}_token_id", None) is not None:
            settings.setdefault(f"{key}_token_id", value)
    with quiet():
        return AutoConfig.for_model(model_type, **settings)


def _order(
    view: View, own: list[str] | None, label_names: list[str], name: str, argument: str
) -> tuple[list[int] | None, bool]:
    """Which output means which class of the data, and whether that was assumed."""
    if not task_of(label_names).exact:
        return None, False
    order, assumed = match_labels(own, label_names, argument)
    if assumed:
        logger.warning(
            "%s: the labels of %s (%s) are taken in the data's order (%s); `label_names` on the tier settles it.",
            *(name, view.path, ", ".join(own or ["without names"]), ", ".join(label_names)),
        )
    return order, assumed


def save_tier(folder: str | Path, tier: Tier, card: Mapping[str, Any], replace: bool = False) -> Path:
    """Write a folder that :func:`load_tier`, and the Auto classes of transformers, can read.

    It is written beside its place and then renamed, so that no half folder is ever seen. An earlier model that gives
    way is ``.NAME.earlier`` meanwhile, also for one who is killed then.

    Args:
        folder: where to; its parents are created.
        tier: a tier whose tokenizer is known.
        card: what is known about the model; plain values, written as ``card.json``.
        replace: allow an earlier tier in ``folder`` to be replaced.

    Raises:
        ValueError: something lies at ``folder`` that is no tier of ours, or that may not be replaced.
    """
    folder = Path(folder)
    if folder.exists():
        ours = (folder / CARD).is_file()
        if not ours or not replace:
            reason = "an earlier model" if ours else "something that `dial fit` did not write"
            raise ValueError(
                f"`folder` must not exist yet, but {folder} holds {reason}; give another folder or move it."
            )
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Not within the scratch, which goes when the process is killed: between the two renames it is the only model.
    earlier = folder.with_name(f".{folder.name}.earlier")
    with scratch(folder, folder=True) as made:
        with quiet():
            tier.save(made)
        (made / CARD).write_text(json.dumps(dict(card), indent=2, sort_keys=True) + "\n")
        if folder.exists():
            shutil.rmtree(earlier, ignore_errors=True)
            folder.rename(earlier)
        try:
            made.rename(folder)
        except OSError:
            if earlier.exists():
                earlier.rename(folder)
            raise
    shutil.rmtree(earlier, ignore_errors=True)
    return folder
