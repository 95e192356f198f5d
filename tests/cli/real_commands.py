"""Real `dial` commands, whose processes Lightning starts itself, and what each process saw."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRAINER = ("--trainer.accelerator=cpu", "--trainer.strategy=ddp", "--trainer.enable_progress_bar=false")
ROWS = {"train": 48, "validation": 13, "calibration": 60, "test": 13}


def launch(*arguments: object, **environment: str) -> subprocess.Popen:
    """Start `python -m dial` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "dial", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def start(*arguments: object, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess:
    """Run `python -m dial` in a process group of its own; nothing of it outlives this call."""
    process = launch(*arguments, **environment)
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
