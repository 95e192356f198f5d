"""A tier computed by torch, OpenVINO and onnxruntime in the numbers that each has: times in turns, and what it answers.

    python benchmarks/bench_backends.py
    python benchmarks/bench_backends.py runs/super/tier --task sst2 --source ../shared/data/glue --batch 1 8 32

Beside them OpenVINO and onnxruntime by hand: the same file opened with their own calls, the same arrays, nothing else.
Target: the route that is chosen is at most 5 % slower than the better of these in the same numbers. Without a folder, a
random BERT of MiniLM-L6's size reads random words, whose answers mean nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import clocks, machine  # type: ignore[import-not-found]  # the script's folder is on the path
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from datamodules import GLUEDataModule
from dial.tiers.backends.agreement import agreement, outputs_of
from dial.tiers.backends.choice import TORCH, routes, take
from dial.tiers.backends.export import quietly
from dial.tiers.backends.graphs import Graph
from dial.tiers.loading import Tier, load_tier
from dial.tiers.tokens import Tokeniser

NAMES = ["negative", "positive"]
Call = Callable[[], Any]


def random_tier(folder: Path) -> Path:
    """A BERT of MiniLM-L6's size with random weights, and a tokenizer of as many words."""
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(30_517))]
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    config = BertConfig(**sizes, vocab_size=len(words), id2label=dict(enumerate(NAMES)))
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    return folder


def by_hand(graph: Graph, batches: list[dict[str, torch.Tensor]]) -> Call:
    """All batches by the library's own calls on a graph's file."""
    arrays = [
        {**{name: value.numpy() for name, value in batch.items()},
         "attention_mask": batch.get("attention_mask", torch.ones_like(batch["input_ids"])).numpy()}
        for batch in batches
    ]  # fmt: skip
    if graph.backend == "openvino":
        import openvino

        hint = {"float32": "f32", "bfloat16": "bf16"}[graph.dtype]
        threads = torch.get_num_threads()
        settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        compiled = openvino.Core().compile_model(str(graph.file), "CPU", settings)
        request, known = compiled.create_infer_request(), {port.any_name for port in compiled.inputs}
        feeds = [{name: array for name, array in each.items() if name in known} for each in arrays]
        return lambda: [request.infer(feed) for feed in feeds]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(graph.file), options, providers=["CPUExecutionProvider"])
    known = {port.name for port in session.get_inputs()}
    feeds = [{name: array for name, array in each.items() if name in known} for each in arrays]
    return lambda: [session.run(None, feed) for feed in feeds]


def from_torch(tier: Tier, dtype: str, batches: list[dict[str, torch.Tensor]]) -> Call:
    """All batches by OpenVINO's own conversion of a tier's module, without any file of ours; gives the outputs."""
    import openvino

    with torch.no_grad(), quietly():
        (part,) = tier.segments()
        example = {name: value[:, :9].expand(2, -1) for name, value in tier.example(9).items()}
        example |= {"attention_mask": torch.ones_like(example["input_ids"])}
        model = openvino.convert_model(part, example_input=example)
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    settings["INFERENCE_PRECISION_HINT"] = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    names = [port.get_node().get_friendly_name() for port in compiled.inputs]
    fill = {"attention_mask": torch.ones_like, "token_type_ids": torch.zeros_like}
    feeds = [
        [(each[name] if name in each else fill[name](each["input_ids"])).numpy() for name in names] for each in batches
    ]
    return lambda: [[np.array(request.infer(dict(enumerate(feed)), share_inputs=True)[0])] for feed in feeds]


def contenders(tier: Tier, batches: list[dict[str, torch.Tensor]], expected: np.ndarray) -> dict[str, Call]:
    """Every route of this machine, and what is behind it by hand; says what each changes."""

    def call(parts: Any) -> Call:
        def run() -> None:
            tier.compute_with(parts)
            for batch in batches:
                tier(batch)

        return run

    found = {str(TORCH): call(None)}
    for route in routes():
        if not take(tier, route):
            continue
        print(f"    {route}: {agreement(outputs_of(tier, batches), expected)}")
        found[str(route)] = call(tier.parts)
        assert tier.parts is not None
        if isinstance(tier.parts[0], Graph):
            found[f"{route} by hand"] = by_hand(tier.parts[0], batches)
    take(tier, TORCH)
    return found


def measure(tier: Tier, rows: list[Any], size: int, turns: int, timed: int) -> None:
    """Print milliseconds a row and the ratio to torch in float32, all in turns on the same batches."""
    tokeniser = Tokeniser(tier)
    encoded = sorted(tokeniser(rows), key=lambda row: len(row.ids))
    every = [tokeniser.collate(encoded[i : i + size]) for i in range(0, len(encoded), size)]
    print(f"batches of {size}, answers of {len(encoded)} rows against torch in float32:")
    take(tier, TORCH)
    contenders(tier, every, outputs_of(tier, every))
    wanted = max(2, timed // size)
    chosen = [every[i] for i in np.unique(np.linspace(0, len(every) - 1, wanted).round().astype(int))]
    calls = contenders_quietly(tier, chosen)
    spent = np.empty((turns + 1, len(calls), 2))
    with torch.inference_mode():
        for turn in range(turns + 1):
            for index, run in enumerate(calls.values()):
                before = clocks()
                run()
                spent[turn, index] = np.subtract(clocks(), before)
    spent = spent[1:] * 1000 / sum(len(batch["input_ids"]) for batch in chosen)
    ratios = spent[:, :1] / spent
    for index, name in enumerate(calls):
        low, middle, high = np.quantile(ratios[:, index, 1], [0.1, 0.5, 0.9])
        wall, processor = np.median(spent[:, index], axis=0)
        print(
            f"  {name:30} {processor:7.2f} ms a row of processor time ({wall:.2f} on the wall), {middle:.2f}x "
            f"[{low:.2f}, {high:.2f}] as fast as {TORCH}"
        )


def contenders_quietly(tier: Tier, batches: list[dict[str, torch.Tensor]]) -> dict[str, Call]:
    """The contenders, whose answers were looked at already."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        take(tier, TORCH)
        return contenders(tier, batches, outputs_of(tier, batches))


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tier", nargs="?", help="folder of a trained tier, for --task")
    parser.add_argument("--task")
    parser.add_argument("--source", help="folder with one folder per task")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--rows", type=int, default=256, help="whose answers are compared")
    parser.add_argument("--timed", type=int, default=64, help="rows that a turn takes")
    options = parser.parse_args()
    if bool(options.tier) != bool(options.task and options.source):
        parser.error("the folder of a tier, --task and --source go together")
    torch.set_num_threads(options.threads)
    print(machine())
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        if options.tier:
            data = GLUEDataModule(options.task, options.source)
            names = data.label_names
            rows: list[Any] = [unit if len(unit) > 1 else unit[0] for unit in data.rows(data.test_roles()[0]).units()]
        else:
            names = NAMES
            rows = [
                " ".join(f"w{i}" for i in rng.integers(0, 30_517, rng.integers(5, 46))) for _ in range(options.rows)
            ]
        tier = load_tier(options.tier or str(random_tier(Path(scratch))), "tier", names).eval()
        for size in options.batch:
            measure(tier, rows[: options.rows], size, options.turns, options.timed)


if __name__ == "__main__":
    main()
