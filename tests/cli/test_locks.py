"""A lock goes with its process, and leaves nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dial.claims import alone
from tests.cli.conftest import ROOT

HOLD = """
import os, sys, time
from pathlib import Path
from dial.claims import alone
with alone(Path(sys.argv[1]), "taken", inherited=sys.argv[2] == "yes"):
    child = os.fork() if len(sys.argv) > 3 else 1
    os.write(1, b"held\\n" if child else b"child\\n")
    time.sleep(600)
"""


def hold(lock: Path, inherited: str = "no", *fork: str) -> subprocess.Popen:
    """A process that holds a lock, once this returns."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock), inherited, *fork], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout:
        for _ in range(1 + len(fork)):
            assert process.stdout.readline().strip() in ("held", "child")
    return process


@pytest.mark.parametrize("inherited", [False, True])
def test_a_second_one_is_refused_until_the_first_has_ended(tmp_path, inherited) -> None:
    lock = tmp_path / "run/.fit.lock"
    first = hold(lock, "yes" if inherited else "no")
    try:
        for _ in range(2):
            with pytest.raises(ValueError, match=r"^taken$"), alone(lock, "taken", inherited):
                pass
        assert lock.exists()
    finally:
        first.kill()
        first.wait()
    with alone(lock, "taken", inherited):
        assert lock.exists()
    assert not lock.exists()


@pytest.mark.parametrize(("inherited", "taken"), [("no", False), ("yes", True)])
def test_processes_that_were_forked_hold_only_what_is_inherited(tmp_path, inherited, taken) -> None:
    """Loader workers live a few seconds longer than a killed fit, and must not stand in the way of the next one."""
    first = hold(tmp_path / "lock", inherited, "fork")
    first.kill()
    first.wait()
    try:
        if taken:
            with pytest.raises(ValueError, match="taken"), alone(tmp_path / "lock", "taken", inherited=True):
                pass
        else:
            with alone(tmp_path / "lock", "taken"):
                pass
    finally:
        os.killpg(first.pid, 9)


@pytest.mark.parametrize("command", ["fit", "test"])
def test_two_commands_in_one_folder(dial, fit_arguments, test_arguments, tmp_path, command) -> None:
    arguments = {"fit": fit_arguments, "test": test_arguments}[command]
    first = hold(tmp_path / f"a/.{command}.lock")
    try:
        error = dial(*arguments, f"--run={tmp_path}/a").error
        assert f"`--run` {tmp_path}/a must be of no other `dial {command}`, but one is at work there" in error
        assert [path.name for path in (tmp_path / "a").iterdir()] == [f".{command}.lock"]
        if command == "fit":  # a trial run writes nothing there
            dial(*arguments, f"--run={tmp_path}/a", "--trainer.fast_dev_run=true").ok()
    finally:
        first.kill()
        first.wait()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [{"LOCAL_RANK": "1"}, {"RANK": "3"}, {"SLURM_PROCID": "2"}, {"NODE_RANK": "1"}, {}])
def test_the_processes_of_one_command_are_one(rank) -> None:
    code = "from dial.cli.stopping import starts_run; print(starts_run())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ, **rank}
    )
    assert done.stdout.strip() == str(not rank)


def test_nothing_is_left_behind(tmp_path) -> None:
    with alone(tmp_path / "new/.lock", "taken"):
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    with pytest.raises(KeyError), alone(tmp_path / "old/.lock", "taken"):
        raise KeyError
    assert list(tmp_path.rglob("*")) == [tmp_path / "old"]
    with alone(tmp_path / "used/.lock", "taken"):
        (tmp_path / "used/result").touch()
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["result"]


def test_a_lock_file_that_was_removed_meanwhile_is_made_anew(tmp_path, monkeypatch) -> None:
    """The holder removes its file as it leaves; who has opened that file just before must not rely on it."""
    lock, opened = tmp_path / ".lock", os.open

    def late(path, *args):
        handle = opened(path, *args)
        if len(calls) == 0:
            Path(path).unlink()
        calls.append(handle)
        return handle

    calls: list[int] = []
    monkeypatch.setattr(os, "open", late)
    with alone(lock, "taken"):
        assert len(calls) == 2 and lock.exists()
        second = subprocess.run(
            [sys.executable, "-c", HOLD, str(lock), "no"], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert "ValueError: taken" in second.stderr
