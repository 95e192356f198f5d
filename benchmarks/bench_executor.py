"""The executor against its ideals: exits in batches of 32, exits one row at a time, and a cascade.

1. Exits in batches: at least 85 % (computed by a backend, --route: 92 %) of the ideal, which is the sum over layers of
   the rows alive times that layer's time per row in a full batch of 32.
2. One row at a time: at most 10 % (MiniLM-L6; 5 % at BERT-base size) above the stock encoder cut at the layer where
   the row leaves, with one classifier.
3. A cascade at its batch sizes: at least 90 % of the ideal, which is the shares and each tier's own best throughput.

What is compared takes turns, batch by batch or row by row. Without folders tiers have random weights at the width of
MiniLM-L6 (--base: of BERT-base); thresholds are quantiles that leave the given shares of rows alive. Nothing is
tokenised on the clock. Every ratio is given on the wall and in processor time.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from measure import Turns, clocks, machine  # type: ignore[import-not-found]  # the script's folder is on the path
from tier_time import sample  # type: ignore[import-not-found]
from transformers import AutoModel, BertConfig

from dial import AdaptiveClassifier
from dial.files import write_json
from dial.inference.executor import Executor
from dial.inference.queues import Row
from dial.inference.staged import StagedModel
from dial.machine import describe_machine
from dial.models import MultiExitConfig, MultiExitForSequenceClassification
from dial.models.exits import Visits
from dial.models.segments import Groups
from dial.stages import scores as routing
from dial.tiers.backends.choice import TORCH, Route, take
from dial.tiers.loading import build_tier, load_tier
from dial.tiers.multi_exit import MultiExitTier
from dial.tiers.tier import Tier, View
from dial.tiers.tokens import Tokeniser, Tokens
from dial.tradeoff.rules import Rule, rule_named

LABELS = ["negative", "positive"]
SIZES = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
ALIVE = (0.85, 0.7, 0.6, 0.5, 0.4)  # share of rows that go on after each exit, spread over the depth


def texts(rows: int, seed: int = 0) -> list[str]:
    """Random words: 3 to 60 of them, 22 on average, as long as the sentences of SST-2's test rows."""
    rng = np.random.default_rng(seed)
    counts = np.clip(rng.lognormal(2.95, 0.5, rows).round(), 3, 60).astype(int)
    return [" ".join(f"w{word}" for word in rng.integers(0, 9000, count)) for count in counts]


def word_tier(name: str, config: dict[str, Any]) -> Tier:
    """An untrained tier with a word-level tokenizer of 9,000 words."""
    tier = build_tier({"vocab_size": 10_000, **config}, "words", LABELS, max_length=128, name=name)
    tier.fit_tokenizer(lambda: (f"w{i}" for i in range(9000)))
    return tier.eval()


def with_exits(sizes: dict[str, int], like: Tier) -> MultiExitTier:
    """A multi-exit encoder of random weights, an exit after each layer."""
    encoder = BertConfig(**sizes, vocab_size=10_000, initializer_range=0.1).to_dict()
    config = MultiExitConfig(encoder=encoder, exits=list(range(1, sizes["num_hidden_layers"] + 1)), num_labels=2)
    model = MultiExitForSequenceClassification(config)
    return MultiExitTier("exits", View(path="exits"), model, like.tokenizer, 128, LABELS).eval()


def thresholds(network: StagedModel, rows: Sequence[Tokens], alive: Sequence[float]) -> Rule:
    """A rule by softmax that leaves the given shares of rows alive after each stage."""
    (tier,) = network.tiers
    tokeniser = Tokeniser(tier)
    with torch.inference_mode():
        parts = [tier(tokeniser.collate(rows[i : i + 32])) for i in range(0, len(rows), 32)]
    scores = routing.compute("softmax", torch.cat(parts)).numpy()
    going, found = np.ones(len(rows), dtype=bool), []
    for stage, share in enumerate(alive):
        own = np.sort(scores[going, stage])
        keep = min(round(share * len(rows)), len(own))
        found.append(float(own[keep - 1] + 1e-9) if keep else -np.inf)
        going &= scores[:, stage] < found[-1]
    return rule_named("per_stage", "softmax", stages=tuple(s.name for s in network.stages), thresholds=tuple(found))


