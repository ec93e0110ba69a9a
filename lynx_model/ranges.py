"""Ranges of steps and blocks in which an adapter or guidance is active; free of torch.

A range of steps is two fractions: step i of n, counted from 0, is in it if start <= i / n < end. So 0 to 1 is every step, and
adjacent ranges do not overlap. A range of blocks is text such as "8-31": the first and the last block, counted from 0.
"""

import re
from collections.abc import Callable, Iterator

from lynx_model.errors import InvalidParams

STEP_RANGES = (("ip_start", "ip_end"), ("ref_start", "ref_end"))
"""Pairs of RenderParams fields that are the start and the end of a range of steps."""

IN_STEP_RANGES = frozenset(name for pair in STEP_RANGES for name in pair)

BLOCKS = re.compile(r"(0|[1-9][0-9]{0,3})-(0|[1-9][0-9]{0,3})")


def is_within(step: int, num_steps: int, start: float, end: float) -> bool:
    """Whether `step`, counted from 0, is in the range from `start` to `end`, which are fractions of all steps."""
    return start <= step / num_steps < end


def lies_within(part: int, num_parts: int, start: float, end: float) -> bool:
    """Whether `part`, counted from 0, of `num_parts` equal parts lies as a whole between `start` and `end`, fractions of the whole."""
    return start <= part / num_parts and (part + 1) / num_parts <= end


def explain_step_ranges(value_of: Callable[[str], float]) -> Iterator[tuple[str, float, str]]:
    """Field, value and rule of each range that ends before it starts. `value_of` maps a field's name to its value."""
    for start, end in STEP_RANGES:
        if value_of(end) < value_of(start):
            yield end, value_of(end), f"must not be before {start}={value_of(start)}"


def parse_blocks(field: str, text: str) -> range:
    """The blocks in the range `text`. Raises InvalidParams if it is not a valid range."""
    match = BLOCKS.fullmatch(text)
    if match is None:
        raise InvalidParams(field, text, 'must be the first and the last block, such as "8-31"')
    first, last = map(int, match.groups())
    if last < first:
        raise InvalidParams(field, text, "must not end before it starts")
    return range(first, last + 1)


def choose_blocks(field: str, text: str | None, num_blocks: int) -> range:
    """The blocks in the range `text`, or all if it is None. Raises InvalidParams if it exceeds the model's `num_blocks`."""
    if text is None:
        return range(num_blocks)
    blocks = parse_blocks(field, text)
    if blocks.stop > num_blocks:
        raise InvalidParams(field, text, f"must lie within the model's blocks, 0-{num_blocks - 1}")
    return blocks
