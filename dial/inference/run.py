"""A run folder of `dial test` made ready to answer: its operating point, its tiers, what rows cost."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from datamodules.row_tokens import NO_FORM
from dial.costs.counting import RowCosts
from dial.costs.functions import macs_of
from dial.inference.operating_point import Sweep, Timed
from dial.inference.staged import StagedModel
from dial.machine import check_device, describe_machine
from dial.tiers.backends.lowered import replace_emulated
from dial.tiers.loading import load_tier
from dial.tiers.tier import Tier, View
from dial.tradeoff.point import OperatingPoint, Promise
from dial.tradeoff.rules import Threshold

POSITIVE = {
    "target": "share of the Super's quality above 0, such as 0.99",
    "ms": "number of milliseconds above 0",
}
BatchSizes = int | Mapping[str, int] | None
logger = logging.getLogger(__name__)


def choose_point(
    sweep: Sweep,
    values: Mapping[str, Any],
    reading: str,
    score: str | None,
    rule: str,
    split: str | None,
    batch_sizes: BatchSizes = None,
) -> OperatingPoint:
    """The operating point that a user asks for.

    Args:
        sweep: of the run.
        values: ``target``, ``threshold``, ``budget``, ``ms``, ``point``; at most one of them is not None.
        reading: of ``target``.
        score: what decides.
        rule: name of a rule with one dial, such as ``threshold`` or ``patience``.
        split: reported split.
        batch_sizes: at which ``ms`` is meant; default: those that were measured to be best.

    Raises:
        ValueError: several values, or one that cannot be had.
    """
    given = [name for name, value in values.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"`{given[0]}` and `{given[1]}` both say what to do; give one of {', '.join(values)}.")
    for name, what in POSITIVE.items():
        if values[name] is not None and not 0 < values[name] < float("inf"):
            raise ValueError(f"`{name}` must be a {what}, but got {values[name]:g}.")
    if values["point"] is not None:
        point: OperatingPoint = values["point"]
        return point
    if values["threshold"] is not None:
        return sweep.at_threshold(values["threshold"], score, rule)
    if values["budget"] is not None:
        return sweep.for_budget(macs_of(str(values["budget"]), "budget"), score, rule, split)
    if values["ms"] is not None:
        return sweep.for_budget(float(values["ms"]), score, rule, split, timed(sweep, batch_sizes))
    if len(sweep.stages) == 1 and values["target"] is None:
        return sweep.point(Threshold("random"), Promise())
    return sweep.for_target(0.99 if values["target"] is None else values["target"], reading, score, rule, split)


def timed(sweep: Sweep, batch_sizes: BatchSizes) -> Timed:
    """Puts measured milliseconds in place of a table's MACs.

    Args:
        sweep: of the run.
        batch_sizes: for all tiers, or by name; None: the best.

    Raises:
        ValueError: nothing was measured.
    """
    times = sweep.times
    if times is None:
        raise ValueError(
            f"`ms` needs measured times, but {sweep.run} has no study; run `dial test --study.rows 500` on this "
            "machine, or give a `target` or a `budget`."
        )
    sizes = batch_sizes if isinstance(batch_sizes, int) else {**times.batch_sizes, **(batch_sizes or {})}
    return lambda table: times.timed(table, sizes)


def measured_sizes(sweep: Sweep, device: str, for_time: bool) -> dict[str, int] | None:
    """The batch sizes that the run's study found to be best; None where there is no study, or it was made elsewhere.

    Args:
        sweep: of the run.
        device: where the tiers are to run.
        for_time: a point was chosen by these times, wherever they were measured: its batch sizes belong to it.
    """
    if sweep.times is None:
        return None
    here = describe_machine(device)
    pairs = [(key, value, here[key]) for key, value in sweep.times.machine.items() if key in here]
    other = ", ".join(f"{key} {there} there and {own} here" for key, there, own in pairs if own != there)
    if other and for_time:
        logger.warning("The times behind `ms` were measured elsewhere: %s.", other)
    elif other:
        logger.warning("The best batch sizes were measured elsewhere (%s) and are not taken.", other)
        return None
    return {name: size for name, size in sweep.times.batch_sizes.items() if name in sweep.settings["tiers"]}


def load_network(sweep: Sweep, places: Mapping[str, str], device: str) -> StagedModel:
    """The tiers that a sweep was made of, found by their fingerprints.

    A tier's folder is looked for where it was tested, then relative to the run folder and the folders above it, then as
    the ``tier/`` that the run itself left.

    Args:
        sweep: of the run.
        places: folders by tier name, which are taken instead.
        device: where to put them.

    Raises:
        ValueError: an unknown tier, or one that is not found or not the one that was tested; no such device; or texts
            and pairs are not what the tiers read.
    """
    check_device(device, "device")
    known = sweep.settings["tiers"]
    if sweep.settings.get("source_form") == NO_FORM:
        raise ValueError(
            f"`RUN` must have been tested on rows that are a text or a pair each, but a row of "
            f"{sweep.settings.get('task')!r}, which {sweep.run} was tested on, is more, and the form in which its "
            "models read one cannot be made. Test it on a file of sources (TextToTextDataModule)."
        )
    unknown = [name for name in places if name not in known]
    if unknown:
        raise ValueError(f"`tiers` allows {', '.join(known)}, but got {', '.join(unknown)}.")
    loaded = [_load(sweep, name, about, places.get(name)) for name, about in known.items()]
    for tier in loaded:
        if tier.generates:
            tier.source_form = sweep.settings.get("source_form")
    replace_emulated(loaded, device)
    return StagedModel(loaded).to(torch.device(device)).eval()


def _load(sweep: Sweep, name: str, about: Mapping[str, Any], place: str | None) -> Tier:
    """The tier that was tested, from the first place that has it, or the first error on the way."""
    tested = {"lengths": about["lengths"]} if "lengths" in about else {}  # a share may be another when a search goes on
    view = View.parse(dict(about["view"]) | tested, f"tiers.{name}")
    failure: ValueError | None = None
    for folder in [place] if place is not None else _places(view.path, sweep.run):
        try:
            tier = load_tier(replace(view, path=folder), name, sweep.label_names, f"tiers.{name}")
        except ValueError as error:
            failure = failure or error
            continue
        if tier.fingerprint == about["fingerprint"]:
            return tier
        failure = ValueError(
            f"`tiers.{name}` must be the model that was tested, with the fingerprint {about['fingerprint']}, but "
            f"{folder} has {tier.fingerprint}; name its folder, or run `dial test` again."
        )
    assert failure is not None
    raise failure


def _places(path: str, run: Path) -> list[str]:
    """Where a tier may be: as it was written, relative to the run or above it, as the run's own tier."""
    found = [path]
    if not Path(path).expanduser().is_absolute():
        bases = [run.resolve(), *run.resolve().parents]
        found += [str(base / path) for base in bases if (base / path / "config.json").is_file()]
    found.append(str(run / "tier"))
    first = [place for place in found if (Path(place).expanduser() / "config.json").is_file()]
    return list(dict.fromkeys(first or [path]))


def row_costs(sweep: Sweep, network: StagedModel) -> RowCosts:
    """Costs of single rows by the cost functions and the length convention of a sweep."""
    table, settings = sweep.table, sweep.settings
    if (reported := table.split != "calibration").any():  # what `dial test` reports is of these rows
        table = table.take(reported)
    reference = settings.get("reference") or network.tiers[-1].name
    totals = {name: float(lengths.sum()) for name, lengths in table.lengths.items() if lengths.sum()}
    longer = {name: totals[reference] / total for name, total in totals.items() if reference in totals}
    pieces = {name: float(steps.mean()) for name, steps in table.written.items()}
    return RowCosts(list(network.tiers), sweep.costs, settings.get("length", "true"), reference, longer, pieces)
