"""Texts of others, as a terminal may show them."""

import unicodedata


def printable(text: object) -> str:
    r"""A text with what would act on a terminal written as escapes: control characters, turns of direction.

    >>> printable("a\x1b[31mb"), printable("naïve 🎬")
    ('a\\x1b[31mb', 'naïve 🎬')
    """
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(
        ascii(one)[1:-1] if unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp") else one for one in shown
    )
