"""A tiny MPNet with the words of the tiny BERT: ids shifted, pairs a token longer."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import MPNetConfig, MPNetForSequenceClassification, MPNetModel, PreTrainedTokenizerFast

from tests.conftest import WORDS

SPECIAL = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>", "<unk>", "[PAD]", "[CLS]", "[SEP]"]


def mpnet_tokenizer(words: list[str] = WORDS) -> Any:
    """`<s> a </s></s> b </s>`, at most 30 tokens."""
    vocabulary = {word: i for i, word in enumerate(SPECIAL + words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    named = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "unk": "[UNK]", "mask": "<mask>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{f"{role}_token": token for role, token in named.items()},
        model_max_length=34,
        model_input_names=["input_ids", "attention_mask"],
    )


def write_mpnet(folder: Path, head: bool = True, **settings: Any) -> Path:
    """Save it with its tokenizer; without `head` as it is pretrained."""
    tokenizer = mpnet_tokenizer()
    sizes = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    names = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
    config = MPNetConfig(
        vocab_size=len(tokenizer), max_position_embeddings=40, pad_token_id=1, initializer_range=0.2,
        **{**sizes, **names, **settings},
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = (MPNetForSequenceClassification if head else MPNetModel)(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
