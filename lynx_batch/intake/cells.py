"""Converts a cell from CSV, JSON or a folder name such as `seed=7` to the type of its column."""

import math
import re
from datetime import UTC, datetime

import pyarrow as pa

from lynx_batch.columns import REAL, TAGS, TEXT, TEXTS, TIME, WHOLE
from lynx_batch.intake.schema import EXPECTATIONS
from lynx_batch.intake.tags import read_json, read_tags

WHOLE_LIMIT = 2**63
NUMBER = re.compile(r"[+-]?(?=\.?[0-9])[0-9]*(?P<fraction>\.[0-9]*)?(?P<power>[eE][+-]?[0-9]+)?")
"""A decimal number as people write it. Unlike Python, it excludes 1_000, 0x10, nan and inf."""


def read_cell(value: object, kind: pa.DataType) -> object:
    """`value` converted to the column type `kind`. Numbers, times, tags and lists may be given as text. None stays None.

    Raises:
        ValueError: If it cannot be converted; the message is the rule that it breaks.
    """
    if value is None:
        return None
    readers = {TEXT: _text, WHOLE: _whole, REAL: _real, TIME: _time, TAGS: read_tags, TEXTS: _texts}
    try:
        return readers[kind](value)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"must be {EXPECTATIONS[kind]}") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # refuses a lone surrogate
    return value


def _texts(value: object) -> list[str]:
    """Of a list, of JSON, or of a text with one item a line."""
    if isinstance(value, str):
        is_json = value.lstrip().startswith("[")
        value = read_json(value) if is_json else [line.strip() for line in value.splitlines() if line.strip()]
    if not isinstance(value, list):
        raise TypeError
    return [_text(item) for item in value]


def _number(value: object) -> int | float:
    if isinstance(value, str):
        match = NUMBER.fullmatch(value.strip())
        if match is None:
            raise ValueError
        return float(match[0]) if match["fraction"] or match["power"] else int(match[0])
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError
    return value


def _whole(value: object) -> int:
    number = _number(value)
    if number != math.floor(number) or not -WHOLE_LIMIT <= number < WHOLE_LIMIT:
        raise ValueError
    return int(number)


def _real(value: object) -> float:
    return float(_number(value))


def _time(value: object) -> datetime:
    if not isinstance(value, str):
        raise TypeError
    time = datetime.fromisoformat(value.strip())
    return time if time.tzinfo else time.replace(tzinfo=UTC)
