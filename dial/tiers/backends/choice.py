"""The fastest way to compute a tier on this machine, among those that answer as float32 does."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.encoding import default_cache_dir
from dial.files import write_json
from dial.machine import describe_machine, has_bf16, instructions, key_of
from dial.models.segments import Part
from dial.tiers.backends.agreement import SHARE, Agreement, agreement, confidence_of_each, outputs_of
from dial.tiers.backends.attach import attach
from dial.tiers.backends.lowered import lowered
from dial.tiers.backends.names import DTYPES, PACKAGES, installed
from dial.tiers.batch_proof import ProbeRows
from dial.tiers.precision import missing_route
from dial.tiers.tier import Encoding, Tier
from dial.tiers.tokens import Tokeniser, Tokens

SCHEMA = 2
TURNS, BATCHES, BATCH = 3, 4, 32
CLEARLY = 1.05  # how much faster than the first a route must be to be taken
PROBE_LENGTH = 24  # tokens of rows that are only timed


@dataclass(frozen=True)
class Route:
    """What computes a tier, and in which numbers."""

    backend: str = "torch"
    dtype: str = "float32"

    def __str__(self) -> str:
        """As it is written in a line."""
        return f"{self.backend} {self.dtype}"


TORCH = Route()


@dataclass(frozen=True)
class Choice:
    """What was found out about a tier.

    Attributes:
        route: the fastest that is allowed.
        faster: how many times as fast as the first of them each route is: torch in the numbers asked for.
        agreements: of each route whose answers were looked at; none where only times counted.
        cached: whether it was found out earlier.
    """

    route: Route
    faster: dict[Route, float]
    agreements: dict[Route, Agreement]
    cached: bool = False

    def __str__(self) -> str:
        """The choice and why, in a line."""
        refused = "".join(f"; not {route}: {seen}" for route, seen in self.agreements.items() if route != self.route)
        if self.faster[self.route] == 1:
            return f"{self.route}: nothing that is faster answers alike{refused}"
        seen = self.agreements.get(self.route)
        times = f"{self.route}: {self.faster[self.route]:.2f}x as fast as {next(iter(self.faster))}"
        return f"{times}{f', {seen}' if seen else ''}{refused}"


NAMED_ONLY = (Route("onnxruntime", "int8"),)
"""Routes with one scale for all inputs of a batch: a row's answer depends on its neighbours, so that what is seen on
some rows promises nothing for the same rows elsewhere. Only a tier that names one is computed by it."""


def routes() -> list[Route]:
    """What this machine has beside torch in float32 by which a row is answered alike in every batch."""
    found = [Route(backend, dtype) for backend in installed() for dtype in DTYPES[backend]]
    found += [Route("torch", "bfloat16"), *([Route("torch", "int8")] if missing_route() is None else [])]
    lacking = () if has_bf16() else ("bfloat16",)
    return [route for route in found if route.dtype not in lacking and route not in NAMED_ONLY]


def take(tier: Tier, route: Route, cache_dir: str | Path | None = None) -> bool:
    """Have a tier, whose weights are float32, computed by a route; False where the model has no such one."""
    if route == TORCH:
        tier.compute_with(None)
        return True
    if route.backend != "torch":
        return attach(tier, route.backend, route.dtype, cache_dir)
    try:
        tier.compute_with(lowered(tier, route.dtype))
    except ValueError:  # no linear layers to round
        return False
    return True


def fastest(
    tier: Tier,
    rows: Sequence[Tokens],
    share: float = SHARE,
    batch_size: int | None = None,
    cache_dir: str | Path | None = None,
) -> Choice:
    """Find the fastest route whose answers are those of float32, and remember it.

    A route is allowed where the share of rows that it answers as torch does in float32, at every exit, is at least
    ``share`` by a one-sided lower bound. All are timed in turns on a few batches; answers are then looked at from the
    fastest on, until one is allowed. As several may be tried on the same rows, the bounds are such that with 90 %
    confidence all of them hold at once: each may fail in a tenth divided by the number of routes that are faster
    (Bonferroni).

    Args:
        tier: in float32, computed by torch, on a CPU and in eval mode.
        rows: real rows.
        share: of answers that must stay.
        batch_size: rows per batch; default: that of the tier's view, else 32.
        cache_dir: default ``$DIAL_CACHE``, else ``~/.cache/dial``.

    Returns:
        The choice; the tier is computed by torch as before.
    """
    if (earlier := known(tier, share, batch_size, cache_dir)) is not None:
        return earlier
    size = batch_size or tier.view.batch_size or BATCH
    batches = _batches(tier, rows, size)
    faster, parts = _timed(tier, [TORCH, *routes()], batches, cache_dir)
    expected, agreements, chosen = outputs_of(tier, batches), {}, TORCH
    candidates = [route for route in sorted(faster, key=lambda route: -faster[route]) if faster[route] > CLEARLY]
    for route in candidates:
        tier.compute_with(parts[route])
        agreements[route] = agreement(outputs_of(tier, batches), expected, confidence_of_each(len(candidates)))
        tier.compute_with(None)
        if agreements[route].at_least >= share:
            chosen = route
            break
    return _write(_agreeing(tier, share, batch_size, cache_dir), Choice(chosen, faster, agreements))


def known(
    tier: Tier, share: float = SHARE, batch_size: int | None = None, cache_dir: str | Path | None = None
) -> Choice | None:
    """What :func:`fastest` found out earlier; None if nothing."""
    return read(_agreeing(tier, share, batch_size, cache_dir))


def _agreeing(tier: Tier, share: float, batch_size: int | None, cache_dir: str | Path | None) -> Path:
    return _file(tier, ["agreeing", share, batch_size or tier.view.batch_size or BATCH], cache_dir)


def fastest_backend(tier: Tier, dtype: str, cache_dir: str | Path | None = None) -> Choice:
    """Find what computes a tier fastest in given numbers, by rows of random words, and remember it.

    Args:
        tier: in float32, computed by torch, on a CPU.
        dtype: ``float32`` or ``bfloat16``.
        cache_dir: default ``$DIAL_CACHE``, else ``~/.cache/dial``.
    """
    file = _file(tier, ["random", dtype], cache_dir)
    if (earlier := read(file)) is not None:
        return earlier
    probe = ProbeRows(tier)
    length = min(max(probe.empty + 1, PROBE_LENGTH), probe.limit, tier.max_length)
    batches = _batches(tier, [probe.row(length) for _ in range(2 * BATCH)], BATCH)
    own = Route("torch", dtype)
    others = [route for route in routes() if route.dtype == dtype and route != own]
    faster, _ = _timed(tier, [own, *others], batches, cache_dir)
    best = max(faster, key=lambda route: faster[route])
    return _write(file, Choice(best if faster[best] > CLEARLY else own, faster, {}))


def _timed(
    tier: Tier, wanted: Sequence[Route], batches: Sequence[Encoding], cache_dir: str | Path | None
) -> tuple[dict[Route, float], dict[Route, Sequence[Part] | None]]:
    """Let routes take turns on some of the batches.

    Returns:
        The median of the ratios of the first one's time to each one's, and what computes them, where they can be had.
    """
    parts: dict[Route, Sequence[Part] | None] = {}
    for route in wanted:
        with suppress(ValueError):  # no folder can be written for an export: a choice does without that route
            if take(tier, route, cache_dir):
                parts[route] = tier.parts
        tier.compute_with(None)
    chosen = [batches[i] for i in np.unique(np.linspace(0, len(batches) - 1, BATCHES).round().astype(int))]
    seconds = np.empty((TURNS + 1, len(parts)))
    with torch.inference_mode():
        for turn in range(TURNS + 1):  # the first does not count: kernels are made for each new shape
            for index, each in enumerate(parts.values()):
                tier.compute_with(each)
                start = time.perf_counter()
                for batch in chosen:
                    tier(batch)
                seconds[turn, index] = time.perf_counter() - start
    tier.compute_with(None)
    ratios = np.median(seconds[1:, :1] / seconds[1:], axis=0)
    return {route: float(ratio) for route, ratio in zip(parts, ratios, strict=True)}, parts


def _batches(tier: Tier, rows: Sequence[Tokens], size: int) -> list[Encoding]:
    """Batches of rows of similar length."""
    order = sorted(rows, key=lambda row: len(row.ids))
    tokeniser = Tokeniser(tier)
    return [tokeniser.collate(order[start : start + size]) for start in range(0, len(order), size)]


def here() -> list[Any]:
    """What times and answers depend on beside the tier: the machine, its instructions, and the libraries' versions."""
    names = {"transformers"}.union(*(PACKAGES[backend] for backend in installed()))
    return [SCHEMA, describe_machine(), *instructions(), {name: version(name) for name in sorted(names)}]


def _file(tier: Tier, about: list[Any], cache_dir: str | Path | None) -> Path:
    key = key_of(tier.fingerprint, here(), about, list(map(str, routes())))
    return Path(default_cache_dir() if cache_dir is None else cache_dir).expanduser() / "routes" / f"{key}.json"


def _write(file: Path, choice: Choice) -> Choice:
    """Keeps the choice beside the tier where the folder can be written, and gives it back."""
    content = {
        "route": asdict(choice.route),
        "faster": [[*asdict(route).values(), ratio] for route, ratio in choice.faster.items()],
        "agreements": [[*asdict(route).values(), asdict(seen)] for route, seen in choice.agreements.items()],
    }
    with suppress(OSError):
        write_json(file, content)
    return choice


def read(file: Path) -> Choice | None:
    """What was found out earlier; None if nothing, or nothing readable."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        faster = {Route(backend, dtype): float(ratio) for backend, dtype, ratio in content["faster"]}
        seen = {Route(backend, dtype): Agreement(**about) for backend, dtype, about in content["agreements"]}
        route = Route(**content["route"])
        return Choice(route, faster, seen, cached=True) if route in faster else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
