"""Names of columns: one spelling for `Subject URI`, `subject-uri` and `subject_uri`."""

import unicodedata
from collections.abc import Iterable, Mapping

from lynx_batch.errors import ConfigError
from lynx_batch.spelling import nearest


def normalise(name: str) -> str:
    """`name` in lower case, with one `_` for each run of spaces and signs. Letters and digits of all scripts stay."""
    letters = unicodedata.normalize("NFKC", name).lower()
    kept = "".join(letter if letter.isalnum() or unicodedata.category(letter)[0] == "M" else " " for letter in letters)
    return "_".join(kept.split())


def name_column(name: str) -> str:
    """The normalised name of a column. One of signs alone, such as `#`, keeps them."""
    signs = "".join(letter for letter in unicodedata.normalize("NFKC", name) if letter.isprintable())
    return normalise(name) or signs.strip()


def parse_map(entries: Iterable[str]) -> dict[str, str]:
    """`--map "Foto=subject_uri"`: the new name of each column, both normalised.

    Raises:
        ConfigError: If an entry is not of this form, or renames a column twice.
    """
    renamed: dict[str, str] = {}
    for entry in entries:
        old, equals, new = (part if part == "=" else name_column(part) for part in entry.rpartition("="))
        if not (equals and old and new):
            raise ConfigError(f"--map {entry!r}: must be COLUMN=NAME, such as Foto=subject_uri")
        if old in renamed:
            raise ConfigError(f"--map {entry!r}: column {old!r} must be renamed only once")
        renamed[old] = new
    return renamed


def rename(names: Iterable[str], renamed: Mapping[str, str]) -> list[str]:
    """The normalised names of columns, renamed. Raises ConfigError if `renamed` names a column that is not among them."""
    present = [name_column(name) for name in names]
    for old in renamed:
        refuse_unknown("--map", old, present)
    return [renamed.get(name, name) for name in present]


def refuse_unknown(option: str, name: str, present: Iterable[str]) -> None:
    """Raises ConfigError if the column that an option names is not present."""
    known = [each for each in present if each]
    if name not in known:
        near = f"; the nearest is {nearest(name, known)!r}" if known else ""
        raise ConfigError(f"{option} {name!r}: must be a column of the table{near}")
