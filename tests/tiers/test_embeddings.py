"""Word embeddings that start from a trained model, against scikit-learn and plain loops."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from dial.models import MultiExitConfig, MultiExitForSequenceClassification
from dial.tiers.embeddings import principal_components
from dial.tiers.loading import build_tier, load_tier
from tests.tiers.tiny_tiers import DATA, TEXTS, MakeBert

WIDTH = 6
BILSTM = {"model_type": "bilstm", "hidden_size": 4, "embedding_size": WIDTH}


def embeddings_of(folder: Path) -> np.ndarray:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return model.bert.embeddings.word_embeddings.weight.detach().numpy()


def distances(rows: np.ndarray) -> np.ndarray:
    """Between all rows, in units of the root mean square: what signs of components and scale leave alone."""
    return np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(axis=2)) / np.sqrt((rows**2).mean())


def test_principal_components_are_those_of_scikit_learn(tiny_bert: Path) -> None:
    source = embeddings_of(tiny_bert)
    found, wanted = principal_components(torch.from_numpy(source), 5).numpy(), PCA(5).fit_transform(source)
    np.testing.assert_allclose(np.abs(found), np.abs(wanted / np.sqrt((wanted**2).mean())), atol=1e-4)
    np.testing.assert_allclose(distances(found), distances(wanted), atol=1e-4)


def test_the_same_tokens_start_from_the_models_own(tiny_bert: Path, capsys: pytest.CaptureFixture) -> None:
    tier = build_tier(BILSTM, str(tiny_bert), DATA, embeddings=str(tiny_bert))
    table = tier.model.get_input_embeddings().weight.detach().numpy()
    tokens = tier.tokenizer.get_vocab()
    rows = [row for token, row in tokens.items() if token != "[PAD]"]
    wanted = PCA(WIDTH).fit_transform(embeddings_of(tiny_bert))
    scale = np.abs(table[rows]).max() / np.abs(wanted[rows]).max()
    np.testing.assert_allclose(np.abs(table[rows]), np.abs(wanted[rows]) * scale, atol=1e-4)
    assert not table[tokens["[PAD]"]].any()
    assert 0.7 < np.sqrt((table[rows] ** 2).mean()) < 1.4  # as large as the rows that it replaces
    assert f"100.0% of {len(rows)} words have a vector in {tiny_bert}" in capsys.readouterr().out


def test_it_shares_the_tokens_of_a_tier(tiny_bert: Path) -> None:
    teacher = load_tier(str(tiny_bert), "super", DATA)
    student = build_tier(BILSTM, str(tiny_bert), DATA, embeddings=str(tiny_bert))
    assert student.encoding_key == teacher.encoding_key


@pytest.fixture
def in_pieces(make_tiny_bert: MakeBert) -> Path:
    """A model that cuts words into pieces."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "great", "film", "d", "##u", "##ll", "plot", "the", *"nope"]
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    folder = make_tiny_bert(vocab_size=len(words))
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)
    return folder


def test_a_word_starts_as_the_mean_of_its_pieces(in_pieces: Path, capsys: pytest.CaptureFixture) -> None:
    tier = build_tier({**BILSTM, "vocab_size": 30}, "words", DATA, embeddings=str(in_pieces))
    before = tier.model.get_input_embeddings().weight.detach().clone()
    tier.fit_tokenizer(lambda: TEXTS)
    table, tokens = tier.model.get_input_embeddings().weight.detach(), tier.tokenizer.get_vocab()
    parts = principal_components(torch.from_numpy(embeddings_of(in_pieces)), WIDTH) * before.square().mean().sqrt()
    wanted = {"film": parts[6], "dull": (parts[7] + parts[8] + parts[9]) / 3, "the": parts[11]}
    for word, vector in wanted.items():
        torch.testing.assert_close(table[tokens[word]], vector)
    for token in ("[PAD]", "[UNK]", "good", "was"):  # special ones, and words that the model does not know
        assert torch.equal(table[tokens[token]], before[tokens[token]])
    found = sum(word in ("a", "great", "film", "dull", "plot", "the") for word in tokens)
    assert found == 6 and f"{6 / (len(tokens) - 2):.1%} of {len(tokens) - 2} words" in capsys.readouterr().out


def test_factorised_embeddings_are_read_as_their_product(tiny_bert: Path, tmp_path: Path) -> None:
    encoder = AutoModelForSequenceClassification.from_pretrained(tiny_bert).config.to_dict()
    slender = MultiExitForSequenceClassification(MultiExitConfig(encoder, exits=[1, 2], embedding_rank=5))
    slender.save_pretrained(tmp_path)
    load_tier(str(tiny_bert), "t", DATA).tokenizer.save_pretrained(tmp_path)
    tier = build_tier({**BILSTM, "embedding_size": 5}, str(tmp_path), DATA, embeddings=str(tmp_path))
    table = slender.get_input_embeddings()
    product = (table.table.weight @ table.projection.weight.T).detach().numpy()
    rows = list(range(1, len(product)))
    found = tier.model.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_allclose(
        distances(found[rows]), distances(PCA(5).fit_transform(product)[rows]), rtol=1e-3, atol=1e-3
    )


def test_what_does_not_fit_is_refused(tiny_bert: Path, in_pieces: Path) -> None:
    with pytest.raises(ValueError, match=r"`embeddings` must be at least as wide as the model's embeddings, 17, but"):
        build_tier({**BILSTM, "embedding_size": 17}, str(tiny_bert), DATA, embeddings=str(tiny_bert))
    with pytest.raises(ValueError, match=r"`embeddings` must be a model with the tokens of `tokenizer`"):
        build_tier(BILSTM, str(in_pieces), DATA, embeddings=str(tiny_bert))
    with pytest.raises(ValueError, match="`embeddings` must be an existing folder or a hub id"):
        build_tier(BILSTM, str(tiny_bert), DATA, embeddings="./nowhere")
    words = r"no file of word vectors at /data/glove.840B either.* end in .txt, .vec or .parquet"
    with pytest.raises(ValueError, match=words) as error:
        build_tier(BILSTM, str(tiny_bert), DATA, embeddings="/data/glove.840B")
    assert "\n" not in str(error.value)
