"""Text as a terminal may get it: anybody's words, in names, prompts and errors, must not act on it."""

import re
from typing import Any

ACTING = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but for tabs and line breaks: escape sequences begin with one
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what changes the direction of text
    r"\ud800-\udfff]"  # bytes of a file's name that are no text, which no terminal can be sent
)


def printable(text: str) -> str:
    """`text` with a replacement character for every character that a terminal would act on."""
    return ACTING.sub("\N{REPLACEMENT CHARACTER}", text)


def printable_all(value: Any) -> Any:
    """`value`, such as the fields of a log event, with every text in it printable."""
    if isinstance(value, dict):
        return {printable_all(key): printable_all(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [printable_all(inner) for inner in value]
    return printable(value) if isinstance(value, str) else value
