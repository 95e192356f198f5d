"""Devices that compute, and bf16 on processors without instructions for it."""

import os
from pathlib import Path
from threading import Event, Thread

import pytest
import torch

from dial import machine
from dial.machine import check_device, has_bf16, limited_threads, slow_bf16, usable_cores


@pytest.fixture
def processor(monkeypatch, tmp_path):
    """Function that sets what torch and Linux tell of the processor's instructions."""

    def tell(known: dict[str, bool] | None, flags: str | None = None) -> None:
        has_bf16.cache_clear()
        machine._say.cache_clear()
        if known is None:
            monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
        else:
            monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
        file = tmp_path / "cpuinfo"
        if flags is not None:
            file.write_text(f"processor : 0\n{flags}\n")
        monkeypatch.setattr(machine, "Path", lambda path: file if path == "/proc/cpuinfo" else Path(path))

    yield tell
    has_bf16.cache_clear()
    machine._say.cache_clear()


@pytest.mark.parametrize(
    ("known", "flags", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, None, True),
        ({"avx512_bf16": False, "amx_bf16": True}, None, True),
        ({"avx512_bf16": False, "amx_bf16": False, "avx2": True}, "flags : avx512_bf16", False),
        ({"avx2": True}, "flags : avx2 avx512_bf16", True),
        (None, "flags : avx2 fma", False),
        (None, "Features : asimd bf16 i8mm", True),
        (None, None, True),  # nothing tells
    ],
)
def test_instructions_for_bf16(processor, known, flags, expected) -> None:
    processor(known, flags)
    assert has_bf16() is expected


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        ("AVX512_CORE_VNNI", False),
        ("avx2", False),
        ("AVX512_CORE_BF16", True),
        ("AVX512_CORE_AMX", True),
        ("ALL", True),
    ],
)
def test_instructions_may_be_taken_away(most, expected, processor, monkeypatch) -> None:
    processor({"avx512_bf16": True})
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", most)
    assert has_bf16() is expected


def test_slow_bf16_is_said_once(processor, caplog) -> None:
    processor({"avx512_bf16": False})
    slow_bf16(["float32", "int8", "float16", "32-true"], "cpu")
    slow_bf16(["bfloat16"], torch.device("cuda:0"))
    assert caplog.messages == []
    slow_bf16(["float32", "bfloat16"], "cpu")
    slow_bf16(["bf16-mixed"], torch.device("cpu"))
    assert caplog.messages == [
        "bfloat16 is 3 to 60 times slower than float32 here: this processor has no instructions for it, and torch "
        "computes it in pieces. Take float32 (`32-true` of a trainer) or int8."
    ]


def test_fast_bf16_is_not_said(processor, caplog) -> None:
    processor({"avx512_bf16": True})
    slow_bf16(["bfloat16", "bf16-mixed"], "cpu")
    assert caplog.messages == []


@pytest.mark.parametrize("asked", ["meta", "", "foo", "cuda:99", "0", "-1", "hpu", "xla", "privateuseone"])
def test_what_is_no_device(asked) -> None:
    with pytest.raises(ValueError, match=r"^`--device` must be cpu, or a GPU .*, but got '.*'\.$") as error:
        check_device(asked, "--device")
    assert repr(asked) in str(error.value) and "\n" not in str(error.value)


def test_what_is_a_device() -> None:
    assert check_device("cpu", "device") == "cpu"


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_cores_where_the_system_does_not_tell_which_may_be_used(monkeypatch) -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert usable_cores() == 7


def test_limits_of_threads_within_each_other(four_threads) -> None:
    with limited_threads(2):
        with limited_threads(3), limited_threads(None):
            assert torch.get_num_threads() == 2
        with limited_threads(1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 4


def test_limits_that_overlap_in_two_python_threads_leave_none(four_threads) -> None:
    began, ended, seen = Event(), Event(), []

    def overlap() -> None:  # begins under the first one's limit, ends after it
        with limited_threads(1):
            seen.append(torch.get_num_threads())
            began.set()
            ended.wait()
        seen.append(torch.get_num_threads())

    second = Thread(target=overlap)
    with limited_threads(2):
        second.start()
        began.wait()
    ended.set()
    second.join()
    assert seen == [1, 4] and torch.get_num_threads() == 4
