"""Length configurations that were searched for, in a file of the tier's folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dial.files import read_json, write_json
from dial.models.lengths import Lengths
from dial.tiers.tier import View, weights_digest

FILE, SCHEMA = "lengths.json", 1
REMEDY = "run `dial lengths` on it, or write the lengths out"


@dataclass(frozen=True)
class Individual:
    """A length configuration and what it came to on the rows of the search.

    Attributes:
        lengths: of the layers.
        macs: mean per row, as a share of those of all tokens.
        quality: by the metric of the search.
    """

    lengths: Lengths
    macs: float
    quality: float

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return {"lengths": self.lengths.plain(), "macs": self.macs, "quality": self.quality}

    @classmethod
    def parse(cls, value: dict[str, Any]) -> Individual:
        """From what :meth:`plain` gave."""
        return cls(Lengths.parse(value["lengths"]), float(value["macs"]), float(value["quality"]))


def pareto(individuals: Sequence[Individual]) -> list[Individual]:
    """Those that no other one beats in MACs or quality without being worse in the other, cheapest first.

    Example:
        >>> pairs = (0.5, 0.8), (0.7, 0.8), (0.9, 0.9)
        >>> some = [Individual(Lengths((1.0,)), macs, quality) for macs, quality in pairs]
        >>> [one.macs for one in pareto(some)]
        [0.5, 0.9]
    """
    front: list[Individual] = []
    for one in sorted(individuals, key=lambda one: (one.macs, -one.quality)):
        if not front or one.quality > front[-1].quality:
            front.append(one)
    return front


def write_search(folder: Path, individuals: Sequence[Individual], about: dict[str, Any], generations: int) -> None:
    """Leave what a search found so far in a tier's folder.

    Args:
        folder: of the tier.
        individuals: all that were looked at.
        about: what was searched, on what and how.
        generations: that are done.
    """
    content = {"schema": SCHEMA, "search": about, "generations": generations}
    lists = {"front": pareto(individuals), "looked_at": individuals}
    write_json(folder / FILE, content | {name: [one.plain() for one in some] for name, some in lists.items()})


def read_search(folder: Path) -> tuple[dict[str, Any], int, list[Individual]] | None:
    """What :func:`write_search` left: about, generations, individuals; None where there is no file.

    Raises:
        ValueError: it cannot be read.
    """
    if not (folder / FILE).is_file():
        return None
    content = _read(folder / FILE, "TIER")
    return content["search"], content["generations"], [Individual.parse(value) for value in content["looked_at"]]


def _read(file: Path, argument: str) -> dict[str, Any]:
    """Content of a file of length configurations, checked."""
    content = read_json(file, argument)
    try:
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}")
        for value in (*content["front"], *content["looked_at"]):
            Individual.parse(value)
        if not content["front"] or not isinstance(content["generations"], int) or "search" not in content:
            raise ValueError("no front")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"`{argument}`: {file} is not what `dial lengths` leaves ({error}); remove it, and search again."
        ) from error
    return content


def read_front(path: str, argument: str, model: Any = None) -> list[Individual]:
    """The front that lies in a tier's folder, cheapest first.

    Args:
        path: the folder.
        argument: how the user calls it.
        model: whose MACs the shares are of; a front that does not say its weights is taken for any.

    Raises:
        ValueError: there is none, it cannot be read, or it was found for other weights; names ``argument``.
    """
    file = Path(path).expanduser() / FILE
    if not file.is_file():
        raise ValueError(f"`{argument}`: `lengths` is a share of the MACs, but {path} has no {FILE}; {REMEDY}.")
    content = _read(file, argument)
    searched = content["search"].get("weights")
    if model is not None and searched is not None and searched != weights_digest(model):
        raise ValueError(
            f"`{argument}`: `lengths` is a share of the MACs of the model that was searched, but the front in {file} "
            f"is of other weights than those asked for (trained on, or cut by layers, width or depth); {REMEDY}."
        )
    return [Individual.parse(value) for value in content["front"]]


def lengths_of(view: View, path: str, argument: str, model: Any = None) -> Lengths:
    """The configuration that a view asks for: its own, or the best on the front within its share of the MACs.

    Args:
        view: with ``lengths``.
        path: folder of the tier.
        argument: how the user calls it.
        model: as loaded, which a front has to be of.

    Raises:
        ValueError: no front, one of other weights, or nothing on it that is so cheap; names ``argument``.
    """
    if isinstance(view.lengths, list):
        return Lengths.parse(view.lengths)
    assert view.lengths is not None
    front = read_front(path, argument, model)
    within = [one for one in front if one.macs <= view.lengths + 1e-9]
    if not within:
        raise ValueError(
            f"`{argument}`: `lengths` must be at least {front[0].macs:.4g}, the cheapest that was found for {path}, "
            f"but got {view.lengths}; search further, or write the lengths out."
        )
    return max(within, key=lambda one: one.quality).lengths
