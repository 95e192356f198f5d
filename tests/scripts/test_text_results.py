"""Text-to-text cascades: the plan's commands parse, stored tables hold no text, the page says what the tables say."""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from lightning.pytorch import Trainer

from dial.cli.steps import Step
from dial.cli.tables import SweepCommand
from dial.cli.trainer import DialCLI
from dial.costs.published import read_points
from dial.files import write_json
from dial.stages.parquet import load_table, save_table
from dial.tradeoff.rules import Threshold, curve
from scripts import store_results, text_collect, text_figures, text_page
from scripts.e_lang_printed import printed_tables
from scripts.results_cell import crossfit_of
from scripts.results_steps import ROOT, chain
from scripts.results_text_plan import HEADS, plan
from tests.scripts.written import STUDY, cascade_table

STEPS = list(plan("data", "models"))
PAPER = printed_tables()
MADE = {"text_cola": ("layers2", "layers2-distilled"), "multi30k": ("layers2", "layers2-bag")}


def distinct_commands() -> Iterator[Step]:
    """Of the commands of Lightning one for each option with each config and data module."""
    seen: set[tuple[str, str, str]] = set()
    for step in STEPS:
        if step.command[:2] in (("dial", "fit"), ("dial", "test")):
            config, module = (step.command[step.command.index(name) + 1] for name in ("--config", "--data"))
            new = {(config, module if word == "--data" else "", word) for word in step.command if word.startswith("--")}
            if not new <= seen:
                seen |= new
                yield step


class Parser(DialCLI):
    """Parses a command, and stops before anything of it is run."""

    def _set_seed(self) -> None:
        pass

    def before_instantiate_classes(self) -> None:
        raise StopIteration


