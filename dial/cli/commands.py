"""The table of commands: what `dial --help` lists, where each command is, and what shells complete."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from dial.cli.short_help import options, page
from dial.heap import kept_memory

Words = Sequence[str]


class Entry(NamedTuple):
    """A command.

    Attributes:
        help: what `dial --help` says of it.
        home: module and function that runs it, given the words behind the command; None for the trainer's commands.
    """

    help: str
    home: str | None = None

    def load(self) -> Callable[[Words], int]:
        """The function; each module imports only what it needs, as Lightning alone takes seconds."""
        module, _, path = str(self.home).partition(":")
        function: Callable[[Words], int] = attrgetter(path)(import_module(module))
        return function


FIT = """\
train a tier (a run folder with checkpoints and a loadable tier/)
(started again, a killed run goes on, and a finished one says so and is left alone)
steps follow the number of rows, and the learning rate the model's width: the line "fit: ..." tells them;
if it learns too little: --trainer.max_epochs (or --length.min_steps) up, then another
--model.optimizer.init_args.lr, then a smaller --data.batch_size"""
PREDICT = """\
RUN INPUT --out FILE: answer a file of texts with the cascade that `dial test` left in RUN
(CSV, TSV, JSONL, parquet or plain text of any size; a killed command goes on)
--model ... --data ...: write one tier's predictions for the rows of a data set"""
CALIBRATE = """\
RUN FILE: choose the operating points of RUN on rows of your own, with or without labels;
predict then takes them"""
LENGTHS = """\
TIER FILE: search for the tokens that a tier can do without, layer by layer, on labelled rows;
`{path: TIER, lengths: 0.5}` is then a tier of half the MACs"""
AUGMENT = """\
write new training texts, made of those of a data set, for a student to learn from its teacher's answers:
--data ... --vectors glove.txt --out FILE; fit reads them with --data.augmentation FILE"""
SWEEP = "curve, operating points and figures from a table of logits: dial sweep table.parquet"
COMPARE = "several runs on one plot and table: dial compare runs/a runs/b"
RECIPE = "run a procedure's steps that are not done yet: dial recipe configs/recipe/cost_eff.yaml ..."
GROUPS = {
    "Train with one trainer, then trade quality for cost": {
        "fit": Entry(FIT),
        "validate": Entry("metrics of a model on the validation rows"),
        "test": Entry("run every tier once over calibration and test rows, then sweep: sweep/ in the run folder"),
        "predict": Entry(PREDICT, "dial.cli.predict:PredictCommand.main"),
        "calibrate": Entry(CALIBRATE, "dial.cli.calibrate:CalibrateCommand.main"),
        "lengths": Entry(LENGTHS, "dial.cli.lengths:LengthsCommand.main"),
        "augment": Entry(AUGMENT, "dial.cli.augment:AugmentCommand.main"),
    },
    "From saved tables alone, without a model": {
        "sweep": Entry(SWEEP, "dial.cli.tables:SweepCommand.main"),
        "compare": Entry(COMPARE, "dial.cli.tables:CompareCommand.main"),
    },
    "Several of these commands in a row": {"recipe": Entry(RECIPE, "dial.cli.recipe:RecipeCommand.main")},
}
COMMANDS = {name: entry for entries in GROUPS.values() for name, entry in entries.items()}
ANSWERING = ("validate", "test", "predict", "calibrate", "lengths")  # they ask models, batch after batch
MORE = """\
  dial COMMAND --help    arguments of one command
  --import MODULE        with any command: import a module of yours first, such as one with a routing rule
  dial --version         version of the package
  dial --completion      completion for bash and zsh: eval "$(dial --completion)", in zsh after `bashcompinit`
"""
COMPLETION = """\
_dial() {{
  local words="{commands}"
  if [ "$COMP_CWORD" -gt 1 ]; then
    case "${{COMP_WORDS[1]}}" in
{cases}
      *) words="" ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _dial dial
"""


def usage() -> str:
    """What `dial --help` prints."""
    text = "usage: dial COMMAND ...\n\n"
    for title, entries in GROUPS.items():
        text += f"{title}:\n"
        for name, entry in entries.items():
            text += f"  {name:<10} " + entry.help.replace("\n", f"\n{'':<13}") + "\n"
        text += "\n"
    return text + MORE


def package_version() -> str:
    """What `dial --version` prints."""
    from importlib.metadata import version  # slow to import

    return f"dial {version('dial')}\n"


def run_command(command: str, words: Words) -> int:
    """Run a command; returns its exit code.

    Args:
        command: its name.
        words: the command line behind it.

    Raises:
        ValueError: there is no such command, or bad input.
    """
    with modules_of_this_folder(), kept_memory() if command in ANSWERING else nullcontext():
        return _run(command, without_imports(words))


def _run(command: str, words: Words) -> int:
    """Runs one command of the table, or the trainer's of the same name, and gives its exit code."""
    if command not in COMMANDS:
        raise ValueError(f"COMMAND must be one of {', '.join(COMMANDS)}, but got {command!r}; see `dial --help`.")
    entry, helps = COMMANDS[command], ("-h", "--help")
    # With options only `predict` is the trainer's command; bare, or asked for help, it is the routed one.
    trained = command == "predict" and bool(words) and words[0].startswith("-") and words[0] not in helps
    if entry.home is not None and not trained:
        return entry.load()(words)
    if not set(helps).isdisjoint(words):
        print(page(command), end="")
        return 0
    from dial.cli.trainer import run_trainer_command

    return run_trainer_command([command, *words])


@contextmanager
def modules_of_this_folder() -> Iterator[None]:
    """Let ``--import`` and a config's ``class_path`` name modules in the current folder.

    The folder comes last, so that a user's ``datasets.py`` hides no library (nor does a module that is to be imported
    hide behind one in silence: see :func:`without_imports`), and by its full path: jsonargparse reads a
    config from within the config's folder, where the empty entry that Python puts there means another one.
    """
    folder = str(Path.cwd())
    sys.path.append(folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.reverse()
            sys.path.remove(folder)  # the last one, which is ours
            sys.path.reverse()


def without_imports(words: Words) -> list[str]:
    """Import what ``--import MODULE`` names, such as a rule of the user's own, and leave it out of the command line.

    Raises:
        ValueError: there is no such module.
    """
    rest: list[str] = []
    remaining = iter(words)
    for word in remaining:
        option, mark, name = word.partition("=")
        if option != "--import":
            rest.append(word)
            continue
        name = name if mark else next(remaining, "")
        try:
            home = Path(str(import_module(name).__file__)).resolve()
            beside = Path.cwd() / f"{name.replace('.', '/')}.py"
            if beside.is_file() and beside.resolve() != home:
                raise ValueError(f"{home} hides {beside.name}; rename the file")
        except (ModuleNotFoundError, ValueError) as error:
            raise ValueError(
                f"`--import` must be a module, in this folder or installed, but got {name!r}: {error}."
            ) from error
    return rest


def completion() -> str:
    """What a shell reads to complete commands and their options."""
    words = {}
    for name, entry in COMMANDS.items():
        words[name] = options(name) if entry.home is None else entry.load().__self__.options()  # type: ignore[attr-defined]
    cases = "\n".join(f'      {name}) words="{" ".join(typed)}" ;;' for name, typed in words.items())
    return COMPLETION.format(commands=" ".join([*COMMANDS, "--help", "--version", "--completion"]), cases=cases)
