"""Trainer configurations for several processes, and the Slurm script."""

import os
import re
import subprocess
import sys

import pytest
import yaml

from tests.cli.conftest import ROOT
from tests.cli.real_commands import TRAINER, succeed

SLURM = ROOT / "configs/cluster/slurm.sh"


def sbatch(option: str) -> int:
    return int(re.search(rf"^#SBATCH --{option}=(\d+)$", SLURM.read_text(), re.MULTILINE)[1])


def test_slurm_script_parses() -> None:
    subprocess.run(["bash", "-n", str(SLURM)], check=True)


def test_slurm_starts_as_many_tasks_as_the_trainer_expects() -> None:
    trainer = yaml.safe_load((ROOT / "configs/trainer/multinode.yaml").read_text())
    assert sbatch("nodes") == trainer["num_nodes"] > 1
    assert sbatch("ntasks-per-node") == sbatch("gpus-per-node") == trainer["devices"] > 1


@pytest.mark.slow
def test_slurm_script_runs_the_command(tmp_path, process_arguments) -> None:
    """With a stand-in for `srun`: what it would start parses, and has Slurm's nodes and tasks."""
    srun = tmp_path / "srun"
    srun.write_text(f'#!/usr/bin/env bash\nshift 2\nexec {sys.executable} -m dial "$@"\n')
    srun.chmod(0o755)
    environment = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_NUM_NODES": "3", "SLURM_NTASKS_PER_NODE": "2"}
    arguments = [a for a in process_arguments if a not in TRAINER]
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
    sharded = {
        **os.environ,
        **environment,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "TRAINER": "configs/trainer/sharded.yaml",
    }
    done = subprocess.run(
        ["bash", str(SLURM), "test", "--model=Cascade", "--model.tiers=[a, b]", *arguments, "--print_config"],
        env=sharded, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    trainer = yaml.safe_load(done.stdout)["trainer"]
    assert trainer["strategy"]["class_path"] == "callbacks.Sharded" and trainer["devices"] in (2, "2"), done.stderr
    usage = subprocess.run(["bash", str(SLURM)], capture_output=True, text=True)
    assert usage.returncode == 2 and "usage" in usage.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("name", "processes"), [("ddp_cpu", 2), ("multinode", 8), ("sharded", 8)])
def test_trainer_configurations_parse(process_arguments, name, processes) -> None:
    arguments = [a for a in process_arguments if a not in TRAINER]
    printed = succeed(
        "test", f"--trainer=configs/trainer/{name}.yaml", "--model=Cascade", "--model.tiers=[a, b]", *arguments,
        "--print_config",
    )  # fmt: skip
    trainer = yaml.safe_load(printed[: printed.rindex("\n")])["trainer"]
    assert trainer["devices"] * trainer["num_nodes"] == processes
    assert ("sharded" if name == "sharded" else "ddp") in str(trainer["strategy"]).lower()
    assert trainer["use_distributed_sampler"] is False
