"""Command lines from signatures: a command is a dataclass, its fields are the arguments, its docstring is the help.

jsonargparse, which reads the trainer's commands, spells lists in brackets and options with underscores; these commands
take ``--targets 1 0.99`` and ``--label-names no yes``.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal, NoReturn, get_args, get_origin, get_type_hints

import docstring_parser

from dial.spelling import spelt

NEGATIVE = re.compile(r"-((\d+\.?\d*|\.\d+)(e[+-]?\d+)?(flop)?|inf(inity)?|nan)$", re.IGNORECASE)


class Parser(argparse.ArgumentParser):
    """Raises what argparse would print with a page of usage, so that the caller shows one line.

    A negative number is a value, also ``-inf`` and ``-1e3``, which argparse by itself takes for options.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **settings)
        self._negative_number_matcher = NEGATIVE

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting."""
        message = re.sub(r"^argument (--?[\w-]+): must", r"`\1` must", message)
        raise ValueError(f"{message}; see `{self.prog} --help`.")


class Command:
    """Base of the dataclasses of arguments; an instance is called to run the command.

    Fields with ``kw_only`` are options, the others arguments by position. A ``Sequence`` takes several words; one of
    tuples is an option that may be given several times. ``Annotated[int, "N"]`` gives the word that stands for a value.
    The fields of a base class are a group of their own in the help, headed by the first line of its docstring.

    Attributes:
        PROGRAM: what errors refer to for help.
        PARAMETERS: fields that errors call by another name.
    """

    PROGRAM: ClassVar[str]
    PARAMETERS: ClassVar[Mapping[str, str]] = {}
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __call__(self) -> int:
        """Run the command; returns the exit code."""
        raise NotImplementedError

    @classmethod
    def main(cls, words: Sequence[str], **given: Any) -> int:
        """Read the arguments and run the command; returns the exit code.

        Args:
            words: the command line behind the command.
            given: fields that are no options; their metadata says ``{"option": False}``.

        Raises:
            ValueError: bad input, in one line that spells arguments as they are typed.
        """
        parser = cls.parser()
        command = cls(**vars(parser.parse_args(list(words))), **given)
        names = {a.dest: a.option_strings[0] if a.option_strings else str(a.metavar) for a in parser._actions}
        with spelt(names | {parameter: names[name] for parameter, name in cls.PARAMETERS.items()}):
            return command()

    @classmethod
    def options(cls) -> list[str]:
        """The options as they are typed."""
        return [action.option_strings[-1] for action in cls.parser()._actions if action.option_strings]

    @classmethod
    def parser(cls) -> Parser:
        """The parser of the arguments."""
        parser = Parser(prog=cls.PROGRAM)
        hints, left = get_type_hints(cls, include_extras=True), {field.name: field for field in fields(cls)}
        for home in cls.__mro__:
            about = docstring_parser.parse(home.__doc__ or "")
            own = [left.pop(name) for name in vars(home).get("__annotations__", {}) if name in left]
            if home is cls:
                group: argparse._ActionsContainer = parser
                parser.description = "\n\n".join(filter(None, (about.short_description, about.long_description)))
            elif own:
                group = parser.add_argument_group((about.short_description or "").rstrip("."))
            helps = {text.arg_name: " ".join((text.description or "").split()) for text in about.params}
            for field in (field for field in own if field.metadata.get("option", True)):
                name = f"--{field.name.replace('_', '-')}" if field.kw_only else field.name
                group.add_argument(name, **settings(field, hints[field.name], helps[field.name]))
        needed = [action for action in parser._actions if action.required]
        words = [" ".join([*action.option_strings, str(action.metavar)]) for action in needed]
        parser.usage = " ".join([*cls.PROGRAM.split()[:2], *words, "[options]"])
        return parser


def settings(field: Field[Any], hint: Any, text: str) -> dict[str, Any]:
    """Arguments of ``add_argument`` for a field.

    Args:
        field: to add.
        hint: its type.
        text: its help, to which a default is added that it does not tell.
    """
    kind, word = hint, field.name.upper() if field.kw_only else field.name
    if get_origin(kind) is Annotated:
        kind, word = get_args(kind)
    if NoneType in get_args(kind):
        (kind,) = (part for part in get_args(kind) if part is not NoneType)
    if kind is bool:
        return {"action": "store_true", "help": text}
    result: dict[str, Any] = {}
    if field.default is not MISSING:
        result["default"] = field.default
        if field.default not in (None, ()) and "default" not in text:
            values = field.default if isinstance(field.default, tuple) else [field.default]
            text = f"{text} (default: {' '.join(map(str, values))})"
    elif field.kw_only:
        result["required"] = True
    if get_origin(kind) is Sequence:
        kind, result["nargs"] = get_args(kind)[0], "+"
    if get_origin(kind) is tuple:
        return {
            "action": "append",
            "nargs": len(get_args(kind)),
            "default": [],
            "metavar": tuple(word.split()),
            "help": text,
        }
    if get_origin(kind) is Literal:
        result["choices"] = get_args(kind)
    else:
        result |= {"metavar": word, "type": reader(kind)}
    return {**result, "help": text.replace("%", "%%")}


def reader(kind: type) -> Callable[[str], Any]:
    """What turns a word into a value of a type; for numbers with an error in plain words."""
    names = {int: "a whole number", float: "a number"}

    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {names[kind]}, but got {text!r}") from None

    return read if kind in names else kind
