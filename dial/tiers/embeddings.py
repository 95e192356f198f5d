"""Where the word embeddings of a model made from a configuration start: word vectors, or those of a trained model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from dial.models import copy_word_vectors, read_word_vectors
from dial.models.slender.embeddings import factorise_embeddings, word_embedding
from dial.tiers.places import check_place
from dial.tiers.reading import read_tokenizer, read_with

VECTOR_FILES = (".txt", ".vec", ".parquet")


def is_model(place: str) -> bool:
    """Whether a folder or hub id is meant, and not a file of word vectors.

    >>> is_model("runs/super/tier"), is_model("glove.6B.50d.txt")
    (True, False)
    """
    path = Path(place).expanduser()
    return not path.is_file() and path.suffix not in VECTOR_FILES


def start_embeddings(
    table: nn.Embedding, tokenizer: Any, place: str, argument: str = "embeddings"
) -> tuple[float, int]:
    """Overwrite the embeddings of the tokens that ``place`` knows; the share that it knows, and of how many.

    Args:
        table: ``(V, width)``, as initialised; the row of padding stays.
        tokenizer: whose ids are the rows.
        place: file of word vectors, which has none of special tokens, or a model (see :func:`model_vectors`).
        argument: how the user calls ``place``.

    Raises:
        ValueError: it cannot be read or does not fit; names ``argument``.
    """
    vocabulary = dict(tokenizer.get_vocab())
    if is_model(place):
        vectors = model_vectors(place, tokenizer, table, argument)
        left_out = {token for token in tokenizer.all_special_tokens if token not in vectors}
    else:
        left_out = set(tokenizer.all_special_tokens)
        vectors = read_word_vectors(place, vocabulary.keys() - left_out, argument)
    words = {word: row for word, row in vocabulary.items() if word not in left_out}
    return copy_word_vectors(table, words, vectors), len(words)


def model_vectors(place: str, tokenizer: Any, table: nn.Embedding, argument: str) -> Mapping[str, np.ndarray]:
    """Vectors ``(width,)`` of tokens, from the principal components of a trained model's word embeddings.

    Where the model has the same tokens each has its own vector, special ones included; a word of a word-level
    tokenizer has the mean over its pieces. Both are scaled to the root mean square of ``table``, whose layers expect
    numbers of that size.

    Args:
        place: folder or hub id.
        tokenizer: whose tokens are asked for.
        table: ``(V, width)``, as initialised.
        argument: how the user calls ``place``.

    Raises:
        ValueError: the model cannot be read, is narrower than ``table``, or cuts texts into other pieces.
    """
    try:
        place = check_place(place, argument)
    except ValueError as error:
        ends = " or ".join((", ".join(VECTOR_FILES[:-1]), VECTOR_FILES[-1]))
        raise ValueError(
            f"{error} There is no file of word vectors at {place} either; if one was meant, name one that is there; "
            f"most end in {ends}."
        ) from error
    theirs, width = read_tokenizer(place, argument), table.embedding_dim
    config = read_with(AutoConfig, place, argument, "configuration")
    model = read_with(AutoModelForSequenceClassification, place, argument, "weights", config=config)
    with torch.no_grad():  # a factorised table, too, is asked for its rows
        source = word_embedding(model)(torch.arange(len(theirs)))
        scale = table.weight.square().mean().sqrt()
    if width > source.shape[1]:
        raise ValueError(
            f"`{argument}` must be at least as wide as the model's embeddings, {width}, but {place} has "
            f"{source.shape[1]}; lower `embedding_size` in `config`."
        )
    if (same := theirs.get_vocab() == tokenizer.get_vocab()) or is_word_level(tokenizer):
        pieces = {t: [row] for t, row in theirs.get_vocab().items()} if same else pieces_of(tokenizer, theirs)
        pieces.pop(tokenizer.pad_token, None)
        components = principal_components(source, width) * scale
        return {token: components[rows].mean(dim=0).numpy() for token, rows in pieces.items()}
    raise ValueError(
        f"`{argument}` must be a model with the tokens of `tokenizer`, or `tokenizer` be words, but {place} cuts texts "
        "into other pieces; name the same folder for both."
    )


def principal_components(weight: Tensor, width: int) -> Tensor:
    """Rows of ``(V, H)`` on their first ``width`` principal components, with a root mean square of 1 over all entries.

    >>> principal_components(torch.tensor([[0.0, 5.0], [4.0, 5.0], [2.0, 5.0], [2.0, 5.0]]), 1).T
    tensor([[-1.4142,  1.4142,  0.0000,  0.0000]])
    """
    table, _ = factorise_embeddings(weight - weight.mean(dim=0), width)
    return table / table.square().mean().sqrt()


def is_word_level(tokenizer: Any) -> bool:
    """Whether each word is one token."""
    return type(getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)).__name__ == "WordLevel"


def pieces_of(tokenizer: Any, theirs: Any) -> dict[str, list[int]]:
    """Ids that ``theirs`` cuts each word of a word-level tokenizer into; words that it does not know are left out."""
    words = [word for word in tokenizer.get_vocab() if word not in tokenizer.all_special_tokens]
    rows = theirs(words, add_special_tokens=False)["input_ids"] if words else []
    return {word: ids for word, ids in zip(words, rows, strict=True) if ids and theirs.unk_token_id not in ids}
