"""Kill commands at random moments, start them again, and see that nothing is lost, torn or different.

    python scripts/kills.py --kills 200

fits, predicts (to a file of rows, a compressed one, a folder of parts), sweeps and runs the demo, all tiny, on
built-in data. Each is first run undisturbed. Then it is killed, by SIGKILL and SIGTERM in turn, after a delay that is
drawn evenly over the time it took; half of the restarts are killed again; the last one runs to the end. After each kill
no half-written file may bear its final name, and after SIGTERM the exit code is 143 with one line that says so. At the
end the results are those of the undisturbed run: bit by bit, but for predictions, whose scores a resume may change by
1e-5.

Commands run in forks of this process, which has imported torch and the like, so that kills meet their work; the demo
runs as `scripts/demo.sh` with processes of its own, and the signal goes to all of them.

Prints a table and writes JSON; exit status 1 where something failed. Folders of failed runs are kept.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dial.cli.interrupts import INTERRUPTED
from scripts import kills_checks as checks
from scripts.kills_commands import Command, Ended, run

ROOT = Path(__file__).resolve().parents[1]
SIGNALS = ("SIGKILL", "SIGTERM")
SHARES = {"predict lines": 28, "predict gzip": 10, "predict parts": 28, "sweep": 60, "fit": 60, "demo": 14}
AGAIN = "interrupted; the same command starts again"
QUIET = ("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
SIZES = ("--data.train_rows=192", "--data.validation_rows=32", "--data.calibration_rows=100", "--data.test_rows=100")
BERT = (
    "{model_type: bert, vocab_size: 1000, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, "
    "intermediate_size: 32, max_position_embeddings: 64, initializer_range: 0.15}"
)
DEMO = "configs/data/demo.yaml"
HEAVY = (
    "fvcore.nn", "matplotlib.pyplot", "pandas", "pyarrow.csv", "pyarrow.parquet", "scipy.stats",
    "transformers.models.auto.modeling_auto", "transformers.models.bert.modeling_bert", "dial.cli.trainer",
)  # fmt: skip


@dataclass
class Counts:
    """What came of the kills of one command.

    Attributes:
        seconds: of the undisturbed command.
        runs: from an empty folder to the end.
        SIGKILL: kills.
        SIGTERM: kills.
        late: signals that were not sent, or came too late, as the command had ended.
        unheard: SIGTERM that ended Python by itself, before or after the command took it.
        torn_lines: rows files whose last line was torn, which the restart drops.
        failures: in words, with the run's number.
    """

    seconds: float = 0.0
    runs: int = 0
    SIGKILL: int = 0
    SIGTERM: int = 0
    late: int = 0
    unheard: int = 0
    torn_lines: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """Of both kinds."""
        return self.SIGKILL + self.SIGTERM


def undisturbed(command: Command, place: Path) -> float:
    """Run a command to its end, keep its results as the whole ones, and give its seconds.

    It runs twice, as the first run of all is slower, and because two runs must be equal at all.

    Raises:
        RuntimeError: it fails, or two runs differ.
    """
    ended = run(command, place)
    for attempt in range(2):
        if ended.code:
            raise RuntimeError(f"fails undisturbed, with exit code {ended.code}:\n{ended.output[-3000:]}")
        if attempt == 0:
            command.move("whole-")
            ended = run(command, place)
    if problems := command.finished():
        raise RuntimeError(f"two undisturbed runs differ: {problems}")
    command.clear()
    return ended.seconds


def signal_problems(command: Command, ended: Ended, name: str, counts: Counts) -> list[str]:
    """What is wrong with how a killed command ended."""
    said = [line for line in ended.output.splitlines() if "interrupted" in line]
    problems = ["a traceback"] if "Traceback" in ended.output else []
    if name == "SIGKILL":
        return problems + ([] if ended.code == -signal.SIGKILL else [f"exit code {ended.code} after SIGKILL"])
    if ended.code == -signal.SIGTERM:
        counts.unheard += not said
        return problems if not said or command.program else [*problems, f"ended by SIGTERM, but said {said}"]
    if ended.code == 0:  # it was over when the signal arrived
        return problems
    if ended.code != 128 + signal.SIGTERM:
        problems.append(f"exit code {ended.code} after SIGTERM: {ended.output[-300:]}")
    if len(said) != 1 or said[0] not in command.words:
        problems.append(f"after SIGTERM it said {said}")
    return problems


def one_run(command: Command, counts: Counts, kills: int, place: Path, chance: random.Random) -> list[str]:
    """Kill a command once or more, run it to its end, and say what was wrong.

    Args:
        command: what to kill.
        counts: are added to.
        kills: that are wanted in all.
        place: folder for what it prints.
        chance: draws delays, and whether a restart is killed as well.
    """
    command.clear()
    problems: list[str] = []
    first = True
    while counts.kills < kills:
        name = SIGNALS[counts.kills % 2]
        delay = chance.uniform(0.0, counts.seconds)
        ended = run(command, place, name, delay)
        if not ended.killed:
            counts.late += 1
            if first:  # the machine is faster than it was
                counts.seconds = min(counts.seconds, ended.seconds)
            break
        first = False
        setattr(counts, name, getattr(counts, name) + 1)
        found = [*signal_problems(command, ended, name, counts), *command.half_way()]
        problems += [f"{name} after {delay:.3f} s: {problem}" for problem in found]
        counts.torn_lines += command.predicts and checks.predictions_of(command.folder)[1]
        if chance.random() < 0.5:
            break
    ended = run(command, place)
    if ended.code:
        return [*problems, f"the restart ends with {ended.code}: {ended.output[-1500:]}"]
    return problems + command.finished()


def kill_command(
    command: Command, kills: int, place: Path, chance: random.Random, report: Callable[[Counts], None]
) -> Counts:
    """Kill a command so many times, and look each time.

    Args:
        command: what to kill.
        kills: how many.
        place: folder for what it prints.
        chance: draws delays.
        report: called after each run.
    """
    counts = Counts(seconds=undisturbed(command, place))
    while counts.kills < kills and len(counts.failures) < 20:
        counts.runs += 1
        try:
            problems = one_run(command, counts, kills, place, chance)
        except RuntimeError as error:
            problems = [str(error)]
        if problems:
            counts.failures += [f"run {counts.runs}: {problem}" for problem in problems]
            command.move(f"failed{counts.runs}-")
        report(counts)
    command.clear()
    return counts


def prepare(place: Path, only: Sequence[str]) -> dict[str, Command]:
    """Commands by name, and in a folder the tiers, their sweep and texts that all of them but the demo use."""
    setup, common = place / "setup", (f"--data={DEMO}", *SIZES, *QUIET)
    for name in ("setup", "fit", "lines", "gzip", "parts", "sweep", "demo"):
        (place / name).mkdir()
    bert = (f"--model.config={BERT}", "--trainer.max_epochs=2", "--resume.every_n_steps=3")
    swift = ("fit", "--config=configs/model/demo_swift.yaml", *common, *bert, f"--model.teacher={setup}/super/tier")
    steps = (
        ("fit", "--config=configs/model/demo_super.yaml", *common, "--trainer.max_epochs=1", f"--run={setup}/super"),
        (*swift, f"--run={setup}/swift"),
        ("test", "--config=configs/model/cascade.yaml", *common, "--sweep.bootstrap=100", f"--run={setup}",
         f"--model.tiers=[{setup}/swift/tier, {setup}/super/tier]"),
    )  # fmt: skip
    for arguments in steps if set(only) - {"demo"} else ():
        ended = run(Command(arguments, setup, ()), place)
        if ended.code:
            raise SystemExit(f"cannot prepare: {' '.join(arguments)}\n{ended.output[-3000:]}")
    demo = ("scripts/demo.sh", *SIZES, *QUIET, "--trainer.max_epochs=1", "--sweep.bootstrap=100")
    commands = {
        "fit": Command((*swift, f"--run={place}/fit/run"), place / "fit/run", (INTERRUPTED,)),
        "sweep": Command(
            (
                "sweep",
                str(setup / "sweep/stages.parquet"),
                "--bootstrap=100",
                "--scores",
                "energy",
                "softmax",
                f"--out={place}/sweep/run",
            ),
            place / "sweep/run",
            ("interrupted",),
        ),
        "demo": Command(demo, place / "demo/run", (INTERRUPTED, AGAIN, "interrupted"), program=True),
    }
    return commands | (predict_commands(place, setup) if any("predict" in name for name in only) else {})


def predict_commands(place: Path, setup: Path) -> dict[str, Command]:
    """`dial predict` to each kind of output, of texts that are written here, some of which are none."""
    texts = place / "texts.jsonl"
    threshold = write_texts(setup, texts)
    predict = ("predict", str(setup), str(texts), "--on-error=skip", "--score=energy", f"--threshold={threshold}")
    outs = {"lines": place / "lines/rows.jsonl", "gzip": place / "gzip/rows.jsonl.gz", "parts": place / "parts/rows"}
    return {
        f"predict {name}": Command(
            (*predict, "--batch-size=8", "--part-rows=50", f"--out={out}"), out, (INTERRUPTED, "interrupted")
        )
        for name, out in outs.items()
    }


def write_texts(run_folder: Path, path: Path, rows: int = 900) -> float:
    """Write texts of the built-in data, some of them none, and give a threshold that half of the rows reach."""
    import numpy as np
    import pyarrow.parquet as pq

    from datamodules.sentences import draw

    texts: list[Any] = [sentence.text for sentence in draw(rows, [0.4, 0.1, 0.25, 0.25], 1)]
    texts[50::97] = [None] * len(texts[50::97])
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    table = pq.read_table(run_folder / "sweep/stages.parquet").to_pandas()
    return float(np.median(table[next(name for name in table.columns if name.startswith("energy_swift"))]))


def shares_of(kills: int, only: Sequence[str]) -> dict[str, int]:
    """Kills of each command, in proportion to :data:`SHARES`, at least one.

    Example:
        >>> shares_of(200, ["fit", "demo"])
        {'fit': 133, 'demo': 67}
    """
    total = sum(SHARES[name] for name in only)
    return {name: max(1, round(kills * SHARES[name] / total)) for name in only}


def table_of(results: dict[str, Counts]) -> str:
    """Counts as a table."""
    heads = ("command", "seconds", "runs", "SIGKILL", "SIGTERM", "late", "unheard", "torn lines", "failures")
    rows = [
        (name, f"{c.seconds:.1f}", c.runs, c.SIGKILL, c.SIGTERM, c.late, c.unheard, c.torn_lines, len(c.failures))
        for name, c in results.items()
    ]
    sums = [sum(int(row[i]) for row in rows) for i in range(2, len(heads))]
    lines = [heads, *rows, ("all", "", *sums)]
    width = [max(len(str(line[i])) for line in lines) for i in range(len(heads))]
    return "\n".join(
        "  ".join(
            f"{cell!s:<{w}}" if i == 0 else f"{cell!s:>{w}}"
            for i, (cell, w) in enumerate(zip(line, width, strict=True))
        )
        for line in lines
    )


def import_everything() -> None:
    """Import what commands import on first use of other packages, so that their forks need not."""
    import torch

    for name in HEAVY:
        importlib.import_module(name)
    torch.set_num_threads(1)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="in all; default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=tuple(SHARES), default=tuple(SHARES), help="commands")
    parser.add_argument("--seed", type=int, default=0, help="of the delays")
    parser.add_argument("--out", type=Path, default=Path("runs/kills.json"), help="default: %(default)s")
    parser.add_argument("--work", type=Path, help="new folder to work in, kept; default: a temporary one")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Kill; returns the exit code."""
    from dial.files import write_json

    options = parse(argv)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep)
    os.chdir(ROOT)
    place = options.work.resolve() if options.work else Path(tempfile.mkdtemp(prefix="kills-"))
    place.mkdir(exist_ok=True, parents=True)
    os.environ["DIAL_CACHE"] = str(place / "cache")
    import_everything()
    results: dict[str, Counts] = {}
    commands = prepare(place, options.only)
    os.environ["RUN"] = str(commands["demo"].folder)
    for name, kills in shares_of(options.kills, options.only).items():

        def report(counts: Counts, name: str = name) -> None:
            results[name] = counts
            content = {key: {"kills": value.kills, **asdict(value)} for key, value in results.items()}
            write_json(options.out, {"seed": options.seed, "commands": content})

        try:
            results[name] = kill_command(commands[name], kills, place, random.Random(f"{options.seed} {name}"), report)
        except RuntimeError as error:
            results[name] = Counts(failures=[str(error)])
        report(results[name])
        print(f"{name}: {results[name].kills} kills, {len(results[name].failures)} failures", flush=True)
    print(table_of(results))
    failures = [f"{name}: {failure}" for name, counts in results.items() for failure in counts.failures]
    print(*failures, f"written to {options.out}", sep="\n")
    if not failures and options.work is None:
        shutil.rmtree(place)
    elif failures:
        print(f"failed runs are kept in {place}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
