"""Torch models of our own; importing the package registers them with the Auto classes of transformers."""

from dial.models.bilstm import BiLSTMConfig, BiLSTMForSequenceClassification, BiLSTMModel
from dial.models.exit_weights import ElasticBertConfig, elasticbert_key_map
from dial.models.multi_exit import MultiExitForSequenceClassification, MultiExitOutput
from dial.models.multi_exit_config import MultiExitConfig
from dial.models.words import build_word_tokenizer, copy_word_vectors, read_word_vectors, word_vectors_width

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
