"""Validates file names from untrusted sources: a fingerprint, an index, a repository. None may lead out of its folder.

A name is a POSIX path relative to a folder that only its reader knows. Every file system must be able to store the names and tell
them apart, so that a folder of weights can move between machines.
"""

import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from lynx_model.errors import WeightsMismatch

MAX_NAME_BYTES = 1024
MAX_PART_BYTES = 200
"""File systems allow 255; the rest leaves room for the suffixes of partial files."""


def below(folder: Path, name: object, *, source: str) -> Path:
    """The path of `name` below `folder`.

    Raises:
        WeightsMismatch: If the name, or a symbolic link on the way, leads out of the folder; the message names `source`.
    """
    rule = _broken_rule(name)
    file = folder / str(name)
    if rule is None and not file.parent.resolve().is_relative_to(folder.resolve()):
        rule = f"must not pass a symbolic link that leaves {folder}"
    if rule is not None:
        raise _refusal(name, rule, source)
    return file


def check_names(names: Iterable[object], *, source: str) -> None:
    """Raises WeightsMismatch unless all `names` can be files of one folder on any file system."""
    files: dict[str, object] = {}
    folders: dict[str, object] = {}
    for name in names:
        rule = _broken_rule(name)
        if rule is not None:
            raise _refusal(name, rule, source)
        key = _folded(str(name))
        if key in files:
            raise _refusal(name, f"must differ from {files[key]!r} by more than case or Unicode form", source)
        files[key] = name
        folders |= dict.fromkeys((parent.as_posix() for parent in PurePosixPath(key).parents), name)
    for key in files.keys() & folders.keys():
        raise _refusal(files[key], f"must be a file, but {folders[key]!r} makes it a folder", source)


def _broken_rule(name: object) -> str | None:
    if not isinstance(name, str) or not name:
        return "must be the name of a file"
    if not name.isprintable() or "\\" in name or ":" in name:
        return "must have no backslash, colon or character that cannot be printed"
    parts = name.split("/")
    if any(part in ("", ".", "..") or part != part.strip() for part in parts):
        return "must be relative and stay below its folder, without empty parts, '.', '..' or blanks around a part"
    sizes = [len(part.encode()) for part in parts]
    if max(sizes) > MAX_PART_BYTES or sum(sizes) + len(sizes) > MAX_NAME_BYTES:
        return f"must have at most {MAX_PART_BYTES} bytes between slashes and {MAX_NAME_BYTES} in all"
    return None


def _folded(name: str) -> str:
    """A key that is the same for names that some file systems do not distinguish."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _refusal(name: object, rule: str, source: str) -> WeightsMismatch:
    shown = repr(name)
    return WeightsMismatch(f"{source}: file name {shown if len(shown) <= 200 else shown[:200] + '...'}: {rule}")
