from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from datamodules import GradedSentimentDataModule, SequenceDataModule, TextDataModule
from datamodules.rows import Rows
from tests.datamodules.stub import Recorder


class Numbered(SequenceDataModule):
    """Rows `film 0`, `film 1`, ...; every fourth is positive; counts how often each role is read."""

    def __init__(self, train: int = 400, test: int = 13, labels: int = 2, **kwargs) -> None:
        super().__init__(**kwargs)
        self.counts, self.labels, self.reads = {"train": train, "test": test}, labels, []
        self.metrics = ["accuracy"]

    @property
    def label_names(self) -> list[str]:
        return ["no", "yes"]

    def has(self, role: str) -> bool:
        return role in self.counts

    def read(self, role: str) -> Rows:
        self.reads.append(role)
        count = self.counts[role]
        label = (np.arange(count) % 4 == 0).astype(np.int64) if self.labels == 2 else np.zeros(count, np.int64)
        return Rows([f"{role} film {i} " + "good " * (i % 9) for i in range(count)], None, label, np.arange(count))


def make_trainer(folder: Path, **options) -> Trainer:
    options = {"limit_test_batches": 1.0, **options}
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return Trainer(accelerator="cpu", default_root_dir=folder, **quiet, **options)


def test_fit_reads_the_training_file_once_and_trains_on_its_role(tiny_tokenizer, tmp_path: Path) -> None:
    data, module = Numbered(batch_size=16), Recorder({"words": (tiny_tokenizer, 32)})
    make_trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0).fit(module, datamodule=data)
    assert data.reads == ["train", "test"]  # the test rows only to be counted
    seen = [i for ids in module.steps.values() for i in ids]
    assert sorted(seen) == data.sample_ids("train").tolist()
    held_out = {*data.sample_ids("validation").tolist(), *data.sample_ids("calibration").tolist()}
    assert not held_out & set(seen) and len(held_out) + len(seen) == 400


def test_test_runs_calibration_then_test(tiny_tokenizer, tmp_path: Path) -> None:
    data, module = Numbered(batch_size=8), Recorder({"words": (tiny_tokenizer, 32)})
    make_trainer(tmp_path).test(module, datamodule=data, verbose=False)
    by_split = {index: sorted(i for k, ids in module.tested if k == index for i in ids) for index in (0, 1)}
    assert by_split == {0: data.sample_ids("calibration").tolist(), 1: list(range(13))}
    assert data.test_splits == ["calibration", "test"]


def test_crossfit_needs_no_training_rows(tiny_tokenizer, tmp_path: Path) -> None:
    data, module = Numbered(calibration="crossfit"), Recorder({"words": (tiny_tokenizer, 32)})
    make_trainer(tmp_path).test(module, datamodule=data, verbose=False)
    assert data.reads == ["test"] and data.test_splits == ["test"]
    assert {index for index, _ in module.tested} == {0}


def test_predict_goes_over_the_test_roles(tiny_tokenizer, tmp_path: Path) -> None:
    data, module = Numbered(batch_size=8), Recorder({"words": (tiny_tokenizer, 32)})
    batches = make_trainer(tmp_path).predict(module, datamodule=data)
    assert data.reads == ["test"] and sorted(i for ids in batches for i in ids) == list(range(13))


def test_held_out_rows_are_the_same_for_every_setting() -> None:
    first, second = Numbered(seed=1), Numbered(seed=2, calibration="crossfit", batch_size=3)
    for role in ("train", "validation", "calibration"):
        assert first.fingerprint(role) == second.fingerprint(role)


def test_several_tokenizers_and_one_alone(tiny_tokenizer) -> None:
    data = Numbered(batch_size=4)
    data.use_tokenizers({"short": (tiny_tokenizer, 5), "long": (tiny_tokenizer, 20)})
    with pytest.warns(UserWarning, match=r"test: 11 of 13 rows exceed 5 tokens and are truncated"):
        batch = next(iter(data.inference_loader("test")))
    assert list(batch["encodings"]) == ["short", "long"]
    assert batch["encodings"]["short"]["input_ids"].shape == (4, 5)
    assert data.truncated == {"test": {"short": 11, "long": 0}}
    assert list(next(iter(data.inference_loader("test", "long")))["encodings"]) == ["long"]


def test_the_tokenizer_may_be_built_from_the_training_text(tiny_tokenizer, tmp_path: Path) -> None:
    class Learner(Recorder):
        calls = 0

        def fit_tokenizer(self, texts) -> None:
            self.calls += 1
            assert list(texts()) == list(texts())
            self.seen, self._tokenizers = list(texts()), {"words": (tiny_tokenizer, 32)}

    data, module = Numbered(), Learner({})
    make_trainer(tmp_path, max_epochs=1, limit_train_batches=1).fit(module, datamodule=data)
    assert module.calls == 1 and module.seen == data.rows("train").text


def test_a_module_without_tokenizers_is_told_so(tmp_path: Path) -> None:
    class Bare(LightningModule):
        def test_step(self, batch, batch_idx) -> None:
            pass

    with pytest.raises(ValueError, match=r"`model` must have a method tokenizers\(\), but Bare has none"):
        make_trainer(tmp_path).test(Bare(), datamodule=Numbered(), verbose=False)
    with pytest.raises(ValueError, match=r"`tokenizers` are not known yet"):
        Numbered().encoded("test")


