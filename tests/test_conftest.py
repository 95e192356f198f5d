"""The fixtures that other tests stand on."""

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def test_tiny_bert_loads_and_padding_changes_nothing(tiny_bert: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    texts = ["the film is good", "a dull plot but the cast was very fine and great"]
    with torch.inference_mode():
        together = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
        alone = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-3
    assert model.config.id2label == {0: "negative", 1: "positive"}


def test_pairs_have_two_segments(make_tiny_bert: Callable[..., Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(make_tiny_bert(layers=1, labels=("a", "b", "c")))
    assert tokenizer("the film", "good")["token_type_ids"] == [0, 0, 0, 0, 1, 1]
