"""Pretrained word vectors (GloVe) from a text or a parquet file."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import nn


def word_vectors_width(path: str | Path, argument: str = "embeddings") -> int:
    """Number of values of each vector in the file; reads only its start.

    Raises:
        ValueError: the file is missing or holds no word vectors; names ``argument``.
    """
    for _, vector in _read(_checked(path, argument), argument):
        return len(vector)
    raise ValueError(f"`{argument}` must hold at least one word vector, but {path} is empty.")


def read_word_vectors(
    path: str | Path, words: Mapping[str, int] | set[str], argument: str = "embeddings"
) -> dict[str, np.ndarray]:
    """Vectors of those of ``words`` that the file knows, each ``(width,)`` float32.

    Args:
        path: GloVe text (``word v1 v2 ...`` a line; a leading line ``count width`` as in word2vec is skipped), or
            parquet with a column of strings and a column of lists of numbers.
        words: the words looked for.
        argument: how the user calls ``path``.

    Raises:
        ValueError: the file is missing, holds no word vectors, or vectors of different widths; names ``argument``.
    """
    found: dict[str, np.ndarray] = {}
    width = word_vectors_width(path, argument)
    for word, vector in _read(_checked(path, argument), argument):
        if len(vector) != width:
            raise ValueError(
                f"`{argument}`: all vectors must have the width {width} of the first, "
                f"but {word!r} in {path} has {len(vector)}; the file is damaged."
            )
        if word in words and word not in found:
            found[word] = vector
    return found


def copy_word_vectors(table: nn.Embedding, vocabulary: Mapping[str, int], vectors: Mapping[str, np.ndarray]) -> float:
    """Overwrite the rows of the words that have a vector; returns the share of the vocabulary that was found.

    Args:
        table: ``(V, width)``.
        vocabulary: row of each word, special tokens left out.
        vectors: as from :func:`read_word_vectors`.

    Example:
        >>> table = nn.Embedding(3, 2)
        >>> copy_word_vectors(table, {"a": 1, "b": 2}, {"b": np.array([5.0, 6.0])})
        0.5
        >>> table.weight[2].tolist()
        [5.0, 6.0]
    """
    found = [word for word in vocabulary if word in vectors]
    if found:
        rows = torch.tensor([vocabulary[word] for word in found])
        values = torch.from_numpy(np.stack([vectors[word] for word in found]))
        with torch.no_grad():
            table.weight[rows] = values.to(table.weight)
    return len(found) / max(1, len(vocabulary))


def _checked(path: str | Path, argument: str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"`{argument}` must be a file of word vectors (GloVe text or parquet), but there is no {path}."
        )
    return path


def _read(path: Path, argument: str) -> Iterator[tuple[str, np.ndarray]]:
    return _read_parquet(path, argument) if path.suffix == ".parquet" else _read_text(path, argument)


def _read_text(path: Path, argument: str) -> Iterator[tuple[str, np.ndarray]]:
    width = None
    with path.open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.rstrip("\r\n").rstrip(" ").split(" ")
            if number == 1 and len(fields) == 2:
                continue  # word2vec's header
            width = width or len(fields) - 1
            # From the right: a few words of the large GloVe files hold spaces.
            word = " ".join(fields[:-width])
            try:
                vector = np.array(fields[-width:], dtype=np.float32)
            except ValueError:
                vector = np.empty(0, dtype=np.float32)
            if width < 2 or not word or len(vector) != width:
                raise ValueError(
                    f"`{argument}` must hold lines of a word and {width} numbers separated by spaces, "
                    f"but line {number} of {path} is {line[:60].rstrip()!r}."
                )
            yield word, vector


def _read_parquet(path: Path, argument: str) -> Iterator[tuple[str, np.ndarray]]:
    file = pq.ParquetFile(path)
    columns = {str(field.type).split("<")[0]: field.name for field in reversed(list(file.schema_arrow))}
    word = columns.get("string") or columns.get("large_string")
    vector = columns.get("list") or columns.get("fixed_size_list") or columns.get("large_list")
    if word is None or vector is None:
        raise ValueError(
            f"`{argument}` must have a column of words (string) and one of vectors (list of numbers), "
            f"but {path} has {', '.join(f'{f.name}: {f.type}' for f in file.schema_arrow)}."
        )
    for batch in file.iter_batches(columns=[word, vector]):
        for name, values in zip(batch.column(word).to_pylist(), batch.column(vector).to_pylist(), strict=True):
            yield name, np.array(values, dtype=np.float32)
