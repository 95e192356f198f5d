"""ElasticBERT (Liu et al. 2022), pretrained with an exit after every layer; COST-EFF, Appendix A, slenderises it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertTokenizer
from transformers.utils import cached_file

from dial.models.multi_exit_config import MultiExitConfig, encoder_settings

OWN_SETTINGS = ("max_output_layers", "num_output_layers")
LAYER = re.compile(r"encoder\.layer\.(\d+)\.")
POOLER = re.compile(r"encoder\.pooler\.(\d+)\.(dense\.(?:weight|bias))")
POOLED = re.compile(r"heads\.\d+\.dense\.")
CLASSIFIER = re.compile(r"classifiers\.(\d+)\.(weight|bias)")


class ElasticBertConfig(BertConfig):
    """BERT's configuration under the name that ElasticBERT's checkpoints give it; exits are read from the weights."""

    model_type = "elasticbert"


def elasticbert_key_map(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of an ElasticBERT under the names of a multi-exit BERT with a pooled exit after every layer.

    The embeddings and layers are BERT's. The pooler of a layer becomes the dense layer of its exit. A fine-tuned model
    has classifiers, those of the last layers where there are fewer than layers. Heads of the pretraining tasks and
    buffers are left out.

    Args:
        state_dict: of a published checkpoint, with or without the prefix ``elasticbert.``.

    Raises:
        ValueError: there are no BERT layers in it.

    Example:
        >>> weights = {"elasticbert.encoder.layer.0.output.dense.bias": 0, "classifiers.0.bias": 1, "cls.bias": 2}
        >>> elasticbert_key_map(weights)
        {'encoder.encoder.layer.0.output.dense.bias': 0, 'heads.0.linear.bias': 1}
    """
    weights = {key.removeprefix("elasticbert."): value for key, value in state_dict.items()}
    depth = 1 + max((int(found[1]) for key in weights if (found := LAYER.match(key))), default=-1)
    if depth == 0:
        raise ValueError(
            "`state_dict` must be that of an ElasticBERT (encoder.layer.0...., encoder.pooler.0....), but it has "
            f"{', '.join(list(weights)[:3]) or 'nothing'}."
        )
    skipped = depth - len({found[1] for key in weights if (found := CLASSIFIER.fullmatch(key))})
    mapped: dict[str, Tensor] = {}
    for key, value in weights.items():
        if found := POOLER.fullmatch(key):
            mapped[f"heads.{found[1]}.{found[2]}"] = value
        elif found := CLASSIFIER.fullmatch(key):
            mapped[f"heads.{int(found[1]) + skipped}.linear.{found[2]}"] = value
        elif LAYER.match(key) or (key.startswith("embeddings.") and not key.endswith("_ids")):
            mapped[f"encoder.{key}"] = value
    return mapped


def load_elasticbert(path: str, config: Any, pooler: bool) -> Any:
    """An ElasticBERT as a multi-exit model with an exit after every layer; what the file lacks starts at random.

    Args:
        path: folder or hub id.
        config: its configuration.
        pooler: keep its poolers. COST-EFF goes without.

    Raises:
        ValueError: the weights lack a part of the encoder.
    """
    weights = {key: value.float() for key, value in elasticbert_key_map(_read_weights(path)).items()}
    weights = {key: value for key, value in weights.items() if pooler or not POOLED.match(key)}
    settings = {key: value for key, value in encoder_settings(config).items() if key not in OWN_SETTINGS}
    outputs = next((len(value) for key, value in weights.items() if key.endswith(".linear.bias")), config.num_labels)
    names = {"id2label": config.id2label, "label2id": config.label2id} if outputs == config.num_labels else {}
    made = MultiExitConfig(encoder={**settings, "model_type": "bert"}, pooler=pooler, num_labels=outputs, **names)
    model = AutoModelForSequenceClassification.from_config(made)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    wrong = [*unexpected, *(key for key in missing if key.startswith("encoder."))]
    if wrong:
        raise ValueError(f"`path`: the weights in {path} are not those of its configuration, first {wrong[0]}.")
    return model


def _read_weights(path: str) -> dict[str, Tensor]:
    for name in ("model.safetensors", "pytorch_model.bin"):
        file = cached_file(path, name, _raise_exceptions_for_missing_entries=False)
        if file is not None:
            return load_file(file) if Path(file).suffix == ".safetensors" else torch.load(file, weights_only=True)
    raise ValueError(f"`path` must have model.safetensors or pytorch_model.bin, but {path} has none.")


AutoConfig.register(ElasticBertConfig.model_type, ElasticBertConfig, exist_ok=True)
AutoTokenizer.register(ElasticBertConfig, tokenizer_class=BertTokenizer, exist_ok=True)
