"""Labels as files have them: which class, or which number, a value means."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

import numpy as np

from datamodules.row_files import is_unicode

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
NO_LETTERS = re.compile(r"[\W_]+")
KINDS = (str, bool, int, float, Decimal, np.bool_, np.integer, np.floating)  # dates, bytes, lists, … are no labels
MOST_CLASSES = 1000
LARGEST = float(np.finfo(np.float32).max)
REMEDY = "Correct the file or `label_names`."
ANY_TEXT = "*"
"""The only label name of data whose answers are free text, such as translations; see :func:`is_free_text`."""

NOT = "≠ "
"""What begins a reference that an answer must not be: WSC gives a noun phrase that the pronoun does not mean."""


def is_free_text(label_names: Sequence[str] | None) -> bool:
    """Whether answers may be any text, which data say by the one label name ``*``.

    >>> is_free_text(["*"]), is_free_text(["no", "yes"]), is_free_text([])
    (True, False, False)
    """
    return label_names is not None and list(label_names) == [ANY_TEXT]


def number_of(value: object) -> Decimal | None:
    """The exact number that a label is or spells; None for anything else, also for NaN, infinity and truth values.

    >>> number_of(" 10.0") == number_of(10), number_of(0.1) == number_of("0.10"), number_of("1,5"), number_of("1_0")
    (True, True, None, None)
    """
    if isinstance(value, str):
        return Decimal(value.strip()) if NUMBER.fullmatch(value.strip()) else None
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, int | np.integer):
        return Decimal(int(value))
    if isinstance(value, float | np.floating):
        return Decimal(str(value)) if math.isfinite(value) else None  # as it is written: 0.1 equals "0.1"
    return value if isinstance(value, Decimal) and value.is_finite() else None


def is_missing(value: object) -> bool:
    """Whether there is no label: null, NaN, or an empty cell."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float | np.floating | Decimal) and value != value)


def plain_name(name: object) -> str:
    """A label's name without case and punctuation; a number as its value.

    Signs, decimal points and what else stands between two digits are no punctuation, nor are symbols such as ``+``.

    >>> plain_name("Not-Entailment") == plain_name("not_entailment"), plain_name("10.0"), plain_name(10)
    (True, '10', '10')
    >>> plain_name("-1"), plain_name("1.5 stars"), plain_name("C++"), plain_name("covid-19")
    ('-1', '1.5stars', 'c++', 'covid19')
    """
    number = number_of(name)
    if number is not None:
        return _digits(number)
    return NO_LETTERS.sub(_meaning, unicodedata.normalize("NFC", str(name)).casefold())


def _meaning(run: re.Match[str]) -> str:
    """What has a meaning among characters that are neither letters nor digits."""
    text, (start, end) = run[0], run.span()
    before, after = run.string[max(start - 1, 0) : start], run.string[end : end + 1]
    if before.isdigit() and after.isdigit():
        return text
    kept = "".join(character for character in text if unicodedata.category(character)[0] not in "PZC")
    signs = after.isdigit() and (not before or len(text) > 1)  # of "-1" and "x (-1)", not of "covid-19"
    return kept + text[-1] if signs and (unicodedata.category(text[-1]) == "Pd" or text[-1] in ".,") else kept


def _digits(number: Decimal) -> str:
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _caseless(name: object) -> str:
    number = number_of(name)
    return str(name).strip().casefold() if number is None else _digits(number)


def spelling(names: Sequence[str]) -> Callable[[object], str]:
    """How to compare a label with these names: without case and punctuation, unless names would no longer differ.

    >>> spelling(["+", "-"])("-"), spelling(["Yes", "No"])("yes!"), spelling(["us", "US"])("US")
    ('-', 'yes', 'US')
    """
    for spell in (plain_name, _caseless):
        spelt = [spell(name) for name in names]
        if "" not in spelt and len(set(spelt)) == len(spelt):
            return spell
    return str


