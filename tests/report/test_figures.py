import dataclasses
import itertools

import matplotlib as mpl
import numpy as np
import pytest

from dial.costs.published import Published
from dial.report.figures.compare import compare_figure
from dial.report.figures.plots import range_of
from dial.report.figures.style import COLOURS, RANDOM, colours
from dial.report.report import SweepSettings, build_report
from dial.report.runs import read_run
from dial.stages.scores import compute
from tests.stages.population import logits_table

SETTINGS = SweepSettings(bootstrap=100, targets=(0.99, 0.98))


@pytest.fixture(scope="module")
def report():
    return build_report(logits_table(800, seed=3), SETTINGS)


@pytest.fixture(scope="module")
def drawn(report):
    made = report.figures()
    for figure in made.values():
        figure.canvas.draw()
    return made


def line(axis, label):
    return next(each for each in axis.lines if each.get_label() == label)


def test_curve_shows_every_distinct_routing_random_oracle_and_the_ends(drawn, report):
    axis = drawn["curve.png"].axes[0]
    labels = {str(each.get_label()) for each in axis.lines}
    assert {"energy", "random", "oracle"} <= labels
    assert any({"energy_released", "softmax", "margin", "entropy"} == set(label.split(" = ")) for label in labels)
    result = report.summary["splits"]["test"]
    swift, last = result["stages"]
    for name in ("energy", "oracle"):
        x, y = line(axis, name).get_xdata(), line(axis, name).get_ydata()
        assert (x[0], y[0]) == pytest.approx(
            (100 * swift["macs"] / result["reference_macs"], 100 * swift["quality"]["accuracy"])
        )
        assert (x[-1], y[-1]) == pytest.approx(
            (100 * last["macs"] / result["reference_macs"], 100 * last["quality"]["accuracy"])
        )
    assert {"swift", "super", "super alone"} <= {text.get_text() for text in axis.texts}
    named = {text.get_text() for text in axis.get_legend().get_texts()}
    assert {"99 % of the Super", "98 % of the Super"} <= named
    assert axis.get_title(loc="left") == "synthetic, test (800 rows)"


def test_levels_are_99_and_98_per_cent_of_the_super(drawn, report):
    best = report.summary["splits"]["test"]["stages"][-1]["quality"]["accuracy"]
    flat = [
        each.get_ydata()[0]
        for each in drawn["curve.png"].axes[0].lines
        if len(set(each.get_ydata())) == 1 and len(each.get_ydata()) == 2
    ]
    assert {round(99 * best, 6), round(98 * best, 6)} <= {round(y, 6) for y in flat}


@pytest.mark.filterwarnings("error")
def test_levels_far_below_every_line_do_not_squeeze_the_picture():
    """A first tier that is nearly the Super, as in int8: all lines within half a point."""
    table = logits_table(800, seed=3, strengths=(40.0, 41.0))
    figure = build_report(table, SETTINGS).figures()["curve.png"]
    figure.canvas.draw()
    axis = figure.axes[0]
    renderer = figure.canvas.get_renderer()
    assert axis.get_ylim()[0] > 98.5
    assert axis.get_tightbbox(renderer).y0 >= 0


def boxes(figure, axis):
    renderer = figure.canvas.get_renderer()
    return [text.get_window_extent(renderer) for text in axis.texts if text.get_text()]


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_names_do_not_cover_each_other_and_stay_in_the_picture(seed):
    made = build_report(logits_table(800, seed=seed), SETTINGS).figures()
    figure = made["curve.png"]
    figure.canvas.draw()
    found = boxes(figure, figure.axes[0])
    for one, two in itertools.combinations(found, 2):
        overlap = max(0, min(one.x1, two.x1) - max(one.x0, two.x0)) * max(0, min(one.y1, two.y1) - max(one.y0, two.y0))
        assert overlap < 0.15 * min(one.width * one.height, two.width * two.height)
    width, height = figure.canvas.get_width_height()
    assert all(box.x0 >= -1 and box.x1 <= width + 1 and box.y0 >= -1 and box.y1 <= height + 1 for box in found)


def test_legends_name_every_line_and_cover_nothing(drawn):
    for name in ("curve.png", "shares.png"):
        figure = drawn[name]
        axis, renderer = figure.axes[0], figure.canvas.get_renderer()
        shown = axis.get_legend().get_window_extent(renderer)
        assert shown.y1 < axis.get_window_extent(renderer).y0 and shown.y0 >= 0 and shown.x0 >= 0
        named = {text.get_text() for text in axis.get_legend().get_texts()}
        assert named == set(axis.get_legend_handles_labels()[1]) and len(named) > 1


