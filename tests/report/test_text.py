"""What the report says of the table before any number of it."""

import dataclasses

import numpy as np
import pytest

from dial.report.report import SweepSettings, build_report
from dial.report.text import table_text
from tests.stages.population import logits_table


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"length": "true"}, "at their own length; the padding of batches is not charged"),
        ({"length": "padded"}, "at the length that their batch was padded to"),
        ({"length": 128}, "Every row is charged at 128 tokens"),
        ({"remarks": ["one", "two"]}, "one\ntwo"),
        ({"repeats": {"test": 1}}, "1 repeated row was left out (1 of test)."),
        (
            {"repeats": {"calibration": 1200, "test": 1}},
            "1,201 repeated rows were left out (1,200 of calibration, 1 of",
        ),
    ],
)
def test_each_remark(settings: dict, words: str) -> None:
    assert words in table_text(settings)


def test_times_and_tables_without_remarks_have_none() -> None:
    assert table_text({}) == table_text({"length": "true", "unit": "milliseconds per row"}) == ""


def test_rows_given_twice_are_counted_on_screen_and_in_the_summary() -> None:
    """And the results are those of the rows once, with the same fingerprint."""
    table = logits_table(200, seed=3).of_split("test")
    settings = SweepSettings(scores=("softmax",), targets=(0.99,), bootstrap=100, calibration="crossfit")
    once, again = (build_report(rows, settings) for rows in (table, table.take(np.r_[0 : len(table), 0:30])))
    assert again.summary["table"]["repeats"] == {"test": 30}
    assert "30 repeated rows were left out (30 of test)." in again.text()
    assert "repeated" not in once.text()
    assert once.summary["splits"] == again.summary["splits"]
    named = {**table.settings, "tiers": {"small": {}, "large": {}}}
    one, two = (
        build_report(dataclasses.replace(table, settings={**named, **more}), settings).summary["configuration"]
        for more in ({}, {"repeats": {"test": 30}})
    )
    assert one == two
