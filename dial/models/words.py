"""A word-level tokenizer built from the training text."""

from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
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
