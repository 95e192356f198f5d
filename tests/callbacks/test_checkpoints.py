"""Files of checkpoints: whole or absent, one older beside the newest, damaged ones told apart."""

import os
import random
import resource
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel

from callbacks import Resume
from callbacks.checkpoints import LAST, OLDER, WholeCheckpoints, damage, newest, read_checkpoint
from callbacks.resume import relocate


def content(number: int) -> dict[str, Any]:
    return {"number": number, "weights": torch.full((500,), float(number))}


def write(folder: Path, *numbers: int) -> None:
    for number in numbers:
        WholeCheckpoints().save_checkpoint(content(number), folder / LAST)


def numbers(folder: Path) -> dict[str, int]:
    return {path.name: torch.load(path, weights_only=True)["number"] for path in folder.iterdir()}


def test_one_older_is_kept(tmp_path) -> None:
    write(tmp_path, 1)
    assert numbers(tmp_path) == {LAST: 1}
    write(tmp_path, 2, 3)
    assert numbers(tmp_path) == {LAST: 3, OLDER: 2}
    WholeCheckpoints().save_checkpoint(content(9), str(tmp_path / "best.ckpt"))
    WholeCheckpoints().save_checkpoint(content(8), str(tmp_path / "best.ckpt"))
    assert numbers(tmp_path) == {LAST: 3, OLDER: 2, "best.ckpt": 8}


def test_a_file_system_without_links(tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write(tmp_path, 1, 2, 3)
    assert numbers(tmp_path) == {LAST: 3, OLDER: 2}


@pytest.mark.parametrize("moment", ["write", "sync", "rename"])
def test_what_was_there_stays_where_writing_fails(tmp_path, monkeypatch, moment) -> None:
    write(tmp_path, 1, 2)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    place = {"write": (torch, "save"), "sync": (os, "fsync"), "rename": (Path, "replace")}[moment]
    with monkeypatch.context() as patch:
        patch.setattr(*place, fail)
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path, 3)
    assert numbers(tmp_path)[LAST] == 2
    write(tmp_path, 4)
    assert numbers(tmp_path) == {LAST: 4, OLDER: 2}


def test_a_full_disk_is_told_as_such(tmp_path) -> None:
    """torch makes a RuntimeError about its own positions of it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # Python ignores the signal, so that writing fails
    try:
        with pytest.raises(OSError, match="File too large"):
            WholeCheckpoints().save_checkpoint({"weights": torch.zeros(100_000)}, tmp_path / LAST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_of_a_trainer_touch_no_other_folder(tmp_path, monkeypatch) -> None:
    """Lightning's writer needs the folder for temporary files, and copies from there."""
    run = tmp_path / "run"
    best = ModelCheckpoint(run / "checkpoints", "best", save_top_k=1, monitor="loss")
    module = BoringModel()
    module.on_train_epoch_end = lambda: module.log("loss", 1.0)  # type: ignore[method-assign]
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_steps=5,
        limit_val_batches=0, default_root_dir=str(run), callbacks=[Resume(1), best],
    )  # fmt: skip
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module)
    steps = {path.name: torch.load(path, weights_only=True)["global_step"] for path in (run / "checkpoints").iterdir()}
    assert steps.keys() == {LAST, OLDER, "best.ckpt"} and steps[LAST] == steps["best.ckpt"] == 5


def test_truncated_and_changed_files_are_damaged(tmp_path) -> None:
    write(tmp_path, 1)
    path = tmp_path / LAST
    whole = path.read_bytes()
    assert damage(path) is None
    chance = random.Random(0)
    for length in (0, 1, 30, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert damage(path) is not None, length
        with pytest.raises(ValueError, match=r"^`--ckpt_path` must be a whole checkpoint .*last\.ckpt is none"):
            read_checkpoint(path, "--ckpt_path")
    weights = whole.index(torch.full((500,), 1.0).numpy().tobytes())
    for _ in range(50):
        changed = bytearray(whole)
        changed[weights + chance.randrange(2000)] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        assert damage(path) is not None
    path.write_bytes(whole)
    assert read_checkpoint(path, "--ckpt_path")["number"] == 1


def test_no_checkpoint_at_all(tmp_path) -> None:
    (tmp_path / "note").write_text("no checkpoint")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module")
    torch.save([1, 2], tmp_path / "list")
    for name, reason in (("note", "is not a zip"), ("module", "no weights"), ("list", "holds a list")):
        with pytest.raises(ValueError, match=f"`--ckpt_path`.*{reason}") as error:
            read_checkpoint(tmp_path / name, "--ckpt_path")
        assert "weights_only" not in str(error.value) and "\n" not in str(error.value)


def test_the_one_before_is_taken_where_the_newest_is_damaged(tmp_path, caplog) -> None:
    assert newest(tmp_path) is None
    write(tmp_path, 1, 2)
    assert newest(tmp_path) == tmp_path / LAST
    assert caplog.text == ""
    (tmp_path / LAST).write_bytes(b"")
    with caplog.at_level("INFO"):
        assert newest(tmp_path) == tmp_path / OLDER
    (line,) = caplog.messages
    assert f"{tmp_path / LAST} is damaged" in line and "goes on from the one before" in line
    (tmp_path / OLDER).write_bytes(b"PK")
    with pytest.raises(
        ValueError, match=r"`--run`.*last\.ckpt and previous\.ckpt .* cannot be read.*remove that"
    ) as error:
        newest(tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / LAST).unlink()  # killed between two renames, where there are no links
    (tmp_path / OLDER).unlink()
    write(tmp_path, 5, 6)
    (tmp_path / LAST).unlink()
    assert newest(tmp_path) == tmp_path / OLDER


def test_a_moved_run_finds_its_best_checkpoint(tmp_path) -> None:
    before, now = tmp_path / "before/checkpoints", tmp_path / "now/checkpoints"
    now.mkdir(parents=True)
    best = ModelCheckpoint(now, "best", monitor="loss")
    state = {
        "dirpath": str(before),
        "best_model_path": f"{before}/best.ckpt",
        "kth_best_model_path": f"{before}/best.ckpt",
        "last_model_path": "",
        "best_k_models": {f"{before}/best.ckpt": torch.tensor(0.5)},
    }
    trainer: Any = SimpleNamespace(
        default_root_dir=str(tmp_path / "now"), ckpt_path=str(now / LAST), checkpoint_callbacks=[best]
    )
    checkpoint = {"callbacks": {best.state_key: dict(state)}}
    relocate(checkpoint, trainer)
    moved = checkpoint["callbacks"][best.state_key]
    assert moved["best_model_path"] == moved["kth_best_model_path"] == f"{now}/best.ckpt"
    assert list(moved["best_k_models"]) == [f"{now}/best.ckpt"] and moved["dirpath"] == str(now)
    trainer.ckpt_path = str(before / LAST)  # another run's checkpoint is left to Lightning
    checkpoint = {"callbacks": {best.state_key: dict(state)}}
    relocate(checkpoint, trainer)
    assert checkpoint["callbacks"][best.state_key] == state
