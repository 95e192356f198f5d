"""Keep what tested runs left in `results/`: slim stage tables, and the numbers and figures of measured studies.

    python scripts/store_results.py runs/results                                # every run in a folder of runs
    python scripts/store_results.py runs/results/sst2/seed0/exits-ta            # one run
    python scripts/store_results.py runs/results/squad/seed0/all --tiers student super --name cascade-student

A table holds ids, labels, logits, lengths, scores that only the model gives, and cost functions: no text, and nothing
that follows from the rest. `dial sweep` reads it like any other. Logits are kept in float32: all tables together stay
far below the limit, and in float16 scores of sure rows would tie. In the place of what decoders wrote, and of what that
is compared with, stand classes, or what each row adds to the sums of the metrics.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dial.costs.functions import ModelCosts
from dial.files import read_json, write_json
from dial.spelling import spelt
from dial.stages.parquet import load_table, save_slim
from dial.stages.table import StageTable

TABLE = Path("sweep/stages.parquet")
LIMIT = 20_000_000  # bytes of all tables together, as they are kept in the repository
KEPT = ("cascade-", "exits-", "study")


def runs_in(folder: Path) -> Iterator[Path]:
    """The run folders of tests: the folder itself, or those in it by task and seed."""
    if (folder / TABLE).is_file():
        yield folder
        return
    for table in sorted(folder.glob(f"*/seed*/*/{TABLE}")):
        if (run := table.parents[1]).name.startswith(KEPT):
            yield run


def keep(run: Path, out: Path, tiers: Sequence[str] = (), name: str | None = None) -> Path:
    """Keep one run's study, where it has one, else its table.

    Args:
        run: `<task>/seed<number>/<name>`.
        out: folder of the results.
        tiers: those of its tiers to keep; none: all.
        name: of the table that is kept; default: the run's.

    Raises:
        ValueError: the run is a trial, or its table tells of the machine that it was made on; tiers of a study.
    """
    task, seed = run.parts[-3:-1]
    if (run / "study" / "study.json").is_file():
        if tiers:
            raise ValueError(f"`tiers` must be left out where a study is kept, but {run} holds one; leave it out.")
        return keep_study(run, out / task)
    table = load_table(run / TABLE)
    table = without_texts(table.of_tiers(tiers) if tiers else table)
    check(table, run)
    file = run / TABLE.with_name("costs.json")
    costs = ModelCosts.load(file) if "answer" in read_json(file, "runs") else None
    path = out / task / f"{seed}-{name or run.name}.parquet"
    save_slim(table, path, costs.of_tiers(tiers) if costs is not None and tiers else costs)
    return path


def without_texts(table: StageTable) -> StageTable:
    """A table without texts: the classes that they name, or the sums that follow from them, are in it already.

    Scores, which here are columns of their own, are rounded to float32; those of the last stage decide nothing and go.
    Predictions of free text say which stages wrote the same.
    """
    if table.texts is None:
        return table
    scores = {name: values for name, values in table.scores.items() if name == "random"}  # which costs no space
    for name in table.scores.keys() - scores.keys():
        scores[name] = table.scores[name].astype(np.float32).astype(np.float64)
        scores[name][:, -1] = np.nan
    predictions = table.predictions
    if table.task.written:
        predictions = (table.texts[:, :, None] == table.texts[:, None, :]).argmax(axis=2)  # the first that wrote it
    ordered = {name: scores[name] for name in table.scores}
    return dataclasses.replace(table, texts=None, references=None, predictions=predictions, scores=ordered)


def keep_study(run: Path, out: Path) -> Path:
    """Keep a study's numbers, with the quality of every stage on all rows, and its figure."""
    study = read_json(run / "study/study.json", "runs")
    summary = read_json(run / "sweep/summary.json", "runs")
    if study.get("partial"):
        raise ValueError(f"`runs` must be whole, but {run} holds a trial run. Remove it.")
    split, metric = summary["splits"][study["split"]], summary["metrics"][0]
    qualities = {stage["name"]: stage["quality"][metric] for stage in split["stages"]}
    path = out / f"{run.name}.json"
    write_json(path, {**study, "qualities": qualities})
    if run.name == "study" and (figure := run / "study/study.png").is_file():  # tiers that write have none
        shutil.copyfile(figure, out / "study.png")
    return path


def check(table: StageTable, run: Path) -> None:
    """Refuse what must not be kept."""
    if table.settings.get("partial"):
        raise ValueError(f"`runs` must be whole, but {run} holds a trial run. Remove it.")
    if places := [text for text in strings(table.settings) if text.startswith(("/", "~"))]:
        raise ValueError(
            f"`runs` must name their tiers relative to the repository, but {run} names {places[0]}, a place on one "
            "machine. Test again from the root of the repository."
        )


def strings(value: Any) -> Iterator[str]:
    """All texts in nested settings."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


def main(arguments: Sequence[str] | None = None) -> None:
    """Keep everything that is there, and say how much it is.

    Raises:
        ValueError: there is nothing to keep, or all tables together are too large.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, or run folders <task>/seed<number>/<name>")
    parser.add_argument("--out", type=Path, default=Path("results"), help="default: %(default)s")
    parser.add_argument("--tiers", nargs="+", default=(), help="of one run, those to keep; needs --name")
    parser.add_argument("--name", help="of the table that is kept of one run; default: the run's")
    options = parser.parse_args(arguments)
    found = [run for folder in options.runs for run in runs_in(folder)]
    if not found:
        raise ValueError(f"`runs` must hold tested runs, but {', '.join(map(str, options.runs))} has none.")
    if bool(options.tiers) != bool(options.name) or (options.name and len(found) > 1):
        raise ValueError("`--tiers` and `--name` must be given together, for one run; give both or neither.")
    for run in found:
        with spelt({"tiers": "--tiers"}):
            path = keep(run, options.out, options.tiers, options.name)
        print(f"{run} -> {path} ({path.stat().st_size / 1e3:,.0f} kB)")
    total = sum(path.stat().st_size for path in options.out.rglob("*.parquet"))
    print(f"{total / 1e6:.2f} MB of tables in {options.out}")
    if total > LIMIT:
        raise ValueError(f"`out` must hold at most {LIMIT / 1e6:g} MB of tables, but has {total / 1e6:.1f} MB.")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        raise SystemExit(f"store_results: {error}") from error
