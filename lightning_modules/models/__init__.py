"""Torch models of our own; importing the package registers them with the Auto classes of transformers."""

from lightning_modules.models.bilstm import BiLSTMConfig, BiLSTMForSequenceClassification, BiLSTMModel
from lightning_modules.models.elasticbert import ElasticBertConfig, elasticbert_key_map
from lightning_modules.models.multi_exit import MultiExitForSequenceClassification, MultiExitOutput
from lightning_modules.models.multi_exit_config import MultiExitConfig
from lightning_modules.models.word_vectors import copy_word_vectors, read_word_vectors, word_vectors_width
from lightning_modules.models.words import build_word_tokenizer

__all__ = [
    "BiLSTMConfig",
    "BiLSTMForSequenceClassification",
    "BiLSTMModel",
    "ElasticBertConfig",
    "MultiExitConfig",
    "MultiExitForSequenceClassification",
    "MultiExitOutput",
    "build_word_tokenizer",
    "copy_word_vectors",
    "elasticbert_key_map",
    "read_word_vectors",
    "word_vectors_width",
]
