"""What a killed prediction left half-written beside its rows."""

import pytest

from dial.cli.record_files import JsonLines, Parts


@pytest.mark.parametrize(("name", "kind"), [("rows.jsonl", JsonLines), ("rows", Parts)])
def test_a_manifest_that_was_left_half_written_goes(tmp_path, name, kind) -> None:
    """As by a kill while the first manifest was written, or the last one."""
    output = kind(tmp_path / name, {})
    output.close()
    manifest = output.manifest
    scratch = manifest.with_name(f".{manifest.stem}.{'0a' * 6}.part.json")
    scratch.touch()
    kind(tmp_path / name, {}).close()
    assert manifest.exists() and not scratch.exists()
