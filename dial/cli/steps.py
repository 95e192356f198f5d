"""Steps of a procedure, each one command: what is done, what is to do, and running them."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from dial.claims import alone, first_difference, same_place
from dial.cli.interrupts import Interrupts
from dial.files import write_json

PROGRAMS = {"dial": [sys.executable, "-m", "dial"], "python": [sys.executable]}
SAVING = 60.0  # seconds that a command is given to end when it is told to
DONE = "recipe.json"  # in the run folder: the command of every step that is done


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: what the step is called.
        result: file that the step leaves when it is done.
        command: program (`dial` or `python`) and arguments.
    """

    name: str
    result: str
    command: tuple[str, ...]

    def __str__(self) -> str:
        """The command as it can be pasted into a shell."""
        return shlex.join(self.command)

    @property
    def folder(self) -> Path:
        """What is to be removed to do the step again: its run folder, or the folder of its result.

        >>> Step("ta", "runs/x/ta/tier/card.json", ("dial", "fit", "--run", "runs/x/ta")).folder.as_posix()
        'runs/x/ta'
        """
        for word, following in zip(self.command, (*self.command[1:], ""), strict=True):
            if word == "--run" or word.startswith("--run="):
                return Path(word.partition("=")[2] or following)
        return Path(self.result).parent

    def uses(self, other: Step) -> bool:
        """Whether the command names the folder that the other step's result lies in.

        >>> first = Step("ta", "runs/x/ta/tier/card.json", ("dial", "fit", "--run", "runs/x/ta"))
        >>> Step("cascade", "c.json", ("dial", "test", "--model.tiers", "[runs/x/ta/tier, b]")).uses(first)
        True
        """
        folder = re.escape(str(Path(other.result).parent))
        return any(re.search(rf"(^|[\s=\[,'\"]){folder}($|[/\s\],'\"])", word) for word in self.command)


def run_step(step: Step, root: Path | None = None) -> None:
    """Print a step's command and run it with this interpreter.

    Args:
        step: what to run.
        root: folder to run it in; None: the present one.

    Raises:
        ValueError: the command failed or left no result.
    """
    print(f"\n# {step.name}\n$ {step}", flush=True)
    start = time.monotonic()
    code = run_program([*PROGRAMS[step.command[0]], *step.command[1:]], root)
    if code or not is_complete((root or Path()) / step.result):
        left = "" if code else f" and left no finished {step.result}"
        raise ValueError(f"step {step.name} ended with code {code}{left}; started again, it goes on from here.")
    print(f"# {step.name}: {(time.monotonic() - start) / 60:.1f} minutes", flush=True)


def run_program(words: Sequence[str], root: Path | None) -> int:
    """Run a program and give its exit code; what interrupts this process ends the program, which may save first.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM has arrived, and the program has ended.
    """
    with Interrupts() as interrupts, subprocess.Popen(words, cwd=root, close_fds=False) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            if interrupts.arrived != signal.SIGINT:  # a terminal sends that to the program itself
                process.terminate()
            try:
                process.wait(SAVING)
            except BaseException:  # it takes too long, or somebody is impatient
                process.kill()
            raise


def is_complete(result: Path) -> bool:
    """Whether a result is there, and is not that of a fit which ran out of time."""
    if not result.is_file():
        return False
    return result.name != "card.json" or bool(json.loads(result.read_text() or "{}").get("finished", True))


def run_steps(steps: Sequence[Step], run: Path) -> None:
    """Run what is not done, in order; each command that ended well is noted in the run folder.

    Args:
        steps: all steps.
        run: folder of the procedure.

    Raises:
        ValueError: as :func:`pending` and :func:`run_step`; or another process is at work in the folder.
    """
    refusal = (
        f"`--run` {run} must be of no other `dial recipe`, but one, or a command of it, is at work there; wait for it, "
        "or end it."
    )
    # The commands hold the lock, too, should this process be killed and one of them live on.
    with alone(run / ".recipe.lock", refusal, inherited=True):
        done = read_done(run)
        todo = pending(steps, done)
        for step in steps:
            if step not in todo:
                print(f"# {step.name}: done, see {step.result}", flush=True)
                continue
            run_step(step)
            done[step.name] = str(step)
            write_json(run / DONE, done)


