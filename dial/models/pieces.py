"""Tokenizers for encoder-decoders from scratch, built from the training text: pieces of words, or characters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal, get_args

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
SPECIAL = (PAD, END, UNKNOWN)  # 0, 1 and 2, as T5 has them
Pieces = Literal["pieces", "characters"]


def build_piece_tokenizer(
    texts: Iterable[str | tuple[str, ...]], kind: Pieces, vocab_size: int, max_length: int
) -> PreTrainedTokenizerFast:
    """Make a tokenizer that ends each text with ``</s>`` and whose pieces can be joined to the text again.

    Args:
        texts: sources and targets; of a pair both texts.
        kind: ``pieces`` for byte-pair encoding behind marks of white space, as SentencePiece has it; ``characters``
            for the most frequent ones, case kept.
        vocab_size: entries at most, special tokens included.
        max_length: tokens kept of a text or pair.

    Raises:
        ValueError: another kind, no room for pieces, or no text at all.

    Example:
        >>> tokenizer = build_piece_tokenizer(["ab ba"], "characters", 16, 8)
        >>> tokenizer("b a")["input_ids"], tokenizer.decode([4, 5, 3, 1], skip_special_tokens=True)
        ([4, 5, 3, 1], 'b a')
    """
    if kind not in get_args(Pieces):
        raise ValueError(f"`tokenizer` must be a folder, a hub id, {' or '.join(get_args(Pieces))}, but got {kind!r}.")
    if vocab_size <= len(SPECIAL):
        raise ValueError(f"`vocab_size` must be above {len(SPECIAL)} (special tokens), but got {vocab_size}.")
    tokenizer = _of_pieces(texts, vocab_size) if kind == "pieces" else _of_characters(texts, vocab_size)
    if tokenizer.get_vocab_size() <= len(SPECIAL):
        raise ValueError("`texts` must hold the training text, but got none; check the training split.")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, SPECIAL.index(END))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def _parts(texts: Iterable[str | tuple[str, ...]]) -> Iterator[str]:
    for text in texts:
        yield from (text,) if isinstance(text, str) else text


def _of_pieces(texts: Iterable[str | tuple[str, ...]], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(_parts(texts), trainer)
    return tokenizer


def _of_characters(texts: Iterable[str | tuple[str, ...]], vocab_size: int) -> Tokenizer:
    """A tokenizer of the most frequent single characters."""
    normalizer, counts = normalizers.NFC(), Counter[str]()
    for text in _parts(texts):
        counts.update(normalizer.normalize_str(text))
    frequent = sorted(counts, key=lambda character: (-counts[character], character))[: vocab_size - len(SPECIAL)]
    tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate((*SPECIAL, *frequent))}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer
