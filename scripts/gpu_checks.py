"""What is checked on a GPU: a function each. Another one is another row of the table of `make gpu`.

A check gets the :class:`~scripts.gpu_bench.Bench` and returns a :class:`~scripts.gpu_bench.Seen`; what it raises is a
failure. With ``cuda=True`` it is skipped on a CPU; with ``packages`` it is left out where one of them is missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scripts.gpu_bench import NAMES, Bench, Seen, alone, check, halving_thresholds, largest_probability, rows_apart

ROOT = Path(__file__).resolve().parents[1]
NOISE = 1e-4  # between two devices in float32, of scores between 0 and 1
GIB = 2**30
DTYPES = ("float32", "bfloat16")


@check("bf16 fit and resume")
def fit_and_resume(bench: Bench) -> Seen:
    """A fit in bf16 that breaks off and goes on ends with the weights of one that nobody disturbed."""
    from lightning.pytorch import Callback

    from callbacks import Resume

    class Break(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 27:
                raise InterruptedError

    precision = "bf16-mixed"
    whole = weights(bench.fit("whole", [Resume(5)], precision=precision))
    with contextlib.suppress(InterruptedError):
        bench.fit("broken", [Resume(5), Break()], precision=precision)
    saved = bench.folder / "broken/checkpoints/last.ckpt"
    trainer = bench.fit("broken", [Resume(5)], saved, precision=precision)
    apart = difference(whole, weights(trainer))
    loss = float(trainer.callback_metrics["train/loss"])
    kinds = {str(value.dtype) for value in whole.values()}
    text = f"40 steps; goes on from step 25 of 27, weights differ by {apart:.1g}; loss {loss:.3f}"
    passed = apart <= 1e-6 and np.isfinite(loss) and kinds == {"torch.float32"}
    return Seen(text, bool(passed), {"difference": apart, "loss": loss})


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    """Parameters of a trained module, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in trainer.lightning_module.named_parameters()}


def difference(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """The largest difference between two sets of weights."""
    return max(float((one[name] - two[name]).abs().max()) for name in one)


@check("compaction by measured policy")
def compaction(bench: Bench) -> Seen:
    """A multi-exit tier answers alike whether rows leave the batch at once or where that is measured to be faster."""
    from dial.inference.compaction import Compaction, MeasuredCompaction
    from dial.inference.executor import Executor
    from dial.tradeoff.rules import rule_named

    network = bench.moved(bench.networks()["exits"])
    units = bench.texts(bench.few(512), seed=3)
    scores = largest_probability(alone(network, units[:64]))
    rule = rule_named(
        "per_stage",
        "softmax",
        stages=tuple(stage.name for stage in network.stages),
        thresholds=tuple(halving_thresholds(scores)),
    )
    answers: dict[str, list[tuple[int, float]]] = {}
    seconds: dict[str, float] = {}
    for name in ("always", "measured"):
        executor = Executor(network, rule, 64, compaction=name)  # type: ignore[arg-type]
        if name == "measured" and not bench.cuda:  # where there is nothing to measure; what keeps rows runs here, too
            executor._compactions = [MeasuredCompaction(tier) for tier in executor.tiers]
        policy = executor._compactions[0]
        list(executor.run(units))  # measures, and makes kernels for new shapes
        began = time.perf_counter()
        answers[name] = [(answer.stage, answer.prediction) for answer in executor.run(units)]
        seconds[name] = time.perf_counter() - began
    assert isinstance(policy, MeasuredCompaction)
    chosen = type(Compaction.of(network.tiers[0], "measured", bench.device)).__name__
    same = np.mean([one == two for one, two in zip(*answers.values(), strict=True)])
    rates = {name: len(units) / value for name, value in seconds.items()}
    times = {f"{rows}x{width}": [1e3 * value for value in found] for (rows, width), found in policy.measured.items()}
    row, cost = next(iter(times.values()))
    text = (
        f"{chosen}; a row adds {row:.3f} ms, taking out costs {cost:.2f} ms; "
        f"{rates['always']:,.0f} rows/s always, {rates['measured']:,.0f} measured; {same:.1%} alike"
    )
    wanted = "MeasuredCompaction" if bench.cuda else "Compaction"
    passed = same >= 0.99 and chosen == wanted and bool(times)
    return Seen(text, bool(passed), {"same": float(same), "rows_per_second": rates, "milliseconds": times})


@check("out of memory halves the batch", cuda=True)
def out_of_memory(bench: Bench) -> Seen:
    """With two fifths of the memory that a batch takes the executor halves it and answers the same."""
    from dial.inference.executor import Executor
    from dial.inference.staged import StagedModel
    from dial.tradeoff.rules import rule_named

    network = StagedModel([bench.tier("base")]).to(bench.device)
    rule = rule_named("threshold", "softmax", stages=tuple(stage.name for stage in network.stages), thresholds=())
    units = [" ".join(bench.texts(8, seed)) for seed in range(512)]

    def answer(size: int) -> tuple[list[float], int]:
        executor = Executor(network, rule, size)
        found = [answer.prediction for answer in executor.run(units)]
        return found, executor.batch_sizes["base"]

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    idle = torch.cuda.memory_allocated()
    wanted, _ = answer(512)
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.empty_cache()
    limit = idle + (peak - idle) * 0.4
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(bench.device).total_memory)
    try:
        found, size = answer(512)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    same = float(np.mean([one == two for one, two in zip(found, wanted, strict=True)]))
    text = f"a batch of 512 takes {(peak - idle) / GIB:.2f} GiB; with 40 % of that it became {size}; {same:.1%} alike"
    return Seen(text, 32 <= size <= 256 and same >= 0.99, {"batch_size": size, "same": same})


