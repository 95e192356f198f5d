"""E-LANG's Table 5: cascades whose two tiers are one DynaBERT folder, here of the Super's own encoder (MiniLM-L6)."""

from __future__ import annotations

from collections.abc import Iterator

from dial.cli.steps import Step
from scripts.results_cell import Cell

TASKS = ("sst2", "mrpc")
EPOCHS = {"sst2": 2, "mrpc": 5}  # of each of the two stages
RATE = ("--model.optimizer.init_args.lr", "5e-5")
# On SST-2 a step of the second stage takes 4 of the 12 sub-networks, for an epoch in the time of the first stage's.
DEPTH = {"sst2": ("--model.per_step", "4"), "mrpc": ()}
SUBNETWORKS = {
    "w25": "width: 0.25",
    "w50": "width: 0.5",
    "w75": "width: 0.75",
    # The table's 2.7 GFLOPs of 21.8; it prints width 0.5 and depth 0.25, but no DynaBERT was trained at that depth.
    "w25-d50": "width: 0.25, depth: 0.5",
    "full": "width: 1.0",
}
PAIRS = (("w25-d50", "w75"), ("w25-d50", "full"), ("w25", "full"), ("w50", "full"))
"""Swift and Super; the first pair is that of the table."""


def dynabert_steps(cell: Cell) -> Iterator[Step]:
    """Fit both stages from the task's Super, then test each pair of sub-networks as a cascade."""
    whole, first = cell.tier("super"), cell.tier("dynabert-width")
    epochs = EPOCHS[cell.task]
    yield cell.fit("dynabert-width", "dynabert_width", ("--model.path", whole, "--model.teacher", whole, *RATE), epochs)
    taught = ("--model.path", first, "--model.teacher", first, *RATE, *DEPTH[cell.task])
    yield cell.fit("dynabert", "dynabert", taught, epochs)
    for pair in PAIRS:
        tiers = [f"{{path: {cell.tier('dynabert')}, {SUBNETWORKS[name]}}}" for name in pair]
        yield from cell.test(f"cascade-dynabert-{pair[0]}-{pair[1]}", cell.cascade(*tiers))
