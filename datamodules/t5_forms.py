"""GLUE and SuperGLUE as text, in the forms that T5 was trained on (Raffel et al. 2020, appendix D, and their code).

A row is one text, "<task> <field>: <value> <field>: <value>", and the answer is the name of its class.
"""

import re
import string
from collections.abc import Mapping

from datamodules.labels import NOT

FIELDS = {"multirc": ("question", "answer", "paragraph"), "wic": ("sentence1", "sentence2", "word")}
"""Order of the fields where it is not that of their names."""
LANGUAGES = {"en": "English", "de": "German", "fr": "French", "ro": "Romanian"}
"""Names by which T5 was told them."""


def benchmark_source(task: str, fields: Mapping[str, str]) -> str:
    """What T5 reads of a row of GLUE or SuperGLUE.

    Args:
        task: as the hub calls it.
        fields: the hub's columns of texts.

    Example:
        >>> benchmark_source("mnli", {"premise": "A man sleeps.", "hypothesis": "He is awake."})
        'mnli hypothesis: He is awake. premise: A man sleeps.'
    """
    order = FIELDS.get(task, sorted(fields))
    text = " ".join([task, *(f"{name}: {fields[name]}" for name in order)])
    return re.sub(r"</?b>", "", text.replace("<br>", " ")) if task == "multirc" else text


def similarity_target(score: float) -> str:
    """What T5 writes for a similarity of STS-B: rounded to steps of 0.2.

    Example:
        >>> similarity_target(3.25), similarity_target(5)
        ('3.2', '5.0')
    """
    return f"{round(score * 5) / 5:.1f}"


def winograd_source(text: str, index: int, pronoun: str) -> str:
    """What T5 reads of a row of WSC: the pronoun stands between stars.

    Args:
        text: words with spaces between them.
        index: of the word that is the pronoun; where it is another, the nearest one that is, or
            begins with it before an apostrophe.
        pronoun: the word, without what may be attached to it.

    Raises:
        ValueError: no word is the pronoun.

    Example:
        >>> winograd_source('Tom asked Bob if he could "lend him," some money.', 7, "him")
        'wsc: Tom asked Bob if he could "lend *him* ," some money.'
        >>> winograd_source("I think she's here", 2, "she")
        "wsc: I think *she* 's here"
    """
    words = text.split(" ")
    plain = [re.split("['’]", word.strip(string.punctuation))[0].lower() for word in words]  # "she's" is "she"
    whole = [place for place, word in enumerate(words) if word.strip(string.punctuation).lower() == pronoun.lower()]
    places = whole or [place for place, word in enumerate(plain) if word == pronoun.lower()]
    if not places:
        raise ValueError(f"has no word {pronoun!r}")
    place = min(places, key=lambda place: abs(place - index))
    before, found, after = re.split(rf"({re.escape(pronoun)})", words[place], maxsplit=1, flags=re.IGNORECASE)
    marked = " ".join(part for part in (before, f"*{found}*", after) if part)
    return f"wsc: {' '.join([*words[:place], marked, *words[place + 1 :]])}"


def winograd_target(noun_phrase: str, right: bool) -> str:
    """The reference of a row of WSC: the noun phrase, marked where the pronoun does not mean it.

    >>> winograd_target("Bob", True), winograd_target("Tom", False)
    ('Bob', '≠ Tom')
    """
    return noun_phrase if right else f"{NOT}{noun_phrase}"


def translation_prefix(source: str, target: str) -> str:
    """What T5 reads before a text that it is to translate; languages that it was not trained on go by their code.

    >>> translation_prefix("en", "ro")
    'translate English to Romanian: '
    """
    return f"translate {LANGUAGES.get(source, source)} to {LANGUAGES.get(target, target)}: "
