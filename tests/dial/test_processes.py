"""The same command with one, two and three processes: the same rows, decisions and costs.

Every command here is a real one, because Lightning's DDP starts the command of the first process again.
"""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lightning_modules.adaptive.rules import replay
from lightning_modules.adaptive.table import StageTable

ROOT = Path(__file__).resolve().parents[2]
ROWS = {"train": 48, "validation": 13, "calibration": 60, "test": 13}
TRAINER = ("--trainer.accelerator=cpu", "--trainer.strategy=ddp", "--trainer.enable_progress_bar=false")
pytestmark = pytest.mark.timeout(1500)  # some start six processes one after the other, perhaps on a busy machine
SLURM = ROOT / "configs/cluster/slurm.sh"


def start(*arguments: object, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess:
    """Run `python -m dial` in a process group of its own; nothing of it outlives this call."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dial", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def succeed(*arguments: object, **environment: str) -> str:
    done = start(*arguments, **environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def witness(folder: Path, **options: object) -> str:
    return "--trainer.callbacks=" + json.dumps(
        [{"class_path": "witness.Witness", "init_args": {"out": str(folder / "witness"), **options}}]
    )


def flat(batches: list[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(batches))


def facts(folder: Path) -> list[dict]:
    """What each rank's witness wrote."""
    return [json.loads(path.read_text()) for path in sorted((folder / "witness").glob("rank*.json"))]


@pytest.fixture(scope="module")
def source(glue_folder) -> list[str]:
    rows = json.dumps(ROWS)
    return [
        *("--data=GLUEDataModule", "--data.task=sst2", f"--data.source={glue_folder}"),
        *("--data.calibration_fraction=0.3", f"--data.max_rows={rows}", "--trainer.enable_model_summary=false"),
        *TRAINER,
    ]


# ---- dial test ----


@pytest.fixture(scope="module")
def cascade(make_tiny_bert, source) -> list[str]:
    """Two tiers with encodings of their own: the Swift reads 8 tokens."""
    tiers = [
        {"path": str(make_tiny_bert(layers=1, seed=1)), "max_length": 8},
        {"path": str(make_tiny_bert(layers=2, seed=2))},
    ]
    return ["test", "--model=Cascade", f"--model.tiers={json.dumps(tiers)}", "--sweep.bootstrap=200", *source]


@pytest.fixture(scope="module")
def tested(cascade, tmp_path_factory):
    """Function: run folder of `dial test` with so many processes; each is run once."""
    runs: dict[int, Path] = {}

    def run(processes: int) -> Path:
        if processes not in runs:
            folder = tmp_path_factory.mktemp(f"test{processes}")
            # rounds of 4 x W rows: 13 rows leave a short last round for every W
            options = [f"--trainer.devices={processes}", "--data.batch_size=4", f"--run={folder}"]
            runs[processes] = folder
            (folder / "output.txt").write_text(succeed(*cascade, *options, witness(folder)))
        return runs[processes]

    return run


def table(folder: Path) -> StageTable:
    return StageTable.load(folder / "sweep/stages.parquet")


def numbers(value: object, skip: tuple[str, ...] = ("padded", "configuration")) -> dict[str, object]:
    """Leaves of nested results by their place. Padded lengths depend on which rows share a batch."""
    if isinstance(value, dict):
        value = {key: item for key, item in value.items() if key not in skip}
    elif isinstance(value, list):
        value = dict(enumerate(value))
    else:
        return {"": value}
    return {f"{key}.{rest}": leaf for key, item in value.items() for rest, leaf in numbers(item, skip).items()}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_stage_table_does_not_depend_on_processes(tested, processes) -> None:
    one, many = table(tested(1)), table(tested(processes))
    assert Counter(one.split.tolist()) == {"calibration": 60, "test": 13}
    assert many.split.tolist() == one.split.tolist()
    assert many.sample_id.tolist() == one.sample_id.tolist()
    assert len(set(zip(many.split.tolist(), many.sample_id.tolist(), strict=True))) == 73
    np.testing.assert_array_equal(many.label, one.label)
    np.testing.assert_array_equal(many.predictions, one.predictions)
    np.testing.assert_allclose(many.outputs, one.outputs, rtol=0, atol=1e-5)
    for name in ("decide_macs", "macs", "macs_reference"):
        np.testing.assert_array_equal(getattr(many, name), getattr(one, name))
    for tier in ("swift", "super"):
        np.testing.assert_array_equal(many.lengths[tier], one.lengths[tier])
    assert many.scores.keys() == one.scores.keys() and len(one.scores) >= 6
    for name in one.scores:
        np.testing.assert_allclose(many.scores[name], one.scores[name], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_decisions_do_not_depend_on_processes(tested, processes) -> None:
    one, many = table(tested(1)), table(tested(processes))
    for name, values in one.scores.items():
        levels = np.unique(values[:, 0])
        clear = []  # energy_released hardly differs between some rows
        for threshold in (levels[1:] + levels[:-1]) / 2:
            decided = np.abs(values[:, 0] - threshold) > 1e-5
            clear.append(decided.mean())
            before, after = (replay(scores, np.array([threshold]))[decided] for scores in (values, many.scores[name]))
            np.testing.assert_array_equal(after, before, err_msg=name)
        assert np.mean(clear) > 0.95, name
    summaries = [json.loads((tested(n) / "sweep/summary.json").read_text()) for n in (1, processes)]
    before, after = (numbers(summary["splits"]) for summary in summaries)
    assert before.keys() == after.keys() and len(before) > 300
    for place, value in before.items():
        expected = pytest.approx(value, rel=1e-4, abs=1e-5) if isinstance(value, float) else value
        assert after[place] == expected, place


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_every_process_reads_its_share(tested, processes) -> None:
    seen = [flat(rank["seen"]["test"]) for rank in facts(tested(processes))]
    assert len(seen) == processes
    assert {len(rows) for rows in seen} == {-(-13 // processes)}
    assert set().union(*seen) == set(range(61)).intersection(table(tested(1)).of_split("test").sample_id.tolist())
    assert all(max(Counter(rows).values()) == 1 for rows in seen)


@pytest.mark.slow
def test_outputs_are_those_of_each_row_alone(tested, make_tiny_bert, glue_folder) -> None:
    """An independent reference: transformers, one unpadded row after the other, in this process."""
    rows = table(tested(3)).of_split("test")
    texts = pd.read_parquet(glue_folder / "sst2/validation.parquet")
    tiers = [(rows.settings["tiers"][name]["path"], length) for name, length in (("swift", 8), ("super", 32))]
    for stage, (path, length) in enumerate(tiers):
        model, tokenizer = AutoModelForSequenceClassification.from_pretrained(path), AutoTokenizer.from_pretrained(path)
        for i, sample_id in enumerate(rows.sample_id):
            encoding = tokenizer(texts.sentence[sample_id], truncation=True, max_length=length, return_tensors="pt")
            with torch.no_grad():
                logits = model(**encoding).logits[0].numpy()
            np.testing.assert_allclose(rows.outputs[i, stage], logits, rtol=0, atol=1e-5)
            assert rows.label[i] == texts.label[sample_id]


@pytest.mark.slow
def test_fewer_rows_than_processes(tested, cascade, tmp_path) -> None:
    """Two test rows and three processes: one process has only a repeat, and adds nothing."""
    few = json.dumps({**ROWS, "test": 2})
    options = [f"--data.max_rows={few}", "--trainer.devices=3", "--data.batch_size=4", f"--run={tmp_path}"]
    succeed(*cascade, *options, witness(tmp_path))
    seen = [rank["seen"]["test"] for rank in facts(tmp_path)]
    assert [len(flat(rows)) for rows in seen] == [1, 1, 1]
    rows, whole = table(tmp_path).of_split("test"), table(tested(1)).of_split("test")
    assert len(rows) == 2
    places = [whole.sample_id.tolist().index(i) for i in rows.sample_id.tolist()]
    np.testing.assert_allclose(rows.outputs, whole.outputs[places], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(rows.macs, whole.macs[places])


@pytest.mark.slow
def test_error_of_all_processes_is_one_line(cascade, tmp_path) -> None:
    done = start(*cascade, "--data.min_calibration=61", "--trainer.devices=2", f"--run={tmp_path}/run")
    assert done.returncode == 2
    assert (done.stdout + done.stderr).count("`calibration` needs at least 61 rows, but got 60") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run/config-test.yaml").exists()


@pytest.mark.slow
def test_error_of_the_writing_process_ends_the_others(cascade, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = start(*cascade, f"--sweep.out={tmp_path}/file/sweep", "--trainer.devices=2", f"--run={tmp_path}/run")
    assert done.returncode == 2
    assert len(re.findall("^dial test: error: ", done.stderr, re.MULTILINE)) == 1
    assert "Traceback" not in done.stderr
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.slow
def test_predictions_with_two_processes(make_tiny_bert, source, tmp_path) -> None:
    lines = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        model = ["--model=Classifier", f"--model.path={make_tiny_bert(layers=2, seed=2)}", "--model.max_length=32"]
        succeed("predict", *model, *source, f"--trainer.devices={processes}", "--data.batch_size=4", f"--run={folder}")
        lines[processes] = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(lines[1]) == 13
    for one, two in zip(lines[1], lines[2], strict=True):
        assert [one[k] for k in ("sample_id", "prediction")] == [two[k] for k in ("sample_id", "prediction")]
        assert two["probabilities"] == pytest.approx(one["probabilities"], abs=1e-5)


# ---- dial fit ----

BERT = (
    "{model_type: bert, vocab_size: 40, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, "
    "intermediate_size: 32, max_position_embeddings: 32, hidden_dropout_prob: %s, attention_probs_dropout_prob: %s}"
)


@pytest.fixture(scope="module")
def distil(make_tiny_bert, source):
    """Function: arguments of `dial fit` of a word-level model, distilled from a tiny BERT, in two epochs."""
    optimizer = "--model.optimizer={class_path: torch.optim.AdamW, init_args: {lr: 1.0e-3, weight_decay: 0.01}}"

    def arguments(folder: Path, processes: int, batch: int, dropout: float, kill_at: int = 0) -> list[str]:
        return [
            *("fit", "--model=Classifier", f"--model.config={BERT % (dropout, dropout)}", "--model.tokenizer=words"),
            *("--model.max_length=32", optimizer, f"--model.teacher={make_tiny_bert(layers=2, seed=2)}", *source),
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


# ---- trainer configurations and Slurm ----


def sbatch(option: str) -> int:
    return int(re.search(rf"^#SBATCH --{option}=(\d+)$", SLURM.read_text(), re.MULTILINE)[1])


def test_slurm_script_parses() -> None:
    subprocess.run(["bash", "-n", str(SLURM)], check=True)


def test_slurm_starts_as_many_tasks_as_the_trainer_expects() -> None:
    trainer = yaml.safe_load((ROOT / "configs/trainer/multinode.yaml").read_text())
    assert sbatch("nodes") == trainer["num_nodes"] > 1
    assert sbatch("ntasks-per-node") == sbatch("gpus-per-node") == trainer["devices"] > 1


@pytest.mark.slow
def test_slurm_script_runs_the_command(tmp_path, source) -> None:
    """With a stand-in for `srun`: what it would start parses, and has Slurm's nodes and tasks."""
    srun = tmp_path / "srun"
    srun.write_text(f'#!/usr/bin/env bash\nshift 2\nexec {sys.executable} -m dial "$@"\n')
    srun.chmod(0o755)
    environment = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_NUM_NODES": "3", "SLURM_NTASKS_PER_NODE": "2"}
    arguments = [a for a in source if a not in TRAINER]
    done = subprocess.run(
        ["bash", str(SLURM), "test", "--model=Cascade", "--model.tiers=[a, b]", *arguments, "--print_config"],
        env={**os.environ, **environment, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    trainer = yaml.safe_load(done.stdout)["trainer"]
    assert (int(trainer["num_nodes"]), int(trainer["devices"]), trainer["accelerator"]) == (3, 2, "gpu")
    usage = subprocess.run(["bash", str(SLURM)], capture_output=True, text=True)
    assert usage.returncode == 2 and "usage" in usage.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("name", "processes"), [("ddp_cpu", 2), ("multinode", 8)])
def test_trainer_configurations_parse(source, name, processes) -> None:
    arguments = [a for a in source if a not in TRAINER]
    printed = succeed(
        "test", f"--trainer=configs/trainer/{name}.yaml", "--model=Cascade", "--model.tiers=[a, b]", *arguments,
        "--print_config",
    )  # fmt: skip
    trainer = yaml.safe_load(printed[: printed.rindex("\n")])["trainer"]
    assert trainer["devices"] * trainer["num_nodes"] == processes
    assert "ddp" in str(trainer["strategy"]).lower()
    assert trainer["use_distributed_sampler"] is False


@pytest.mark.slow
def test_two_processes_by_configuration(cascade, tested, tmp_path) -> None:
    """`configs/trainer/ddp_cpu.yaml` gives the table of one process."""
    arguments = [a for a in cascade if a not in TRAINER]
    options = ["--trainer=configs/trainer/ddp_cpu.yaml", "--data.batch_size=4", f"--run={tmp_path}"]
    succeed(*arguments, *options, witness(tmp_path))
    assert len(facts(tmp_path)) == 2
    np.testing.assert_allclose(table(tmp_path).outputs, table(tested(1)).outputs, rtol=0, atol=1e-5)
