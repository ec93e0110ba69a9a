"""What a misspelt name was probably meant to be."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """The one of `known` that `name` most resembles, for a message."""
    return max(known, key=lambda candidate: difflib.SequenceMatcher(None, name.lower(), candidate).ratio())