@check("clocks wait for the device")
def clocks(bench: Bench) -> Seen:
    """Our clocks agree with CUDA's events (on a CPU with the wall), not with the moment when a call returns."""
    from dial.inference import compaction as policy
    from dial.inference.batch_size import seconds_of
    from dial.study.timing import timed_run
    from dial.tiers.tokens import Tokeniser

    tier = bench.tier("base" if bench.cuda else "exits").to(bench.device).eval()
    rows = Tokeniser(tier)([" ".join(bench.texts(8, seed)) for seed in range(64)])
    batch = Tokeniser(tier).collate(rows, bench.device)

    def work() -> None:
        with torch.inference_mode():
            tier(batch)

    work()
    found = {
        "a tier's run": [1e-3 * timed_run(tier, batch).milliseconds[-1] for _ in range(5)],
        "search of batch sizes": [seconds_of(tier, [batch]) for _ in range(5)],
        "compaction": [policy.seconds(work)],
    }
    reference = float(np.median([true_seconds(bench, work) for _ in range(5)]))
    ratios = {name: float(np.median(values)) / reference for name, values in found.items()}
    shown = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    text = f"{1e3 * reference:.1f} ms by {'CUDA events' if bench.cuda else 'the wall'}; ratios to it: {shown}"
    low, high = (0.85, 1.3) if bench.cuda else (0.4, 2.5)  # a CPU may do other things as well
    return Seen(text, all(low <= ratio <= high for ratio in ratios.values()), {"ratios": ratios})


def true_seconds(bench: Bench, work: Any) -> float:
    """Seconds of a call, by CUDA's own events where there is a GPU."""
    if not bench.cuda:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    work()
    last.record()
    torch.cuda.synchronize()
    return 1e-3 * float(first.elapsed_time(last))


@check("same answers as on the CPU")
def same_answers(bench: Bench) -> Seen:
    """In float32 scores are those of the CPU, and every row farther than ε from its threshold is answered alike."""
    from dial.inference.epsilon import FLOAT32

    units = bench.texts(bench.few(200), seed=1)
    figures, shown, passed = {}, [], True
    for name, network in bench.networks().items():
        outputs = alone(network, units)  # on the CPU
        moved = bench.moved(network)
        apart = float(np.abs(largest_probability(alone(moved, units)) - largest_probability(outputs)).max())
        epsilon = max(FLOAT32, apart)
        found = rows_apart(moved, units, outputs, epsilon, batch=32)
        figures[name] = {"scores_apart": apart, **found}
        shown.append(f"{name}: scores within {apart:.1g}, {found['otherwise']} of {found['compared']} otherwise")
        passed &= (
            apart <= NOISE and not found["otherwise"] and found["compared"] >= 0.9 * len(units) and found["stages"] > 1
        )
    return Seen("; ".join(shown), passed, figures)


