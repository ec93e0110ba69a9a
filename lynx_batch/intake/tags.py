"""Tags, a map of text to text, in the shapes that tools write: a map, a struct, a list of keys and values, or JSON."""

import json


def read_tags(value: object) -> list[tuple[str, str]]:
    """The tags that a cell holds. A struct has a field for each name that any row uses; a row without it has null there.

    Raises:
        ValueError, TypeError: If it holds none, or a name comes twice.
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
        raise ValueError("a tag must not come twice")
    return read


def read_json(text: str) -> object:
    """What JSON says. Raises ValueError if it is none, or an object has a key twice."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("must not be nested so deeply") from None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} must not come twice")
    return found


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    value.encode()  # half of a surrogate pair is no text
    return value
