"""The page on small sets: which fits there are, and what its table says of them."""

from scripts import small_data
from scripts.small_data import ARMS, CUTS, Cell, cells, table


def test_every_set_has_both_arms_before_the_next_seed() -> None:
    names = [cell.name for cell in cells(["a", "b"], 2)]
    sets = sum(map(len, CUTS.values()))
    assert len(set(names)) == len(names) == 2 * 2 * sets * len(ARMS)
    assert all("seed0" in name for name in names[: sets * len(ARMS)])


def test_before_fixes_what_now_leaves_open() -> None:
    before, now = (Cell("m", "sst2", 3000, arm, 1).command("d", "f", "run") for arm in ARMS)
    assert before[before.index("--trainer.max_epochs") + 1] == "3"
    assert before[before.index("--model.optimizer.init_args.lr") + 1] == "5e-5"
    assert [word for word in before if word not in now] == list(ARMS["before"])
    assert before[before.index("--data.max_rows") + 1] == '{"train": 3000, "validation": 300}'
    assert "--data.max_rows" not in Cell("m", "cola", None, "now", 0).command("d", "f", "run")


def test_table_has_a_line_for_each_set() -> None:
    one = {"metric": "mcc", "train_rows": 7400, "steps": 9, "learning_rate": 1e-4, "largest_share": 0.7}
    measured = {f"m/cola-all/now/seed{s}": {**one, "quality": q} for s, q in ((0, 0.2), (1, 0.3))}
    measured["m/cola-all/before/seed0"] = {**one, "quality": 0.0, "largest_share": 1.0, "learning_rate": 5e-5}
    measured["m/sst2-500/now/seed0"] = {**one, "quality": 0.7, "train_rows": 500}
    assert list(table(measured))[2:] == [
        "| m | cola | 7,400 | mcc | 9, 5e-05 | 0.0* | 9, 0.0001 | 20.0, 30.0 (mean 25.0) |",
        "| m | sst2 | 500 | mcc | – | – | 9, 0.0001 | 70.0 |",
    ]


def test_the_page_keeps_its_words(tmp_path, monkeypatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("# words\n<!-- small data -->\nold\n<!-- end small data -->\nmore\n")
    monkeypatch.setattr(small_data, "PAGE", page)
    small_data.write_page({})
    text = page.read_text()
    assert text.startswith("# words\n<!-- small data -->\n| model |")
    assert text.endswith("<!-- end small data -->\nmore\n") and "old" not in text
