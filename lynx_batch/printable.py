"""Makes text fit to print: names, prompts and errors come from anybody and must not control the terminal; a count agrees with its noun."""

import re
from typing import Any

CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, with which escape sequences begin, except tab and line feed
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # characters that change the direction of text
    r"\ud800-\udfff]"  # surrogates: undecodable bytes of a file name, which cannot be encoded for a terminal
)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: "1 clip", "2 clips", "3 tries" (whose `plural` is given)."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def printable(text: str) -> str:
    """`text` with each character that would control a terminal replaced by U+FFFD."""
    return CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def printable_all(value: Any) -> Any:
    """`value`, such as the fields of a log event, with all strings in it made printable."""
    if isinstance(value, dict):
        return {printable_all(key): printable_all(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [printable_all(inner) for inner in value]
    return printable(value) if isinstance(value, str) else value
