"""What a user might take in place of a cascade: the Super in other numbers, by other libraries, by transformers."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from dial.study.inductor import Inductor
from dial.study.timing import Contender, Timed
from dial.tiers.backends.names import DTYPES as OF_BACKENDS
from dial.tiers.backends.names import installed
from dial.tiers.loading import load_tier
from dial.tiers.tier import Tier, View

DTYPES = ("float32", "bfloat16", "int8")
logger = logging.getLogger(__name__)


class Pipeline(Contender):
    """The Super in the text-classification pipeline of transformers, as its documentation uses it.

    Its times are those of the whole pipeline: it tokenises, pads and computes probabilities, which nobody can leave out
    who calls it. Its batches are padded to their longest row.

    Args:
        name: in tables.
        tier: a model with one exit whose weights torch computes.
        units: texts or pairs.

    Raises:
        ValueError: the model has several exits.
    """

    def __init__(self, name: str, tier: Tier, units: Sequence[Any]) -> None:
        from transformers import pipeline

        super().__init__(name, tier, units)
        if len(tier.exits) > 1:
            raise ValueError("a pipeline takes models with one answer.")
        self._texts = [unit if isinstance(unit, str) else {"text": unit[0], "text_pair": unit[1]} for unit in units]
        self._pipeline: Any = pipeline(
            "text-classification",
            model=tier.model,
            tokenizer=tier.tokenizer,
            device=self.device,
            top_k=None,
            function_to_apply="none",
        )
        self.backend = "transformers"
        self._cut = {"truncation": True, "max_length": tier.max_length}
        self._place = {label: i for i, label in tier.model.config.id2label.items()}

    def time(self, rows: Sequence[int] | np.ndarray) -> Timed:
        """One batch of texts."""
        texts = [self._texts[i] for i in rows]
        used, start = time.process_time(), time.perf_counter()
        answers = self._pipeline(texts, batch_size=len(texts), **self._cut)
        wall, used = time.perf_counter() - start, time.process_time() - used
        outputs = np.zeros((len(texts), 1, len(self._place)), dtype=np.float32)
        for row, answer in enumerate(answers):
            for each in answer:
                outputs[row, 0, self._place[each["label"]]] = each["score"]
        return Timed(np.array([1e3 * wall]), 1e3 * used, outputs[:, :, self.tier.order])


INDUCTOR = "inductor"


def names_of_rivals(tier: Tier, compiled: bool = False) -> dict[str, dict[str, Any]]:
    """What other views of the Super are called, and how they differ from its own.

    Args:
        tier: the Super.
        compiled: also those that AOTInductor compiles.
    """
    views = [{"backend": "torch", "dtype": dtype} for dtype in DTYPES]
    views += [{"backend": backend, "dtype": dtype} for backend in installed() for dtype in OF_BACKENDS[backend]]
    views += [{"backend": INDUCTOR, "dtype": dtype} for dtype in DTYPES[:2] if compiled]
    own = {"backend": tier.view.backend, "dtype": tier.view.dtype}
    parts = ({k: v for k, v in view.items() if v != "torch"} for view in views)
    return {"-".join([tier.name, *each.values()]): view for each, view in zip(parts, views, strict=True) if view != own}


def check_names(tiers: Sequence[Tier], exits: bool = False, compiled: bool = False) -> None:
    """Refuse a tier that is called what a rival is called: times are kept by name, so the two would be mixed.

    Args:
        tiers: of the cascade.
        exits: whether another model with exits, called ``exits``, takes part.
        compiled: see :func:`names_of_rivals`.

    Raises:
        ValueError: there is one; names ``names``.
    """
    last = tiers[-1]
    taken = [f"{last.name}-padded", *names_of_rivals(last, compiled), f"{last.name}-pipeline"]
    taken += ["exits"] if exits else []
    clash = [tier.name for tier in tiers if tier.name in taken]
    if clash:
        raise ValueError(
            f"`names` must differ from what the study calls its rivals ({', '.join(taken)}), but got "
            f"{', '.join(clash)}; call the tiers otherwise."
        )


def rivals(
    tier: Tier, units: Sequence[Any], pad_to: int, compiled: bool = False
) -> tuple[list[Contender], dict[str, str]]:
    """The Super padded to its maximum length, in every other precision and backend, and in transformers' pipeline.

    Args:
        tier: the Super, on its device.
        units: texts or pairs to time on.
        pad_to: tokens to pad to; no more than the tier keeps.
        compiled: see :func:`names_of_rivals`; compiling takes a minute each.

    Returns:
        The rivals, and why others could not take part, by name.
    """
    contenders = [Contender(f"{tier.name}-padded", tier, units, min(pad_to, tier.max_length))]
    missing: dict[str, str] = {}
    device = next(tier.parameters()).device

    def join(name: str, view: dict[str, Any] | None) -> None:
        """Adds a rival that this machine can run; of another one the reason is kept."""
        try:
            if view is None:
                rival: Contender = Pipeline(name, tier, units)
            else:
                rival = Contender(name, _loaded(tier, name, view).to(device), units)
            rival.time([0])  # where a device lacks the precision, it says so here
            contenders.append(rival)
        except (ValueError, RuntimeError) as error:  # torch says so in errors of the second kind
            missing[name] = str(error)
            logger.warning("The study goes without %s: %s", name, error)

    for name, view in names_of_rivals(tier, compiled).items():
        join(name, view)
    if tier.task.exact:
        join(f"{tier.name}-pipeline", None)
    return contenders, missing


def _loaded(tier: Tier, name: str, view: dict[str, Any]) -> Tier:
    """The Super with another view.

    Raises:
        ValueError: its backend cannot compute it.
    """
    compiled = view["backend"] == INDUCTOR
    changed = View.parse(vars(tier.view) | view | ({"backend": "torch"} if compiled else {}), name)
    loaded = load_tier(changed, name, list(tier.label_names), name).eval()
    if compiled:
        loaded.compute_with([Inductor(loaded)])
    elif changed.backend != "torch" and loaded.parts is None:
        raise ValueError(f"{changed.backend} cannot compute this model.")
    return loaded
