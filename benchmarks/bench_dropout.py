"""A training step on a CPU with dropout from 16 random bits an element, as `dial fit` draws it, against torch's own.

Prints the ratio of interleaved steps of an encoder with random weights. There is no target but to stay below 1.
"""

from __future__ import annotations

import argparse

import torch
from measure import Turns, machine  # type: ignore[import-not-found]  # the script's folder is on the path
from transformers import AutoConfig, AutoModelForSequenceClassification

from dial.models.dropout import draw_bernoulli_from_bits


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="mpnet", help="of the encoder: mpnet, bert, ...")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    width = options.width
    sizes = {"hidden_size": width, "num_attention_heads": width // 64, "intermediate_size": 4 * width}
    config = AutoConfig.for_model(options.family, num_hidden_layers=options.layers, **sizes)
    model = AutoModelForSequenceClassification.from_config(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    ids = torch.randint(5, config.vocab_size, (options.batch, options.length))
    labels = torch.randint(0, 2, (options.batch,))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    turns = Turns(step, warm_up=1)
    for _ in range(options.steps + 2):
        turns.step()
        held = draw_bernoulli_from_bits()
        step()
        del held
    print(machine())
    print(turns.report(f"{options.family}, {options.layers} layers of {width}, {options.batch} x {options.length}"))


if __name__ == "__main__":
    main()
