"""E-LANG's Tables 1 to 3 of T5 as columns by task, from the printed numbers in `dial/costs/papers/e_lang_t5.csv`.

FLOPs are in 1e11, as printed: they are on the paper's own axis only (`dial/costs/published.py`). Qualities are in %.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from dial.costs.printed import Printed, printed_rows

SWIFT, SUPER, CASCADE = "T5-large (Swift)", "T5-11B (Super)", "E-LANG"
TABLE_2 = {
    "super": SUPER,
    "random": "random",
    "softmax": "softmax",
    "entropy": "entropy",
    "energy, Swift small": "energy, Swift small",
    "energy, Swift base": "energy, Swift base",
    "decoder_energy": "energy of the decoder",
    "energy": "energy of the encoder",
}
"""What we call its rows, and what they are called among the printed numbers."""
TABLE_3 = {
    "super": SUPER,
    "swift": SWIFT,
    "swift, distilled": f"{SWIFT}, distilled",
    "cascade": CASCADE,
    "cascade, distilled": f"{CASCADE}, distilled",
}
Columns = dict[str, list[Any]]


@cache
def printed_tables() -> dict[str, Any]:
    """`tasks`, `super_flops`, `swift_flops`, and `table1` to `table3`, whose lists follow their tasks.

    Example:
        >>> paper = printed_tables()
        >>> paper["table1"]["speedup_flops"][paper["tasks"].index("mrpc")], paper["table2"]["energy"][0]
        (7.6, (47.8, 91.7))
    """
    first = {name: _rows("1", name) for name in (SWIFT, SUPER, CASCADE)}
    table_1: Columns = {}
    for name, row in (("swift_", SWIFT), ("super_", SUPER), ("", CASCADE)):
        table_1[f"{name}time_ms"] = [each.cost for each in first[row] if each.convention == "milliseconds"]
        table_1[f"{name}accuracy"] = [each.value for each in _counts(first[row])]
    table_1["flops"] = [_flops(each) for each in _counts(first[CASCADE])]
    table_1["swift_ratio"] = [each.value for each in first[CASCADE] if each.metric == "swift_ratio"]
    for name, unit in (("speedup_flops", "speedup"), ("speedup_time", "speedup_time")):
        table_1[name] = [each.cost for each in first[CASCADE] if each.convention == unit]
    return {
        "tasks": _tasks(first[SUPER]),
        "super_flops": _flops(_counts(first[SUPER])[0]),
        "swift_flops": _flops(_counts(first[SWIFT])[0]),
        "table1": table_1,
        "table2": _points("2", TABLE_2),
        "table3": _points("3", TABLE_3),
    }


def _points(table: str, names: dict[str, str]) -> Columns:
    """FLOPs and quality of each row of a table, by task."""
    columns: Columns = {"tasks": _tasks(_rows(table, names["super"]))}
    for name, row in names.items():
        columns[name] = [(_flops(each), each.value) for each in _counts(_rows(table, row))]
    return columns


def _rows(table: str, row: str) -> list[Printed]:
    return [each for each in printed_rows() if (each.paper, each.table, each.row) == ("E-LANG", table, row)]


def _counts(rows: list[Printed]) -> list[Printed]:
    """Those with FLOPs, one a task."""
    return [each for each in rows if each.convention == "as_printed"]


def _tasks(rows: list[Printed]) -> list[str]:
    return [each.task.replace("mnli_matched", "mnli") for each in _counts(rows)]


def _flops(row: Printed) -> float:
    assert row.cost is not None
    return round(row.cost / 1e11, 4)
