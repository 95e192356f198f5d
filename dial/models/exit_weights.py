"""Weights of multi-exit models from elsewhere: stock encoders and classifiers, other multi-exit models."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from dial.models.elasticbert import ElasticBertConfig, load_elasticbert
from dial.models.exits import find_final_norm
from dial.models.trial import trial_inputs, trial_mode, twin

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
