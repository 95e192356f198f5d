"""Tiers on the clock: every exit of every row is timed once, and says what it says alone."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import torch

from dial.machine import synchronise
from dial.study import timing
from dial.study.timing import Contender, TableTimer, clock, timed_run, widened
from tests.tiers import small


def test_a_run_is_timed_to_every_exit_and_gives_its_outputs() -> None:
    base = small.plain_tier("base")
    tier = small.exits_tier("encoder", base)
    contender = Contender("exits", tier, small.texts(5))
    encoding = contender.encode([0, 3])
    timed = timed_run(tier, encoding)
    assert timed.milliseconds.shape == (3,) and (np.diff(timed.milliseconds) > 0).all()
    assert timed.processor >= 0
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(timed.outputs), tier(encoding))


def test_what_takes_longer_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    tier = small.plain_tier("slow")
    before = tier.run

    def slow(*arguments: object) -> None:
        time.sleep(0.05)
        before(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(tier, "run", slow)
    assert timed_run(tier, Contender("slow", tier, ["good"]).encode([0])).milliseconds[0] > 50


def test_the_clock_starts_when_a_gpu_is_done_with_what_was_before(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    synchronise(torch.device("cpu"))
    assert not waited
    synchronise(torch.device("cuda"))
    assert waited == [torch.device("cuda")]
    tier = small.plain_tier("swift")
    steps: list[str] = []
    monkeypatch.setattr(timing, "synchronise", lambda device: steps.append("waits"))
    monkeypatch.setattr(tier, "run", lambda *arguments, before=tier.run: (steps.append("runs"), before(*arguments)))
    timed_run(tier, Contender("swift", tier, ["good"]).encode([0]))
    assert steps == ["waits", "runs"]


def test_every_row_is_timed_once_in_batches_of_its_length() -> None:
    units = small.texts(23)
    first, second = small.plain_tier("swift"), small.exits_tier("encoder", small.plain_tier("base"))
    contenders = [Contender("swift", first, units), Contender("exits", second, units)]
    found = clock(contenders, {"swift": 4, "exits": 1}, seed=0)
    for contender, exits in zip(contenders, (1, 3), strict=True):
        mine = found[contender.name]
        assert mine.milliseconds.shape == (23, exits) and (mine.milliseconds > 0).all()
        for row in range(23):
            with torch.no_grad():
                alone = contender.tier(contender.encode([row]))[0]
            torch.testing.assert_close(torch.from_numpy(mine.outputs[row]), alone, atol=1e-5, rtol=1e-5)
    batches = contenders[0].batches(4)
    lengths = [contenders[0].lengths[rows] for rows in batches]
    assert sorted(np.concatenate(batches).tolist()) == list(range(23))
    assert all(a.max() <= b.min() for a, b in itertools.pairwise(lengths))
    for rows in batches:  # a batch's time is shared out evenly
        assert len(set(found["swift"].milliseconds[rows, 0].tolist())) == 1


def test_padding_to_a_width_changes_no_answer() -> None:
    tier = small.plain_tier("super", max_length=40)
    units = small.texts(6, seed=3)
    plain, padded = Contender("plain", tier, units), Contender("padded", tier, units, width=12)
    for row in range(6):
        wide = padded.encode([row])
        assert wide["input_ids"].shape[1] == max(12, plain.lengths[row])
        mask = wide.get("attention_mask", torch.ones_like(wide["input_ids"]))  # longer rows are not padded
        assert int(mask.sum()) == plain.lengths[row]
        with torch.no_grad():
            torch.testing.assert_close(tier(wide), tier(plain.encode([row])), atol=1e-5, rtol=1e-5)
    padded.tokeniser.padding = padded.tokeniser.padding._replace(pad_left=True)
    left = widened(plain.encode([0]), 30, padded.tokeniser)
    assert left["attention_mask"][0, 0] == 0 and left["attention_mask"][0, -1] == 1


def test_the_table_spans_the_lengths_that_occur() -> None:
    base = small.plain_tier("swift")
    tiers = [base, small.exits_tier("super", base)]
    lengths = {"swift": np.array([3, 5, 5, 8, 9]), "super": np.array([4, 12])}
    timer = TableTimer(tiers, lengths, {"swift": [1, 4], "super": [1]}, points=3)
    timer.round()
    timer.round()
    table = timer.table()
    assert table.tiers["swift"].lengths == (3, 5, 9) and table.tiers["super"].lengths == (4, 12)
    assert set(table.tiers["swift"].milliseconds) == {1, 4} and table.batch_sizes == {"swift": 4, "super": 1}
    values = table.tiers["super"].milliseconds[1]
    assert values.shape == (3, 2) and (np.diff(values, axis=0) >= 0).all() and (values > 0).all()
    assert table.tiers["super"].fingerprint == tiers[1].fingerprint
    assert table.machine["threads"] == torch.get_num_threads()