@check("exits and cascades in batches")
def batches(bench: Bench) -> Seen:
    """At any batch size, in float32 and bf16, rows farther than the measured ε from thresholds are answered alike."""
    from dial.inference.epsilon import FLOAT32, measure_epsilon
    from dial.tradeoff.rules import rule_named

    units = bench.texts(bench.few(160), seed=2)
    figures: dict[str, Any] = {}
    passed = True
    for dtype in DTYPES:
        for name, network in bench.networks(dtype).items():
            moved = bench.moved(network)
            outputs = alone(moved, units)
            thresholds = tuple(halving_thresholds(largest_probability(outputs)))
            rule = rule_named(
                "per_stage", "softmax", stages=tuple(stage.name for stage in moved.stages), thresholds=thresholds
            )
            measured = measure_epsilon(moved, rule, units, [(1, True), (8, False), (64, True), (64, False)])
            noise = max(FLOAT32, measured.value)
            found = [rows_apart(moved, units, outputs, noise, batch=size) for size in (1, 8, 64)]
            figures[f"{name} {dtype}"] = {"epsilon": measured.value, "otherwise": [f["otherwise"] for f in found]}
            passed &= not any(f["otherwise"] for f in found) and all(f["stages"] > 1 for f in found)
            passed &= found[0]["batches"] > found[2]["batches"]
    epsilon = {dtype: max(f["epsilon"] for n, f in figures.items() if n.endswith(dtype)) for dtype in DTYPES}
    otherwise = sum(sum(f["otherwise"]) for f in figures.values())
    text = (
        f"{len(figures)} models at batch 1, 8, 64: ε {epsilon['float32']:.1g} in fp32, "
        f"{epsilon['bfloat16']:.1g} in bf16; "
        f"{otherwise} rows beyond ε answered otherwise"
    )
    return Seen(text, passed, figures)


@check("NCCL with one process")
def one_process(bench: Bench) -> Seen:
    """A fit over a process group of one process gives the weights of a fit without one, checkpoints included."""
    from lightning.pytorch.strategies import DDPStrategy

    from callbacks import Resume

    backend = "nccl" if bench.cuda else "gloo"
    same: dict[str, Any] = {"max_epochs": 1, "dropout": 0.0}  # random numbers are drawn anew where a group begins
    plain = weights(bench.fit("plain", [], **same))
    try:
        trainer = bench.fit("group", [Resume(5)], **same, strategy=DDPStrategy(process_group_backend=backend))
        used = torch.distributed.get_backend() if torch.distributed.is_initialized() else backend
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    apart = difference(plain, weights(trainer))
    saved = (bench.folder / "group/checkpoints/last.ckpt").is_file()
    text = f"{used}: 20 steps, weights differ by {apart:.1g} from those without it"
    return Seen(text, apart <= 1e-6 and saved and used == backend, {"difference": apart})


@check("one folder at several widths")
def several_widths(bench: Bench) -> Seen:
    """What is trained at several widths and depths on the device (bf16) is cut there as on the CPU."""
    from dial.inference.staged import StagedModel
    from dial.tiers.loading import load_tier, save_tier
    from lightning_modules import DynaBERT

    start = bench.tier("super").view.path
    sizes: dict[str, Any] = {"widths": [0.5, 1.0], "depths": [0.5, 1.0]}
    module = DynaBERT(path=start, teacher=start, label_names=NAMES, **sizes)
    trainer = bench.fit("widths", [], module=module, precision="bf16-mixed", max_epochs=1)
    folder = save_tier(bench.folder / "widths/tier", module.tier.cpu(), {})
    units, apart, parameters = bench.texts(bench.few(200), seed=6), 0.0, []
    for view in ({"width": 0.5, "depth": 0.5}, {"width": 0.5}, {}):
        network = StagedModel([load_tier({"path": str(folder), **view}, "part", NAMES)]).eval()
        scores = [largest_probability(alone(each, units)) for each in (network, bench.moved(network))]
        apart = max(apart, float(np.abs(scores[0] - scores[1]).max()))
        parameters.append(sum(value.numel() for value in network.parameters()))
    loss = float(trainer.callback_metrics["train/loss"])
    text = (
        f"20 steps, loss {loss:.3f}; {' < '.join(f'{n:,}' for n in parameters)} parameters, scores within {apart:.1g}"
    )
    passed = apart <= NOISE and np.isfinite(loss) and parameters == sorted(set(parameters))
    return Seen(text, bool(passed), {"scores_apart": apart, "parameters": parameters, "loss": loss})


