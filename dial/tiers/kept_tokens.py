"""Which tokens of a text a tier drops in which layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dial.models.lengths import Lengths
from dial.models.token_dropping import TokenDropping
from dial.tiers.tier import Tier
from dial.tiers.tokens import Tokeniser, Unit


@dataclass(frozen=True, eq=False)
class KeptTokens:
    """One text on its way through a tier.

    Attributes:
        tokens: its ``T`` tokens, special ones among them.
        kept: ``(L, T)`` bool, which are left behind each layer.
        received: ``(L, T)`` attention that each token received, summed over heads and tokens; NaN where it was gone,
            and in layers that dropped none.
    """

    tokens: list[str]
    kept: np.ndarray
    received: np.ndarray


def kept_tokens(tier: Tier, unit: Unit, lengths: Lengths | None = None) -> KeptTokens:
    """Follow a text through the layers of a tier.

    Args:
        tier: in eval mode.
        unit: a text or a pair.
        lengths: tokens that each layer keeps; default: the tier's own.

    Raises:
        ValueError: the tier's architecture allows no tokens to be dropped, or the lengths do not fit it.
    """
    with tier.at_lengths(lengths or tier.lengths):
        wanted = tier.lengths or Lengths((1.0,) * int(tier.model.config.num_hidden_layers))
    encoder, tokeniser = tier.model.base_model, Tokeniser(tier)
    encoding = tokeniser.collate(tokeniser([unit]), next(tier.parameters()).device)
    ids = encoding["input_ids"]
    inputs = {key: value for key, value in encoding.items() if key in tier._accepted}
    with TokenDropping(encoder)(encoder, wanted, None, (1, ids.shape[1])) as one_pass, torch.no_grad():
        one_pass.trail = []
        encoder(**inputs)
    here = np.arange(ids.shape[1])
    kept = np.ones((len(wanted.values), len(here)), dtype=bool)
    received = np.full(kept.shape, np.nan)
    for layer, of_tokens, stay in one_pass.trail:
        received[layer, here] = of_tokens[0].cpu().numpy()
        here = here[stay[0].cpu().numpy()]
        kept[layer:] = False
        kept[layer:, here] = True
    return KeptTokens(tier.tokenizer.convert_ids_to_tokens(ids[0].tolist()), kept, received)
