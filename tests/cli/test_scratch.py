"""What a killed prediction left half-written beside its rows."""

import pytest

from datamodules.scratch import MACHINE
from dial.cli.record_files import JsonLines, Parts


@pytest.mark.parametrize(("name", "kind"), [("rows.jsonl", JsonLines), ("rows", Parts)])
@pytest.mark.parametrize("half", ["manifest", "part-00003"])
def test_what_was_left_half_written_goes(tmp_path, name, kind, half) -> None:
    """As by a kill while the first manifest was written, or the last one, or a part."""
    output = kind(tmp_path / name, {})
    output.close()
    scratch = output.manifest.with_name(f".{half}.{MACHINE}{'0a' * 4}.part.json")
    scratch.touch()
    kind(tmp_path / name, {}).close()
    assert output.manifest.exists() and not scratch.exists()
