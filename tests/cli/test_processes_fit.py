"""`dial fit` with one and two processes: the same rows, weights and metrics, and bit-equal when resumed."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from dial.cli.interrupts import INTERRUPTED
from tests.cli.real_commands import facts, flat, launch, start, succeed, witness

pytestmark = pytest.mark.timeout(1500)  # some start six processes one after the other, perhaps on a busy machine

BERT = (
    "{model_type: bert, vocab_size: 40, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, "
    "intermediate_size: 32, max_position_embeddings: 32, hidden_dropout_prob: %s, attention_probs_dropout_prob: %s}"
)


@pytest.fixture(scope="module")
def distil(make_tiny_bert, process_arguments):
    """Function: arguments of `dial fit` of a word-level model, distilled from a tiny BERT, in two epochs."""
    optimizer = "--model.optimizer={class_path: torch.optim.AdamW, init_args: {lr: 1.0e-3, weight_decay: 0.01}}"

    def arguments(folder: Path, processes: int, batch: int, dropout: float, kill_at: int = 0) -> list[str]:
        return [
            *("fit", "--model=Classifier", f"--model.config={BERT % (dropout, dropout)}", "--model.tokenizer=words"),
            *(
                "--model.max_length=32",
                optimizer,
                f"--model.teacher={make_tiny_bert(layers=2, seed=2)}",
                *process_arguments,
            ),
            *("--model.distillation=logits_mse", "--trainer.max_epochs=2", "--trainer.gradient_clip_val=1.0"),
            *(f"--trainer.devices={processes}", f"--data.batch_size={batch}", f"--data.cache_dir={folder}/cache"),
            *("--resume.every_n_steps=6", witness(folder, kill_at=kill_at), f"--run={folder}"),
        ]

    return arguments


@pytest.fixture(scope="module")
def fitted(distil, tmp_path_factory) -> dict[int, Path]:
    """Runs whose optimiser steps read the same 8 rows: in one process, or 4 in each of two."""
    folders = {processes: tmp_path_factory.mktemp(f"fit{processes}") for processes in (1, 2)}
    for processes, folder in folders.items():
        succeed(*distil(folder, processes, 8 // processes, dropout=0.0))
    return folders


@pytest.mark.slow
def test_training_rows_are_shared_out(fitted) -> None:
    ranks = facts(fitted[2])
    assert [rank["world_size"] for rank in ranks] == [2, 2]
    assert [rank["global_step"] for rank in ranks] == [12, 12]  # 2 epochs of 48 rows / (4 rows x 2 processes)
    assert json.loads((fitted[2] / "tier/card.json").read_text())["steps"] == 12
    alone = facts(fitted[1])[0]["seen"]["train"]
    for step, rows in enumerate(alone):
        together = ranks[0]["seen"]["train"][step] + ranks[1]["seen"]["train"][step]
        assert sorted(together) == sorted(rows)
    for epoch in (alone[:6], alone[6:]):
        assert len(flat(epoch)) == len(set(flat(epoch))) == 48
    assert alone[:6] != alone[6:]


@pytest.mark.slow
def test_two_processes_train_the_weights_that_one_trains(fitted) -> None:
    one, two = (load_file(fitted[n] / "tier/model.safetensors") for n in (1, 2))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")
    ranks = facts(fitted[2])
    assert ranks[0]["weights"] == ranks[1]["weights"]


@pytest.mark.slow
def test_validation_is_counted_once_per_row(fitted, glue_folder) -> None:
    ranks = facts(fitted[2])
    values = [[round_["validation/accuracy"] for round_ in rank["validated"]] for rank in ranks]
    assert values[0] == values[1] and len(values[0]) == 2
    seen = [flat(rank["seen"]["validation"]) for rank in ranks]
    assert [len(rows) for rows in seen] == [14, 14]  # 13 rows and a repeat, in each of two epochs
    rows = sorted(set(seen[0] + seen[1]))
    assert len(rows) == 13
    card = json.loads((fitted[2] / "tier/card.json").read_text())
    texts = pd.read_parquet(glue_folder / "sst2/train.parquet")
    folder = fitted[2] / "tier"
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    right = 0
    for row in rows:
        with torch.no_grad():
            logits = model(**tokenizer(texts.sentence[row], return_tensors="pt")).logits
        right += int(logits.argmax()) == texts.label[row]
    best = max(values[0])
    assert card["validation_quality"] == pytest.approx(right / 13, abs=1e-6)
    assert best == pytest.approx(right / 13, abs=1e-6)


@pytest.mark.slow
def test_teacher_reads_each_row_once(fitted, make_tiny_bert, glue_folder) -> None:
    caches = {n: list((fitted[n] / "cache").glob("teacher-*")) for n in (1, 2)}
    assert [path.name for path in caches[1]] == [path.name for path in caches[2]]
    assert len(caches[2]) == 1 and caches[2][0].is_dir()  # the processes' parts are gone
    ids, logits = (np.load(caches[2][0] / f"{name}.npy") for name in ("sample_id", "logits"))
    ranks = facts(fitted[2])
    assert ids.tolist() == sorted({row for rank in ranks for row in flat(rank["seen"]["train"])})
    assert len(ids) == 48
    texts = pd.read_parquet(glue_folder / "sst2/train.parquet")
    folder = make_tiny_bert(layers=2, seed=2)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for i, row in enumerate(ids):
        with torch.no_grad():
            alone = model(**tokenizer(texts.sentence[row], return_tensors="pt")).logits[0].numpy()
        np.testing.assert_allclose(logits[i], alone, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_what_a_fit_leaves_is_written_once(fitted) -> None:
    kept = {n: {str(p.relative_to(fitted[n])) for p in fitted[n].rglob("*") if p.is_file()} for n in (1, 2)}
    for n, names in kept.items():
        names -= {name for name in names if name.startswith(("witness/", "cache/encodings/"))}
        kept[n] = names
    assert kept[1] == kept[2]
    assert len([name for name in kept[2] if name.endswith("model.safetensors")]) == 1
    assert {name for name in kept[2] if name.startswith("logs/")} == {
        "logs/version_0/hparams.yaml",
        "logs/version_0/metrics.csv",
    }


@pytest.mark.slow
def test_killed_with_two_processes_and_resumed_is_bit_equal(distil, tmp_path) -> None:
    """SIGKILL of all processes in the second epoch; with dropout, so that each one's random state counts."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    succeed(*distil(whole, 2, 4, dropout=0.3))
    command = distil(killed, 2, 4, dropout=0.3, kill_at=8)
    assert start(*command).returncode == -signal.SIGKILL
    assert not (killed / "tier").exists()
    assert "resuming from" in succeed(*command, DIAL_KILL="no")
    one, two = (load_file(folder / "tier/model.safetensors") for folder in (whole, killed))
    assert all(torch.equal(two[name], value) for name, value in one.items())
    assert {rank["weights"] for rank in facts(killed)} == {rank["weights"] for rank in facts(whole)}
    # An epoch has 6 steps. At step 6 a checkpoint is due, but validation follows, so the last one was that of step 7.
    assert [rank["steps"] for rank in facts(killed)] == [5, 5]
    assert (killed / "tier/card.json").read_text() == (whole / "tier/card.json").read_text()
    random = torch.load(whole / "checkpoints/last.ckpt", weights_only=True)["callbacks"]
    states = next(state["random"] for name, state in random.items() if name.startswith("Resume"))
    assert len(states) == 2 and not torch.equal(states[0]["torch"], states[1]["torch"])


@pytest.mark.slow
def test_a_signal_ends_all_processes_with_one_sentence(distil, tmp_path) -> None:
    """SIGTERM for the first process alone, as `kill` sends it; the others end with it, and the run goes on."""
    arguments = [*distil(tmp_path, 2, 4, dropout=0.0), "--trainer.max_epochs=200", "--early_stopping.patience=1000"]
    process = launch(*arguments)
    deadline = time.monotonic() + 300
    while not (tmp_path / "checkpoints/last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.terminate()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 143, output + errors
    assert errors.splitlines()[-1] == INTERRUPTED and (output + errors).count("interrupted") == 1
    assert "Traceback" not in errors
    with pytest.raises(ProcessLookupError):  # nobody of the group is left
        os.killpg(process.pid, signal.SIGKILL)
    assert "resuming from" in succeed(*arguments, "--trainer.max_time=00:00:00:01")