def pending(steps: Sequence[Step], done: Mapping[str, str]) -> list[Step]:
    """The steps to run: those without a result, and those whose result is there but not known to be of this command.

    The command of the latter says itself whether it has finished, or refuses a folder of another configuration.

    Args:
        steps: all of them, in order.
        done: command of every step that is done, by name.

    Raises:
        ValueError: a step is done by another command, or was made from one that is missing.
    """
    todo: list[Step] = []
    missing: list[Step] = []
    for step in steps:
        there = is_complete(Path(step.result))
        if there and step.name in done and not same_command(done[step.name], str(step)):
            raise ValueError(
                f"`--run` holds step {step.name} of another command: {difference(done[step.name], str(step))}; name "
                f"another folder, or remove {step.folder} to do the step again."
            )
        for earlier in missing:
            if step.uses(earlier) and step.folder.exists():
                raise ValueError(
                    f"`--run` holds step {step.name}, which was made from step {earlier.name}, whose result "
                    f"{earlier.result} is missing; remove {step.folder} to do both, or name another folder."
                )
        if not there:
            missing.append(step)
        if not there or step.name not in done:
            todo.append(step)
    return todo


def same_command(before: str, now: str) -> bool:
    """Whether two commands are the same, however paths in them are spelt.

    >>> same_command("dial test --tiers '[., b]'", f"dial test --tiers '[{Path.cwd()}, b]'")
    True
    >>> same_command("dial fit --rows=1", "dial fit --rows=2")
    False
    """

    def equal(old: str, new: str) -> bool:
        (old_key, _, old_value), (new_key, _, new_value) = old.partition("="), new.partition("=")
        return same_value(old, new) or (old_key == new_key and same_value(old_value, new_value))

    words = shlex.split(before), shlex.split(now)
    return len(words[0]) == len(words[1]) and all(equal(*pair) for pair in zip(*words, strict=True))


def same_value(old: str, new: str) -> bool:
    """Whether two arguments mean the same, however paths in them are spelt."""
    same = same_place(Path.cwd())
    if same(old, new):
        return True
    try:
        values = yaml.safe_load(old), yaml.safe_load(new)
    except yaml.YAMLError:
        return False
    return all(isinstance(value, list | dict) for value in values) and first_difference(*values, same=same) is None


def difference(before: str, now: str) -> str:
    """The first option in which two commands differ, whatever their order.

    >>> difference("dial fit --a 1 --b 2", "dial fit --a 1 --b 3")
    'it had --b 2, now --b 3'
    >>> difference("dial fit --b 2", "dial fit --a 1 --b 2")
    'it had no --a, now --a 1'
    """
    old, new = options(before), options(now)
    for name in [*new, *(name for name in old if name not in new)]:
        values = old.get(name, []), new.get(name, [])
        if len(values[0]) != len(values[1]) or not all(map(same_value, *values)):
            had, has = (shlex.join([name, *found]).strip() if found else f"no {name}" for found in values)
            return f"it had {had}, now {has}"
    return "it had the same options, written or ordered otherwise"


def options(command: str) -> dict[str, list[str]]:
    """Values of each option of a command, ``true`` for one without; under an empty name what is behind none.

    >>> options("dial fit --a 1 --b=2 --c --a 3")
    {'': ['dial', 'fit'], '--a': ['1', '3'], '--b': ['2'], '--c': ['true']}
    """
    found: dict[str, list[str]] = {}
    words = shlex.split(command)
    while words:
        name, equals, value = words.pop(0).partition("=")
        if not name.startswith("--"):
            name, value = "", name + equals + value
        elif not equals:
            value = words.pop(0) if words and not words[0].startswith("--") else "true"
        found.setdefault(name, []).append(value)
    return found


def read_done(run: Path) -> dict[str, str]:
    """The commands of the steps that are done, by name.

    Raises:
        ValueError: the file cannot be read.
    """
    path = run / DONE
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(f"`--run` {run} holds a {DONE} that cannot be read; remove that file.") from error