@check("dropped tokens")
def dropped_tokens(bench: Bench) -> Seen:
    """What is trained on the device (bf16) to do without tokens drops there those that it drops on the CPU."""
    from dial.inference.staged import StagedModel
    from dial.tiers.loading import load_tier, save_tier
    from lightning_modules import LengthAdaptive

    module = LengthAdaptive(path=bench.tier("super").view.path, label_names=NAMES)
    trainer = bench.fit("lengths", [], module=module, precision="bf16-mixed", max_epochs=1)
    save_tier(bench.folder / "lengths/tier", module.tier.cpu(), {})
    units, shares = bench.texts(bench.few(200), seed=7), {}
    for name, folder, layers in (("one answer", "lengths/tier", 3), ("exits", "exits", 8)):
        bench.tier("exits")
        view = {"path": str(bench.folder / folder), "lengths": [round(0.8**k, 3) for k in range(1, layers + 1)]}
        network = StagedModel([load_tier(view, "few", NAMES)]).eval()
        scores = [largest_probability(alone(each, units)) for each in (network, bench.moved(network))]
        shares[name] = float((np.abs(scores[0] - scores[1]).reshape(len(units), -1).max(axis=1) <= NOISE).mean())
    loss = float(trainer.callback_metrics["train/loss"])
    seen = "; ".join(f"{name}: {100 * share:.1f} % of the rows score alike" for name, share in shares.items())
    # Two tokens that receive almost the same may change places.
    return Seen(f"loss {loss:.3f}; {seen}", bool(np.isfinite(loss) and min(shares.values()) >= 0.98), shares)


@check("int8 refused or run")
def int8(bench: Bench) -> Seen:
    """An int8 tier runs on a CPU that can, near to float32; on a GPU, and elsewhere, it is refused in words."""
    from dial.inference.staged import StagedModel

    units = bench.texts(32, seed=4)
    plain = alone(StagedModel([bench.tier("super")]).eval(), units)
    try:
        network = bench.moved(StagedModel([bench.tier("super", "int8")]))
        outputs = alone(network, units)
    except ValueError as error:
        words = str(error)
        named = "`dtype` int8" in words and ("bfloat16" in words or "float32" in words)
        return Seen(f"refused: {words}", named, {"refused": words})
    apart = float(np.abs(largest_probability(outputs) - largest_probability(plain)).max())
    return Seen(f"runs on {bench.device.type}: scores within {apart:.2f} of float32's", not bench.cuda and apart < 0.2)


@check("peak memory", cuda=True)
def peak_memory(bench: Bench) -> Seen:
    """A base-size encoder takes less in bf16 than in float32, and leaves nothing behind."""
    from dial.tiers.tokens import Tokeniser

    found: dict[str, float] = {}
    left = 0
    for dtype in DTYPES:
        tier = bench.tier("base", dtype).to(bench.device).eval()
        rows = Tokeniser(tier)([" ".join(bench.texts(8, seed)) for seed in range(64)])
        batch = Tokeniser(tier).collate(rows, bench.device)
        with torch.inference_mode():
            tier(batch)  # cuBLAS takes its work space once
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            tier(batch)
            torch.cuda.synchronize()
        found[dtype] = torch.cuda.max_memory_allocated() / GIB
        left = max(left, torch.cuda.memory_allocated() - before)
        del tier, batch
        torch.cuda.empty_cache()
    text = (
        f"base size, 64 rows of 128 tokens: {found['float32']:.2f} GiB in fp32, {found['bfloat16']:.2f} in bf16; "
        f"{left / 2**20:.1f} MiB left behind"
    )
    return Seen(text, found["bfloat16"] < found["float32"] and left < 2**20, {"gib": found, "left": left})


