"""Checks of models that write, on a GPU: see :mod:`scripts.gpu_checks`, of whose table these are rows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scripts.gpu_bench import Bench, Seen, check
from scripts.gpu_checks import DTYPES, GIB, NOISE, dial

FREE = ["*"]


def trained(bench: Bench) -> Path:
    """Folder of an encoder-decoder with its energy head, trained on the device, in `head/tier`; made once."""
    runs, accelerator = bench.folder / "texts", "gpu" if bench.cuda else "cpu"
    if (runs / "head/tier/card.json").is_file():
        return runs
    sizes = [f"--data.{role}_rows=320" for role in ("train", "validation", "calibration", "test")]
    trainer = [f"--trainer.accelerator={accelerator}", "--trainer.max_epochs=20"]
    common = ["--data=configs/data/demo_text.yaml", *sizes, *trainer]
    dial("fit", "--config=configs/model/demo_text_swift.yaml", *common, f"--run={runs}/swift")
    head = ("--config=configs/model/demo_text_head.yaml", f"--model.path={runs}/swift/tier", f"--run={runs}/head")
    dial("fit", *head, *common)
    return runs


@check("written answers", packages=("jsonargparse", "fvcore"))
def written_answers(bench: Bench) -> Seen:
    """An encoder-decoder and its energy head, trained on the device, decide and write there what they do on the CPU."""
    from dial.tiers.loading import load_tier

    runs, texts = trained(bench), numbers(300)
    found: list[tuple[Any, list[str]]] = []
    for device in (bench.device, torch.device("cpu")):
        tier: Any = load_tier(str(runs / "head/tier"), "swift", FREE).to(device).eval()
        encoding = {name: values.to(device) for name, values in padded_batch(tier.tokenizer, texts).items()}
        energies: list[torch.Tensor] = []
        with torch.inference_mode():
            state = tier.run(encoding, lambda *asked, kept=energies: kept.append(asked[3]["energy"]), scores=True)
            written = tier.write(encoding, torch.arange(len(texts), device=device), state)
        found.append((energies[0].cpu(), written.texts))
    apart = float((found[0][0] - found[1][0]).abs().max())
    same = float(np.mean([one == two for one, two in zip(found[0][1], found[1][1], strict=True)]))
    text = f"fit, head, {len(texts)} rows: energies differ by {apart:.1g}, {same:.1%} written as on the CPU"
    return Seen(text, apart <= 10 * NOISE and same >= 0.98, {"energy": apart, "same": same})


@check("written answers in bf16", packages=("jsonargparse", "fvcore"))
def written_in_bf16(bench: Bench) -> Seen:
    """A cascade of writers in bf16, greedy and with four beams: at any batch size the executor answers as the replay.

    Rounding depends on the batch's shape. Hence rows whose energy lies within the noise of the threshold are left out,
    and where two pieces are about as likely a text may differ: the share of such rows is held against that of the
    replay with itself, in other batches.
    """
    from dial.inference.epsilon import FLOAT32
    from dial.inference.executor import Executor
    from dial.inference.staged import StagedModel
    from dial.tiers.loading import load_tier
    from dial.tradeoff.rules import rule_named

    runs, texts = trained(bench), numbers(256)
    found: dict[str, float] = {}
    for dtype in DTYPES:
        view = {"dtype": dtype}
        swift = load_tier({"path": str(runs / "head/tier"), **view}, "swift", FREE)
        big = load_tier({"path": str(runs / "swift/tier"), "beams": 4, **view}, "super", FREE)
        network = bench.moved(StagedModel([swift, big]))
        (energy, replayed), (other, again) = (replay(network, texts, size) for size in (1, 64))
        rule = rule_named("threshold", "energy", stages=("swift", "super"), thresholds=(float(np.median(energy)),))
        noise = max(FLOAT32, 2 * float(np.abs(energy - other).max()))
        clear = np.abs(energy - rule.thresholds[0]) > noise
        stages = np.where(energy >= rule.thresholds[0], 0, 1)
        rows = np.arange(len(texts))
        found[f"replay {dtype}"] = float((replayed == again)[rows, stages][clear].mean())
        for size in (7, 64):
            answers = list(Executor(network, rule, size).run(texts))
            if any(answers[row].stage != stages[row] for row in np.flatnonzero(clear)):
                return Seen(f"another stage in {dtype} at batch {size}", False)
            same = np.array([answer.text == replayed[row, stages[row]] for row, answer in enumerate(answers)])
            found[f"{size} {dtype}"] = float(same[clear].mean())
        found[f"clear {dtype}"] = float(clear.mean())
    found["distinct"] = float(len(set(replayed.ravel().tolist())))
    least = {dtype: min(found[f"{size} {dtype}"] for size in (7, 64)) for dtype in DTYPES}
    text = "; ".join(
        f"{dtype}: {least[dtype]:.1%} written as replayed ({found[f'replay {dtype}']:.1%} where the replay is in other "
        f"batches), all decided so, {1 - found[f'clear {dtype}']:.1%} too close to say"
        for dtype in DTYPES
    )
    passed = all(
        least[dtype] >= found[f"replay {dtype}"] - 0.03 and least[dtype] >= floor and found[f"clear {dtype}"] >= 0.8
        for dtype, floor in zip(DTYPES, (0.99, 0.9), strict=True)
    )
    return Seen(text, passed and found["distinct"] >= 20, found)


@check("sharded weights", packages=("jsonargparse", "fvcore"), cuda=True)
def sharded_weights(bench: Bench) -> Seen:
    """The trainer's configuration for models larger than a GPU, with one: same tier; and memory as it is computed."""
    from dial.tiers.loading import load_tier

    runs, sizes = bench.folder / "sharded", [f"--data.{role}_rows=320" for role in ("train", "validation")]
    common = ["fit", "--config=configs/model/demo_text_swift.yaml", "--data=configs/data/demo_text.yaml", *sizes]
    trainer = {"plain": ["gpu.yaml"], "sharded": ["sharded.yaml", "--trainer.devices=1"]}
    for name, (file, *options) in trainer.items():
        configuration = (f"--trainer=configs/trainer/{file}", *options, "--trainer.max_epochs=4")
        dial(*common, *configuration, f"--run={runs}/{name}")
    one, two = (load_tier(str(runs / name / "tier"), "x", FREE).model.state_dict() for name in ("plain", "sharded"))
    apart = max(float((one[name] - two[name]).abs().max()) for name in one)
    moved = max(float(value.abs().max()) for value in one.values())
    predicted, seen = step_memory(bench.device)
    text = (
        f"tiers differ by {apart:.2g} (weights of up to {moved:.2g}); a step of a T5-base takes {seen / GIB:.2f} GiB, "
        f"computed {predicted / GIB:.2f}"
    )
    passed = one.keys() == two.keys() and apart <= 0.1 and 0.6 <= seen / predicted <= 1.1
    return Seen(text, passed, {"difference": apart, "computed": predicted, "peak": seen})


