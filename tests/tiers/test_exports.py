"""Exports of a tier: made once, kept beside it, proved, and made anew where something about them is not as it was."""

from __future__ import annotations

import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dial.tiers.backends import attach as attaching
from dial.tiers.backends.attach import ABOUT, FOLDER
from dial.tiers.backends.names import missing_package
from dial.tiers.loading import load_tier
from dial.tiers.tier import Tier
from tests.tiers.exported import BACKENDS, UNITS, Make, outputs
from tests.tiers.families import CLASSES, one_by_one, save
from tests.tiers.tiny_tiers import DATA

pytestmark = pytest.mark.usefixtures("said_anew")


def kept(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / FOLDER).iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_export_is_made_once_and_anew_for_other_weights_or_a_damaged_file(
    backend: str, make_tiny_bert: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_tiny_bert(seed=11)
    made: list[Path] = []
    export = attaching.export
    monkeypatch.setattr(attaching, "export", lambda part, given, file: made.append(file) or export(part, given, file))
    spec = {"path": str(folder), "backend": backend}
    first = load_tier(spec, "tier", DATA)
    expected = outputs(first, UNITS, 3)
    np.testing.assert_array_equal(outputs(load_tier(spec, "tier", DATA), UNITS, 3), expected)
    assert len(made) == len(kept(folder)) == 1
    (kept(folder)[0] / "segment0.onnx").write_bytes(b"damaged")
    np.testing.assert_array_equal(outputs(load_tier(spec, "tier", DATA), UNITS, 3), expected)
    assert len(made) == 2
    (kept(folder)[0] / ABOUT).write_text("{")
    np.testing.assert_array_equal(outputs(load_tier(spec, "tier", DATA), UNITS, 3), expected)
    assert len(made) == 3 and len(kept(folder)) == 1
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")  # other instructions, other kernels
    load_tier(spec, "tier", DATA)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert len(made) == 4 and len(kept(folder)) == 2
    first.model.classifier.bias.data += 1
    first.model.save_pretrained(folder)
    changed = outputs(load_tier(spec, "tier", DATA), UNITS, 3)
    np.testing.assert_allclose(changed, expected + 1, atol=1e-5)
    assert len(made) == 5 and len(kept(folder)) == 3


def flip(file: Path, byte: int) -> None:
    """Change one byte of a file; in the middle of weights nobody but a checksum notices."""
    content = bytearray(file.read_bytes())
    content[byte] ^= 0x40
    file.write_bytes(content)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_export_with_other_weights_than_were_proved_is_not_opened(
    backend: str, make_tiny_bert: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_tiny_bert(seed=16)
    monkeypatch.setenv("DIAL_CACHE", str(tmp_path))
    spec = {"path": str(folder), "backend": backend}
    first = load_tier(spec, "tier", DATA)
    expected = outputs(first, UNITS, 3)
    file = kept(folder)[0] / "segment0.onnx"
    weight = first.model.classifier.weight.detach().numpy()
    content = file.read_bytes()
    position = max(content.find(weight.tobytes()), content.find(np.ascontiguousarray(weight.T).tobytes()))
    assert position > 0
    flip(file, position + 3)  # the exponent of a weight
    np.testing.assert_array_equal(outputs(load_tier(spec, "tier", DATA), UNITS, 3), expected)
    folders = [path.name for path in (folder / FOLDER).iterdir() if path.is_dir()]
    assert file.read_bytes() == content and folders == [file.parent.name]
    # Where it cannot be mended, the one in the cache counts.
    flip(file, position + 3)
    claim = attaching._claim

    def refused(place: Path, key: str) -> Any:
        if place == folder / FOLDER:
            raise PermissionError(13, "Permission denied")
        return claim(place, key)

    monkeypatch.setattr(attaching, "_claim", refused)
    for _ in range(2):
        np.testing.assert_array_equal(outputs(load_tier(spec, "tier", DATA), UNITS, 3), expected)
    assert len(kept(tmp_path)) == 1 and file.read_bytes() != content


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_error_on_opening_leaves_a_whole_export(
    backend: str, make_tiny_bert: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_tiny_bert(seed=17)
    spec = {"path": str(folder), "backend": backend}
    load_tier(spec, "tier", DATA)
    before = {file: file.stat().st_mtime_ns for file in kept(folder)[0].iterdir()}

    def fails(*args: Any) -> None:
        raise RuntimeError("no more threads")

    with monkeypatch.context() as patched:
        patched.setitem(attaching.GRAPHS, backend, fails)
        with pytest.raises(RuntimeError, match="no more threads"):
            load_tier(spec, "tier", DATA)
    assert {file: file.stat().st_mtime_ns for file in kept(folder)[0].iterdir()} == before


@pytest.mark.skipif(bool(missing_package("onnxruntime")), reason="onnxruntime or onnx is not installed")
def test_of_several_at_once_one_exports(make_tiny_bert: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(make_tiny_bert(seed=18))
    tiers = [load_tier(folder, "tier", DATA) for _ in range(3)]
    made: list[Path] = []
    attempt = attaching._try

    def counted(tier: Tier, backend: str, dtype: str, folder: Path) -> str | None:
        made.append(folder)
        return attempt(tier, backend, dtype, folder)

    monkeypatch.setattr(attaching, "_try", counted)
    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(lambda tier: attaching.attach(tier, "onnxruntime"), tiers))
    assert len(made) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_folder_that_cannot_be_written_has_its_export_in_the_cache(
    backend: str, make_tiny_bert: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_tiny_bert(seed=12)
    (folder / FOLDER).write_text("no folder can be made here")
    monkeypatch.setenv("DIAL_CACHE", str(tmp_path))
    tier = load_tier({"path": str(folder), "backend": backend}, "tier", DATA)
    assert tier.parts is not None and len(kept(tmp_path)) == 1
    (tmp_path / FOLDER).rename(tmp_path / "away")
    (tmp_path / FOLDER).write_text("nor here")
    with pytest.raises(ValueError, match=r"`backend` .* needs a folder for its export.*DIAL_CACHE"):
        load_tier({"path": str(folder), "backend": backend}, "tier", DATA)


@pytest.mark.parametrize("backend", BACKENDS)
def test_torch_computes_what_cannot_be_exported_and_says_so_once(
    backend: str, tiny_tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save(tmp_path / "tier", "longformer", tiny_tokenizer)  # its windows follow the values of the mask
    with caplog.at_level(logging.WARNING):
        tiers = [load_tier({"path": str(folder), "backend": backend}, "tier", CLASSES) for _ in range(2)]
    said = [record.message for record in caplog.records if "torch computes tier" in record.message]
    assert len(said) == 1 and backend in said[0] and tiers[1].parts is None
    about = json.loads((kept(folder)[0] / ABOUT).read_text())
    assert about["refused"] and not list(kept(folder)[0].glob("*.onnx"))
    np.testing.assert_allclose(outputs(tiers[1], UNITS, 3)[:, 0], one_by_one(folder, UNITS), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "`backend` .* needs a folder .*No space left"),
        (MemoryError("none left"), "none left"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 GB"), "can't allocate memory"),
    ],
)
def test_a_full_disk_and_no_memory_are_not_remembered(
    error: Exception, said: str, backend: str, make_tiny_bert: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {"path": str(make_tiny_bert(seed=15)), "backend": backend}

    def fails(*args: Any, **settings: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(torch.onnx, "export", fails)
        with pytest.raises((ValueError, MemoryError), match=said):
            load_tier(spec, "tier", DATA)
    assert load_tier(spec, "tier", DATA).parts is not None


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["fnet", "deberta"])  # one fails at the export, one on longer rows
def test_what_libraries_print_of_a_failure_is_not_seen(
    kind: str, backend: str, tmp_path: Path, tiny_tokenizer: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = save(tmp_path / "tier", kind, tiny_tokenizer)
    whole = load_tier(str(folder), "tier", CLASSES)
    capfd.readouterr()
    attaching.attach(whole, backend)
    os.write(1, b"heard again")
    found = capfd.readouterr()
    assert found.out == "heard again" and len(found.err.splitlines()) <= 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_export_leaves_the_tier_s_mode(backend: str, make_tiny_bert: Make) -> None:
    tier = load_tier({"path": str(make_tiny_bert(seed=19)), "backend": backend}, "tier", DATA)
    assert not any(module.training for module in tier.modules())
