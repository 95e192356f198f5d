"""Parts of models of transformers that E-LANG takes apart: the encoder alone, and what identifies it."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn


def encoder_of(model: Any) -> nn.Module:
    """The encoder of an encoder-decoder; of a model without decoder, all but its head.

    Args:
        model: any model of transformers.
    """
    encoder = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    assert isinstance(encoder, nn.Module)
    return encoder


def encoder_states(encoder: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Last hidden states ``(B, T, D)`` of token ids ``(B, T)``.

    Args:
        encoder: what :func:`encoder_of` gave.
        input_ids: ``(B, T)``.
        attention_mask: ``(B, T)``, or None where nothing is padded.
    """
    states: Tensor = encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
    return states


def hidden_size(model: Any) -> int:
    """Width of the encoder's last hidden states."""
    config = getattr(model.config, "encoder", None)
    return int(getattr(config, "hidden_size", None) or model.config.hidden_size)


def encoder_fingerprint(encoder: nn.Module) -> str:
    """Twelve hexadecimal digits that an encoder's weights determine, with their names, shapes and types.

    A head is trained on one encoder: cut to fewer layers, or fine-tuned on, it is another. Take it before the weights
    are cast to a lower precision, which a head stands.

    Args:
        encoder: what :func:`encoder_of` gave.
    """
    digest = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        content = value.detach().cpu().contiguous().flatten()
        digest.update(content.view(torch.uint8).numpy().data if content.numel() else b"")
    return digest.hexdigest()[:12]


def vocabulary_fingerprint(tokenizer: Any) -> str:
    """Twelve hexadecimal digits that a tokenizer's pieces and their ids determine.

    Args:
        tokenizer: any of transformers.
    """
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return hashlib.sha256(repr(pieces).encode()).hexdigest()[:12]


class ReadingPath(nn.Module):
    """The encoder, and an energy head where there is one, as a plain module for counting its operations.

    Args:
        model: of transformers.
        head: a module of states and mask, or None.
    """

    def __init__(self, model: Any, head: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder, self.head = encoder_of(model), head

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """What the head says, or the states ``(B, T, D)``."""
        states = encoder_states(self.encoder, input_ids, attention_mask)
        if self.head is None:
            return states
        logits: Tensor = self.head(states, attention_mask)
        return logits


class WritingPath(nn.Module):
    """So many steps of a decoder with caches, as a plain module for counting its operations.

    Every step takes one piece for each beam and gives the logits of the next. The first one also computes keys and
    values of the source for each beam, as ``generate`` of transformers does, and no later step does so again.

    Args:
        model: an encoder-decoder of transformers.
        pieces: steps.
        beams: hypotheses at once; 1 for greedy decoding.
    """

    def __init__(self, model: Any, pieces: int, beams: int = 1) -> None:
        super().__init__()
        self.model, self.beams = model, beams
        self.steps = nn.ModuleList(_Step(model) for _ in range(pieces))  # apart, so that each is counted by itself

    def example(self, length: int) -> dict[str, Tensor]:
        """States ``(1, length, D)`` of one source, and its mask."""
        weight = next(self.model.parameters())
        states = torch.zeros(1, length, hidden_size(self.model), dtype=weight.dtype, device=weight.device)
        return {"states": states, "attention_mask": states.new_ones(1, length, dtype=torch.long)}

    def forward(self, states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits ``(B * beams, 1, V)`` of the last step.

        Args:
            states: last hidden states of the encoder ``(B, T, D)``.
            attention_mask: ``(B, T)``.
        """
        states = states.repeat_interleave(self.beams, dim=0)
        mask = None if attention_mask is None else attention_mask.repeat_interleave(self.beams, dim=0)
        ids, past, logits = torch.zeros(len(states), 1, dtype=torch.long, device=states.device), None, states
        for step in self.steps:
            logits, past = step(states, mask, ids, past)
        return logits


class _Step(nn.Module):
    """One step of a decoder; it uses the model without owning it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = (model,)

    def forward(self, states: Tensor, mask: Tensor | None, ids: Tensor, past: Any) -> tuple[Tensor, Any]:
        """Logits ``(B, 1, V)`` of the next piece, and the caches."""
        output = self.model[0](
            encoder_outputs=(states,),
            attention_mask=mask,
            decoder_input_ids=ids,
            past_key_values=past,
            use_cache=True,
        )
        return output.logits, output.past_key_values
