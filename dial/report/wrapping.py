"""What a reader must know of the table that a sweep read, before any number of it."""

from typing import Any

CHARGED = {
    "true": "Rows are charged at their own length; the padding of batches is not charged (length padded does it).",
    "padded": "Rows are charged at the length that their batch was padded to.",
}


def table_text(summary: dict[str, Any]) -> str:
    """How rows are charged, how a foreign table was read, and how many repeated rows went.

    Args:
        summary: as in ``summary.json``.

    Example:
        >>> print(table_text({"table": {"length": 128, "repeats": {"test": 3}}}))
        Every row is charged at 128 tokens.
        3 repeated rows were left out (3 of test).
    """
    about = summary["table"]
    length = None if about.get("unit") else about.get("length")  # milliseconds are of batches as they are executed
    lines = [CHARGED.get(length, f"Every row is charged at {length} tokens.")] if length is not None else []
    lines += about.get("remarks", [])
    if repeats := about.get("repeats"):
        parts = ", ".join(f"{count:,} of {split}" for split, count in repeats.items())
        total = sum(repeats.values())
        lines.append(f"{total:,} repeated row{'s were' if total > 1 else ' was'} left out ({parts}).")
    return "\n".join(lines)
