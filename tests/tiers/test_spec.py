"""What a user may write for a tier."""

import dataclasses

import pytest

from dial.tiers.tier import View


def test_a_string_is_short_for_a_path() -> None:
    assert View.parse("runs/super") == View(path="runs/super") == View.parse({"path": "runs/super"})
    view = View(path="a", layers=2)
    assert View.parse(view) is view


def test_every_field_can_be_written() -> None:
    written = {
        "path": "a",
        "width": 0.5,
        "depth": 0.75,
        "dtype": "bfloat16",
        "backend": "auto",
        "max_length": 64,
        "batch_size": 8,
        "label_names": ["x", "y"],
        "temperature": 2,
        "head": "runs/head/tier",
        "beams": 4,
        "max_new_tokens": 32,
        "lengths": [0.9, 0.5],
        "stride": 64,
        "max_answer_tokens": 20,
        "no_answer": True,
    }
    assert dataclasses.asdict(View.parse(written)) == {**written, "layers": None}
    assert View.parse({"path": "a", "layers": 2}).layers == 2  # depth says so otherwise


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"path": "a", "layer": 2}, r"`tiers\[0\]` allows the keys path, layers, .* but got layer\."),
        ({"layers": 2}, r"`tiers\[0\]` must name a `path`"),
        (3, r"`tiers\[0\]` must be a folder, a hub id or a mapping with `path`, but got 3\."),
        ("", r"`tiers\[0\]`: `path` must be"),
        ({"path": "a", "layers": 0}, r"`tiers\[0\]`: `layers` must be a whole number from 1 up, .* but got 0\."),
        ({"path": "a", "max_length": 1.5}, "`max_length` must be a whole number .* but got 1.5"),
        ({"path": "a", "batch_size": True}, "`batch_size` must be a whole number"),
        ({"path": "a", "dtype": "int4"}, "`dtype` must be one of float32, bfloat16, float16, int8, but got 'int4'"),
        ({"path": "a", "temperature": 0}, "`temperature` must be a number above 0, but got 0"),
        ({"path": "a", "temperature": float("inf")}, "`temperature` must be a number above 0, but got inf"),
        ({"path": "a", "label_names": "ab"}, "`label_names` must be a list of strings"),
        ({"path": "a", "label_names": [0, 1]}, "`label_names` must be a list of strings"),
    ],
)
def test_errors_name_the_argument(spec: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        View.parse(spec, "tiers[0]")
