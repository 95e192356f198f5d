import numpy as np
import pytest
import torch
from torch import nn

from dial.models.slender.embeddings import FactorisedEmbedding, factorise, factorise_embeddings
from tests.models.encoders import CONFIGS, encoder, tokens


@pytest.mark.parametrize(("words", "width", "rank"), [(50, 12, 5), (7, 12, 7), (50, 12, 12), (9000, 3, 2)])
def test_factors_are_those_of_the_full_decomposition(words: int, width: int, rank: int) -> None:
    weight = torch.randn(words, width)
    u, s, v = np.linalg.svd(weight.numpy().astype(np.float64), full_matrices=False)
    table, projection = factorise_embeddings(weight, rank)
    assert table.shape == (words, rank) and projection.shape == (rank, width)
    best = (u[:, :rank] * s[:rank]) @ v[:rank]
    np.testing.assert_allclose((table @ projection).numpy(), best, atol=1e-5)
    np.testing.assert_allclose(table.norm(dim=0).numpy(), s[:rank], rtol=1e-5)
    np.testing.assert_allclose((projection @ projection.T).numpy(), np.eye(rank), atol=1e-5)


def test_padding_stays_silent_and_frozen() -> None:
    embedding = nn.Embedding(20, 8, padding_idx=3)
    factorised = FactorisedEmbedding.of(embedding, 4)
    output = factorised(torch.tensor([[3, 5, 3]]))
    assert torch.equal(output[0, 0], torch.zeros(8))
    output.sum().backward()
    assert factorised.table.weight.grad[3].abs().sum() == 0 < factorised.table.weight.grad[5].abs().sum()


@pytest.mark.parametrize("name", CONFIGS)
def test_full_rank_changes_nothing_and_a_small_one_the_parameters(name: str) -> None:
    model = encoder(name)
    width = model.get_input_embeddings().embedding_dim
    with torch.no_grad():
        expected = model(**tokens()).last_hidden_state
        factorise(model, width)
        torch.testing.assert_close(model(**tokens()).last_hidden_state, expected, atol=1e-4, rtol=0)
    assert model.config.embedding_rank == width
    small = encoder(name)
    before = sum(p.numel() for p in small.parameters())
    factorise(small, 2)
    after = sum(p.numel() for p in small.parameters())
    assert before - after == 40 * width - 2 * (40 + width)


def test_bad_input() -> None:
    weight = torch.randn(9, 4)
    for rank in (0, 5):
        with pytest.raises(ValueError, match=f"`rank` must lie between 1 and 4 .* but got {rank}"):
            factorise_embeddings(weight, rank)
    weight[2, 1] = float("nan")
    with pytest.raises(ValueError, match="`weight` must be finite"):
        factorise_embeddings(weight, 2)
    model = encoder("bert")
    factorise(model, 4)
    factorise(model, 4)
    with pytest.raises(ValueError, match="`rank` must be 4"):
        factorise(model, 3)