def spread(depth: int) -> list[float]:
    """Shares alive after each exit but the last."""
    return np.interp(np.linspace(0, 1, depth - 1), np.linspace(0, 1, len(ALIVE)), ALIVE).tolist()


class LayerClock:
    """Seconds of the embeddings and of each layer in a full pass; of each part where a backend computes the tier."""

    def __init__(self, tier: MultiExitTier) -> None:
        self.tier, self.layers = tier, list(tier.model.layers)

    def __call__(self, encoding: dict[str, torch.Tensor]) -> np.ndarray:
        """Seconds ``(2, 1 + L)`` on the wall and of the processor, or ``(2, E)`` of parts."""
        marks = [clocks()]

        def visit(layer: int, hidden: torch.Tensor) -> None:
            marks.append(clocks())

        with torch.inference_mode():
            if self.tier.parts is not None:
                groups = Groups([encoding], encoding)
                for part in self.tier.parts:
                    groups.compute(part, self.tier.model.config.pooling)
                    marks.append(clocks())
            else:
                with Visits(self.layers, len(encoding["input_ids"]), visit)():
                    self.tier.model.encoder(**encoding)
        return np.diff(np.array(marks).T, axis=1)


def bench_batches(
    tier: MultiExitTier, rule: Rule, units: Sequence[Any], size: int, repeats: int, warm_up: int = 4
) -> dict[str, Any]:
    """Target 1, with the shares of rows that each exit answers.

    A backend is given what the executor gives it: several batches at once. Its first round over all of them, which
    prepares kernels for each new shape, is reported by itself, against the ideal of the later ones.
    """
    executor = Executor(StagedModel([tier]), rule, size)
    tokens = sorted(Tokeniser(tier)(units), key=lambda row: len(row.ids))
    rows = [Row(i, i, "", {tier.encoding_key: row}) for i, row in enumerate(tokens[: len(tokens) // size * size])]
    windows, start = list[list[Row]](), 0
    while start < len(rows):
        windows.append(rows[start : start + executor._at_once(0, rows[start:])])
        start += len(windows[-1])
    rng, timer, parts = np.random.default_rng(0), LayerClock(tier), tier.parts is not None
    order = np.concatenate([rng.permutation(len(windows)) for _ in range(repeats + parts)])
    ideal, spent, answered = [], [], np.zeros(len(tier.exits))
    for index in order:
        window = windows[index]
        start_at = clocks()
        router, _ = executor._run(0, window)
        spent.append([b - a for a, b in zip(start_at, clocks(), strict=True)])
        wanted = np.zeros(2)
        for begin in range(0, len(window), size):
            batch = [row.tokens[tier.encoding_key] for row in window[begin : begin + size]]
            alive = [(router.stage[begin : begin + size] >= exit_index).sum() for exit_index in range(len(tier.exits))]
            layers = timer(executor._tokenisers[0].collate(batch))
            wanted += (layers * np.array(alive if parts else [size, *alive]) / size).sum(axis=1)
        ideal.append(wanted)
        answered += np.bincount(router.stage, minlength=len(tier.exits))
    what, target = f"exits, batches of {size}, {tier.computed_by}", 0.92 if parts else 0.85
    first = len(windows) if parts else warm_up
    found = report(what, np.array(ideal)[first:], np.array(spent)[first:], target)
    if parts:
        best = np.array(ideal)[first:].sum(axis=0) / repeats
        found["first_round"] = dict(zip(("wall", "processor"), best / np.array(spent)[:first].sum(axis=0), strict=True))
        print("the first round, with new shapes: " + ", ".join(f"{k} {v:.1%}" for k, v in found["first_round"].items()))
    shares = (answered / answered.sum()).tolist()
    return found | {
        "batch_size": size, "batches": len(rows) // size, "shares": shares, "computed_by": tier.computed_by
    }  # fmt: skip


def report(what: str, ideal: np.ndarray, spent: np.ndarray, target: float) -> dict[str, Any]:
    """Ideal over spent of the sums, with intervals; ``(N, 2)``. Printed, and by clock."""
    found = {}
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(spent), (2000, len(spent)))
    for column, clock in enumerate(("wall", "processor")):
        ratio = ideal[:, column].sum() / spent[:, column].sum()
        again = ideal[drawn, column].sum(axis=1) / spent[drawn, column].sum(axis=1)
        low, high = np.quantile(again, [0.025, 0.975])
        print(f"{what}, {clock} time: {ratio:.1%} [{low:.1%}, {high:.1%}] of the ideal; target {target:.0%}")
        found[clock] = {"ratio": float(ratio), "low": float(low), "high": float(high)}
    return found


class Plain(torch.nn.Module):
    """A stock encoder and one linear layer on its first token, with the tier's own weights.

    Copies would lie elsewhere in memory, which alone makes a difference of more than a percent, and would drive the
    tier's out of the caches.
    """

    def __init__(self, tier: MultiExitTier, layers: int) -> None:
        super().__init__()
        own = tier.model.config.encoder_config()
        own.num_hidden_layers = layers
        self.encoder = AutoModel.from_config(own, add_pooling_layer=False)
        self.encoder.load_state_dict(tier.model.encoder.state_dict(), strict=False, assign=True)
        self.linear: Any = tier.model.heads[layers - 1].linear

    def forward(self, **encoding: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, C)``."""
        logits: torch.Tensor = self.linear(self.encoder(**encoding).last_hidden_state[:, 0])
        return logits


def bench_single(tier: MultiExitTier, units: Sequence[Any], target: float) -> None:
    """Target 2, at three depths.

    The stock encoder gets the mask that its tokenizer gives, as everybody calls it, and once more none, as the
    executor does where nothing is padded.
    """
    depth = len(tier.exits)
    for layer, masked in product(sorted({2, depth // 2, depth}), (True, False)):
        bounds = tuple(-np.inf if k + 1 >= layer else np.inf for k in range(depth - 1))
        network = StagedModel([tier])
        rule = rule_named("per_stage", "softmax", stages=tuple(s.name for s in network.stages), thresholds=bounds)
        executor, plain = Executor(network, rule, 1), Plain(tier, layer).eval()
        tokeniser = Tokeniser(tier)
        tokens = tokeniser(units)
        taken: list[Tokens] = []

        def bare(
            plain: Plain = plain, taken: list[Tokens] = taken, masked: bool = masked, collate: Any = tokeniser.collate
        ) -> None:
            encoding = collate([taken[-1]])
            if masked:
                encoding["attention_mask"] = torch.ones_like(encoding["input_ids"])
            with torch.inference_mode():
                plain(**encoding).numpy().argmax()

        turns = Turns(bare, warm_up=10)
        for row in tokens:
            taken.append(row)
            router, _ = executor._run(0, [Row(0, 0, "", {tier.encoding_key: row})])
            turns.step()
        assert router.stage[0] == layer - 1
        print(turns.report(f"one row to exit {layer} of {depth}, stock {'with' if masked else 'without'} mask", target))


def bench_cascade(tiers: list[Tier], units: list[str], sizes: dict[str, int], share: float, repeats: int) -> None:
    """Target 3."""
    network = StagedModel(tiers)
    tokens = {tier.name: Tokeniser(tier)(units) for tier in tiers}
    position = {unit: i for i, unit in enumerate(units)}
    first = tiers[0]
    with torch.inference_mode():
        collate = Tokeniser(first).collate
        parts = [first(collate(tokens[first.name][i : i + 32]))[:, 0] for i in range(0, len(units), 32)]
    scores = routing.compute("softmax", torch.cat(parts)).numpy()
    bound = float(np.quantile(scores, share)) + 1e-9
    rule = rule_named("threshold", "softmax", stages=tuple(s.name for s in network.stages), thresholds=(bound,))
    ideal, spent = [], []
    for repeat in range(repeats + 1):
        executor = Executor(network, rule, sizes)
        for tokeniser, tier in zip(executor._tokenisers, tiers, strict=True):
            cached = tokens[tier.name]
            tokeniser._fast = lambda some, cached=cached: [cached[position[unit]] for unit in some]  # type: ignore
        alone = {tier.name: pace(tier, tokens[tier.name], sizes[tier.name]) for tier in tiers}
        start = clocks()
        answers = list(executor.run(units))
        spent.append([b - a for a, b in zip(start, clocks(), strict=True)])
        deferred = sum(answer.stage > 0 for answer in answers)
        ideal.append(alone[tiers[0].name] * len(units) + alone[tiers[1].name] * deferred)
        if not repeat:
            print(f"{deferred / len(units):.0%} of {len(units):,} rows go on; batch sizes {sizes}")
    report("cascade", np.array(ideal)[1:], np.array(spent)[1:], 0.90)


def pace(tier: Tier, rows: Sequence[Tokens], size: int) -> np.ndarray:
    """Seconds per row ``(2,)`` of a tier alone, rows grouped by length."""
    order = sorted(rows, key=lambda row: len(row.ids))
    batches = [Tokeniser(tier).collate(order[i : i + size]) for i in range(0, len(order), size)]
    start = clocks()
    with torch.inference_mode():
        for batch in batches:
            tier(batch).numpy()
    return np.array([b - a for a, b in zip(start, clocks(), strict=True)]) / len(rows)


def main() -> None:
    """Run all three, or those asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("batches", "single", "cascade"))
    parser.add_argument("--run", help="run of `dial test` of a multi-exit tier: its tier and its 99 %% point")
    parser.add_argument("--tiers", nargs=2, help="folders of a Swift and a Super")
    parser.add_argument(
        "--route", nargs=2, metavar=("BACKEND", "DTYPE"), help="what computes the exits of --only batches"
    )
    parser.add_argument("--texts", help="file with real texts, one a line")
    parser.add_argument("--task", help="GLUE task whose test rows are taken")
    parser.add_argument("--source", help="of --task: folder with one folder per task")
    parser.add_argument("--out", help="file for what --only batches finds, JSON")
    parser.add_argument("--alive", type=float, nargs="+", help="share of rows that go on after each exit but the last")
    parser.add_argument("--share", type=float, default=0.4, help="of rows that the Swift passes on")
    parser.add_argument("--batch-sizes", type=int, nargs=2, default=[64, 32])
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--base", action="store_true", help="exits at the size of BERT-base")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(machine())
    wanted = options.only or ["batches", "single", "cascade"]
    units: list[Any] = texts(options.rows)
    if options.task:
        units = [unit if len(unit) > 1 else unit[0] for unit in sample(options.task, options.source, options.rows)]
    if options.texts:
        with open(options.texts, encoding="utf-8") as file:  # noqa: PTH123
            units = [line.rstrip("\n") for line in file][: options.rows]
    words = word_tier("words", {"model_type": "bilstm"})
    if {"batches", "single"} & set(wanted):
        sizes = BASE if options.base else SIZES
        tested = AdaptiveClassifier.from_run(options.run) if options.run else None
        tier: Any = tested.network.tiers[0] if tested else with_exits(sizes, words)
        if "batches" in wanted:
            tokens = Tokeniser(tier)(units)
            shares = options.alive or spread(len(tier.exits))
            rule = tested.point.rule if tested else thresholds(StagedModel([tier]), tokens, shares)
            if options.route and not take(tier, Route(*options.route)):
                parser.error(f"{' '.join(options.route)} cannot compute this tier")
            found = bench_batches(tier, rule, units, 32, options.repeats)
            take(tier, TORCH)
            if options.out:
                write_json(Path(options.out), {"machine": describe_machine(), "run": options.run, **found})
        if "single" in wanted:
            bench_single(tier, units[: max(60, options.rows // 10)], 1.05 if options.base else 1.10)
    if "cascade" in wanted:
        if options.tiers:
            tiers = [
                load_tier(path, name, LABELS).eval()
                for path, name in zip(options.tiers, ("swift", "super"), strict=True)
            ]
        else:
            tiers = [word_tier("swift", {"model_type": "bilstm"}), word_tier("super", {"model_type": "bert", **SIZES})]
        names = ("swift", "super")
        bench_cascade(tiers, units, dict(zip(names, options.batch_sizes, strict=True)), options.share, options.repeats)


if __name__ == "__main__":
    main()