@check("rows/s of a base-size encoder")
def speed(bench: Bench) -> Seen:
    """Rows of 128 tokens; on a GPU bf16 must be the faster one."""
    from dial.inference.batch_size import seconds_of
    from dial.tiers.tokens import Tokeniser

    size, passes = (128, 8) if bench.cuda else (2, 1)
    rates: dict[str, float] = {}
    for dtype in DTYPES if bench.cuda else DTYPES[:1]:
        tier = bench.tier("base", dtype).to(bench.device).eval()
        rows = Tokeniser(tier)([" ".join(bench.texts(8, seed)) for seed in range(size)])
        batch = Tokeniser(tier).collate(rows, bench.device)
        seconds_of(tier, [batch])
        rates[dtype] = size / float(np.median([seconds_of(tier, [batch] * passes) / passes for _ in range(3)]))
    shown = ", ".join(f"{rate:,.0f} in {dtype}" for dtype, rate in rates.items())
    passed = not bench.cuda or rates["bfloat16"] > rates["float32"]
    return Seen(f"{shown} (batch {size}, 128 tokens)", passed, {"rows_per_second": rates})


@check("the commands", packages=("jsonargparse", "fvcore"))
def commands(bench: Bench) -> Seen:
    """`dial fit`, `test` and `predict` on the device; what predict says there is what it says on the CPU."""
    import pyarrow.parquet as pq

    runs, accelerator = bench.folder / "runs", "gpu" if bench.cuda else "cpu"
    sizes = [f"--data.{role}_rows=320" for role in ("train", "validation", "calibration", "test")]
    common = ["--data=configs/data/demo.yaml", *sizes, f"--trainer.accelerator={accelerator}", "--trainer.max_epochs=1"]
    precision = "--trainer.precision=bf16-mixed"
    dial("fit", "--config=configs/model/demo_super.yaml", *common, precision, f"--run={runs}/super")
    swift = ["--config=configs/model/demo_swift.yaml", f"--model.teacher={runs}/super/tier", f"--run={runs}/swift"]
    dial("fit", *swift, *common, precision)
    tiers = f"--model.tiers=[{runs}/swift/tier, {runs}/super/tier]"
    dial("test", "--config=configs/model/cascade.yaml", tiers, *common[:-1], "--sweep.bootstrap=100", f"--run={runs}")
    table = pq.read_table(runs / "sweep/stages.parquet")
    name = next(name for name in table.column_names if name.startswith("softmax_swift"))
    threshold = float(np.median(table[name].to_numpy()))  # both tiers answer
    texts = bench.folder / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in bench.texts(300, seed=5)))
    found: list[list[dict[str, Any]]] = []
    for device in (str(bench.device), "cpu"):
        out = bench.folder / f"predictions-{len(found)}.jsonl"
        rule = ("--score=softmax", f"--threshold={threshold}")
        dial("predict", str(runs), str(texts), f"--out={out}", *rule, f"--device={device}")
        found.append([json.loads(line) for line in out.read_text().splitlines()])
    same = float(
        np.mean([all(one[k] == two[k] for k in ("prediction", "stage")) for one, two in zip(*found, strict=True)])
    )
    stages = {row["stage"] for row in found[0]}
    text = f"fit (bf16), test, predict; {len(found[0])} rows by {len(stages)} stage(s), {same:.1%} as on the CPU"
    return Seen(text, len(found[0]) == 300 and len(stages) == 2 and same >= 0.99, {"same": same})


def dial(*arguments: str) -> None:
    """Run a command in a process of its own.

    Raises:
        RuntimeError: it fails; with the end of what it said.
    """
    done = subprocess.run(
        [sys.executable, "-m", "dial", *arguments], cwd=ROOT, capture_output=True, text=True, env=os.environ
    )
    if done.returncode:
        raise RuntimeError(f"dial {arguments[0]} ends with {done.returncode}: {(done.stdout + done.stderr)[-600:]}")
