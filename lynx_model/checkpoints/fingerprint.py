"""Identifies the weights in a folder by one value, which is stored beside them; free of torch.

A fingerprint is the sha256 of the lines that `sha256sum` would print for the folder's weight files, sorted by path. Only files
that can change a picture count: weights, configurations and tokenizers.

The stored fingerprint travels with the folder. It says what the files should be, but does not prove that they still are: only
hashing them, or this machine's cache of hashes (`lynx_model.checkpoints.digests`), does.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import structlog

from lynx_model.checkpoints.digests import SHA256, FileDigest, digest_files, hash_files, replace_json
from lynx_model.checkpoints.names import check_names
from lynx_model.errors import MissingFile, WeightsMismatch

log = structlog.get_logger()

FINGERPRINT_FILE = "lynx-fingerprint.json"
SCHEMA_VERSION = 1
MAX_FILE_BYTES = 2**63 - 1

WEIGHT_SUFFIXES = frozenset({".json", ".model", ".onnx", ".pth", ".safetensors"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """The files of a folder, by POSIX path relative to it, and where they came from, if known."""

    files: Mapping[str, FileDigest]
    source: str | None = None
    revision: str | None = None

    @property
    def value(self) -> str:
        lines = "".join(f"{digest.sha256}  {path}\n" for path, digest in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


def fingerprint_folder(folder: Path) -> str:
    """The fingerprint of the weights in a folder, which is also stored there. Hashes files that are not in this machine's cache.

    Files that differ from the stored fingerprint are refused if it says where they came from. Otherwise they are the user's own
    and were trained or edited again: a warning is logged, and their fingerprint replaces the stored one.

    Raises:
        MissingFile: If the folder does not exist, has no weights, or a file cannot be read.
        WeightsMismatch: If the files are not those that were fetched, or the stored fingerprint cannot be parsed.
    """
    kept = read_fingerprint(folder)
    found = digest_files(folder, weight_files(folder))
    if kept is None:
        _store_if_possible(folder, Fingerprint(files=found))
    elif kept.files != found:
        _adopt(folder, kept, found)
    return Fingerprint(files=found).value


def fingerprint_file(file: Path) -> str:
    """The sha256 of a single weight file. If its folder has a fingerprint that lists it, the rules of `fingerprint_folder` apply.

    Raises:
        MissingFile: If there is no such file.
        WeightsMismatch: If it is not the file that was fetched.
    """
    if not file.is_file():
        raise MissingFile(f"{file}: no such file")
    kept = read_fingerprint(file.parent)
    found = digest_files(file.parent, [file.name])
    if kept is not None and file.name in kept.files and kept.files[file.name] != found[file.name]:
        _adopt(file.parent, kept, {**kept.files, **found})
    return found[file.name].sha256


def verify_folder(folder: Path) -> list[str]:
    """Hashes every file again and returns one line for each difference from the stored fingerprint.

    Raises:
        MissingFile: If no fingerprint is stored.
    """
    kept = read_fingerprint(folder)
    if kept is None:
        raise MissingFile(f"{folder / FINGERPRINT_FILE}: no such file")
    return _differences(kept.files, hash_files(folder, weight_files(folder)))


def is_as_recorded(folder: Path, kept: Fingerprint) -> bool:
    """Whether `folder` has the files of `kept` with the same content; other files do not matter."""
    try:
        return digest_files(folder, list(kept.files)) == kept.files
    except MissingFile:
        return False


def read_fingerprint(folder: Path) -> Fingerprint | None:
    """The fingerprint stored in a folder, or None. Raises WeightsMismatch if it cannot be parsed."""
    file = folder / FINGERPRINT_FILE
    try:
        return parse_fingerprint(file.read_bytes(), source=str(file))
    except (FileNotFoundError, NotADirectoryError):
        return None


def parse_fingerprint(text: bytes, *, source: str) -> Fingerprint:
    """Parses a stored fingerprint; every file name in it stays below the folder.

    Raises:
        WeightsMismatch: If it cannot be parsed, or a name in it cannot be a weight file of a folder; the message names `source`.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsMismatch(f"{source}: not JSON: {error}") from error
    try:
        files = {path: _parse_digest(**digest) for path, digest in content["files"].items()}
        origin = _parse_origin(**{name: content[name] for name in ("source", "revision")})
        version, value = content["schema_version"], content["fingerprint"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsMismatch(f"{source}: must hold schema_version, fingerprint, files, source and revision") from error
    check_names(files, source=source)
    for path in files:
        if not counts(path):
            endings = ", ".join(sorted(WEIGHT_SUFFIXES))
            raise WeightsMismatch(f"{source}: file name {path!r}: must end in one of {endings}, and not be hidden")
    fingerprint = Fingerprint(files=files, **origin)
    if (version, value) != (SCHEMA_VERSION, fingerprint.value):
        raise WeightsMismatch(
            f"{source}: must be of schema version {SCHEMA_VERSION}, its fingerprint that of its files"
        )
    return fingerprint


def write_fingerprint(folder: Path, fingerprint: Fingerprint) -> None:
    """Stores a fingerprint beside its files."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": fingerprint.value,
        "source": fingerprint.source,
        "revision": fingerprint.revision,
        "files": {path: asdict(digest) for path, digest in sorted(fingerprint.files.items())},
    }
    replace_json(folder / FINGERPRINT_FILE, content)


def weight_files(folder: Path) -> list[str]:
    """The names of the files in a folder that can change a picture; follows symbolic links.

    Raises:
        MissingFile: If there are none.
        WeightsMismatch: If a name is not valid on every machine.
    """
    try:
        names = sorted(name for name in _walk(folder, "", frozenset()) if counts(name))
    except OSError as error:
        raise MissingFile(f"{folder}: must be a folder that holds weights: {error.strerror}") from error
    if not names:
        raise MissingFile(f"{folder}: must be a folder that holds weights")
    check_names(names, source=str(folder))
    return names


def counts(name: str) -> bool:
    """Whether a file of that name counts as weights: its suffix says so, and nothing in its path is hidden."""
    path = PurePosixPath(name)
    is_hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix in WEIGHT_SUFFIXES and path.name != FINGERPRINT_FILE and not is_hidden


def _walk(folder: Path, parent: str, above: frozenset[Path]) -> Iterator[str]:
    """Every file below `folder`. `above` holds its parent folders, because a symbolic link may lead back to one."""
    resolved = folder.resolve()
    if resolved in above:
        return
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _walk(folder / entry.name, f"{parent}{entry.name}/", above | {resolved})
        else:
            yield parent + entry.name


def _parse_digest(sha256: str, num_bytes: int) -> FileDigest:
    if not SHA256.fullmatch(sha256) or not isinstance(num_bytes, int) or not 0 <= num_bytes <= MAX_FILE_BYTES:
        raise ValueError(sha256, num_bytes)
    return FileDigest(sha256=sha256, num_bytes=num_bytes)


def _parse_origin(source: object, revision: object) -> dict[str, str | None]:
    if not isinstance(source, str | None) or not isinstance(revision, str | None):
        raise TypeError(source, revision)
    return {"source": source, "revision": revision}


def _adopt(folder: Path, kept: Fingerprint, found: Mapping[str, FileDigest]) -> None:
    """Stores `found` in place of `kept`. Raises WeightsMismatch if the files were fetched, so must not change."""
    differences = _differences(kept.files, found)
    if kept.source is not None:
        raise WeightsMismatch(
            f"{folder}/{differences[0]}; it must be as it came from {kept.source}: run `lynx-batch models check {folder}`"
        )
    log.warning("weights_changed", folder=str(folder), differences=differences, effect="clips get new names")
    _store_if_possible(folder, Fingerprint(files=found))


def _store_if_possible(folder: Path, fingerprint: Fingerprint) -> None:
    with suppress(OSError):  # a read-only or full disk; the fingerprint is valid without being stored
        write_fingerprint(folder, fingerprint)


def _differences(expected: Mapping[str, FileDigest], found: Mapping[str, FileDigest]) -> list[str]:
    """One line for each file that differs."""
    return [
        _difference(path, expected.get(path), found.get(path))
        for path in sorted(expected.keys() | found.keys())
        if expected.get(path) != found.get(path)
    ]


def _difference(path: str, expected: FileDigest | None, found: FileDigest | None) -> str:
    if found is None:
        return f"{path}: is missing"
    if expected is None:
        return f"{path}: is surplus"
    if expected.num_bytes != found.num_bytes:
        return f"{path}: expected {expected.num_bytes} bytes, found {found.num_bytes}"
    return f"{path}: expected sha256 {expected.sha256}, found {found.sha256}"
