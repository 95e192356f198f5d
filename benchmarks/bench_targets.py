"""A cascade as `dial predict` computes it, against its Super in float32 padded to 128 tokens and backends run by hand.

    python benchmarks/bench_targets.py runs/cascade --task sst2 --source ../shared/data/glue --out results/targets.json
    python scripts/results_table.py    # shows it in results/time.md

Targets: in batches 25 times as fast as the padded Super where the processor multiplies in bf16, 15 times with its
instructions capped to AVX-512 VNNI (a process of its own); one row at a time 10 and 6 times; the Super alone at most
5 % slower than the best of OpenVINO and onnxruntime by hand that keeps as many answers; from file to file 90 % of the
throughput of the model calls. The operating point is the confident one at 99 % of the Super's quality; where the run
has no calibration rows it is chosen across folds of the test rows. What computes the tiers is chosen as `dial predict`
chooses it; views that name another dtype keep it (--capped-run: where nothing multiplies in bf16, a cascade whose last
tier is the Super in int8, with a target that makes up for what int8 loses; in batches only).

All contenders take turns on the same rows, grouped by length; what they read is tokenised before. With one thread, the
default, ratios are of processor time, which other processes disturb less; with more of the time on the wall.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from bench_backends import by_hand, from_torch  # type: ignore[import-not-found]  # the script's folder is on the path
from bench_predict import in_turns  # type: ignore[import-not-found]
from measure import clocks  # type: ignore[import-not-found]

from datamodules import GLUEDataModule
from dial import AdaptiveClassifier
from dial.files import read_json, write_json
from dial.inference.executor import Executor
from dial.machine import describe_machine, instruction_sets
from dial.stages.parquet import load_table
from dial.stages.table import StageTable
from dial.study.timing import widened
from dial.tiers.backends.agreement import SHARE, Agreement, agreement, outputs_of
from dial.tiers.backends.attach import quantise
from dial.tiers.backends.choice import TORCH, Route, routes, take
from dial.tiers.backends.graphs import OnnxRuntimeGraph
from dial.tiers.backends.names import installed
from dial.tiers.tier import Encoding, Tier

CAPPED, CAP = "ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI"
TARGETS = {"": {"batches": 25, "single": 10}, CAP: {"batches": 15, "single": 6}}
SETTINGS = ("task", "rows", "batch_sizes", "timed", "timed_single", "turns", "predict_rows", "threads")
WIDTH, FAST = 128, 1024  # tokens that the papers pad to; rows whose answers are compared


@dataclass
class Contender:
    """What takes turns.

    Attributes:
        run: computes all of its rows.
        rows: how many.
        seen: its answers against torch in float32; None of the reference.
        hand: whether it is a library by hand.
    """

    run: Callable[[], Any]
    rows: int
    seen: Agreement | None = None
    hand: bool = False


class Bench:
    """A cascade's tiers, its rows, and what computes them.

    Args:
        classifier: at its operating point; its tiers may be views of the reference's.
        reference: whose last tier is the Super.
        units: texts or pairs.
    """

    def __init__(self, classifier: AdaptiveClassifier, reference: AdaptiveClassifier, units: Sequence[Any]) -> None:
        self.units = list(units)
        self.super: Tier = reference.network.tiers[-1]
        self.chosen = reference.take_fastest(lambda: self.units[:FAST])
        self.own = self.chosen if classifier is reference else classifier.take_fastest(lambda: self.units[:FAST])
        self.whole = self.super.tokeniser()(self.units)
        self.place = {unit: i for i, unit in enumerate(self.units)}
        self.seen: dict[str, Agreement] = {}
        self.parts = {tier: tier.parts for each in (reference, classifier) for tier in each.network.tiers}
        self.use(reference)

    def use(self, classifier: AdaptiveClassifier) -> None:
        """Have a cascade take part from now on."""
        self.classifier, self.tiers = classifier, list(classifier.network.tiers)
        self.tokens = [tier.tokeniser()(self.units) for tier in self.tiers]
        for tier in self.tiers:
            tier.compute_with(self.parts[tier])

    def computed_by(self) -> dict[str, str]:
        """What computes the cascade's tiers."""
        return {t.name: t.computed_by if t.parts is not None else f"torch {t.view.dtype}" for t in self.tiers}

    def lines(self) -> list[str]:
        """What computes the tiers, and why."""
        chosen = [self.own] if self.own is self.chosen else [self.own, self.chosen]
        found = list(dict.fromkeys(line for each in chosen if each is not None for line in each.lines()))
        return found or ["too few rows to choose by"]

    def rows(self, size: int, wanted: int) -> list[np.ndarray]:
        """Which rows are timed: about so many, of all lengths, in batches of rows of similar length."""
        order = np.argsort([len(row.ids) for row in self.whole], kind="stable")
        starts = np.arange(0, max(1, len(order) - size + 1), size)
        chosen = starts[np.unique(np.linspace(0, len(starts) - 1, max(1, wanted // size)).round().astype(int))]
        return [order[start : start + size] for start in chosen]

    def batches(self, rows: Sequence[np.ndarray], width: int | None = None) -> list[Encoding]:
        """The Super's encodings of some rows, padded to a width if there is one."""
        tokeniser = self.super.tokeniser()
        made = [tokeniser.collate([self.whole[i] for i in batch]) for batch in rows]
        return [widened(each, width, tokeniser) for each in made] if width else made

    def cascade(self, sizes: Sequence[int], rows: Sequence[int]) -> Callable[[], list[Any]]:
        """The executor on rows that are tokenised already, computed as was chosen.

        Args:
            sizes: rows per batch of the first tier, and of the others.
            rows: which.
        """
        units, rule = [self.units[i] for i in rows], self.classifier.point.rule
        by_name = {tier.name: sizes[index > 0] for index, tier in enumerate(self.tiers)}

        def run() -> list[Any]:
            for tier in self.tiers:
                tier.compute_with(self.parts[tier])
            executor = Executor(self.classifier.network, rule, by_name)
            for tokeniser, cached in zip(executor._tokenisers, self.tokens, strict=True):
                tokeniser._fast = lambda some, cached=cached: [cached[self.place[unit]] for unit in some]  # type: ignore
            return list(executor.run(units))

        return run

    def contenders(self, sizes: Sequence[int], wanted: int, scratch: Path) -> dict[str, Contender]:
        """The padded Super, then it by every route and by hand, then the cascade; all warmed up.

        Args:
            sizes: see :meth:`cascade`.
            wanted: rows of a turn; an eighth of them padded.
            scratch: folder for files.
        """
        size, chosen = sizes[1], self.rows(sizes[1], wanted)
        padded = self.batches(self.rows(size, max(size, wanted // 8)), WIDTH)
        found = {"padded": Contender(self._by(None, padded), sum(len(each["input_ids"]) for each in padded))}
        timed, every = self.batches(chosen), self.batches(self.rows(size, len(self.units)))
        rows = sum(map(len, chosen))
        if not self.seen:
            take(self.super, TORCH)
            self.expected = outputs_of(self.super, every)
        for route in [TORCH, *routes()]:
            if not take(self.super, route):
                continue
            parts = self.super.parts
            if str(route) not in self.seen:
                self.seen[str(route)] = agreement(outputs_of(self.super, every), self.expected)
            seen = self.seen[str(route)]
            found[str(route)] = Contender(self._by(parts, timed), rows, seen)
            if route.backend in installed():
                assert parts is not None
                found[f"{route} by hand"] = Contender(by_hand(parts[0], timed), rows, seen, hand=True)
        take(self.super, TORCH)
        for name, compute in self._by_hand_alone(scratch).items():
            if name not in self.seen:
                outputs = np.concatenate([each[0] for each in compute(every)()])
                self.seen[name] = agreement(outputs[:, None, self.super.order], self.expected)
            found[name] = Contender(compute(timed), rows, self.seen[name], hand=True)
        found["cascade"] = Contender(self.cascade(sizes, np.concatenate(chosen).tolist()), rows)
        for each in found.values():
            each.run()
        return found

    def _by(self, parts: Any, batches: Sequence[Encoding]) -> Callable[[], Any]:
        def run() -> None:
            self.super.compute_with(parts)
            with torch.inference_mode():
                for batch in batches:
                    self.super(batch)

        return run

    def _by_hand_alone(self, scratch: Path) -> dict[str, Callable[[list[Encoding]], Callable[[], list[Any]]]]:
        """What a tier is not computed by on its own account: OpenVINO's own conversion, onnxruntime's int8."""
        made: dict[str, Any] = {}
        for dtype in ("float32", "bfloat16"):
            if Route("openvino", dtype) in routes():
                made[f"openvino {dtype} from torch by hand"] = partial(from_torch, self.super, dtype)
        if "onnxruntime" in installed() and take(self.super, Route("onnxruntime", "float32")):
            graph: Any = self.super.parts[0]  # type: ignore[index]
            file = scratch / "int8.onnx"
            file.write_bytes(graph.file.read_bytes())
            quantise(file)
            made["onnxruntime int8 by hand"] = partial(by_hand, OnnxRuntimeGraph(file, "int8"))
            take(self.super, TORCH)
        return made


def in_turns_of(contenders: dict[str, Contender], turns: int) -> np.ndarray:
    """Milliseconds a row, ``(turns, contenders, 2)``: on the wall and of processor time; the order rotates."""
    spent, names = np.empty((turns, len(contenders), 2)), list(contenders)
    for turn in range(turns):
        for position in range(len(names)):
            index = (position + turn) % len(names)
            before = clocks()
            contenders[names[index]].run()
            spent[turn, index] = 1e3 * np.subtract(clocks(), before) / contenders[names[index]].rows
    return spent


def summary(contenders: dict[str, Contender], spent: np.ndarray, clock: int) -> list[dict[str, Any]]:
    """One record a contender; ratios of the same turn, their median with the tenths at both ends."""
    records = []
    for index, (name, each) in enumerate(contenders.items()):
        low, middle, high = np.quantile(spent[:, 0, clock] / spent[:, index, clock], [0.1, 0.5, 0.9])
        seen = each.seen
        records.append(
            {
                "name": name,
                "ms": float(np.median(spent[:, index, 1])),
                "wall_ms": float(np.median(spent[:, index, 0])),
                "speedup": float(middle),
                "interval": [float(low), float(high)],
                "rows": each.rows,
                "changed": None if seen is None else seen.changed / seen.rows,
                "at_least": None if seen is None else seen.at_least,
                "by_hand": each.hand,
            }
        )
    return records


def alone_against_hand(contenders: dict[str, Contender], spent: np.ndarray, chosen: str, clock: int) -> dict[str, Any]:
    """The chosen route of the Super against the fastest by hand that keeps as many answers."""
    names = list(contenders)
    able = [
        index
        for index, each in enumerate(contenders.values())
        if each.hand and each.seen is not None and each.seen.at_least >= SHARE
    ]
    if not able:
        return {"chosen": chosen, "hand": None}
    best = min(able, key=lambda index: np.median(spent[:, index, clock]))
    low, middle, high = np.quantile(spent[:, names.index(chosen), clock] / spent[:, best, clock], [0.1, 0.5, 0.9])
    return {"chosen": chosen, "hand": names[best], "ratio": float(middle), "interval": [float(low), float(high)]}


def quality(bench: Bench, answers: list[Any], table: StageTable, ids: np.ndarray) -> dict[str, Any]:
    """Accuracy of the cascade as it is computed, the share kept of the tested Super's, and who answers."""
    place = {int(identity): i for i, identity in enumerate(table.sample_id)}
    rows = [place[int(identity)] for identity in ids]
    labels, whole = table.label[rows], table.predictions[rows, -1]
    own = np.array([answer.prediction for answer in answers])
    stages = np.bincount([answer.stage for answer in answers], minlength=len(bench.classifier.stages)) / len(answers)
    kept = float((own == labels).mean() / (whole == labels).mean())
    shares = dict(zip(bench.classifier.stages, stages.tolist(), strict=True))
    return {"accuracy": float((own == labels).mean()), "kept": kept, "shares": shares, "rows": len(answers)}


def file_to_file(bench: Bench, rows: int, pieces: int) -> dict[str, Any]:
    """`dial predict` from file to file against its model calls, on the rows over and over."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        paths = []
        for piece in range(pieces + 1):
            chosen = rng.integers(0, len(bench.units), rows // pieces)
            paths.append(Path(name) / f"piece{piece}.jsonl")
            units = [bench.units[i] for i in chosen]
            texts = [{"text": u} if isinstance(u, str) else {"text": u[0], "text_b": u[1]} for u in units]
            paths[-1].write_text("".join(json.dumps(each) + "\n" for each in texts))
        columns = ("text",) if isinstance(bench.units[0], str) else ("text", "text_b")
        ours, models = in_turns(bench.classifier, paths, columns)
    ratios = {c: float(models[:, i].sum() / ours[:, i].sum()) for i, c in enumerate(("wall", "processor"))}
    return {"rows": rows, "of_model_calls": ratios, "rows_per_second": float(rows / ours[:, 0].sum())}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All of it in this process."""
    torch.set_num_threads(options.threads)
    data = GLUEDataModule(options.task, options.source)
    rows = data.rows(data.test_roles()[0])
    units = [unit if len(unit) > 1 else unit[0] for unit in rows.units()][: options.rows]
    reference = AdaptiveClassifier.from_run(options.run, target=0.99, reading="confident", score=options.score)
    classifier, other = reference, options.capped_run if os.environ.get(CAPPED) else None
    if other:
        target = options.capped_target
        classifier = AdaptiveClassifier.from_run(other, target=target, reading="confident", score=options.score)
    for index, tier in enumerate(classifier.network.tiers):
        classifier.executor.batch_sizes[tier.name] = options.batch_sizes[index > 0]
    bench = Bench(classifier, reference, units)
    print("\n".join(bench.lines()), flush=True)
    chosen = str(bench.chosen.choices[bench.super.name].route) if bench.chosen and bench.chosen.taken else str(TORCH)
    clock = 1 if options.threads == 1 else 0
    result: dict[str, Any] = {"routes": bench.lines(), "computed_by": {}}
    with tempfile.TemporaryDirectory() as scratch:
        for kind, sizes, wanted, cascade in (
            ("single", [1, 1], options.timed_single, reference),
            ("batches", options.batch_sizes, options.timed, classifier),
        ):
            bench.use(cascade)
            result["computed_by"][kind] = bench.computed_by()
            contenders = bench.contenders(sizes, wanted, Path(scratch))
            spent = in_turns_of(contenders, options.turns)
            result[kind] = summary(contenders, spent, clock)
            result[f"{kind}_alone"] = alone_against_hand(contenders, spent, chosen, clock)
            print(f"{kind} done", flush=True)
    bench.use(classifier)
    answers = bench.cascade(options.batch_sizes, range(len(units)))()
    table = load_table(Path(options.run) / "sweep" / "stages.parquet").of_split(data.test_roles()[0])
    result["quality"] = quality(bench, answers, table, rows.sample_id[: len(units)])
    result["file_to_file"] = file_to_file(bench, options.predict_rows, 4)
    return result


def report(name: str, result: dict[str, Any]) -> str:
    """What came out, for people."""
    lines = [f"--- {name or 'all instructions'}", *result["routes"]]
    for kind in ("batches", "single"):
        target = TARGETS[name][kind]
        for each in result[kind]:
            changed = "" if each["changed"] is None else f", {each['changed']:.2%} changed"
            low, high = each["interval"]
            lines.append(
                f"{kind:8} {each['name']:38} {each['ms']:8.3f} ms a row, {each['speedup']:6.2f}x "
                f"[{low:.2f}, {high:.2f}]{changed}{f'; target {target}x' if each['name'] == 'cascade' else ''}"
            )
        alone = result[f"{kind}_alone"]
        if alone["hand"]:
            low, high = alone["interval"]
            lines.append(
                f"{kind:8} {alone['chosen']} takes {alone['ratio']:.3f} [{low:.3f}, {high:.3f}] of the time of "
                f"{alone['hand']}; target 1.05"
            )
    lines += [f"quality: {result['quality']}", f"file to file: {result['file_to_file']}; target 90 %"]
    return "\n".join(lines)


def main() -> None:
    """Both processes, or what one of them does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of `dial test` of a cascade")
    parser.add_argument("--capped-run", help="of another cascade, whose Super is int8, that the capped process runs")
    parser.add_argument("--capped-target", type=float, default=0.99, help="of that Super's quality that is kept")
    parser.add_argument("--task", required=True)
    parser.add_argument("--source", required=True, help="folder with one folder per task")
    parser.add_argument("--score", help="that decides; default: as `dial predict`")
    parser.add_argument(
        "--batch-sizes", type=int, nargs=2, default=[256, 32], help="of the first tiers and of the Super"
    )
    parser.add_argument("--rows", type=int, help="of the test rows; default: all")
    parser.add_argument("--timed", type=int, default=448, help="rows of a turn in batches")
    parser.add_argument("--timed-single", type=int, default=64, help="rows of a turn one at a time")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--predict-rows", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file for the numbers, JSON")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        write_json(options.inside, measure(options))
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for cap in TARGETS:
            part = Path(scratch) / "part.json"
            environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
            environment |= {CAPPED: cap} if cap else {}
            subprocess.run([sys.executable, *sys.argv, "--inside", str(part)], env=environment, check=True)
            found[cap] = read_json(part, "out")
            print(report(cap, found[cap]), flush=True)
    if options.out:
        settings = {key: value for key, value in vars(options).items() if key in SETTINGS}
        machine = {**describe_machine(), "threads": options.threads, "instruction_sets": instruction_sets()}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, {"machine": machine, "settings": settings, "targets": TARGETS, "runs": found})


if __name__ == "__main__":
    main()
