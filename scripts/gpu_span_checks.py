"""Checks of tiers that answer by spans, on a GPU: see :mod:`scripts.gpu_checks`, of whose table these are rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from scripts.gpu_bench import SMALL, Bench, Seen, check
from scripts.gpu_checks import DTYPES, NOISE, dial

FREE = ["*"]
DATA = "configs/data/demo_questions.yaml"


def trained(bench: Bench) -> Path:
    """Folder of two readers, trained on the device in mixed precision, the one by the other; made once."""
    from transformers import AutoTokenizer, BertConfig, BertForQuestionAnswering

    runs = bench.folder / "spans"
    if (runs / "swift/tier/card.json").is_file():
        return runs
    runs.mkdir(exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(bench.tokenizer)
    for name, layers in (("swift", 1), ("super", 2)):
        settings = {key: value for key, value in SMALL.items() if key != "model_type"}
        torch.manual_seed(layers)
        config = BertConfig(vocab_size=len(tokenizer), num_hidden_layers=layers, pad_token_id=0, **settings)
        BertForQuestionAnswering(config).save_pretrained(runs / f"start-{name}")
        tokenizer.save_pretrained(runs / f"start-{name}")
    sizes = [f"--data.{role}_rows={rows}" for role, rows in (("train", 640), ("validation", 64), ("test", 64))]
    device = f"--trainer.accelerator={'gpu' if bench.cuda else 'cpu'}"
    common = [f"--data={DATA}", *sizes, device, "--trainer.precision=bf16-mixed"]
    common += ["--model.max_length=40", "--model.stride=8", "--trainer.max_epochs=3"]
    common.append("--model.optimizer.init_args.lr=1e-3")
    start, teacher = "--model.path={0}/start-{1}".format, f"--model.teacher={runs}/super/tier"
    dial("fit", "--config=configs/model/span.yaml", start(runs, "super"), *common, f"--run={runs}/super")
    taught = ("--config=configs/model/span_distil.yaml", teacher, start(runs, "swift"))
    dial("fit", *taught, *common, f"--run={runs}/swift")
    return runs


@check("answers by spans", packages=("jsonargparse", "fvcore"))
def answers_by_spans(bench: Bench) -> Seen:
    """Readers trained on the device answer there as on the CPU, and in any batch as in one by one, in bf16 as well."""
    from datamodules import FirstOrLastDataModule
    from dial.inference.executor import Executor
    from dial.inference.staged import StagedModel
    from dial.tiers.loading import load_tier
    from dial.tradeoff.rules import rule_named

    runs, units = trained(bench), list(FirstOrLastDataModule(test_rows=bench.few(256)).rows("test").units())
    figures, wrong = {}, []
    for dtype in DTYPES:
        views = [(name, {"path": str(runs / name / "tier"), "dtype": dtype}) for name in ("swift", "super")]
        network = StagedModel([load_tier(view, name, FREE) for name, view in views]).eval()
        here, there = bench.moved(network), replay(network, units, 64)
        alone, together = replay(here, units, 1), replay(here, units, 64)
        scores = alone[0][:, 0]
        noise = max(NOISE, 2 * float(np.abs(scores - together[0][:, 0]).max()))
        rule = rule_named("threshold", "softmax", stages=("swift", "super"), thresholds=(float(np.median(scores)),))
        clear = np.abs(scores - rule.thresholds[0]) > noise
        stages, rows = np.where(scores >= rule.thresholds[0], 0, 1), np.arange(len(units))
        wanted = alone[1][rows, stages]
        same = []
        for size in (1, 7, 64):
            answers = list(Executor(here, rule, size).run(units))
            wrong += [size for row in np.flatnonzero(clear) if answers[row].stage != stages[row]]
            same.append(float(np.mean(np.array([answer.text for answer in answers])[clear] == wanted[clear])))
        figures[f"executor {dtype}"], figures[f"clear {dtype}"] = min(same), float(clear.mean())
        figures[f"cpu {dtype}"] = float((alone[1] == there[1]).mean())
        figures[f"apart {dtype}"] = float(np.abs(alone[0] - there[0]).max())
    text = "; ".join(
        f"{dtype}: {figures[f'executor {dtype}']:.1%} as one by one, {figures[f'cpu {dtype}']:.1%} as on the CPU "
        f"(probabilities up to {figures[f'apart {dtype}']:.1g} apart)"
        for dtype in DTYPES
    )
    full, half = DTYPES
    passed = not wrong and figures[f"executor {full}"] >= 0.99 and figures[f"cpu {full}"] >= 0.99
    passed &= figures[f"executor {half}"] >= 0.9 and figures[f"cpu {half}"] >= 0.8
    return Seen(f"fit, distilled, {len(units)} questions; {text}", passed, figures)


def replay(network: Any, units: list[Any], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores `softmax` and texts ``(N, S)`` of every stage of every row, in batches of one size."""
    scores, texts = [], []
    device = next(network.parameters()).device
    for start in range(0, len(units), size):
        some = units[start : start + size]
        encodings = {t.encoding_key: t.tokeniser().collate(t.tokeniser()(some), device) for t in network.tiers}
        with torch.inference_mode():
            found = network.answered(encodings)
        scores.append(found.scores["softmax"].cpu().numpy())
        texts.append(found.texts)
    return np.concatenate(scores), np.concatenate(texts)
