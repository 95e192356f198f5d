"""An encoder that drops tokens against the same with all tokens: the target is 80 % of the MAC saving in time.

Encoders of the size of MiniLM-L6 or of any other (random weights) answer the same batches in turns, 32 rows of 256
tokens unless told otherwise. MACs are those that `dial test` charges a row of the longest.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from measure import Turns, machine  # type: ignore[import-not-found]  # the script's folder is on the path
from transformers import AutoConfig, AutoModelForSequenceClassification

from dial.costs.dropping import LayerCosts
from dial.models import build_word_tokenizer
from dial.models.lengths import Lengths
from dial.tiers.tier import Tier, View

WORDS = 30522
SIZES = {"vocab_size": WORDS, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
TINY = 514  # positions


def make(family: str, layers: int) -> Tier:
    """A tier with random weights."""
    sizes = {"vocab_size": WORDS, "n_heads": 12, "dim": 384, "hidden_dim": 1536, "n_layers": layers}
    settings = sizes if family == "distilbert" else {**SIZES, "num_hidden_layers": layers}
    config = AutoConfig.for_model(family, max_position_embeddings=TINY, **settings)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    return Tier("model", View("random"), model, build_word_tokenizer(["a b"], WORDS, 512, True), 512, ["no", "yes"])


def main() -> None:
    """Answer in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--family", default="bert", choices=["bert", "roberta", "distilbert", "mpnet"])
    parser.add_argument("--drop", type=float, default=0.2, help="share of its tokens that each layer drops")
    parser.add_argument("--padded", action="store_true", help="rows of 64 tokens up to the longest")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    tier = make(options.family, options.layers).to(options.device)
    lengths = Lengths(tuple(round((1 - options.drop) ** k, 4) for k in range(1, options.layers + 1)))
    whole = Lengths((1.0,) * options.layers)
    own = np.linspace(64, options.length, options.batch) if options.padded else np.full(options.batch, options.length)
    own = own.astype(int)
    tier.drop_tokens(lengths)
    costs = LayerCosts(tier, tier.path(0))
    mask = torch.arange(options.length)[None] < torch.from_numpy(own)[:, None]
    ids = torch.randint(5, WORDS, (options.batch, options.length)) * mask
    batch = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids)}
    batch |= {"attention_mask": mask.long()} if options.padded else {}
    batch = {key: value.to(options.device) for key, value in batch.items()}

    def step(some: Lengths | None) -> None:
        tier.drop_tokens(some)
        with torch.inference_mode():
            tier(batch).sum().item()

    turns = Turns(lambda: step(None))
    for _ in range(options.pairs + 6):
        step(lengths)
        turns.step()
    macs = float((costs([options.length], lengths) / costs([options.length], whole))[0])  # padding is computed by both
    print(f"{options.family}, lengths {lengths.plain()}, {options.batch} rows of {options.length} tokens")
    print(turns.report("dropping against all tokens"))
    pairs = np.array(turns._pairs[turns.warm_up :])
    for clock, column in (("wall", 0), ("processor", 1)):
        ratio = float(np.median(pairs[:, column] / pairs[:, column + 2]))
        share = (1 - ratio) / (1 - macs)
        print(f"MACs {macs:.3f}; {100 * share:.0f} % of the saving shows in {clock} time; target 80 %")


if __name__ == "__main__":
    main()
