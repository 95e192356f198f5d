"""Word embeddings in two thin matrices (COST-EFF, Shen et al. 2022, section 3.2.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CHUNK = 8192


class FactorisedEmbedding(nn.Module):
    """A drop-in for the word embeddings: a table ``(V, R)`` under a linear map to width ``H`` without bias.

    Args:
        num_embeddings: words ``V``.
        embedding_dim: width ``H`` that comes out.
        rank: width ``R`` of the table.
        padding_idx: word whose row of the table gets no gradient, as in ``nn.Embedding``.
        device: where the parameters lie.
        dtype: their type.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        rank: int,
        padding_idx: int | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.table = nn.Embedding(num_embeddings, rank, padding_idx=padding_idx, device=device, dtype=dtype)
        self.projection = nn.Linear(rank, embedding_dim, bias=False, device=device, dtype=dtype)

    @classmethod
    def like(cls, embedding: nn.Embedding, rank: int) -> FactorisedEmbedding:
        """An untrained factorisation with the sizes, padding word, device and type of ``embedding``."""
        check_rank(rank, embedding.num_embeddings, embedding.embedding_dim)
        weight = embedding.weight
        sizes = (embedding.num_embeddings, embedding.embedding_dim, rank, embedding.padding_idx)
        return cls(*sizes, device=weight.device, dtype=weight.dtype)

    @classmethod
    def of(cls, embedding: nn.Embedding, rank: int) -> FactorisedEmbedding:
        """The best factorisation of the given rank of a trained ``embedding`` (Eq. 1)."""
        factorised = cls.like(embedding, rank)
        table, projection = factorise_embeddings(embedding.weight, rank)
        with torch.no_grad():
            factorised.table.weight.copy_(table)
            factorised.projection.weight.copy_(projection.T)
        return factorised

    @property
    def num_embeddings(self) -> int:
        """Words."""
        return self.table.num_embeddings

    @property
    def embedding_dim(self) -> int:
        """Width that comes out."""
        return self.projection.out_features

    @property
    def rank(self) -> int:
        """Width of the table."""
        return self.table.embedding_dim

    @property
    def padding_idx(self) -> int | None:
        """Word whose row of the table gets no gradient."""
        return self.table.padding_idx

    def forward(self, input_ids: Tensor) -> Tensor:
        """Embeddings ``(B, T, H)`` of words ``(B, T)``."""
        return self.projection(self.table(input_ids))


def factorise_embeddings(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The two factors of the truncated singular value decomposition, Eq. 1 of COST-EFF.

    The right singular vectors are the eigenvectors of the Gram matrix ``(H, H)``, so neither ``U`` nor a decomposition
    of a matrix with ``V`` rows is needed. Float64 makes up for the squared singular values of that matrix.

    Args:
        weight: ``(V, H)``.
        rank: singular values kept.

    Returns:
        ``U Σ`` ``(V, R)`` and the transpose of the right singular vectors ``(R, H)``, in the type of ``weight``.

    Raises:
        ValueError: the rank is below 1 or above ``min(V, H)``, or an entry is not finite.

    >>> table, projection = factorise_embeddings(torch.tensor([[3.0, 0.0], [0.0, 1.0], [4.0, 0.0]]), rank=1)
    >>> (table @ projection).round().abs()
    tensor([[3., 0.],
            [0., 0.],
            [4., 0.]])
    """
    check_rank(rank, *weight.shape)
    weight = weight.detach()
    width = weight.shape[1]
    gram = torch.zeros(width, width, dtype=torch.float64, device=weight.device)
    for rows in weight.split(CHUNK):
        wide = rows.double()
        gram.addmm_(wide.T, wide)
    if not bool(torch.isfinite(gram).all()):
        raise ValueError("`weight` must be finite, but the word embeddings hold NaN or infinite entries; retrain them.")
    vectors = torch.linalg.eigh(gram).eigenvectors.flip(1)[:, :rank]  # eigenvalues ascend
    # An eigenvector's sign is arbitrary; with the largest entry positive every process finds the same factors.
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    vectors = vectors * torch.where(largest < 0, -1.0, 1.0)
    table = torch.cat([(rows.double() @ vectors).to(weight.dtype) for rows in weight.split(CHUNK)])
    return table, vectors.T.to(weight.dtype).contiguous()


def factorise(model: nn.Module, rank: int) -> None:
    """Replace the word embeddings of a model by their best factorisation, in place, and note the rank in its config.

    Raises:
        ValueError: the rank does not fit, or the embeddings are factorised already with another rank.
    """
    embedding = word_embedding(model)
    if isinstance(embedding, FactorisedEmbedding):
        if embedding.rank != rank:
            raise ValueError(
                f"`rank` must be {embedding.rank}, the rank that the word embeddings are factorised to already, "
                f"but got {rank}; start from the unfactorised model."
            )
        return
    replace_word_embedding(model, FactorisedEmbedding.of(embedding, rank))


def replace_word_embedding(model: nn.Module, new: FactorisedEmbedding) -> None:
    """Put ``new`` where the word embeddings of a model are, in place, and note its rank in the config."""
    old = word_embedding(model)
    new.train(old.training)
    for parent in model.modules():
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)
    config = getattr(model, "config", None)
    if config is not None:
        config.embedding_rank = new.rank


def word_embedding(model: nn.Module) -> nn.Embedding | FactorisedEmbedding:
    """The module that embeds words, which transformers calls the input embeddings.

    Raises:
        ValueError: there is none.
    """
    getter: Any = getattr(model, "get_input_embeddings", None)
    embedding = None if getter is None else getter()
    if not isinstance(embedding, nn.Embedding | FactorisedEmbedding):
        raise ValueError(
            f"`model` must have word embeddings (nn.Embedding), but {type(model).__name__} has "
            f"{type(embedding).__name__}; set the embedding rank to null."
        )
    return embedding


def check_rank(rank: int, words: int, width: int) -> None:
    """Raise a ValueError unless a ``(words, width)`` matrix can have this rank."""
    if not 1 <= rank <= min(words, width):
        raise ValueError(
            f"`rank` must lie between 1 and {min(words, width)} for word embeddings of {words:,} x {width}, "
            f"but got {rank}."
        )
