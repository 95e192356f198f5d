"""Write the pages `results/*.md`, one a question, and the README's table of methods from what is kept in `results/`.

    python scripts/results_table.py                        # from the CSV and JSON files that are there
    python scripts/results_table.py --runs runs/results    # collect the sweeps first; `make results` does it

A table is written between its markers where the numbers that it is made of are kept; all else on a page stays.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dial.files import atomic_write, write_json
from scripts import (
    base_collect,
    base_page,
    cascades_page,
    dynabert_page,
    exits_page,
    reading_collect,
    reading_page,
    speed_page,
    text_collect,
    text_figures,
    text_page,
    time_page,
)
from scripts.markdown import fill, grid
from scripts.results_steps import ROOT

HEADLINE = "crossfit", 0.99  # the reading and the target that the README states
TEXTS = "text_to_text.json"
METHODS = (
    # method, task, cascade or model, score, config or recipe, page
    ("E-LANG: energy of the Swift", "sst2", "bilstm-distilled", "energy", "configs/model/cascade.yaml", "cascades"),
    ("TangoBERT: largest probability", "sst2", "bilstm-distilled", "softmax", "configs/model/cascade.yaml", "cascades"),
    ("COST-EFF at a quarter of the size", "sst2", "costeff-4x", None, "configs/recipe/cost_eff.yaml", "exits"),
    ("COST-EFF, then the Super", "sst2", "costeff-4x, then super", None, "configs/model/cascade.yaml", "exits"),
    ("gradient equilibrium", "sst2", "equilibrium", None, "configs/model/equilibrium.yaml", "exits"),
    ("PABEE's exits", "sst2", "pabee", None, "configs/model/pabee.yaml", "exits"),
    ("DeeBERT", "sst2", "deebert", None, "configs/model/deebert.yaml", "exits"),
    ("BERxiT, a number", "stsb", "berxit", None, "configs/model/berxit.yaml", "exits"),
)


def collect(runs: Path, results: Path) -> None:
    """Keep the numbers of all sweeps as CSV files, the errors of the cascades, and what is said of answers in words.

    Raises:
        ValueError: nothing was swept.
    """
    cascades, pairs = cascades_page.collect(runs, cascades_page.times_of(results))
    texts = text_collect.collect(runs, results)
    if cascades.empty and not texts["cascades"]:
        raise ValueError(f"`runs` must hold tested cascades, but {runs} has none; run `make results` first.")
    frames = {"results.csv": cascades, "pairs.csv": pairs, "exits.csv": exits_page.collect(runs)}
    frames["dynabert.csv"] = dynabert_page.collect(runs)
    results.mkdir(parents=True, exist_ok=True)
    for name, frame in frames.items():
        if not frame.empty:
            with atomic_write(results / name) as temporary:
                frame.to_csv(temporary, index=False, float_format="%.6g")
    time_page.keep_errors(runs, results)
    if texts["cascades"]:
        write_json(results / TEXTS, texts)
        text_figures.draw(results)
        for task in {record["task"] for record in texts["cascades"]} & text_figures.PUBLISHED.keys():
            points = pd.DataFrame(text_collect.printed_points(text_figures.PUBLISHED[task]))
            with atomic_write(results / task / "e_lang.csv") as temporary:
                points.to_csv(temporary, index=False, float_format="%.6g")
    base_collect.keep(runs, results)
    reading_collect.keep(runs, results)


def write(results: Path, data: str, models: str, readme: Path | None = None) -> None:
    """Write every table whose numbers are kept.

    Args:
        results: folder with the pages, the CSV files, and what was measured.
        data: as for `make results`.
        models: as for `make results`.
        readme: file with the table of methods; None leaves it out.

    Raises:
        ValueError: a page lacks the markers of a table.
    """
    cascades, pairs, exits = (kept(results / name) for name in ("results.csv", "pairs.csv", "exits.csv"))
    times = cascades_page.times_of(results)
    if cascades is not None:
        fill(results / "cascades.md", cascades_page.tables(cascades, pairs, times, data, models))
    if exits is not None:
        fill(results / "exits.md", exits_page.tables(exits, data, models))
    if (parts := kept(results / "dynabert.csv")) is not None:
        fill(results / "dynabert.md", dynabert_page.tables(parts, data, models))
    fill(results / "time.md", time_page.tables(time_page.collect(results), data, models))
    fill(results / "time.md", speed_page.tables(results, data))
    texts = json.loads((results / TEXTS).read_text()) if (results / TEXTS).is_file() else None
    if texts is not None:
        fill(results / "text_to_text.md", text_page.tables(texts, text_collect.studies(results), data, models))
    base = {name: frame for name in base_collect.FILES if (frame := kept(results / name)) is not None}
    if len(base) == len(base_collect.FILES):
        seeds = kept(results / base_collect.SEEDS)
        base |= {} if seeds is None else {base_collect.SEEDS: seeds}
        fill(results / "base_size.md", base_page.tables(base, data, models, base_collect.studies(results)))
    reading = {
        name: frame if (frame := kept(results / name)) is not None else pd.DataFrame() for name in reading_collect.FILES
    }
    if (results / "reading.md").is_file():
        study = reading_collect.kept_study(results)
        drawn = [name for name in reading_page.FIGURES if (results / name).is_file()]
        fill(results / "reading.md", reading_page.tables(reading, study, drawn, data, models))
    if readme is not None and cascades is not None and exits is not None:
        fill(readme, {"methods": method_table(cascades, exits, texts, reading[reading_collect.FILES[0]])})


def kept(path: Path) -> pd.DataFrame | None:
    """A CSV file; None where it is not there."""
    return pd.read_csv(path) if path.is_file() else None


def method_table(
    cascades: pd.DataFrame,
    exits: pd.DataFrame,
    texts: Mapping[str, Any] | None = None,
    reading: pd.DataFrame | None = None,
) -> str:
    """Each method with its config, and its speed-up in FLOPs on one task at one reading.

    Args:
        cascades: points of cascades of classifiers.
        exits: points of models with exits.
        texts: from :func:`scripts.text_collect.collect`.
        reading: points of :func:`scripts.reading_collect.collect`.
    """
    kind, target = HEADLINE
    rows = []
    for method, task, name, score, config, page in METHODS:
        frame = cascades[cascades.swift == name] if score else exits[exits.method == name]
        frame = frame[(frame.task == task) & (frame.kind == kind) & (frame.target == target)]
        frame = frame[frame.score == score] if score else frame
        value = "–" if frame.empty else f"{frame.speedup.median():.2f}× ({100 * frame.kept.median():.1f} %)"
        command = "dial recipe" if "/recipe/" in config else "dial test" if "cascade" in config else "dial fit"
        rows.append([method, f"`{command} {'' if 'recipe' in config else '--config '}{config}`", task, value])
        rows[-1].append(f"[{page}](results/{page}.md)")
    rows += text_page.methods(texts or {"cascades": []}, target)
    rows += reading_page.methods(pd.DataFrame() if reading is None else reading, f"{kind}_confident", target)
    head = ["method", "command", "task", f"speed-up in FLOPs at {100 * target:g} %, {kind} (kept)", "more"]
    return grid(head, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Collect if asked to, then write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder with the sweeps, to collect their numbers first")
    parser.add_argument("--out", type=Path, default=ROOT / "results", help="folder of the pages and numbers")
    parser.add_argument("--data", default="../shared/data", help="as for results.py, in the commands shown")
    parser.add_argument("--models", default="../shared/models", help="as for results.py, in the commands shown")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="file with the table of methods")
    options = parser.parse_args(arguments)
    if options.runs:
        collect(options.runs, options.out)
    write(options.out, options.data, options.models, options.readme)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        raise SystemExit(f"results_table: {error}") from error
