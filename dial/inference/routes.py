"""What computes the tiers of a run: the fastest that answers as they were tested."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.encoding import default_cache_dir
from dial.files import write_json
from dial.inference.executor import Executor
from dial.inference.staged import StagedModel
from dial.machine import key_of
from dial.tiers.backends.agreement import SHARE, Agreement, agreement, rows_needed
from dial.tiers.backends.choice import TORCH, Choice, fastest, here, known, routes, take
from dial.tiers.tier import Tier
from dial.tiers.tokens import Tokeniser, Unit
from dial.tradeoff.rule import Rule


@dataclass(frozen=True)
class Routes:
    """What was chosen for the tiers of a network.

    Attributes:
        choices: by tier.
        answers: of the network at its operating point, against torch in float32; outputs are compared where the same
            stage answers.
        taken: whether the choices are taken: not where the network's own answers change too often.
        rows: twelve hexadecimal digits that the compared texts determine.
        remembered: whether it was found out earlier, perhaps on other texts than those of this run.
    """

    choices: dict[str, Choice]
    answers: Agreement
    taken: bool
    rows: str
    remembered: bool = False

    def lines(self) -> list[str]:
        """What was chosen and why, a line each."""
        if not self.taken:
            return [f"all tiers are computed as they were tested: together, {self.answers}"]
        return [f"{name} is computed by {choice}" for name, choice in self.choices.items()]

    def to_json(self) -> dict[str, Any]:
        """For a manifest."""
        chosen = {name: str(choice.route if self.taken else TORCH) for name, choice in self.choices.items()}
        return {
            "tiers": chosen,
            "answers": asdict(self.answers),
            "rows": self.rows,
            "remembered": self.remembered,
        }


def can_be_routed(tier: Tier) -> bool:
    """Whether a tier was tested in float32 by torch, and is on a CPU: then others may compute it."""
    on_cpu = next(tier.parameters()).device.type == "cpu"
    plain = tier.view.backend == "torch" and tier.view.dtype == "float32" and tier.lengths is None
    return on_cpu and tier.parts is None and plain


def take_fastest(
    network: StagedModel,
    rule: Rule,
    units: Callable[[], Sequence[Unit]],
    share: float = SHARE,
    batch_sizes: Mapping[str, int] | None = None,
    cache_dir: str | Path | None = None,
) -> Routes | None:
    """Have each tier computed by the fastest route that answers as torch does in float32, and remember it.

    Each tier's answers are compared on all rows, at all exits. Then the network answers the rows at its operating point
    both ways: scores that move may send rows elsewhere. Where fewer than ``share`` of these answers stay, by a lower
    bound of 90 %, everything is left as it was tested.

    Args:
        network: in eval mode.
        rule: with its thresholds.
        units: gives texts or pairs that are like those to come; only asked for where nothing is remembered.
        share: of answers that must stay.
        batch_sizes: by tier.
        cache_dir: default ``$DIAL_CACHE``, else ``~/.cache/dial``.

    Returns:
        What was chosen; None where no tier can be computed otherwise, where one answers later than it decides (its
        outputs are then not its answers), or where there are fewer units than such a promise needs (460 for 99.5 %,
        where there is one route beside torch; 781 for five).
    """
    tiers = [tier for tier in network.tiers if can_be_routed(tier)]
    if not tiers or not routes() or any(tier.answers_later for tier in network.tiers):
        return None
    about = [rule.stages, list(map(float, rule.thresholds)), rule.name, rule.score, dict(batch_sizes or {}), share]
    key = key_of(about, [tier.fingerprint for tier in network.tiers], here(), list(map(str, routes())))
    place = Path(default_cache_dir() if cache_dir is None else cache_dir).expanduser()
    file = place / "routes" / f"network-{key}.json"
    found = _read(file, tiers, share, batch_sizes, cache_dir)
    if found is None:
        some = units()
        if len(some) < rows_needed(share, len(routes())):
            return None
        found = _compare(network, tiers, rule, some, share, batch_sizes, cache_dir)
        with suppress(OSError):
            write_json(file, {"routes": _names(found.choices), "answers": asdict(found.answers), "rows": found.rows})
    if found.taken:
        for tier in tiers:
            take(tier, found.choices[tier.name].route, cache_dir)
    return found


def _compare(
    network: StagedModel,
    tiers: Sequence[Tier],
    rule: Rule,
    units: Sequence[Unit],
    share: float,
    batch_sizes: Mapping[str, int] | None,
    cache_dir: str | Path | None,
) -> Routes:
    """Choose for each tier, and see what the network then answers; torch computes it as before."""
    sizes = batch_sizes or {}
    choices = {t.name: fastest(t, Tokeniser(t)(units), share, sizes.get(t.name), cache_dir) for t in tiers}
    before, stages = _answers(network, rule, units, batch_sizes)
    for tier in tiers:
        take(tier, choices[tier.name].route, cache_dir)
    found, now = _answers(network, rule, units, batch_sizes)
    stayed = stages == now  # outputs of different stages differ by more than a route moves them
    answers = replace(agreement(found, before), epsilon=agreement(found[stayed], before[stayed]).epsilon)
    for tier in tiers:
        take(tier, TORCH)
    return Routes(choices, answers, answers.at_least >= share, key_of(list(units)))


def _names(choices: Mapping[str, Choice]) -> dict[str, str]:
    return {name: str(choice.route) for name, choice in choices.items()}


def _answers(
    network: StagedModel, rule: Rule, units: Sequence[Unit], batch_sizes: Mapping[str, int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Outputs ``(N, 1, C)`` of the stages that answer, and these ``(N,)``."""
    answers = list(Executor(network, rule, batch_sizes).run(units))
    return np.stack([answer.outputs for answer in answers])[:, None], np.array([answer.stage for answer in answers])


def _read(
    file: Path,
    tiers: Sequence[Tier],
    share: float,
    batch_sizes: Mapping[str, int] | None,
    cache_dir: str | Path | None,
) -> Routes | None:
    """What was found earlier with the routes that the tiers have now; None if nothing, or nothing readable."""
    choices = {t.name: known(t, share, (batch_sizes or {}).get(t.name), cache_dir) for t in tiers}
    there = {name: choice for name, choice in choices.items() if choice is not None}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        answers, rows = Agreement(**content["answers"]), str(content["rows"])
        if content["routes"] != _names(there):  # a tier was compared again since
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Routes(there, answers, answers.at_least >= share, rows, remembered=True)