def step_memory(device: torch.device) -> tuple[float, int]:
    """Bytes of a training step of a T5-base that a single GPU "shares": as computed, and at the peak."""
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor
    from transformers import T5Config, T5ForConditionalGeneration

    from dial.models.sharding import recompute_layers, share
    from scripts.memory import Rows, on_meta, training_bytes

    batch = Rows(rows=16, source=512, target=64)
    config = T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12, decoder_start_token_id=0)
    computed = training_bytes(on_meta(config), 1, batch)
    device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    with tempfile.NamedTemporaryFile() as store:
        init_process_group("nccl", init_method=f"file://{store.name}.ranks", rank=0, world_size=1, device_id=device)
        try:
            mesh = init_device_mesh("cuda", (1,))
            model: Any = T5ForConditionalGeneration(config)
            recompute_layers(model)
            share(model, mesh, dtype=torch.bfloat16)
            assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
            optimizer = torch.optim.AdamW(model.parameters(), fused=True)
            ids = torch.randint(2, 1000, (batch.rows, batch.source), device=device)
            labels = ids[:, : batch.target]
            torch.cuda.reset_peak_memory_stats(device)
            for _ in range(3):
                logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=labels).logits
                torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten()).backward()
                optimizer.step()
                optimizer.zero_grad()
            return computed, torch.cuda.max_memory_allocated(device) - before
        finally:
            destroy_process_group()


def replay(network: Any, texts: list[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Energies ``(N,)`` of the first tier and texts ``(N, S)`` of all, in batches of one size in the rows' order."""
    from dial.tiers.tokens import Tokeniser

    device, energies, written = next(network.parameters()).device, [], []
    for start in range(0, len(texts), size):
        encodings = {}
        for tier in network.tiers:
            tokeniser = Tokeniser(tier)
            encodings[tier.encoding_key] = tokeniser.collate(tokeniser(texts[start : start + size]), device)
        with torch.inference_mode():
            answered = network.answered(encodings)
        energies.append(answered.scores["energy"][:, 0].cpu().numpy())
        written.append(answered.texts)
    return np.concatenate(energies), np.concatenate(written)


def numbers(count: int) -> list[str]:
    """Numbers in words."""
    from datamodules.number_words import in_words

    return [in_words(number) for number in range(1_000, 1_000 + 3_001 * count, 3_001)]


def padded_batch(tokenizer: Any, texts: list[str]) -> dict[str, torch.Tensor]:
    """Encodings ``(B, T)`` of texts, padded."""
    return dict(tokenizer(texts, padding=True, return_tensors="pt"))
