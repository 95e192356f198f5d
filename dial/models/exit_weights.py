"""Weights of multi-exit models from elsewhere: stock encoders and classifiers, other multi-exit models."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertTokenizer,
)
from transformers.utils import cached_file

from dial.models.exits import find_final_norm, trial_inputs, trial_mode, twin
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


logger = logging.getLogger(__name__)


def read_source(path: str, pooler: bool) -> Any:
    """Load an encoder, a classifier, a multi-exit model or an ElasticBERT, in float32.

    Args:
        path: folder or hub id.
        pooler: whether the exits are to have a dense layer; the poolers of an ElasticBERT are then read.
    """
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    if isinstance(config, ElasticBertConfig):
        return load_elasticbert(path, config, pooler)
    declared = any("ForSequenceClassification" in name for name in config.architectures or [])
    kind = AutoModelForSequenceClassification if declared else AutoModel
    return kind.from_pretrained(path, dtype=torch.float32, trust_remote_code=False)


def copy_weights(source: Any, model: Any) -> None:
    """Fill a new multi-exit model with an encoder's weights, and its exits with what fits them.

    Args:
        source: a stock encoder or classifier, or another multi-exit model.
        model: of the same encoder, or of its first layers.

    Raises:
        ValueError: the source lacks a weight of the encoder.
    """
    encoder = source.base_model
    missing, _ = model.encoder.load_state_dict(encoder.state_dict(), strict=False)
    if missing:
        raise ValueError(f"`source` must have all weights of its encoder, but it lacks {missing[0]}.")
    if hasattr(source, "exits"):
        known = dict(zip(source.exits, source.heads, strict=True))
        for layer, head in zip(model.exits, model.heads, strict=True):
            if layer in known and _shapes(known[layer]) == _shapes(head):
                head.load_state_dict(known[layer].state_dict())
        if source.certainty is not None and model.certainty is not None:
            model.certainty.load_state_dict(source.certainty.state_dict())
        return
    norm = find_final_norm(encoder, model.layers_name)
    for head in model.heads if norm is not None else ():
        head.norm.load_state_dict(encoder.get_submodule(norm).state_dict())
    if source is not encoder and len(model.layers) == encoder.config.num_hidden_layers:
        _take_over_head(source, encoder, model)


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in module.state_dict().items()}


def _take_over_head(classifier: Any, encoder: Any, model: Any) -> None:
    """Make a classifier's head the last exit where both are the same function; they may differ in an activation."""
    head = model.heads[-1]
    untrained = copy.deepcopy(head.state_dict())
    if _copy_head(classifier, encoder, head) and not _same_answers(classifier, model):
        head.load_state_dict(untrained)
        logger.warning(
            "The head of %s computes its answer in another way than an exit does: the last exit starts untrained, as "
            "the others do.",
            type(classifier).__name__,
        )


def _same_answers(classifier: Any, model: Any) -> bool:
    """Whether the last exit says what the classifier says, also of padded rows where it takes any."""
    padded = getattr(classifier.config, "pad_token_id", None) is not None
    inputs = trial_inputs(classifier.base_model, *((3, 5, "padded") if padded else (1, 5, None)))
    classifier, model = twin(classifier), twin(model)
    with trial_mode(classifier):
        try:
            wanted, found = classifier(**inputs).logits, model(**inputs).logits[:, -1]
        except Exception:  # the proof of the exits says what is wrong
            return False
    return torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def _copy_head(classifier: Any, encoder: Any, head: Any) -> bool:
    """Fill an exit with a classifier's head if both have linear layers of the same shapes, BERT's pooler included."""
    inside = {id(module) for module in encoder.modules()}
    pooler = getattr(encoder, "pooler", None)
    old = _linears(pooler) + [m for m in _linears(classifier) if id(m) not in inside]
    if [linear.weight.shape for linear in old] != [linear.weight.shape for linear in head.linears()]:
        return False
    for before, after in zip(old, head.linears(), strict=True):
        after.weight.copy_(before.weight)
        after.bias.copy_(before.bias if before.bias is not None else torch.zeros_like(after.bias))
    return True


def _linears(module: nn.Module | None) -> list[nn.Linear]:
    return [] if module is None else [part for part in module.modules() if isinstance(part, nn.Linear)]
