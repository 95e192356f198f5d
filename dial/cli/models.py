"""Which models a command runs, and on what: arguments that `dial predict` and `dial calibrate` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from dial.cli.arguments import Command

BEST = "best"


@dataclass(kw_only=True)
class ModelArguments(Command):
    """How to run.

    Attributes:
        tiers: tiers that have moved
        batch_size: rows per batch, of all or a tier; default: 32
        device: cpu, cuda, cuda:1, ...; default: a GPU if there is one
    """

    PARAMETERS: ClassVar = {"batch_sizes": "batch_size"}

    tiers: Annotated[Sequence[str], "NAME=FOLDER"] = ()
    batch_size: Annotated[Sequence[str], "N|NAME=N"] = ()
    device: str = "auto"

    def moved_tiers(self) -> dict[str, str]:
        """Folders of the tiers that have moved, by name.

        Raises:
            ValueError: no names.
        """
        return named(self.tiers, "--tiers")

    def torch_device(self) -> str:
        """The device that ``--device`` means.

        Raises:
            ValueError: there is none of that name, or torch cannot use it.
        """
        return device_of(self.device)

    def batch_sizes(self) -> int | dict[str, int] | None:
        """What ``--batch-size`` says; None where it leaves the choice.

        Raises:
            ValueError: no numbers.
        """
        if list(self.batch_size) in ([], [BEST]):
            return None
        try:
            sizes: dict[str, Any] = {name: int(size) for name, size in named(self.batch_size, "--batch-size").items()}
        except ValueError as error:
            if str(error).startswith("`"):
                raise
            typed = " ".join(self.batch_size)
            raise ValueError(f"`--batch-size` must be N, NAME=N or best, but got {typed}.") from None
        return sizes.get("", sizes)


def device_of(device: str) -> str:
    """The device that ``--device`` means.

    Raises:
        ValueError: there is none of that name, or torch cannot use it.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    from dial.machine import check_device

    return check_device(device, "--device", "auto, cpu")


def named(pairs: Sequence[str], argument: str) -> dict[str, str]:
    """``NAME=VALUE`` as a dictionary; a value alone has the empty name.

    Example:
        >>> named(["swift=64", "super=8"], "--batch-size")
        {'swift': '64', 'super': '8'}
    """
    found = {}
    for pair in pairs:
        name, mark, value = pair.rpartition("=")
        if argument == "--tiers" and not mark:
            raise ValueError(f"`{argument}` must be NAME=FOLDER, but got {pair!r}.")
        found[name] = value
    if "" in found and len(pairs) > 1:
        raise ValueError(f"`{argument}` must be one value, or NAME=VALUE for each tier, but got {' '.join(pairs)}.")
    return found
