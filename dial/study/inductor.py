"""The Super compiled ahead of time by torch itself (AOTInductor), as a rival in the measured study."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dial.tiers.backends.export import reason_of
from dial.tiers.tier import Tier

COMPILERS = ("g++", "clang++", "c++")


class Inductor:
    """A tier with one exit, compiled for any number of rows and tokens.

    Args:
        tier: in the precision that it is to be compiled in, on a CPU.

    Raises:
        ValueError: there is no C++ compiler, the model has several exits, or torch cannot export or compile it.
    """

    def __init__(self, tier: Tier) -> None:
        if not any(map(shutil.which, COMPILERS)):
            raise ValueError(f"AOTInductor needs a C++ compiler ({', '.join(COMPILERS)}), but there is none.")
        parts = tier.segments()
        if len(parts) != 1:
            raise ValueError("AOTInductor is a rival for models with one exit.")
        ids = tier.example(6)["input_ids"].expand(3, -1).contiguous()
        example = {name: torch.zeros_like(ids) for name in tier.example(1)}
        example |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        self.name, self._names = f"inductor {tier.view.dtype}", tuple(example)
        self._module: Any = _compile(parts[0].eval(), example)

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits ``(B, C)`` in float32; a mask that is missing is one of ones."""
        ids = inputs["input_ids"]
        fill = {"attention_mask": torch.ones_like, "token_type_ids": torch.zeros_like}
        given = {name: inputs[name] if name in inputs else fill[name](ids) for name in self._names}
        output: Tensor = self._module(**given)
        return output.float()


def _compile(part: torch.nn.Module, example: dict[str, Tensor]) -> Any:
    """The module compiled for free batch sizes and lengths, without what compilers print."""
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with torch.no_grad(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            shapes = dict.fromkeys(example, free)
            program = torch.export.export(part, (), example, dynamic_shapes=shapes, strict=False)
            file = str(Path(folder) / "model.pt2")
            torch._inductor.aoti_compile_and_package(program, package_path=file)  # type: ignore[attr-defined]
            return torch._inductor.aoti_load_package(file)  # type: ignore[attr-defined]
    except Exception as error:  # exporter, compiler and linker raise whatever they meet
        raise ValueError(f"AOTInductor cannot compile this model: {reason_of(error)}.") from error
    finally:
        logging.disable(level)
