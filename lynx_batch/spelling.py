"""Suggests the right spelling of a misspelt name."""

import difflib
from collections.abc import Iterable

LONGEST = 64
"""More characters than any name has. Comparing takes time that grows with the square of the length."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The name in `known` that is most similar to `name`."""
    start = name[:LONGEST].lower()
    return max(known, key=lambda candidate: difflib.SequenceMatcher(None, start, candidate).ratio())
