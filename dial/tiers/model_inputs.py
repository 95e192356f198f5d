"""What a tokenizer gives, and what a model takes: checked against each other before any text is read."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch

CARRIED = ("input_ids", "attention_mask", "token_type_ids")  # what an encoding holds
WHOLE = {"padding": False, "truncation": False, "verbose": False}
AGAIN = 16
NO_LIMIT = 512  # tokens kept by default where neither the model nor its tokenizer has a limit
PAIR = ("A text that is tried, 1, 2.", "And a second one; not the same.")


def match_inputs(tokenizer: Any, model: Any, argument: str, path: str) -> int:
    """Have a tokenizer give what a model was trained to take, in place, and say which id fills a batch of it.

    A tokenizer is asked for token types where the model has an embedding of them and the tokenizer, asked, tells the
    two texts of a pair apart, though transformers 5 leaves them out for ALBERT, XLNet and others unless asked. Models
    that look types up among their words (GPT-2) are given them only where the tokenizer gives them unasked. The setting
    is saved with the tokenizer.

    Args:
        tokenizer: of transformers.
        model: a sequence classifier.
        argument: how the user calls the tier.
        path: where both come from.

    Returns:
        The id by which the model itself knows padding; the tokenizer's, where its configuration has none.

    Raises:
        ValueError: ids, token types or the padding id lie beyond the embedding, the tokenizer gives what is not
            carried, or not the same ids each time, or there is no padding token; names ``argument``.
    """
    where = f"`{argument}`: the tokenizer in {path}"
    accepted = accepted_inputs(model)
    size = embedding_size(model)
    _check_ids(tokenizer, size, type(model).__name__, where)
    given = _try(tokenizer, where)
    foreign = [name for name in given if name in accepted and name not in CARRIED]
    if foreign:
        raise ValueError(
            f"{where} gives {', '.join(foreign)}, which {type(model).__name__} reads, but which tiers do not carry; "
            "take a model that reads token ids alone."
        )
    if "token_type_ids" in accepted:
        _settle_types(tokenizer, model, where)
    return _padding(tokenizer, model, size, argument, path)


def accepted_inputs(model: Any) -> set[str]:
    """Names of what ``model.forward`` takes."""
    return set(inspect.signature(model.forward).parameters)


def embedding_size(model: Any) -> int | None:
    """Rows of a model's table of word embeddings; None where it has no such table (CANINE, which hashes)."""
    try:
        table = model.base_model.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        return None
    size = getattr(table, "num_embeddings", None)
    if size is None:
        weight = getattr(table, "weight", None)
        size = len(weight) if isinstance(weight, torch.Tensor) and weight.ndim == 2 else None
    return size


def token_types(model: Any) -> float:
    """How many token types a model has an embedding of: 0 without one, infinite where they are only compared."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == "token_type_embeddings":
            weight = getattr(module, "weight", None)
            if isinstance(weight, torch.Tensor):
                return len(weight)
    return math.inf if any(name.endswith("seg_embed") for name, _ in model.named_parameters()) else 0


def _try(tokenizer: Any, where: str) -> dict[str, Sequence[int]]:
    """What a tokenizer makes of a text and of a pair; the latter."""
    try:
        single, pair = (
            {key: value[0] for key, value in tokenizer(*([text] for text in texts), **WHOLE).items()}
            for texts in (PAIR[:1], PAIR)
        )
        again = tokenizer(list(PAIR) * AGAIN, **WHOLE)["input_ids"]
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{where} must encode plain texts and pairs of them, but it does not: {reason}.") from error
    if again != again[: len(PAIR)] * AGAIN:
        raise ValueError(
            f"{where} must give a text the same ids each time, but it draws them at random (dropout of its merges, or "
            "sampling); switch that off in its files."
        )
    return {**single, **pair}


def _check_ids(tokenizer: Any, size: int | None, model: str, where: str) -> None:
    """Refuses a tokenizer whose ids go beyond the model's embedding."""
    if size is None:
        return
    vocabulary = tokenizer.get_vocab()
    token = max(vocabulary, key=vocabulary.__getitem__)
    if vocabulary[token] >= size:
        raise ValueError(
            f"{where} gives ids up to {vocabulary[token]} ({token!r}), but the embedding of {model} ends at "
            f"{size - 1}; take the tokenizer that it was trained with, or train it after "
            f"resize_token_embeddings({vocabulary[token] + 1})."
        )


def _settle_types(tokenizer: Any, model: Any, where: str) -> None:
    """Has the tokenizer give token types where the model knows several, and refuses more than it knows."""
    unasked = "token_type_ids" in tokenizer.model_input_names
    known = token_types(model)
    if not unasked and known < 2:
        return
    encoded = tokenizer(*([text] for text in PAIR), return_token_type_ids=True, **WHOLE)
    types = set(encoded.get("token_type_ids", [[0]])[0])
    if 0 < known <= max(types):
        raise ValueError(
            f"{where} gives token types up to {max(types)}, but {type(model).__name__} has an embedding of "
            f"{known}; take the tokenizer that it was trained with, or leave token_type_ids out of its "
            "`model_input_names`."
        )
    if not unasked and len(types) > 1:
        tokenizer.model_input_names = [*tokenizer.model_input_names, "token_type_ids"]
        tokenizer.init_kwargs["model_input_names"] = list(tokenizer.model_input_names)  # what is saved


def _padding(tokenizer: Any, model: Any, size: int | None, argument: str, path: str) -> int:
    """Id of the padding token, the model's own before the tokenizer's."""
    own = getattr(model.config, "pad_token_id", None)
    found = tokenizer.pad_token_id if own is None else own
    remedy = (
        "name one, for example that of the end of a text, as `pad_token` in tokenizer_config.json and as "
        "`pad_token_id` in config.json"
    )
    if found is None:
        raise ValueError(
            f"`{argument}` must have a padding token, which fills a batch, but neither the tokenizer nor the "
            f"configuration in {path} has one; {remedy}."
        )
    if not 0 <= found < (math.inf if size is None else size):
        raise ValueError(
            f"`{argument}` must have a padding token with an embedding, but the `pad_token_id` in {path} is {found}, "
            f"and the embedding has {size} rows; {remedy}."
        )
    return int(found)


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
