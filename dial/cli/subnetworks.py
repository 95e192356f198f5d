"""Whether a network can have the sub-networks that the stages of a recipe will train (DynaBERT)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dial.cli.steps import Step, options
from dial.spelling import spelt


def check_stages(network: str, values: Mapping[str, str | list[str]], steps: Sequence[Step] = ()) -> None:
    """Refuse widths and depths that a later step would refuse when the earlier ones are done.

    Args:
        network: the argument that names the network; one whose configuration cannot be had is left to the first step.
        values: arguments of the recipe, with ``widths``, ``depths`` and ``swift`` (the width of the cascade's Swift).
        steps: of the recipe, whose `--model.tiers` may name other parts of the network.

    Raises:
        ValueError: in one line, naming the argument.
    """
    given = options(shlex.join(values.get("model", [])))
    for name in ("widths", "depths"):
        if f"--model.{name}" in given:
            raise ValueError(f"`--model.{name}` must be left out, as every stage would get it; give `--{name}`.")
    widths, depths = (_shares(name, str(values[name])) for name in ("widths", "depths"))
    try:
        swift = float(str(values["swift"]))
    except ValueError as error:
        raise ValueError(f"`--swift` must be a share, such as 0.5, but got {values['swift']}.") from error
    path = str(values[network])
    import torch
    from transformers import AutoConfig, AutoModel

    from dial.models.slender.subnetworks import check_subnetworks
    from dial.tiers.places import check_place
    from dial.tiers.reading import cut_layers, read_with

    folder = Path(path).expanduser()
    if folder.is_dir() and not (folder / "config.json").is_file():  # as the first step will say
        return
    try:
        place = check_place(path, f"--{network}")  # asks the hub once, where the reader would try many times
        config = read_with(AutoConfig, place, f"--{network}", "configuration")
    except ValueError:
        if folder.is_dir():
            raise
        return
    layers = given.get("--model.layers", [""])[-1]
    if layers.isdecimal():
        cut_layers(config, int(layers), "path")
    try:
        with torch.device("meta"):
            model = AutoModel.from_config(config)
    except ValueError:  # of no architecture that can be trained so, as the first step will say
        return
    with spelt({"widths": "--widths", "depths": "--depths", "width": "--swift"}):
        check_subnetworks(model, widths, depths, "s")
        check_subnetworks(model, [swift], [1])
    for step in steps:
        for tier in _tiers(step):
            try:
                check_subnetworks(model, [tier.get("width", 1)], [tier.get("depth", 1)])
            except ValueError as error:
                raise ValueError(f"`--{network}` {path} has no part that step {step.name} tests: {error}") from error


def _shares(name: str, text: str) -> list[Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError:
        values = None
    if not isinstance(values, list) or 1 not in values:
        raise ValueError(f"`--{name}` must be a list of shares that holds 1, such as '[0.5, 1.0]', but got {text}.")
    return values


def _tiers(step: Step) -> list[dict[str, Any]]:
    """Tiers with a view that a step tests together."""
    words = options(shlex.join(step.command)).get("--model.tiers", [""])
    try:
        found = yaml.safe_load(words[-1])
    except yaml.YAMLError:  # as the step will say
        found = None
    return [tier for tier in found if isinstance(tier, dict)] if isinstance(found, list) else []