def test_max_rows_for_all_roles_or_by_name() -> None:
    assert [len(Numbered(max_rows=9).rows(role)) for role in ("train", "calibration", "test")] == [9, 9, 9]
    data = Numbered(max_rows={"train": 20})
    assert len(data.rows("train")) == 20 and len(data.rows("test")) == 13
    assert set(data.sample_ids("train")) < set(Numbered().sample_ids("train"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_calibration": 150}, "`calibration` needs at least 150 rows, but got"),
        ({"labels": 1}, "`calibration` needs rows of at least two classes, but all .* are 'no'"),
    ],
)
def test_calibration_must_be_enough(tiny_tokenizer, tmp_path: Path, options: dict, message: str) -> None:
    module = Recorder({"words": (tiny_tokenizer, 32)})
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path).test(module, datamodule=Numbered(batch_size=2, **options), verbose=False)
    for partial in ({"fast_dev_run": True}, {"limit_test_batches": 2}, {"limit_test_batches": 0.5}):
        make_trainer(tmp_path, **partial).test(module, datamodule=Numbered(batch_size=2, **options), verbose=False)
    make_trainer(tmp_path).test(module, datamodule=Numbered(calibration="crossfit", **options), verbose=False)


def test_a_role_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`calibration` must have at least one row, but got 0"):
        Numbered(calibration_fraction=0.0).rows("calibration")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1, but got 0"),
        ({"calibration": "none"}, "`calibration` must be split or crossfit, but got 'none'"),
        ({"num_workers": -1}, "`num_workers` must be at least 0 .*, but got -1"),
        ({"max_rows": -5}, "`max_rows` must be at least 1, but got -5"),
        ({"max_rows": {"test": 0}}, "`max_rows` must be at least 1 for test, but got 0"),
        ({"max_rows": {"tset": 9}}, "`max_rows` must name the roles train, .*, but got 'tset'"),
        ({"test_fraction": 1.0}, "`test_fraction` must be at least 0 and below 1, but got 1.0"),
    ],
)
def test_bad_arguments(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Numbered(**options)
    with pytest.raises(ValueError, match=r"must sum to less than 1"):
        Numbered(calibration_fraction=0.5, validation_fraction=0.5).rows("train")


def test_lightnings_own_sampler_is_refused(tiny_tokenizer) -> None:
    class Connector:
        use_distributed_sampler = True

    class TwoProcesses:
        world_size, _accelerator_connector = 2, Connector()

    data = Numbered()
    data.trainer = TwoProcesses()
    with pytest.raises(ValueError, match=r"`trainer.use_distributed_sampler` must be false"):
        data.setup("fit")


def test_the_global_random_state_stays_as_it_is(tiny_tokenizer) -> None:
    data = Numbered()
    data.use_tokenizers({"words": (tiny_tokenizer, 32)})
    before = torch.get_rng_state()
    for loader in (data.train_dataloader(), data.inference_loader("test")):
        list(loader)
    assert torch.equal(before, torch.get_rng_state())


def test_empty_and_overlong_texts_work(tiny_tokenizer, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('text,label\n"",0\n' + "good " * 60 + ",1\n")
    data = TextDataModule(test_file=str(tmp_path / "t.csv"), calibration="crossfit")
    data.use_tokenizers({"words": (tiny_tokenizer, 32)})
    with pytest.warns(UserWarning, match=r"test: 1 of 2 rows exceed 32 tokens"):
        [batch] = data.test_dataloader()[0]
    assert batch["encodings"]["words"]["attention_mask"].sum(dim=1).tolist() == [32, 2]


def write_rows(folder: Path) -> dict[str, str]:
    files = {}
    for role, count in (("train", 13), ("validation", 3), ("calibration", 13), ("test", 1)):
        path = folder / f"{role}.csv"
        path.write_text("text,label\n" + "".join(f"{role} film {'good ' * (i % 5)}{i},{i % 2}\n" for i in range(count)))
        files[f"{role}_file"] = str(path)
    return files


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_rows(processes: int, tmp_path: Path) -> None:
    """13 rows, a test split of one row, and a tokenizer cache that all start to write."""
    import subprocess
    import sys

    write_rows(tmp_path)
    script = Path(__file__).with_name("ranks.py")
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, str(script), str(tmp_path), str(processes)], check=True, cwd=root, timeout=250)
    trained, tested = [], {0: [], 1: []}
    for rank in range(processes):
        found = torch.load(tmp_path / f"rank{rank}.pt")
        trained.append(found["steps"])
        for index, ids in found["tested"]:
            tested[index].append(ids)
    assert len({len(steps) for steps in trained}) == 1
    for epoch in (0, 1):
        ids = [
            i for steps in trained for step, batch in steps.items() if step // (len(steps) // 2) == epoch for i in batch
        ]
        assert set(ids) == set(range(13)) and len(ids) == 13 + -13 % processes
    ids = [i for batch in tested[0] for i in batch]
    assert set(ids) == set(range(13)) and len(ids) == 13 + -13 % processes
    assert tested[1] == [[0]] * processes


def test_levels_join_by_sample_id() -> None:
    data = GradedSentimentDataModule(
        train_rows=50, validation_rows=10, calibration_rows=60, test_rows=70, max_rows={"test": 30}
    )
    levels = data.levels("test")
    assert list(levels) == data.sample_ids("test").tolist() and len(levels) == 30
    assert set(levels.values()) <= {1, 2, 3, 4}


def test_rows_that_share_a_number_are_refused() -> None:
    """They would be dropped as repeats of a distributed sampler: half of the rows, without a word."""

    class Twice(Numbered):
        def read(self, role: str) -> Rows:
            rows = super().read(role)
            return Rows(rows.text, None, rows.label, rows.sample_id // 2)

    with pytest.raises(ValueError, match=r"`sample_id` must be unique within `test`, but 6 of 7 ids .* first 0"):
        Twice().rows("test")