class Classes:
    """Finds the class that a label means: by its name, or as an index where no name is a number.

    Args:
        label_names: of the classes, in order.

    Example:
        >>> ratings, signs = Classes(["1", "2"]), Classes(["no", "yes"])
        >>> ratings(2.0), ratings("1.0"), ratings(0), signs("YES"), signs(0), signs("-1"), signs(1.5)
        (1, 0, None, 1, 0, None, None)
    """

    def __init__(self, label_names: Sequence[str]) -> None:
        self._spell = spelling(label_names)
        self._by_name = {self._spell(name): index for index, name in enumerate(label_names)}
        numbered = any(number_of(name) is not None for name in label_names)  # numbers are names then, never indices
        self._indices = 0 if numbered else len(label_names)
        self._known: dict[tuple[bool, object], int | None] = {}

    def __call__(self, value: object) -> int | None:
        """Position of the class; None where the value means none."""
        if not isinstance(value, KINDS):
            return None
        key = isinstance(value, bool | np.bool_), value  # True equals 1
        if key not in self._known:
            self._known[key] = self._find(value)
        return self._known[key]

    def _find(self, value: object) -> int | None:
        """Index of the class that a value means, by name before by number; None for no class."""
        if isinstance(value, bool | np.bool_):
            named = self._by_name.get(self._spell(str(value)))
            # Of more than two classes "true" is none: it would count as the second rating.
            return self._find(int(value)) if named is None and len(self._by_name) == 2 else named
        number = number_of(value)
        if not isinstance(value, str) and number is None:  # NaN is no name
            return None
        named = self._by_name.get(self._spell(value if isinstance(value, str) or number is None else _digits(number)))
        if named is None and number is not None and 0 <= number < self._indices and number == int(number):
            return int(number)
        return named


class Hidden:
    """Tells rows whose label is hidden: it is one of the values that the user says mean "none".

    Args:
        values: texts or numbers; an empty text stands for null, NaN and empty cells.

    Example:
        >>> hidden = Hidden([-1, ""])
        >>> hidden("-1.0"), hidden(None), hidden(1)
        (True, True, False)
    """

    def __init__(self, values: Iterable[object] = ()) -> None:
        self.values = tuple(values)
        self._spelt = {_hidden_spelling(value) for value in self.values}

    def __call__(self, value: object) -> bool:
        """Whether a label is hidden."""
        return bool(self._spelt) and _hidden_spelling(value) in self._spelt


def _hidden_spelling(value: object) -> str:
    return "" if is_missing(value) else _caseless(value)


def class_labels(
    values: Sequence[object],
    label_names: Sequence[str],
    column: str,
    where: str,
    hidden: Hidden | None = None,
    remedy: str = REMEDY,
) -> np.ndarray:
    """Class of each row, ``(N,)`` int64; -1 where the label is hidden.

    Args:
        values: the N labels as a file has them.
        label_names: of the classes, in order.
        column: what errors call the labels.
        where: what errors call the source.
        hidden: which labels are none.
        remedy: what an error advises.

    Raises:
        ValueError: a label that is no class, or a hidden one that is; truth values among numbers.
    """
    find, hidden = Classes(label_names), hidden or Hidden()
    check_unmixed(values, column, where)
    for value in hidden.values:
        if find(value) is not None:
            raise ValueError(
                f"`hidden_labels` must name no class, but got {value!r}, which is {label_names[find(value) or 0]!r}. "
                "Leave it out, or give `label_names` without it."
            )
    found = [-1 if hidden(value) else find(value) for value in values]
    bad = [row for row, index in enumerate(found) if index is None]
    if bad:
        allowed = ", ".join(f"{index} ({name})" for index, name in enumerate(label_names[:20]))
        more = f", … ({len(label_names)} in all)" if len(label_names) > 20 else ""
        raise ValueError(
            f"`{column}` must be one of {allowed}{more}, but {len(bad)} of {len(values)} rows of {where} are not: row "
            f"{bad[0]} has {_short(values[bad[0]])}. {remedy}"
        )
    return np.array(found, np.int64)


def number_labels(values: Sequence[object], column: str, where: str, hidden: Hidden | None = None) -> np.ndarray:
    """Label of each row for regression, ``(N,)`` float32; NaN where it is hidden.

    Args:
        values: see :func:`class_labels`.
        column: see there.
        where: see there.
        hidden: see there.

    Raises:
        ValueError: a label that is no finite number; truth values among numbers.
    """
    hidden = hidden or Hidden()
    check_unmixed(values, column, where)
    result = np.full(len(values), np.nan, np.float32)
    for row, value in enumerate(values):
        if hidden(value):
            continue
        number = number_of(int(value) if isinstance(value, bool | np.bool_) else value)
        if number is None or not abs(number) <= LARGEST:
            raise ValueError(
                f"`{column}` must be a finite number in every row, but row {row} of {where} has {_short(value)}. "
                "Correct the file, or give `label_names` if the task is a classification."
            )
        result[row] = float(number)
    return result


