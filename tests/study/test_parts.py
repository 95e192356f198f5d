"""Who waits for a study is told how far it is, not too often, and not when it is done."""

import time

import pytest

from dial.study.parts import Parts


def test_lines_have_the_share_and_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [100.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    parts = Parts(6, said.append)
    for passed in (20.0, 20.0, 20.0, 20.0, 20.0, 60.0):
        now[0] += passed
        parts.done()
    assert said == [
        "study: 2 of 6 parts, about 1.3 minutes left",
        "study: 4 of 6 parts, about 0.7 minutes left",
    ]
