"""GloVe files as text and parquet."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dial.models import copy_word_vectors, read_word_vectors, word_vectors_width
from dial.models.words import first_word_vectors

LINES = "the 0.5 -1 2\n. . . 1 2 3\nfilm 4 5 6e-1\nthe 9 9 9\n"


@pytest.fixture(params=["text", "header", "parquet", "fixed", "large"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param in ("text", "header"):
        path = tmp_path / "glove.txt"
        path.write_text(("4 3\n" if request.param == "header" else "") + LINES, encoding="utf-8")
        return path
    kind = {"parquet": pa.list_(pa.float32()), "fixed": pa.list_(pa.float64(), 3), "large": pa.large_list(pa.float32())}
    vectors = pa.array([[0.5, -1, 2], [1, 2, 3], [4, 5, 0.6], [9, 9, 9]], type=kind[request.param])
    path = tmp_path / "glove.parquet"
    pq.write_table(pa.table({"id": [1, 2, 3, 4], "token": ["the", ". . .", "film", "the"], "values": vectors}), path)
    return path


def test_it_finds_the_words_asked_for(file: Path) -> None:
    assert word_vectors_width(file) == 3
    vectors = read_word_vectors(file, {"the", "film", "unheard"})
    assert sorted(vectors) == ["film", "the"]
    np.testing.assert_allclose(vectors["the"], [0.5, -1, 2])  # the first of two
    np.testing.assert_allclose(vectors["film"], [4, 5, 0.6], rtol=1e-6)
    np.testing.assert_allclose(read_word_vectors(file, {". . ."})[". . ."], [1, 2, 3])


def test_copying_leaves_the_other_rows(file: Path) -> None:
    table = torch.nn.Embedding(5, 3)
    before = table.weight.detach().clone()
    vocabulary = {"film": 4, "the": 2, "unheard": 3}
    assert copy_word_vectors(table, vocabulary, read_word_vectors(file, vocabulary)) == pytest.approx(2 / 3)
    torch.testing.assert_close(table.weight[4], torch.tensor([4, 5, 0.6]))
    torch.testing.assert_close(table.weight[2], torch.tensor([0.5, -1, 2]))
    assert torch.equal(table.weight[[0, 1, 3]], before[[0, 1, 3]])
    assert copy_word_vectors(table, {"unheard": 3}, {}) == 0.0


def test_bad_files_name_the_argument(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`glove` must be a file of word vectors"):
        word_vectors_width(tmp_path / "absent.txt", "glove")
    text = tmp_path / "bad.txt"
    text.write_text("the 1 2 3\nfilm 1 x 3\n")
    with pytest.raises(ValueError, match=r"line 2 .* is 'film 1 x 3'"):
        read_word_vectors(text, {"the"}, "glove")
    text.write_text("")
    with pytest.raises(ValueError, match="at least one word vector"):
        word_vectors_width(text, "glove")
    table = tmp_path / "bad.parquet"
    pq.write_table(pa.table({"word": ["a"], "vector": [1.0]}), table)
    with pytest.raises(ValueError, match=r"`glove` must have a column of words .* vector: double"):
        word_vectors_width(table, "glove")
    pq.write_table(pa.table({"word": ["a", "b"], "vector": [[1.0, 2.0], [1.0]]}), table)
    with pytest.raises(ValueError, match="width 2 of the first, but 'b'"):
        read_word_vectors(table, {"a"}, "glove")


def test_the_real_file(data_folder: Path) -> None:
    path = data_folder / "glove" / "twitter_25d_12k" / "all.parquet"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    assert word_vectors_width(path) == 25
    assert set(read_word_vectors(path, {"the", "of", "zzzzqq"})) == {"the", "of"}


def test_the_first_words_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text("the 1 2\na 3 4\nof 5 6\n")
    names, vectors = first_word_vectors(path, 2)
    assert names == ["the", "a"] and vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, [[1, 2], [3, 4]])
    assert first_word_vectors(path, 9)[0] == ["the", "a", "of"]
    with pytest.raises(ValueError, match="`vectors` must be a file of word vectors"):
        first_word_vectors(tmp_path / "none.txt", 2, "vectors")
