"""A word-level tokenizer built from the training text, and word vectors from files."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

PAD, UNK, SEP, CLS = "[PAD]", "[UNK]", "[SEP]", "[CLS]"

Text = str | tuple[str, str] | list[str]


def build_word_tokenizer(
    texts: Iterable[Text], vocab_size: int, max_length: int, for_encoder: bool = False
) -> PreTrainedTokenizerFast:
    """Count the words of ``texts`` and make a tokenizer of the most frequent ones.

    Texts are lower-cased and split at white space and at every punctuation mark. Padding is 0, the unknown word 1,
    then come a separator (only if the texts are pairs) and the words by falling count, ties in alphabetical order, so
    that the same texts in any order give the same tokenizer.

    Args:
        texts: strings, or pairs of strings.
        vocab_size: entries in all, special tokens included.
        max_length: tokens kept of a text or pair.
        for_encoder: lay rows out as BERT does, ``[CLS] a [SEP] b [SEP]`` with token types; else ``a`` or ``a [SEP] b``.

    Raises:
        ValueError: ``vocab_size`` leaves no room for words, or there is no text at all.

    Example:
        >>> tokenizer = build_word_tokenizer(["A fine, fine film."], vocab_size=5, max_length=8)
        >>> tokenizer("A dull, fine film.")["input_ids"]
        [1, 1, 3, 2, 1, 4]
        >>> tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 4])
        ['[PAD]', '[UNK]', 'fine', ',', '.']
    """
    splitter = _empty_tokenizer({PAD: 0, UNK: 1})
    counts: Counter[str] = Counter()
    pairs = rows = 0
    for text in texts:
        parts = (text,) if isinstance(text, str) else text
        pairs += len(parts) > 1
        rows += 1
        for part in parts:
            counts.update(word for word, _ in splitter.pre_tokenizer.pre_tokenize_str(_normalise(splitter, part)))
    if rows == 0:
        raise ValueError("`texts` must hold the training text, but got none; check the training split.")
    special = [PAD, UNK] + ([CLS, SEP] if for_encoder else [SEP] if pairs else [])
    room = vocab_size - len(special)
    if room < 1:
        raise ValueError(f"`vocab_size` must be above {len(special)} (special tokens), but got {vocab_size}.")
    frequent = sorted(counts, key=lambda word: (-counts[word], word))
    words = [word for word in frequent if word not in special][:room]
    tokenizer = _empty_tokenizer({word: i for i, word in enumerate(special + words)})
    if for_encoder or pairs:
        tokenizer.post_processor = _layout(for_encoder, special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNK,
        sep_token=SEP if SEP in special else None,
        cls_token=CLS if CLS in special else None,
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"]
        if for_encoder
        else ["input_ids", "attention_mask"],
    )


def _empty_tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    return tokenizer


def _normalise(tokenizer: Tokenizer, text: str) -> str:
    return str(tokenizer.normalizer.normalize_str(text))


def _layout(for_encoder: bool, special: list[str]) -> processors.TemplateProcessing:
    single, pair = ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1") if for_encoder else ("$A", "$A [SEP] $B:1")
    tokens = [(name, special.index(name)) for name in (CLS, SEP) if name in special]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=tokens)


def word_vectors_width(path: str | Path, argument: str = "embeddings") -> int:
    """Number of values of each vector in the file; reads only its start.

    Raises:
        ValueError: the file is missing or holds no word vectors; names ``argument``.
    """
    for _, vector in _read(path, argument):
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
    for word, vector in _of_one_width(path, argument):
        if word in words and word not in found:
            found[word] = vector
    return found


def first_word_vectors(path: str | Path, count: int, argument: str = "embeddings") -> tuple[list[str], np.ndarray]:
    """The first words of a file, which has the most frequent ones first, and their vectors ``(V, width)`` float32.

    Args:
        path: see :func:`read_word_vectors`.
        count: most words to read.
        argument: see :func:`read_word_vectors`.

    Raises:
        ValueError: see :func:`read_word_vectors`.
    """
    names, vectors = zip(*islice(_of_one_width(path, argument), count), strict=True)
    return list(names), np.stack(vectors)


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


def _of_one_width(path: str | Path, argument: str) -> Iterator[tuple[str, np.ndarray]]:
    """Words and vectors of a file, which must all be as wide as the first."""
    width = word_vectors_width(path, argument)
    for word, vector in _read(path, argument):
        if len(vector) != width:
            raise ValueError(
                f"`{argument}`: all vectors must have the width {width} of the first, "
                f"but {word!r} in {path} has {len(vector)}; the file is damaged."
            )
        yield word, vector


def _read(path: str | Path, argument: str) -> Iterator[tuple[str, np.ndarray]]:
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"`{argument}` must be a file of word vectors (GloVe text or parquet), but there is no {path}."
        )
    return _read_parquet(path, argument) if path.suffix == ".parquet" else _read_text(path, argument)


def _read_text(path: Path, argument: str) -> Iterator[tuple[str, np.ndarray]]:
    """Words and vectors of a text file in GloVe's or word2vec's form, line by line."""
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
    """Words and vectors of a parquet file, by the types of its columns rather than by their names."""
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
