"""Small GLUE-like folders, trained tiers, and the `dial` command in forks of one process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.glue_files import sentences
from tests.cli.real_commands import ROWS, TRAINER

ROOT = Path(__file__).resolve().parents[2]
QUIET = ("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")


@dataclass(frozen=True)
class Done:
    """A finished command: its exit code, and what it printed."""

    code: int
    output: str

    @property
    def error(self) -> str:
        """The one line that a refused command leaves; anything else fails."""
        assert self.code == 2, f"exit code {self.code}:\n{self.output[-4000:]}"
        lines = [line for line in self.output.splitlines() if ": error: " in line]
        assert len(lines) == 1 and "Traceback" not in self.output, self.output[-4000:]
        assert self.output.rstrip().endswith(lines[0]), self.output[-4000:]
        return lines[0]

    def ok(self) -> str:
        """What it printed, if it succeeded."""
        assert self.code == 0, f"exit code {self.code}:\n{self.output[-4000:]}"
        return self.output


@pytest.fixture(scope="session")
def glue_folder(tmp_path_factory) -> Path:
    """Folder with `sst2/train.parquet` (400 rows) and `sst2/validation.parquet` (61 rows)."""
    folder = tmp_path_factory.mktemp("glue")
    (folder / "sst2").mkdir()
    sentences(400, 0).to_parquet(folder / "sst2/train.parquet")
    sentences(61, 1).to_parquet(folder / "sst2/validation.parquet")
    return folder


@pytest.fixture(scope="session")
def data_arguments(glue_folder) -> list[str]:
    return [
        "--data=GLUEDataModule",
        "--data.task=sst2",
        f"--data.source={glue_folder}",
        "--data.calibration_fraction=0.3",
    ]


@pytest.fixture(scope="session")
def fit_arguments(tiny_bert, data_arguments) -> list[str]:
    """`dial fit` of a tiny BERT with dropout, two epochs of 31 steps."""
    return [
        *("fit", "--config=configs/model/finetune.yaml", *data_arguments, f"--model.path={tiny_bert}"),
        *("--data.batch_size=8", "--trainer.max_epochs=2", "--model.max_length=32", *QUIET),
    ]


@pytest.fixture(scope="session")
def test_arguments(make_tiny_bert, data_arguments) -> list[str]:
    """`dial test` of a cascade of two tiny BERTs, with few resamples."""
    tiers = f"[{make_tiny_bert(layers=1, seed=1)}, {make_tiny_bert(layers=2, seed=2)}]"
    return [
        *("test", "--config=configs/model/cascade.yaml", *data_arguments, f"--model.tiers={tiers}"),
        *("--sweep.bootstrap=100", *QUIET),
    ]


@pytest.fixture(scope="session")
def process_arguments(glue_folder) -> list[str]:
    """Data and trainer of commands that run as several processes, with rows that do not divide evenly."""
    rows = json.dumps(ROWS)
    return [
        *("--data=GLUEDataModule", "--data.task=sst2", f"--data.source={glue_folder}"),
        *("--data.calibration_fraction=0.3", f"--data.max_rows={rows}", "--trainer.enable_model_summary=false"),
        *TRAINER,
    ]


@pytest.fixture(scope="session")
def dial() -> Iterator[Callable[..., Done]]:
    """Function that runs one `dial` command in a fork of a process that has imported everything.

    Takes the arguments and a `fault` (see forks.py).
    """
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "forks.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )

    def run(*arguments: object, fault: str | None = None) -> Done:
        server.stdin.write(json.dumps({"arguments": [str(a) for a in arguments], "fault": fault}) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, "the process that runs the commands ended"
        return Done(**json.loads(answer))

    yield run
    server.stdin.close()
    server.wait(timeout=30)
    server.stdout.close()


@pytest.fixture(scope="session")
def run_many(dial) -> Callable[..., list[int]]:
    """Run several commands, a list of `(arguments, fault)`; gives the exit codes, -9 for a killed one."""

    def run(jobs: list[tuple[list[str], str | None]]) -> list[int]:
        done = [dial(*arguments, fault=fault) for arguments, fault in jobs]
        run.output = "\n".join(job.output for job in done)
        return [job.code for job in done]

    return run


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, bytes]]:
    """Function that gives the content of every file below a folder."""
    return lambda folder: {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
