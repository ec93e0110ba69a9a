"""Reads tags, a map of text to text, from the forms that tools write: a map, a struct, a list of keys and values, or JSON."""

import json


def read_tags(value: object) -> list[tuple[str, str]]:
    """The tags in a cell. A struct has a field for every name that any row uses, so null there means that this row lacks the tag.

    Raises:
        ValueError, TypeError: If the cell is not a map of text to text, or a name is repeated.
    """
    tags = read_json(value) if isinstance(value, str) else value
    if isinstance(tags, dict):
        pairs = [(name, tag) for name, tag in tags.items() if tag is not None]
    elif isinstance(tags, list):
        pairs = [tuple(pair.values() if isinstance(pair, dict) else pair) for pair in tags]
    else:
        raise TypeError(tags)
    read = [(_text(name), _text(tag)) for name, tag in pairs]
    if len(dict(read)) < len(read):
        raise ValueError("a tag must appear only once")
    return read


def read_json(text: str) -> object:
    """The value of a JSON text. Raises ValueError if it is not JSON, or an object repeats a key."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("must not be nested so deeply") from None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} must appear only once")
    return found


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    value.encode()  # refuses a lone surrogate
    return value
