"""Which weights a folder holds, in one value that is kept beside them; free of torch.

A fingerprint is the sha256 of the lines that `sha256sum` would print for the folder's weight files in the order of
their paths. Only files that can change a picture count: weights, configurations and tokenizers.

The kept fingerprint travels with the folder, so it says what the files should be, never that they still are: that is told by
their content, or by what this machine remembers of it (`lynx_model.checkpoints.digests`).
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
    """The files of a folder, by POSIX path relative to it, and where they came from, if that is known."""

    files: Mapping[str, FileDigest]
    source: str | None = None
    revision: str | None = None

    @property
    def value(self) -> str:
        lines = "".join(f"{digest.sha256}  {path}\n" for path, digest in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


def fingerprint_folder(folder: Path) -> str:
    """The fingerprint of the weights in a folder, which is kept beside them. Hashes what this machine does not know yet.

    Files that differ from the kept fingerprint are refused if it says where they came from. Else they are somebody's own,
    trained or edited once more: a warning says so, and theirs is the new fingerprint.

    Raises:
        MissingFile: If there is no such folder, no weights in it, or a file that cannot be read.
        WeightsMismatch: If the files are not those that were fetched, or the kept fingerprint cannot be understood.
    """
    kept = read_fingerprint(folder)
    found = digest_files(folder, weight_files(folder))
    if kept is None:
        _keep_if_possible(folder, Fingerprint(files=found))
    elif kept.files != found:
        _adopt(folder, kept, found)
    return Fingerprint(files=found).value


def fingerprint_file(file: Path) -> str:
    """The sha256 of a single weight file. If its folder keeps a fingerprint that lists it, as `fingerprint_folder`.

    Raises:
        MissingFile: If there is no such file.
        WeightsMismatch: If it is not the one that was fetched.
    """
    if not file.is_file():
        raise MissingFile(f"{file}: no such file")
    kept = read_fingerprint(file.parent)
    found = digest_files(file.parent, [file.name])
    if kept is not None and file.name in kept.files and kept.files[file.name] != found[file.name]:
        _adopt(file.parent, kept, {**kept.files, **found})
    return found[file.name].sha256


def verify_folder(folder: Path) -> list[str]:
    """Hashes every file anew and says, a line each, what differs from the kept fingerprint; empty if nothing does.

    Raises:
        MissingFile: If no fingerprint is kept.
    """
    kept = read_fingerprint(folder)
    if kept is None:
        raise MissingFile(f"{folder / FINGERPRINT_FILE}: no such file")
    return _differences(kept.files, hash_files(folder, weight_files(folder)))


def is_as_recorded(folder: Path, kept: Fingerprint) -> bool:
    """Whether the files of `kept` are in `folder`, with their content; what else is there does not matter."""
    try:
        return digest_files(folder, list(kept.files)) == kept.files
    except MissingFile:
        return False


def read_fingerprint(folder: Path) -> Fingerprint | None:
    """The fingerprint kept in a folder, if there is one. Raises WeightsMismatch if it cannot be understood."""
    file = folder / FINGERPRINT_FILE
    try:
        return parse_fingerprint(file.read_bytes(), source=str(file))
    except (FileNotFoundError, NotADirectoryError):
        return None


def parse_fingerprint(text: bytes, *, source: str) -> Fingerprint:
    """A kept fingerprint from its JSON; every name in it stays below the folder.

    Raises:
        WeightsMismatch: Naming `source`, if it cannot be understood or names what can be no weights of a folder.
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
            raise WeightsMismatch(f"{source}: file name {path!r}: must end in one of {endings}, and nothing be hidden")
    fingerprint = Fingerprint(files=files, **origin)
    if (version, value) != (SCHEMA_VERSION, fingerprint.value):
        raise WeightsMismatch(
            f"{source}: must be of schema version {SCHEMA_VERSION}, its fingerprint that of its files"
        )
    return fingerprint


def keep_fingerprint(folder: Path, fingerprint: Fingerprint) -> None:
    """Writes a fingerprint beside its files."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": fingerprint.value,
        "source": fingerprint.source,
        "revision": fingerprint.revision,
        "files": {path: asdict(digest) for path, digest in sorted(fingerprint.files.items())},
    }
    replace_json(folder / FINGERPRINT_FILE, content)


def weight_files(folder: Path) -> list[str]:
    """The names of the files in a folder that can change a picture, also below symbolic links.

    Raises:
        MissingFile: If there are none.
        WeightsMismatch: If one has a name that another machine could not give it.
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
    """Whether the file of that name is one of a folder's weights: by its ending, and if nothing in its path is hidden."""
    path = PurePosixPath(name)
    is_hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix in WEIGHT_SUFFIXES and path.name != FINGERPRINT_FILE and not is_hidden


def _walk(folder: Path, parent: str, above: frozenset[Path]) -> Iterator[str]:
    """Every file below `folder`; `above` are the folders on the way there, which a symbolic link may lead back to."""
    place = folder.resolve()
    if place in above:
        return
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _walk(folder / entry.name, f"{parent}{entry.name}/", above | {place})
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
    """Keeps `found` in place of `kept`. Raises WeightsMismatch if what is in the folder was fetched and must not change."""
    differences = _differences(kept.files, found)
    if kept.source is not None:
        raise WeightsMismatch(
            f"{folder}/{differences[0]}; it must be as it came from {kept.source}: run `lynx-batch models check {folder}`"
        )
    log.warning("weights_changed", folder=str(folder), differences=differences, effect="clips get new names")
    _keep_if_possible(folder, Fingerprint(files=found))


def _keep_if_possible(folder: Path, fingerprint: Fingerprint) -> None:
    with suppress(OSError):  # a read-only or full disk: the fingerprint is as good without being kept
        keep_fingerprint(folder, fingerprint)


def _differences(expected: Mapping[str, FileDigest], found: Mapping[str, FileDigest]) -> list[str]:
    """A line for each file that differs."""
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
