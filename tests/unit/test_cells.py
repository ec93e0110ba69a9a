"""Cells that are written as text."""

import pytest

from lynx_batch.intake.cells import read_cell
from lynx_batch.intake.schema import REAL, TAGS, WHOLE


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0100", 100),
        (" 7 ", 7),
        ("-3", -3),
        ("+5", 5),
        ("1e3", 1000),
        ("7.0", 7),
        ("7.", 7),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_a_whole_number_means_what_it_looks_like(text: str, value: int) -> None:
    assert read_cell(text, WHOLE) == value


@pytest.mark.parametrize(("text", "value"), [("0.7", 0.7), (".5", 0.5), ("5.", 5.0), ("1e-3", 0.001), ("08.5", 8.5)])
def test_a_number_means_what_it_looks_like(text: str, value: float) -> None:
    assert read_cell(text, REAL) == value


@pytest.mark.parametrize(
    "text",
    ["1_000", "1_0.5", "0x10", "1:30", "nan", "inf", "Infinity", "٣", "７", "", ".", "e3", "1e", "+-5", "1 000", "1,5"],
)
@pytest.mark.parametrize("kind", [WHOLE, REAL])
def test_what_people_do_not_write_for_a_number_is_none(text: str, kind: object) -> None:
    with pytest.raises(ValueError, match="must be a"):
        read_cell(text, kind)


def test_tags_that_name_one_twice_are_none() -> None:
    with pytest.raises(ValueError, match="must be a map"):
        read_cell('{"a": "1", "a": "2"}', TAGS)
