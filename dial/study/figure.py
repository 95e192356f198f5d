"""Figure of a measured study: trade-off and throughput in time (TangoBERT, Fig. 2 and 3), latency, batch sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from dial.report.figures import style

STYLES: dict[str, dict[str, Any]] = {
    "cascade": {"color": style.COLOURS[0], "linewidth": 1.8},
    "exits": {"color": style.COLOURS[1], "linewidth": 1.8},
    "random": {"color": style.RANDOM, "linewidth": 1.4, "linestyle": "--"},
    "oracle": {"color": style.ORACLE, "linewidth": 1.2, "linestyle": "-."},
}
PANEL = (6.6, 4.8)  # inches
LATENCIES = (("p50", "o"), ("p95", "s"), ("p99", "^"))


def study_figure(results: dict[str, Any]) -> Figure:
    """Four panels.

    Args:
        results: as in ``study.json``.
    """
    figure, axes = style.new_figure(4, columns=2, size=PANEL)
    _trade_off(axes[0], results)
    _throughput(axes[1], results)
    _latency(axes[2], results)
    _batch_sizes(axes[3], results)
    machine = results["machine"]
    figure.suptitle(
        f"{style.title_of(results.get('task'), results['split'], results['rows'])}, {results['settings']['repeats']} "
        f"repetitions: {machine['processor']}, {machine['threads']} thread(s), torch {machine['torch']}",
        fontsize=9,
        color=style.FAINT,
    )
    if results.get("partial"):
        style.mark_partial(figure)
    return figure


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
        axis.plot(_mean_of(each), quality, "D", color=style.INK, markerfacecolor="white", markersize=5)
        style.name_point(axis, each["name"], (_mean_of(each), quality), (5, 18 if (len(alone) - index) % 2 == 0 else 6))
    style.draw_levels(axis, best, "the Super")
    axis.set(xlabel="mean ms per row, one at a time", ylabel=f"{results['metric']}, %")
    axis.set_xlim(0, 1.12 * max(max(each["ms"]) for each in lines))
    axis.set_title("quality over time", fontsize=10, loc="left")
    style.legend(axis, PANEL[0])


def _mean_of(contender: dict[str, Any]) -> float:
    """Median over the repetitions of the mean time of a row alone."""
    return float(contender["single"]["mean"]["median"])


def _throughput(axis: Axes, results: dict[str, Any]) -> None:
    """Rows per second over quality: lines from each tier's times, crosses from the executor."""
    for each in results["curves"]:
        if each["method"] in ("random", "oracle"):
            continue
        look = STYLES[each["method"]] | ({"linestyle": ":"} if each["kind"] == "single" else {})
        name = f"{each['method']}, {'batch 1' if each['kind'] == 'single' else 'best batch'}"
        axis.plot(100 * np.array(each["quality"]), 1e3 / np.array(each["ms"]), label=name, **look)
    for each in results["throughput"]:
        speed = each["rows_per_second"]
        error = [[speed["median"] - speed["low"]], [speed["high"] - speed["median"]]]
        axis.errorbar(
            100 * each["kept"] * results["super_quality"],
            speed["median"],
            yerr=error,
            fmt="x",
            color=style.INK,
            markersize=6,
            zorder=5,
        )
    for share, dashes in style.LEVELS:
        name = f"{100 * share:g} % of the Super"
        place = 100 * share * results["super_quality"]
        axis.axvline(place, color=style.INK, linewidth=0.8, linestyle=dashes, alpha=0.6, label=name)
    style.log_ticks(axis.yaxis, axis.set_yscale)
    axis.set(xlabel=f"{results['metric']}, %", ylabel="rows per second (log)")
    axis.set_title("throughput over quality (× executor)", fontsize=10, loc="left")
    style.legend(axis, PANEL[0])


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
            axis.plot(
                value, place, marker, color=style.COLOURS[LATENCIES.index((name, marker))], markersize=5, label=label
            )
    axis.set_yticks(range(len(lines)), [name for name, _ in lines], fontsize=8)
    axis.invert_yaxis()
    style.log_ticks(axis.xaxis, axis.set_xscale)
    axis.set_xlabel("ms per row, one at a time (log)")
    axis.set_title("latency", fontsize=10, loc="left")
    style.legend(axis, PANEL[0])


def _batch_sizes(axis: Axes, results: dict[str, Any]) -> None:
    """Throughput of each model by batch size, with the one taken."""
    models = [each for each in results["contenders"] if each["padded_to"] is None]
    for colour, each in zip(style.colours(len(models)), models, strict=True):
        pairs = sorted((int(size), rows) for size, rows in each["throughput"].items())
        axis.plot(*zip(*pairs, strict=True), "-", color=colour, linewidth=1.4, marker=".", label=each["name"])
        axis.plot(each["batch_size"], dict(pairs)[each["batch_size"]], "o", color=colour, markersize=8, alpha=0.6)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    style.log_ticks(axis.yaxis, axis.set_yscale)
    axis.set(xlabel="rows per batch", ylabel="rows per second (log)")
    axis.set_title("batch sizes (circle: taken)", fontsize=10, loc="left")
    style.legend(axis, PANEL[0])
