"""Finds the photos in a folder and names their subjects."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import structlog

from lynx_batch.errors import ConfigError
from lynx_batch.intake.problems import MAX_FAULTS_SHOWN
from lynx_batch.intake.schema import MAX_PHOTOS
from lynx_batch.storage import join, list_files, path_of, redact
from lynx_model.faces.photo import HEIF_SUFFIXES, NEEDS_HEIF, PHOTO_SUFFIXES, can_read_heif

log = structlog.get_logger()

SYSTEM_FILES = ("Thumbs.db", "desktop.ini", "Icon\r")


def find_photos(folder: str, *, is_recursive: bool = False) -> dict[str, str]:
    """The URI of each photo in a folder, by its subject. A warning names every other file, and why it is left out.

    The subject is the shortest of these that no other photo has: the file's stem, the stem after its sub-folders, the whole path.

    Raises:
        ConfigError: If there is no photo.
    """
    uris = {file.uri.removeprefix(folder).strip("/"): file.uri for file in list_files(folder)}
    left_out = {name: why for name in sorted(uris) if (why := _explain_left_out(name, is_recursive=is_recursive))}
    left_out |= _explain_no_files(folder)
    if left_out:
        explained_files = [f"{name}: {why}" for name, why in left_out.items()]
        log.warning("left_out", num_files=len(left_out), files=explained_files[:MAX_FAULTS_SHOWN])
    paths = sorted(uris.keys() - left_out.keys())
    if not paths:
        known = ", ".join((*PHOTO_SUFFIXES, *(HEIF_SUFFIXES if can_read_heif() else ())))
        raise ConfigError(f"photos {redact(folder)}: must be a folder with a photo ({known})")
    return {subject: uris[path] for subject, path in zip(_name_subjects(paths), paths, strict=True)}


def find_people(folder: str) -> dict[str, list[str]]:
    """The photos directly in each sub-folder, by the sub-folder's name. A warning names every other file.

    Raises:
        ConfigError: If there is no sub-folder, or one has no photo or too many.
    """
    paths = [file.uri.removeprefix(folder).strip("/") for file in list_files(folder)]
    if alone := [path for path in paths if "/" not in path]:
        reason = "not in the folder of a person"
        log.warning("left_out", num_files=len(alone), files=alone[:MAX_FAULTS_SHOWN], reason=reason)
    names = sorted({path.partition("/")[0] for path in paths if "/" in path and not path.startswith(".")})
    if not names:
        raise ConfigError(f"photos {redact(folder)}: must be a folder with a folder of photos for each person")
    people = {name: [*find_photos(join(folder, name)).values()] for name in names}
    for name, photos in people.items():
        if len(photos) > MAX_PHOTOS:
            rule = f"must be at most {MAX_PHOTOS} photos of a person, not {len(photos)}"
            raise ConfigError(f"photos {redact(join(folder, name))}: {rule}")
    return people


def _name_subjects(paths: Sequence[str]) -> list[str]:
    files = [PurePosixPath(path) for path in paths]
    spellings: tuple[Callable[[PurePosixPath], str], ...] = (
        lambda file: file.stem,
        lambda file: str(file.with_suffix("")),
        str,
    )
    taken = Counter(name for file in files for name in {spell(file) for spell in spellings})
    return [next((name for spell in spellings if taken[name := spell(file)] == 1), str(file)) for file in files]


def _explain_left_out(name: str, *, is_recursive: bool) -> str | None:
    """Why a file is not used as a photo; None if it is used. `name` is its path below the folder."""
    path = PurePosixPath(name)
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if any(part.startswith(".") for part in path.parts) or path.name in SYSTEM_FILES:
        return "a hidden file or a file of the operating system"
    if len(path.parts) > 1 and not is_recursive:
        return "in a sub-folder, which is not searched without --recursive"
    if path.suffix.lower() in HEIF_SUFFIXES and not can_read_heif():
        return NEEDS_HEIF
    return None if path.suffix.lower() in (*PHOTO_SUFFIXES, *HEIF_SUFFIXES) else "not a photo"


def _explain_no_files(folder: str) -> dict[str, str]:
    """Name and reason for each entry of a local folder that is neither a file nor a folder that can be searched."""
    path = path_of(folder)
    entries = sorted(path.iterdir()) if path is not None and path.is_dir() else []
    return {entry.name: why for entry in entries if (why := _explain_no_file(entry))}


def _explain_no_file(entry: Path) -> str | None:
    if not entry.exists():
        return "a link to nothing"
    if entry.is_dir():
        return "a linked folder, which is not searched" if entry.is_symlink() else None
    return None if entry.is_file() else "neither a file nor a folder"
