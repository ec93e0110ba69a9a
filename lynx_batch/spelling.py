"""Suggests the right spelling of a misspelt name."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """The name in `known` that is most similar to `name`."""
    return max(known, key=lambda candidate: difflib.SequenceMatcher(None, name.lower(), candidate).ratio())
