"""Which weights a folder holds, in one value that is computed once and kept beside them; free of torch.

A fingerprint is the sha256 of the lines that `sha256sum` would print for the folder's weight files in the order of
their paths. Only files that can change a picture count: weights, configurations and tokenizers.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from lynx_model.errors import MissingFile, WeightsMismatch

FINGERPRINT_FILE = "lynx-fingerprint.json"
SCHEMA_VERSION = 1

WEIGHT_SUFFIXES = frozenset({".json", ".model", ".onnx", ".pth", ".safetensors"})
HASHING_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDigest:
    sha256: str
    num_bytes: int


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
    """The fingerprint of the weights in a folder: the kept one, else hashes them (2 GB/s per core) and keeps it.

    Raises:
        MissingFile: If there is no such folder, or no weights in it.
        WeightsMismatch: If the kept fingerprint does not fit the names and sizes of the files, or what was written after it.
    """
    kept = read_fingerprint(folder)
    if kept is None:
        fingerprint = Fingerprint(files=hash_folder(folder))
        with suppress(OSError):  # a read-only or full disk: the fingerprint is as good without being kept
            keep_fingerprint(folder, fingerprint)
        return fingerprint.value
    files = weight_files(folder)
    check_sizes(folder, kept, {path: file.stat().st_size for path, file in files.items()})
    _check_newer(folder, kept, files)
    return kept.value


def fingerprint_file(file: Path) -> str:
    """The sha256 of a single weight file: the one kept for its folder, else computed.

    Raises:
        MissingFile: If there is no such file.
        WeightsMismatch: If the kept fingerprint does not fit its size.
    """
    if not file.is_file():
        raise MissingFile(f"{file}: no such file")
    kept = read_fingerprint(file.parent)
    if kept is None or file.name not in kept.files:
        return hash_file(file).sha256
    check_sizes(file.parent, Fingerprint(files={file.name: kept.files[file.name]}), {file.name: file.stat().st_size})
    return kept.files[file.name].sha256


def verify_folder(folder: Path) -> list[str]:
    """Hashes every file anew and says, a line each, what differs from the kept fingerprint; empty if nothing does.

    Raises:
        MissingFile: If no fingerprint is kept.
    """
    kept = read_fingerprint(folder)
    if kept is None:
        raise MissingFile(f"{folder / FINGERPRINT_FILE}: no such file")
    found = hash_folder(folder)
    return [
        _difference(path, kept.files.get(path), found.get(path))
        for path in sorted(kept.files.keys() | found.keys())
        if kept.files.get(path) != found.get(path)
    ]


def read_fingerprint(folder: Path) -> Fingerprint | None:
    """The fingerprint kept in a folder, if there is one. Raises WeightsMismatch if it cannot be understood."""
    file = folder / FINGERPRINT_FILE
    try:
        return parse_fingerprint(file.read_bytes(), source=str(file))
    except (FileNotFoundError, NotADirectoryError):
        return None


def parse_fingerprint(text: bytes, *, source: str) -> Fingerprint:
    """A kept fingerprint from its JSON. Raises WeightsMismatch, naming `source`, if it cannot be understood."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise WeightsMismatch(f"{source}: not JSON: {error}") from error
    try:
        files = {path: FileDigest(**digest) for path, digest in content["files"].items()}
        fingerprint = Fingerprint(files=files, source=content["source"], revision=content["revision"])
        is_whole = (content["schema_version"], content["fingerprint"]) == (SCHEMA_VERSION, fingerprint.value)
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsMismatch(f"{source}: must hold schema_version, fingerprint, files, source and revision") from error
    if not is_whole:
        raise WeightsMismatch(
            f"{source}: must be of schema version {SCHEMA_VERSION}, its fingerprint that of its files"
        )
    return fingerprint


def keep_fingerprint(folder: Path, fingerprint: Fingerprint) -> None:
    """Writes a fingerprint beside its files; all or nothing, as other processes may do the same meanwhile."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": fingerprint.value,
        "source": fingerprint.source,
        "revision": fingerprint.revision,
        "files": {path: asdict(digest) for path, digest in sorted(fingerprint.files.items())},
    }
    staged = folder / f".{FINGERPRINT_FILE}-{os.getpid()}"
    try:
        staged.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        staged.replace(folder / FINGERPRINT_FILE)
    finally:
        staged.unlink(missing_ok=True)


def check_sizes(folder: Path, kept: Fingerprint, sizes: Mapping[str, int]) -> None:
    """Raises WeightsMismatch unless the files of `kept` are those of `sizes` (bytes by path)."""
    for path in sorted(kept.files.keys() | sizes.keys()):
        expected = f"{kept.files[path].num_bytes} bytes" if path in kept.files else "no such file"
        found = f"{sizes[path]} bytes" if path in sizes else "no such file"
        if expected != found:
            raise WeightsMismatch(
                f"{folder / path}: expected {expected} as {FINGERPRINT_FILE} says, found {found}; "
                f"run `lynx-batch models check {folder}`"
            )


def weight_files(folder: Path) -> dict[str, Path]:
    """The files of a folder that can change a picture, by relative path. Raises MissingFile if there are none."""
    files = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            file = Path(parent, name)
            if file.suffix in WEIGHT_SUFFIXES and not name.startswith(".") and name != FINGERPRINT_FILE:
                files[file.relative_to(folder).as_posix()] = file
    if not files:
        raise MissingFile(f"{folder}: must be a folder that holds weights")
    return files


def _check_newer(folder: Path, kept: Fingerprint, files: Mapping[str, Path]) -> None:
    """Hashes what was written after the fingerprint: an adapter that was trained once more has the size of the old one."""
    own = folder / FINGERPRINT_FILE
    written_ns = own.stat().st_mtime_ns
    newer = {path: file for path, file in files.items() if file.stat().st_mtime_ns > written_ns}
    for path, digest in _hash(newer).items():
        if digest != kept.files[path]:
            raise WeightsMismatch(
                f"{folder / path}: changed since {own} was written; remove that file if this was meant"
            )
    if newer:
        with suppress(OSError):
            os.utime(own)


def hash_folder(folder: Path) -> dict[str, FileDigest]:
    """Size and hash of every weight file."""
    return _hash(weight_files(folder))


def _hash(files: Mapping[str, Path]) -> dict[str, FileDigest]:
    """Several at a time."""
    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        return dict(zip(files, threads.map(hash_file, files.values()), strict=True))


def hash_file(file: Path) -> FileDigest:
    with file.open("rb") as content:
        return FileDigest(sha256=hashlib.file_digest(content, "sha256").hexdigest(), num_bytes=content.tell())


def _difference(path: str, expected: FileDigest | None, found: FileDigest | None) -> str:
    if found is None:
        return f"{path}: is missing"
    if expected is None:
        return f"{path}: is surplus"
    if expected.num_bytes != found.num_bytes:
        return f"{path}: expected {expected.num_bytes} bytes, found {found.num_bytes}"
    return f"{path}: expected sha256 {expected.sha256}, found {found.sha256}"
