"""A cell of CSV, JSON or a folder name such as `seed=7` -> the value that its column holds."""

import math
import re
from datetime import UTC, datetime

import pyarrow as pa

from lynx_batch.columns import REAL, TAGS, TEXT, TIME, WHOLE
from lynx_batch.intake.schema import EXPECTATIONS
from lynx_batch.intake.tags import read_tags

WHOLE_LIMIT = 2**63
NUMBER = re.compile(r"[+-]?(?=\.?[0-9])[0-9]*(?P<fraction>\.[0-9]*)?(?P<power>[eE][+-]?[0-9]+)?")
"""As people write it, in decimal digits: neither 1_000 nor 0x10, nan and inf, which Python takes, too."""


def read_cell(value: object, kind: pa.DataType) -> object:
    """`value` as a column of type `kind` holds it; numbers, times and tags may be written as text. None stays None.

    Raises:
        ValueError: If it cannot be; the error's text is the rule.
    """
    if value is None:
        return None
    readers = {TEXT: _text, WHOLE: _whole, REAL: _real, TIME: _time, TAGS: read_tags}
    try:
        return readers[kind](value)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"must be {EXPECTATIONS[kind]}") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # half of a surrogate pair is no text
    return value


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