def test_density_panels_mark_the_crossing(drawn, report):
    axes = drawn["scores.png"].axes
    assert [axis.get_title(loc="left") for axis in axes] == [f"{score} of swift" for score in report.densities]
    for axis, (found,) in zip(axes, report.densities.values(), strict=True):
        texts = " ".join(text.get_text() for text in axis.texts)
        assert "right" in texts
        assert "wrong" in texts
        if found.threshold is not None:
            assert axis.get_title(loc="right") == f"crossing at {found.threshold:.3g} between the modes"
            assert any(np.allclose(each.get_xdata(), found.threshold) for each in axis.lines)
        else:
            assert axis.get_title(loc="right").endswith("between the modes")
    assert drawn["scores.png"].get_suptitle() == "synthetic, calibration rows that a stage gets right and wrong"


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_no_density_is_drawn_where_a_score_cannot_be(classes):
    """The ranges hold for logits of every size, and their ends are reached."""
    rng = np.random.default_rng(0)
    sizes = np.geomspace(1e-6, 1e3, 400)[:, None]
    logits = np.concatenate([rng.normal(size=(400, classes)) * sizes, np.zeros((1, classes))])
    for score in ("softmax", "margin", "entropy", "energy_released", "energy"):
        low, high = range_of(score, classes)
        values = compute(score, logits)
        assert low - 1e-9 <= values.min() and values.max() <= high + 1e-9
        if score != "energy":
            assert (values.min(), values.max()) == pytest.approx((low, high), abs=1e-6)


def test_densities_of_probabilities_end_at_one(drawn, report):
    axes = dict(zip(report.densities, drawn["scores.png"].axes, strict=True))
    for score, low, high in (("softmax", 0.5, 1.0), ("margin", 0.0, 1.0), ("entropy", -np.log(2), 0.0)):
        (found,) = report.densities[score]
        assert found.grid[0] < low and found.grid[-1] > high  # the kernel spills over both walls
        drawn_at = np.concatenate([line.get_xdata() for line in axes[score].lines[:2]])
        assert low <= drawn_at.min() < low + 0.01 and high - 0.01 < drawn_at.max() <= high


def test_shares_fill_from_none_to_all(drawn):
    axis = drawn["shares.png"].axes[0]
    tops = [collection.get_paths()[0].vertices[:, 1].max() for collection in axis.collections]
    assert max(tops) == pytest.approx(100)
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["swift", "super"]


def test_three_tiers_two_splits_and_trial_runs_are_drawn():
    table = logits_table(60, seed=2, splits=("test_matched", "test_mismatched"), strengths=(1.0, 1.6, 2.5), classes=3)
    table = dataclasses.replace(table, settings={**table.settings, "partial": True})
    settings = dataclasses.replace(SETTINGS, calibration="crossfit", scores=("energy", "margin"))
    made = build_report(table, settings).figures()
    panels = [axis for axis in made["curve.png"].axes if axis.get_title(loc="left")]
    assert len(panels) == 2
    assert [axis.get_title(loc="left") for axis in made["scores.png"].axes] == ["energy of tier0", "energy of tier1"]
    assert all("partial" in [text.get_text() for text in figure.texts] for figure in made.values())


def test_colours_differ_in_lightness_or_hue_also_without_red_and_green():
    # Viénot's simulation of missing red cones: the pairs must stay apart.
    simulate = np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]])
    colours = [mpl.colors.to_rgb(colour) for colour in (*COLOURS, RANDOM)]
    seen = [simulate @ np.power(colour, 2.2) for colour in colours]
    distances = [
        np.linalg.norm(np.clip(a, 0, 1) ** (1 / 2.2) - np.clip(b, 0, 1) ** (1 / 2.2))
        for a, b in itertools.combinations(seen, 2)
    ]
    assert min(distances) > 0.1


def test_a_comparison_has_a_colour_a_line_and_labelled_ticks(report, tmp_path):
    report.write(tmp_path / "run")
    run = read_run(tmp_path / "run")
    runs = [
        dataclasses.replace(run, name=str(i), flops=run.flops * (1 + i), quality=run.quality - 0.01 * i)
        for i in range(9)
    ]
    cheap = Published("cheap", 0.5, float(run.flops.min() / 3))
    figure = compare_figure(runs, [cheap], (run.flops, run.quality))
    figure.canvas.draw()
    (axis,) = figure.axes
    lines = {line.get_label(): line for line in axis.lines}
    assert len({lines[str(i)].get_color() for i in range(9)}) == 9 == len(set(colours(9)))
    assert axis.get_xscale() == "log"
    low, high = axis.get_xlim()
    inside = [text.get_text() for text in axis.get_xticklabels() if low <= text.get_position()[0] <= high]
    assert len(inside) >= 3 and all(inside)
    assert axis.get_title(loc="left").startswith("synthetic, test. ")
    assert "cheap" in {text.get_text() for text in axis.texts}