def infer_label_names(values: Sequence[object], column: str, where: str, hidden: Hidden | None = None) -> list[str]:
    """Class names that occur in a label column, sorted, numbers by their value.

    Whole numbers name themselves: ratings from 1 to 5 are five classes, 5 and 900 two. Truth values are 0 and 1.

    Args:
        values: see :func:`class_labels`.
        column: see there.
        where: see there.
        hidden: see there.

    Raises:
        ValueError: a row without a label, or with one that is neither text nor number; or where the labels are numbers
            that are fractions or negative, truth values among numbers, names that differ in case or spacing only, or
            more than 1,000 different names.

    >>> infer_label_names(["pos", "neg", "pos"], "label", "a.csv"), infer_label_names(["5.0", 900], "label", "a.csv")
    (['neg', 'pos'], ['5', '900'])
    """
    hidden = hidden or Hidden()
    distinct: dict[tuple[bool, object], object] = {}
    for row, value in enumerate(values):
        if hidden(value):
            continue
        if is_missing(value) or not isinstance(value, KINDS):
            raise ValueError(
                f"`{column}` must be a text or a number in every row, but row {row} of {where} has {_short(value)}. "
                f"Correct the file{', or list an empty text in `hidden_labels`' if is_missing(value) else ''}."
            )
        distinct.setdefault((isinstance(value, bool | np.bool_), value), value)  # True equals 1
    check_unmixed(list(distinct.values()), column, where)
    if distinct and all(truth for truth, _ in distinct):
        return ["0", "1"]
    numbers = [number for value in distinct.values() if (number := number_of(value)) is not None]
    whole = len(numbers) == len(distinct) and all(n >= 0 and n == int(n) for n in numbers)
    if whole and 0 < len(set(numbers)) <= MOST_CLASSES:
        return number_names(int(number) for number in numbers)
    names = {str(value) if number_of(value) is None else _caseless(value) for value in distinct.values()}
    commas = [name for name in names if DECIMAL_COMMA.fullmatch(name.strip())]
    decimals = len(commas) + sum(number_of(name) is not None for name in names) == len(names)
    ambiguous = len({_caseless(name) for name in names}) < len(names) or not all(map(is_unicode, names))
    if not names or decimals or len(names) > MOST_CLASSES or ambiguous:
        shown = f" such as {', '.join(sorted(map(_short, distinct.values()))[:3])}" if distinct else ""
        comma = " (a decimal comma makes no number)" if commas else ""
        raise ValueError(
            f"`label_names` cannot be told from column {column!r} of {where}, which has {len(distinct)} different "
            f"values{shown}{comma}. Give `label_names`; an empty list makes a regression. Values that mean that there "
            "is no label belong into `hidden_labels`."
        )
    return sorted(names, key=lambda name: (number_of(name) is None, number_of(name) or 0, name))


def number_names(present: Iterable[int]) -> list[str]:
    """Names of classes that are whole numbers, by their value; a number that does not occur is no class.

    >>> number_names({900, 5, 10})
    ['5', '10', '900']
    """
    return [str(number) for number in sorted(set(present))]


def check_unmixed(values: Sequence[object], column: str, where: str) -> None:
    """Refuse truth values among numbers: whether ``true`` is the class 1 there, nobody said.

    Raises:
        ValueError: naming a row of each.
    """
    truth = next((row for row, value in enumerate(values) if isinstance(value, bool | np.bool_)), None)
    if truth is None:
        return
    number = next((row for row, value in enumerate(values) if number_of(value) is not None), None)
    if number is not None:
        raise ValueError(
            f"`{column}` must be truth values or numbers, but {where} mixes {_short(values[truth])} and "
            f"{_short(values[number])}. Write one kind."
        )


def check_label_names(names: Sequence[object], argument: str = "label_names") -> list[str]:
    """The names as texts, each once.

    Args:
        names: of the classes in order.
        argument: how the user calls them.

    Raises:
        ValueError: a name given twice, as a text or as a number.

    >>> check_label_names(["no", 1.5]), check_label_names(["us", "US"])
    (['no', '1.5'], ['us', 'US'])
    """
    spelt = [_once(name) for name in names]
    for index, name in enumerate(spelt):
        if name in spelt[:index]:
            raise ValueError(
                f"`{argument}` must name every class once, but got {str(names[index])!r} as class "
                f"{spelt.index(name)} and as class {index}. Leave one out, or rename it."
            )
    return [str(name) for name in names]


def _once(name: object) -> str:
    """A name's text, whatever the spaces; of a number its value, unless zeros in front of it are meant."""
    text, number = " ".join(str(name).split()), number_of(name)
    return text if number is None or re.match(r"[+-]?0\d", text) else _digits(number)


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) < 60 else shown[:57] + "..."
