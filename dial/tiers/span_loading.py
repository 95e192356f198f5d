"""Reading tiers that answer by spans."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoModelForQuestionAnswering

from datamodules.labels import is_free_text
from datamodules.windows import check_reader
from dial.stages.task import task_of
from dial.tiers.batch_proof import check_padding, settle
from dial.tiers.fronts import lengths_of
from dial.tiers.places import check_place
from dial.tiers.precision import cast_encoder
from dial.tiers.reading import cut_layers, length_kept, read_card, read_configuration, read_tokenizer, read_weights
from dial.tiers.spans import SpanTier
from dial.tiers.subnetworks import check_whole
from dial.tiers.tier import View

HEAD = "ForQuestionAnswering"
SPAN_KEYS = ("stride", "max_answer_tokens", "no_answer")
logger = logging.getLogger(__name__)


def extracts(config: Any, label_names: Any) -> bool:
    """Whether a model of this configuration answers free text by spans of what it reads."""
    return is_free_text(label_names) and has_head_of_spans(config)


def has_head_of_spans(config: Any) -> bool:
    """Whether a model of this configuration says where an answer starts and ends."""
    return any(HEAD in name for name in config.architectures or [])


def check_no_reader(config: Any, label_names: Sequence[str], path: str, argument: str) -> None:
    """Refuse a model that answers by spans where the data is answered otherwise.

    Args:
        config: of the model, of transformers.
        label_names: the data's; empty for numbers.
        path: of the model.
        argument: how the user calls it.

    Raises:
        ValueError: it is one; names ``argument``.
    """
    if has_head_of_spans(config) and not is_free_text(label_names):
        raise ValueError(
            f"`{argument}` must answer with {task_of(label_names).answer_in_words}, but {path} answers questions by "
            "spans of their contexts; give a tier that was trained on this task, or data of questions "
            "(configs/data/squad.yaml, configs/data/questions.yaml)."
        )


def check_span_keys(view: View, argument: str) -> None:
    """Refuse what says how spans are read on a tier that reads none.

    Raises:
        ValueError: naming the key.
    """
    given = [name for name in SPAN_KEYS if getattr(view, name) is not None]
    if given:
        raise ValueError(
            f"`{argument}` must answer by spans to have `{given[0]}`, but {view.path} does not: it has no head of the "
            "kind ForQuestionAnswering, or the data is not answered by texts. Leave the key out."
        )


def load_span_tier(
    view: View | str | Mapping[str, Any],
    name: str,
    label_names: list[str],
    argument: str = "path",
    train: bool = False,
) -> SpanTier:
    """Load an encoder with a head of spans, and its tokenizer.

    Args:
        view: what to load and how to use it.
        name: what the tier is called in tables and figures.
        label_names: ``*`` alone: answers are texts.
        argument: how the user calls ``view``, for error messages.
        train: give a model in training mode, and allow one without such a head, which then gets a new one.

    Raises:
        ValueError: the folder is missing or incomplete, the hub cannot be reached, the model has no head of spans or
            fewer layers than asked for, its tokenizer does not tell where tokens stand, or its answers depend on the
            batch; names ``argument``.
    """
    view = View.parse(view, argument)
    path = check_place(view.path, argument)
    config = read_configuration(path, argument)
    if not has_head_of_spans(config) and not train:
        raise ValueError(
            f"`{argument}` must have been trained to answer by spans, but {view.path} has no head of the kind "
            "ForQuestionAnswering; train it with `dial fit --config configs/model/span.yaml` first."
        )
    if view.label_names is not None:
        raise ValueError(
            f"`{argument}` must have no `label_names` where it answers by spans, which have no names, but got "
            f"{', '.join(view.label_names) or 'an empty list'}; leave the key out."
        )
    if view.backend not in ("torch", "auto"):
        raise ValueError(f"`{argument}`: `backend` must be torch for a tier of spans, but got {view.backend!r}.")
    check_whole(view, "a tier of spans", argument)
    if view.layers is not None:
        cut_layers(config, view.layers, argument)
    config.num_labels = 2  # a start and an end
    model = _read_model(path, config, view, name, argument, train)
    tokenizer = read_tokenizer(path, argument)
    check_reader(tokenizer, argument, view.path)
    max_length = length_kept(tokenizer, model, view.max_length, name, argument)
    tier = SpanTier(name, view, model, tokenizer, max_length, list(label_names), card=read_card(path))
    _check_room(tier, argument)
    tier.train(train)
    if view.lengths is not None:
        tier.drop_tokens(lengths_of(view, path, argument, model, max_length), argument)
    settle(tier, argument)
    check_padding(tier, argument, tokenizer.padding_side != "right")
    cast_encoder(model, view.dtype, argument)
    return tier


def _check_room(tier: SpanTier, argument: str) -> None:
    """Refuse windows that leave no room for a question."""
    tokeniser = tier.tokeniser()
    if (room := tokeniser.room) < 1:
        where = "" if argument == "path" else f"`{argument}`: "  # of one model it is an argument beside the path
        most, least = tier.stride + room - 1, tokeniser.max_length + 1 - room
        lower = f"give at most {most}, or " if most > 0 else ""
        raise ValueError(
            f"{where}`stride` must leave room in windows of {tier.max_length} tokens for a question, but got "
            f"{tier.stride}; {lower}raise `max_length` to at least {least}."
        )


def _read_model(path: str, config: Any, view: View, name: str, argument: str, train: bool) -> Any:
    """The model with its head of spans, a new head only where it will be trained."""
    model, misfits, missing = read_weights(AutoModelForQuestionAnswering, path, config, argument)
    if misfits:
        raise ValueError(f"`{argument}`: the weights in {path} do not fit its configuration, first {misfits[0]}.")
    missing = [key for key in missing if ".pooler." not in key]
    inside = [key for key in missing if key.startswith(f"{model.base_model_prefix}.")]
    if inside or (missing and not train):
        lack = (inside or missing)[0]
        raise ValueError(
            f"`{argument}`: the weights in {path} lack {lack}; the file is damaged or belongs to another configuration."
        )
    if missing:
        logger.warning("%s: %s has no trained head of spans; a new one starts untrained.", name, view.path)
    return model
