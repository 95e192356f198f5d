"""A run folder belongs to one configuration."""

import shutil

import pytest
import yaml

from datamodules.scratch import MACHINE
from dial.cli.run_folder import check_run_folder, claim_run_folder, remove_crumbs, write_inputs

CONFIG = {
    "seed_everything": 0,
    "run": "runs/a",
    "model": {"class_path": "Classifier", "init_args": {"layers": 2}},
    "data": {"class_path": "GLUEDataModule", "init_args": {"task": "sst2", "num_workers": 0, "cache_dir": None}},
    "trainer": {"max_epochs": 3, "enable_progress_bar": True},
}


def changed(path: str, value: object) -> dict:
    config = yaml.safe_load(yaml.safe_dump(CONFIG))
    *parents, leaf = path.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[leaf] = value
    return config


def test_the_same_configuration_may_come_back(tmp_path) -> None:
    claim_run_folder(tmp_path / "a", "fit", CONFIG)
    claim_run_folder(tmp_path / "a", "fit", CONFIG)
    assert yaml.safe_load((tmp_path / "a/config-fit.yaml").read_text()) == CONFIG


KEYS = ["model.init_args.layers", "data.init_args.task", "trainer.max_epochs", "seed_everything"]


@pytest.mark.parametrize("key", KEYS)
def test_another_configuration_is_refused_and_the_old_one_stays(tmp_path, key) -> None:
    claim_run_folder(tmp_path, "fit", CONFIG)
    before = (tmp_path / "config-fit.yaml").read_bytes()
    with pytest.raises(ValueError, match=f"--run.*another configuration: {key} was") as error:
        claim_run_folder(tmp_path, "fit", changed(key, 7))
    assert "\n" not in str(error.value)
    assert (tmp_path / "config-fit.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.enable_progress_bar", False),
        ("data.init_args.num_workers", 2),
        ("data.init_args.cache_dir", "elsewhere"),
    ],
)
def test_what_changes_no_number_may_differ(tmp_path, key, value) -> None:
    claim_run_folder(tmp_path, "fit", CONFIG)
    claim_run_folder(tmp_path, "fit", changed(key, value))


def test_each_command_has_its_own_configuration(tmp_path) -> None:
    claim_run_folder(tmp_path, "fit", CONFIG)
    claim_run_folder(tmp_path, "test", changed("model.init_args.layers", 7))


def test_checking_writes_nothing(tmp_path) -> None:
    assert not check_run_folder(tmp_path / "a", "fit", CONFIG)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "text", ["", "{", "a: [1", "- a\n- b", "just words", "1: 2", "a: 1\n  b: 2", b"\xff\xfe\x00".decode("latin-1")]
)
def test_a_damaged_configuration_is_named(tmp_path, text) -> None:
    path = tmp_path / "config-fit.yaml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(
        ValueError, match=r"^`--run` .*config-fit\.yaml, but that file is damaged: .*restore it"
    ) as error:
        check_run_folder(tmp_path, "fit", CONFIG)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Function that claims a folder with one spelling of a file and checks it with another; gives the error, if any."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "train.csv").write_text("text,label\n")
    (project / "model").mkdir()
    (project / "linked").symlink_to(project / "model")
    monkeypatch.setenv("HOME", str(project))

    def compare(before: str, after: str, key: str = "data.init_args.train_file", then: str | None = None) -> str | None:
        monkeypatch.chdir(project)
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        claim_run_folder(run, "fit", changed(key, before))
        write_inputs(run, "fit", {}, {})
        if then is not None:
            monkeypatch.chdir(tmp_path / then)
        try:
            assert check_run_folder(run, "fit", changed(key, after))
        except ValueError as error:
            return str(error)
        return None

    return compare


SPELLINGS = [
    ("train.csv", "{here}/train.csv"), ("{here}/train.csv", "train.csv"), ("train.csv", "./train.csv"),
    ("~/train.csv", "train.csv"), ("model/", "model"), ("model", "linked"), ("../project/model", "~/model"),
    ([["a", "model"]], [["a", "./model/"]]),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), SPELLINGS, ids=str)
def test_the_same_file_in_another_spelling_is_the_same(places, tmp_path, before, after) -> None:
    def spell(value):
        return [spell(v) for v in value] if isinstance(value, list) else value.format(here=tmp_path / "project")

    assert places(spell(before), spell(after)) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [("train.csv", "model"), ("train.csv", "other.csv"), ("no", "./no"), ("sst2", "sst2/"), ("model", ["model"])],
    ids=str,
)
def test_other_files_are_others(places, before, after) -> None:
    assert "another configuration" in places(before, after)


def test_the_same_relative_path_from_another_folder(places, tmp_path) -> None:
    """It is another file where both exist; where the first is gone the project was moved."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/train.csv").write_text("others\n")
    message = places("train.csv", "train.csv", then="elsewhere")
    assert "another configuration (its paths start from" in message and "train_file was 'train.csv'" in message
    assert places("train.csv", str(tmp_path / "project/train.csv"), then="elsewhere") is None
    (tmp_path / "project/train.csv").unlink()
    assert places("train.csv", "train.csv", then="elsewhere") is None


def test_words_that_happen_to_name_a_folder(places, tmp_path, monkeypatch) -> None:
    assert places("sst2", "sst2", key="data.init_args.task") is None
    (tmp_path / "project/sst2").mkdir()
    assert places("sst2", "sst2", key="data.init_args.task") is None


def test_crumbs_of_a_killed_command_go(tmp_path) -> None:
    left = f"{MACHINE}{'0a' * 4}.part"
    for name in (f".config-fit.{left}.yaml", f"checkpoints/.last.{left}.ckpt", "checkpoints/last.ckpt", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in (f".tier.{left}/old", "checkpoints/.last.ckpt.part"):
        (tmp_path / name).mkdir(parents=True)
    remove_crumbs(tmp_path)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == [
        "checkpoints", "checkpoints/last.ckpt", "notes.txt",
    ]  # fmt: skip
