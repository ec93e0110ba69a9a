"""Suggests the right spelling of a misspelt name."""

import difflib
from collections.abc import Iterable

MAX_LENGTH = 200
"""No known name is as long. Comparing takes time that grows with the length, and anybody may write a name."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The name in `known` that is most similar to `name`."""
    start = name[:MAX_LENGTH].lower()
    return max(known, key=lambda candidate: difflib.SequenceMatcher(None, start, candidate).ratio())
