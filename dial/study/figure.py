"""Figure of a measured study: trade-off and throughput in time (TangoBERT, Fig. 2 and 3), latency, batch sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from dial.report.figures.line_labels import label_lines
from dial.report.figures.plots import COLOURS, INK, LEVELS, ORACLE, RANDOM, new_figure

STYLES: dict[str, dict[str, Any]] = {
    "cascade": {"color": COLOURS[0], "linewidth": 1.8},
    "exits": {"color": COLOURS[1], "linewidth": 1.8},
    "random": {"color": RANDOM, "linewidth": 1.4, "linestyle": "--"},
    "oracle": {"color": ORACLE, "linewidth": 1.2, "linestyle": "-."},
}
BESIDE = {"textcoords": "offset points", "fontsize": 8, "color": INK}
LATENCIES = (("p50", "o"), ("p95", "s"), ("p99", "^"))


def study_figure(results: dict[str, Any]) -> Figure:
    """Four panels.

    Args:
        results: as in ``study.json``.
    """
    figure, axes = new_figure(4, columns=2, size=(6.6, 4.4))
    _trade_off(axes[0], results)
    _throughput(axes[1], results)
    _latency(axes[2], results)
    _batch_sizes(axes[3], results)
    machine = results["machine"]
    figure.suptitle(
        f"{results.get('task') or ''} {results['split']}, {results['rows']} rows, {results['settings']['repeats']} "
        f"repetitions: {machine['processor']}, {machine['threads']} thread(s), torch {machine['torch']}",
        fontsize=9,
        color="#555555",
    )
    if results.get("partial"):
        figure.text(0.5, 0.5, "partial", fontsize=60, color="#00000022", ha="center", va="center", rotation=20)
    return figure


def _levels(axis: Axes, best: float) -> None:
    for share, dashes in LEVELS:
        axis.axhline(100 * share * best, color=INK, linewidth=0.8, linestyle=dashes, alpha=0.6)
        place: dict[str, Any] = {"xytext": (3, 0), "va": "center", "annotation_clip": True, **BESIDE}
        axis.annotate(f"{100 * share:g} %", (1, 100 * share * best), xycoords=("axes fraction", "data"), **place)


def _trade_off(axis: Axes, results: dict[str, Any]) -> None:
    """Quality over the mean time of a row alone, with the rivals."""
    lines = [each for each in results["curves"] if each["kind"] == "single"]
    for each in lines:
        quality = 100 * np.array(each["quality"])
        axis.plot(each["ms"], quality, label=each["method"], **STYLES[each["method"]])
    best = results["super_quality"]
    alone = [each for each in results["contenders"] if each["name"].startswith(results["super"])]
    alone = sorted((each for each in alone if each["padded_to"] is None), key=_mean_of)
    for index, each in enumerate(alone):  # in order of time, so that neighbours' names lie at different heights
        quality = 100 * (best + each["quality"] - each["quality_of_super"])  # it was seen on the timed rows only
        axis.plot(_mean_of(each), quality, "D", color=INK, markerfacecolor="white", markersize=5)
        place: dict[str, Any] = {"xytext": (5, 18 if (len(alone) - index) % 2 == 0 else 6), **BESIDE}
        axis.annotate(each["name"], (_mean_of(each), quality), **place)
    _levels(axis, best)
    axis.set(xlabel="mean ms per row, one at a time", ylabel=f"{results['metric']}, %")
    axis.set_xlim(0, 1.12 * max(max(each["ms"]) for each in lines))
    axis.set_title("quality over time", fontsize=10, loc="left")
    label_lines(axis, [each["method"] for each in lines], avoid=axis.texts)


def _mean_of(contender: dict[str, Any]) -> float:
    """Median over the repetitions of the mean time of a row alone."""
    return float(contender["single"]["mean"]["median"])


def _throughput(axis: Axes, results: dict[str, Any]) -> None:
    """Rows per second over quality: lines from each tier's times, crosses from the executor."""
    for each in results["curves"]:
        if each["method"] in ("random", "oracle"):
            continue
        style = STYLES[each["method"]] | ({"linestyle": ":"} if each["kind"] == "single" else {})
        name = f"{each['method']}, {'batch 1' if each['kind'] == 'single' else 'best batch'}"
        axis.plot(100 * np.array(each["quality"]), 1e3 / np.array(each["ms"]), label=name, **style)
    for each in results["throughput"]:
        speed = each["rows_per_second"]
        error = [[speed["median"] - speed["low"]], [speed["high"] - speed["median"]]]
        axis.errorbar(
            100 * each["kept"] * results["super_quality"],
            speed["median"],
            yerr=error,
            fmt="x",
            color=INK,
            markersize=6,
            zorder=5,
        )
    for share, dashes in LEVELS:
        axis.axvline(100 * share * results["super_quality"], color=INK, linewidth=0.8, linestyle=dashes, alpha=0.6)
    _log(axis.yaxis, axis.set_yscale)
    axis.set(xlabel=f"{results['metric']}, %", ylabel="rows per second (log)")
    axis.set_title("throughput over quality (× executor)", fontsize=10, loc="left")
    axis.legend(fontsize=8, frameon=False, loc="lower left")


def _latency(axis: Axes, results: dict[str, Any]) -> None:
    """Quantiles of the time of a row alone, for each model and each `expected` point."""
    lines = [(each["name"], each["single"]) for each in results["contenders"]]
    for each in results["points"]:
        if each["method"] in ("cascade", "exits") and each["reading"] == "expected" and each["reached"]:
            lines.append((f"{each['method']} at {100 * each['target']:g} %", each["latency"]))
    for place, (_, latency) in enumerate(lines):
        values = [latency[name]["median"] for name, _ in LATENCIES]
        axis.plot(values, [place] * len(values), color="#BBBBBB", linewidth=1, zorder=1)
        for (name, marker), value in zip(LATENCIES, values, strict=True):
            label = name if not place else None
            axis.plot(value, place, marker, color=COLOURS[LATENCIES.index((name, marker))], markersize=5, label=label)
    axis.set_yticks(range(len(lines)), [name for name, _ in lines], fontsize=8)
    axis.invert_yaxis()
    _log(axis.xaxis, axis.set_xscale)
    axis.set_xlabel("ms per row, one at a time (log)")
    axis.set_title("latency", fontsize=10, loc="left")
    axis.legend(fontsize=8, frameon=False, loc="upper right", ncols=3, bbox_to_anchor=(1, 1.1))


def _batch_sizes(axis: Axes, results: dict[str, Any]) -> None:
    """Throughput of each model by batch size, with the one taken."""
    for index, each in enumerate(each for each in results["contenders"] if each["padded_to"] is None):
        pairs = sorted((int(size), rows) for size, rows in each["throughput"].items())
        colour = (*COLOURS, INK)[index % (len(COLOURS) + 1)]
        axis.plot(*zip(*pairs, strict=True), "-", color=colour, linewidth=1.4, marker=".", label=each["name"])
        axis.plot(each["batch_size"], dict(pairs)[each["batch_size"]], "o", color=colour, markersize=8, alpha=0.6)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _log(axis.yaxis, axis.set_yscale)
    axis.set(xlabel="rows per batch", ylabel="rows per second (log)")
    axis.set_title("batch sizes (circle: taken)", fontsize=10, loc="left")
    axis.legend(fontsize=8, frameon=False)


def _log(axis: Any, scale: Any) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5."""
    scale("log")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