def parse(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", list(words))
    given: dict[str, Any] = {"exit_on_error": False}
    modes = {"subclass_mode_model": True, "subclass_mode_data": True, "auto_configure_optimizers": False}
    Parser(ExitStack(), None, **modes, save_config_callback=None, trainer_class=Trainer, parser_kwargs=given)


@pytest.mark.parametrize("step", list(distinct_commands()), ids=lambda step: step.name)
def test_commands_parse(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(StopIteration):
        parse(step.command, monkeypatch)


def test_a_command_with_a_wrong_argument_does_not_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    step = next(step for step in STEPS if "head" in step.name)
    with pytest.raises(ValueError, match="pool"):
        parse((*step.command, "--model.pool", "mean"), monkeypatch)


def test_a_table_needs_the_swift_its_head_and_the_super() -> None:
    (table,) = [step for step in STEPS if step.name == "multi30k/seed0/cascade-layers2-bag-32/table"]
    names = ["super", "layers2", "head-layers2-bag-32", "cascade-layers2-bag-32", "cascade-layers2-bag-32/table"]
    assert [step.name for step in chain(STEPS, [table])] == [
        "unpack/flan-t5-small",
        *(f"multi30k/seed0/{name}" for name in names),
    ]


def test_the_plan_has_what_is_asked() -> None:
    """Point by point: tasks, Swifts, both readings of Eq. 8 at both sizes, three tiers, an encoder as the first."""
    tables = {step.name.removesuffix("/table") for step in STEPS if step.name.endswith("/table")}
    for task in ("sst2", "cola", "mrpc", "rte"):
        for swift in ("layers2", "layers4", "layers2-distilled", "layers4-distilled"):
            assert f"text_{task}/seed0/cascade-{swift}" in tables
    assert {f"text_{task}/seed0/cascade-layers2" for task in ("cb", "copa", "wic", "wsc", "multirc")} <= tables
    assert {f"multi30k/seed0/cascade-{'-'.join(filter(None, ('layers2', head)))}" for head in HEADS} <= tables
    assert {
        f"text_{task}/seed0/cascade-{name}" for task in ("sst2", "mrpc") for name in ("three", "encoder2")
    } <= tables
    assert {
        "wmt16_en_ro/seed0/cascade-layers2",
        "phonemes/seed0/cascade-tiny",
        "phonemes/seed0/cascade-small",
    } <= tables


@pytest.mark.parametrize("free", [True, False])
def test_what_is_stored_holds_no_text_and_gives_the_same_curves(tmp_path: Path, free: bool) -> None:
    table, run = cascade_table(160, free, stages=3), tmp_path / "multi30k/seed0/cascade-three"
    save_table(table, run / "sweep/stages.parquet")
    write_json(run / "sweep/costs.json", {"schema": 1})
    path = store_results.keep(run, tmp_path / "results")
    schema = pq.read_schema(path)
    assert not [name for name in schema.names if name.startswith(("text", "references"))]
    written = [text for line in table.texts.tolist() for text in line if len(text) > 20]
    content = b"".join(str(column).encode() for column in pq.read_table(path).to_pydict().values())
    assert not any(text.encode() in content for text in written) and (written or not free)
    stored = load_table(path)
    assert stored.texts is None and stored.references is None and list(stored.scores) == list(table.scores)
    for split in ("calibration", "test"):
        before, after = table.of_split(split), stored.of_split(split)
        for score in ("energy", "decoder_softmax_low", "random"):
            one, other = curve(before, score), curve(after, score)
            np.testing.assert_array_equal(one.macs, other.macs)
            for metric in table.metrics:
                np.testing.assert_array_equal(one.quality_by(metric), other.quality_by(metric))
        same = before.texts[:, :, None] == before.texts[:, None, :]
        if free:
            kept = after.predictions[:, :, None] == after.predictions[:, None, :]
            np.testing.assert_array_equal(same, kept)
    assert Threshold("energy").curve(stored.of_split("test")).shares.shape[1] == 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stored tables of two tasks with two cascades each, and their sweeps across folds but for one."""
    root = tmp_path_factory.mktemp("made")
    for cell in text_collect.cells(str(root / "runs")):
        for number, name in enumerate(MADE.get(cell.task, ())):
            run = Path(cell.folder) / f"cascade-{name}"
            save_table(cascade_table(240, cell.task == "multi30k", seed=number), run / "sweep/stages.parquet")
            write_json(run / "sweep/costs.json", {"schema": 1})
            path = store_results.keep(run, root / "results")
            if name != "layers2-bag":
                shown = ["--scores", "energy", "softmax", "decoder_energy", "random", "--bootstrap", "100"]
                out = crossfit_of(cell.folder, f"cascade-{name}")
                SweepCommand.main([str(path), "--calibration", "crossfit", *shown, "--out", out])
    return root


def test_numbers_are_those_of_the_tables(made: Path) -> None:
    found = text_collect.collect(made / "runs", made / "results")
    assert [(each["task"], each["cascade"]) for each in found["cascades"]] == [
        ("text_cola", "layers2"),
        ("text_cola", "layers2-distilled"),
        ("multi30k", "layers2"),
    ]
    assert "multi30k: the sweep of cascade-layers2-bag" in found["missing"]
    assert "text_sst2: cascade-layers2" in found["missing"] and "text_cola: cascade-layers2" not in found["missing"]
    first = found["cascades"][0]
    rows = cascade_table(240, False).of_split("test")
    right = rows.predictions == rows.label[:, None]
    assert [tier["quality"]["accuracy"] for tier in first["tiers"]] == pytest.approx(right.mean(axis=0), rel=1e-5)
    swift, last = first["tiers"]
    assert swift["macs"] == pytest.approx(rows.macs[:, 0].mean(), rel=1e-5)
    assert last["macs"] == pytest.approx(rows.macs_reference.mean(), rel=1e-5)  # of the Super alone
    assert last["decide_macs"] == pytest.approx(4e6)
    assert set(first["energy_minus"]) == {"softmax", "decoder_energy"}


def test_pairs_are_compared_on_the_same_rows(made: Path) -> None:
    found = text_collect.collect(made / "runs", made / "results")
    (entry,) = [each for each in found["comparisons"] if each["question"] == "distillation"]
    right = []
    for seed in (0, 1):
        rows = cascade_table(240, False, seed=seed).of_split("test")
        right.append((rows.predictions[:, 0] == rows.label).astype(float))
    gain = right[1] - right[0]
    swift = entry["swift"]
    assert swift["difference"] == pytest.approx(gain.mean(), rel=1e-5)
    low, high = swift["interval"]
    assert high - low == pytest.approx(2 * 1.96 * gain.std() / len(gain) ** 0.5, rel=0.15)
    table = cascade_table(240, True).of_split("test")
    for each in text_collect.compared(table, table).values():
        assert each["difference"] == 0 and each["interval"] == (0, 0)
    with pytest.raises(ValueError, match="`second` must have the rows of `first`"):
        text_collect.compared(table, table.take(np.arange(len(table) - 1)))


def test_the_page_shows_what_there_is_and_names_what_is_not(made: Path) -> None:
    found = text_collect.collect(made / "runs", made / "results")
    shown = text_page.tables(found, {}, "data", "models")
    for name in shown:
        assert f"<!-- {name} -->" in (ROOT / "results/text_to_text.md").read_text()
    assert "the sweep of cascade-layers2-bag)" in shown["text-missing"] and "text_cb (layers2)" in shown["text-missing"]
    assert shown["text-table1"].count("\n") == 3 and "62.7 → 69.1" in shown["text-table1"]
    assert "dial test" in shown["text-commands"] and shown["text-commands"].count("super/tier") > 1
    assert shown["text-scores"].splitlines()[0].endswith("of 3 cascades.")
    assert shown["text-tiers"].count("| Super |") == 2 and "layers2-bag" not in shown["text-tiers"]
    assert "| multi30k | layers2 | layers2-bag | +0.0 [+0.0, +0.0] |" in shown["text-heads"]
    empty = text_page.tables({"cascades": [], "comparisons": [], "missing": []}, {}, "data", "models")
    assert "Not trained yet" in empty["text-tiers"] and "All cascades" in empty["text-missing"]
    (free,) = text_page.methods(found, 0.99)  # SST-2 was not tested
    assert free[2] == "multi30k" and free[3].endswith("%)")


def test_times_stand_beside_flops_and_what_is_printed(tmp_path: Path) -> None:
    write_json(tmp_path / "text_mrpc/study.json", STUDY)
    write_json(tmp_path / "phonemes/study.json", {**STUDY, "batch_sizes": {"swift": 8, "super": 2}})
    studies = text_collect.studies(tmp_path)
    lines = text_page.time_table(studies, PAPER).splitlines()
    assert lines[0].startswith("- text_mrpc: a processor, 2 threads") and lines[1].endswith("swift 8, super 2.")
    cells = [line.strip("| ").split(" | ") for line in lines[5:]]
    speedups = ["10.0", "1.60× [1.50, 1.70]", "10.0", "2.40× [2.30, 2.50]"]
    assert cells[1] == ["text_mrpc", "cascade at 99 %", "40", "99.1", "2.00×", *speedups]
    place, first = PAPER["tasks"].index("mrpc"), PAPER["table1"]
    kept = f"{100 * first['accuracy'][place] / first['super_accuracy'][place]:.1f}"
    printed = [f"{first['swift_ratio'][place]:g}", kept, "7.6×", "–", f"{first['speedup_time'][place]}×", "–", "–"]
    assert cells[2] == ["text_mrpc", "E-LANG, printed", *printed]
    assert [line[0] for line in cells[3:]] == ["phonemes", "phonemes"]
    told = text_page.commands([], studies, "data", "models")
    assert sum("--study.rows 200" in line for line in told) == 2
    assert text_page.time_table({}, PAPER) == "Not measured yet."


def test_figures_are_drawn_of_what_there_is(made: Path, tmp_path: Path) -> None:
    names = [path.name for path in text_figures.draw(made / "results")]
    assert names == ["text_curves.png", "text_scores.png", "text_distilled.png"]
    assert text_figures.draw(tmp_path) == []
    tables = {"text_cola": {"layers2": cascade_table(80, False).of_split("test")}}
    figure = text_figures.curves_figure(tables, text_figures.SIZES)
    assert figure is not None
    (axis,) = figure.axes
    line = axis.lines[0]
    rows = tables["text_cola"]["layers2"]
    assert line.get_xdata()[0] == pytest.approx(100 * rows.macs[:, 0].mean() / rows.macs_reference.mean())
    assert line.get_ydata()[-1] == pytest.approx(100 * (rows.predictions[:, -1] == rows.label).mean())


def test_a_name_has_one_colour_in_all_panels_and_none_is_of_two() -> None:
    """Tasks have other cascades, so that the same one comes at another place in each panel."""
    runs = {
        "text_cola": ("layers2", "layers4", "tiny"),
        "text_mrpc": ("layers4", "small"),
        "text_rte": ("small", "layers2"),
    }
    table = cascade_table(80, False).of_split("test")
    tables = {task: dict.fromkeys(names, table) for task, names in runs.items()}
    figure = text_figures.curves_figure(tables, text_figures.SIZES)
    assert figure is not None
    seen: dict[str, set[str]] = {}
    for axis, names in zip(figure.axes, runs.values(), strict=True):
        labelled = {line.get_label(): line.get_color() for line in axis.lines}
        for name in names:
            seen.setdefault(name, set()).add(labelled[text_figures.NAMES.get(name, name)])
    assert set(seen) == set(text_figures.SIZES) & set().union(*runs.values())
    assert all(len(colours) == 1 for colours in seen.values()) and len(set().union(*seen.values())) == len(seen)


def test_a_printed_point_is_a_share_of_its_own_super() -> None:
    assert text_figures.printed_point("text_sst2") == (29.5 / 87.0, 1.0)
    assert text_figures.printed_point("multi30k") is None
    assert set(text_figures.PUBLISHED.values()) < set(PAPER["tasks"])


def test_what_is_printed_can_be_laid_over_runs(tmp_path: Path) -> None:
    points = text_collect.printed_points("sst2")
    (tmp_path / "points.json").write_text(json.dumps(points))
    read = {point.name: (point.flops, point.quality) for point in read_points(tmp_path / "points.json")}
    assert read["E-LANG"] == (pytest.approx(29.5e11), 0.966) and read["E-LANG's Super"] == (87e11, 0.966)
    assert read["E-LANG: energy, Swift small"] == (47e11, 0.966) and read["E-LANG: swift, distilled"][
        1
    ] == pytest.approx(0.957)
    assert len(read) == 3 + 6 + 2 and len(text_collect.printed_points("copa")) == 3


def test_counts_of_better_and_worse() -> None:
    pairs = [[0.1, [0.05, 0.2]], [-0.1, [-0.2, -0.05]], [0.0, [-0.1, 0.1]], [0.2, [0.1, 0.3]]]
    cascades = [{"scores": {"energy": pair}, "energy_minus": {"softmax": pair}} for pair in pairs]
    lines = text_page.score_statements(cascades)
    assert lines == [
        "- Against random routing: better in 2, worse in 1 of 4 cascades.",
        "- Against encoder softmax (E-LANG: better): better in 2, worse in 1 of 4 cascades.",
    ]


def test_printed_numbers_agree_with_each_other() -> None:
    """Speed-ups and Swift ratios of E-LANG's Table 1 follow from its FLOPs, as far as digits are printed."""
    table = PAPER["table1"]
    assert {len(values) for values in table.values()} == {len(PAPER["tasks"])} == {14}
    for flops, ratio, speedup in zip(table["flops"], table["swift_ratio"], table["speedup_flops"], strict=True):
        assert PAPER["super_flops"] / flops == pytest.approx(speedup, abs=0.06)
        share = ratio / 100
        assert share * 4.25 + (1 - share) * PAPER["super_flops"] == pytest.approx(flops, abs=4.5)
    for time, whole, speedup in zip(table["time_ms"], table["super_time_ms"], table["speedup_time"], strict=True):
        assert whole / time == pytest.approx(speedup, abs=0.06)
    for name, cells in PAPER["table2"].items():
        assert len(cells) == 6
        if name == "energy":
            assert [cell[1] for cell in cells] == table["accuracy"][:6]
