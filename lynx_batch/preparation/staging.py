"""Copies weights from a store to this machine: all of them to render, or only their headers to check a model.

A folder in a store must hold its `lynx-fingerprint.json`. Its copy lies below the user's cache folder (`XDG_CACHE_HOME` moves it)
under the value of that fingerprint, so it is fetched once, however many workers, runs and URIs ask for it. Each request fetches
again those files that differ from what the fingerprint says.
"""

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import platformdirs
import structlog

from lynx_batch import storage
from lynx_batch.config import FacesConfig
from lynx_batch.errors import ConfigError, MissingObject, StoreUnready, Transient
from lynx_model.checkpoints.digests import FileDigest, digest_files
from lynx_model.checkpoints.fingerprint import (
    FINGERPRINT_FILE,
    WEIGHT_SUFFIXES,
    Fingerprint,
    fingerprint_file,
    fingerprint_folder,
    parse_fingerprint,
    weight_files,
    write_fingerprint,
)
from lynx_model.checkpoints.loras import PEFT_CONFIG_FILE
from lynx_model.checkpoints.names import below
from lynx_model.checkpoints.safetensors_header import LENGTH_BYTES, MAX_HEADER_BYTES
from lynx_model.errors import MissingFile, WeightsMismatch
from lynx_model.faces.identity import ARCFACE_HEAD_BYTES
from lynx_model.spec import ModelSource

log = structlog.get_logger()

NUM_PARALLEL_FILES = 8


@dataclass(frozen=True, slots=True)
class InspectedWeights:
    """Weights whose headers can be read at `path`: the folder or file itself, or a headers-only copy of one in a store."""

    path: str
    _stored: "_StoredWeights | None" = None

    def fingerprint(self, found_at: Path | None = None) -> str:
        """The fingerprint of the whole weights. Those of this machine are hashed, in `found_at` if `path` is only a name.

        Raises:
            MissingFile: If there is nothing, or nothing that can be read.
            WeightsMismatch: If the weights are not what was fetched, or their fingerprint cannot be understood.
        """
        if self._stored is not None:
            stored = self._stored
            return stored.fingerprint.files[stored.file].sha256 if stored.file else stored.fingerprint.value
        path = found_at or Path(self.path)
        return fingerprint_file(path) if path.is_file() else fingerprint_folder(path)


def fetch_model(model: ModelSource, faces: FacesConfig) -> tuple[ModelSource, FacesConfig]:
    """The same weights on this machine, all of them. Raises as `fetch_weights` does."""
    fetched = {uri: fetch_weights(uri) for uri in (*model.parts, faces.pack, faces.identity)}
    local_faces = faces.model_copy(update={"pack": fetched[faces.pack], "identity": fetched[faces.identity]})
    return model.moved(fetched), local_faces


def fetch_weights(uri: str) -> str:
    """Copies a folder of weights, or one file of it, to this machine and gives its path. A path stays as it is.

    Blocks while another process copies the same weights.

    Raises:
        MissingObject: If the folder, or its fingerprint, does not exist.
        WeightsMismatch: If the folder does not hold what its fingerprint says.
        Transient: If the store fails or the disk is too small. The next call fetches only the files that are still missing.
    """
    return uri if storage.is_local(uri) else _fetch(_find(uri), "weights", _copy_all)


def inspect_weights(uri: str) -> InspectedWeights:
    """As `fetch_weights`, but a headers-only copy: megabytes instead of gigabytes, enough to check and fingerprint weights.

    Every file has its name and its size. JSON files are whole, safetensors files have their headers, PyTorch files the names
    of their tensors, and the rest is a hole.
    """
    if storage.is_local(uri):
        return InspectedWeights(uri)
    stored = _find(uri)
    return InspectedWeights(_fetch(stored, "headers", _copy_all_headers), stored)


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoredWeights:
    """Files of a folder in a store. `file` is the requested file; empty means the whole folder."""

    folder: str
    fingerprint: Fingerprint
    file: str = ""


def _fetch(weights: _StoredWeights, kind: str, fill: Callable[[Path, _StoredWeights], bool]) -> str:
    shown = storage.redact(weights.folder)
    home = platformdirs.user_cache_path("lynx-batch") / kind / weights.fingerprint.value
    with _locked(home):
        folder = below(home, PurePosixPath(weights.folder).name, source=shown)
        folder.mkdir(exist_ok=True)
        started_s = time.perf_counter()
        if fill(folder, weights):
            write_fingerprint(folder, weights.fingerprint)
            seconds = round(time.perf_counter() - started_s, 2)
            log.info("weights_fetched", uri=shown, kind=kind, seconds=seconds)
    return str(folder / weights.file)


def _find(uri: str) -> _StoredWeights:
    folder, _, name = uri.rstrip("/").rpartition("/")
    is_file = Path(name).suffix in WEIGHT_SUFFIXES
    weights = _read(folder if is_file else uri.rstrip("/"))
    if not is_file:
        return weights
    if name not in weights.fingerprint.files:
        raise ConfigError(f"{storage.redact(uri)}: must be listed in the {FINGERPRINT_FILE} of its folder")
    files = weights.fingerprint.files
    needed = {path: files[path] for path in (name, PEFT_CONFIG_FILE) if path in files}
    return replace(weights, file=name, fingerprint=Fingerprint(files=needed))


def _read(folder: str) -> _StoredWeights:
    kept = storage.join(folder, FINGERPRINT_FILE)
    try:
        text = storage.read_bytes(kept)
    except MissingObject as error:
        advice = "run `lynx-batch models check FOLDER` to make it, then copy the folder to the store again"
        raise MissingObject(f"{error}; {advice}") from error
    return _StoredWeights(folder=folder, fingerprint=parse_fingerprint(text, source=storage.redact(kept)))


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Lets one process in at a time. The lock ends with the process that holds it, however that ends."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _copy_all(folder: Path, weights: _StoredWeights) -> bool:
    """Makes `folder` hold exactly the files of `weights`. Returns whether anything was fetched."""
    missing = _remove_others(folder, weights, _find_copies(folder, weights.fingerprint.files))
    needed_bytes = sum(weights.fingerprint.files[path].num_bytes for path in missing)
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise Transient(
            f"{folder.parent}: needs {needed_bytes / 1e9:.1f} GB for {storage.redact(weights.folder)}, "
            f"its disk has {free_bytes / 1e9:.1f} GB left"
        )
    _bring(folder, weights, missing, lambda uri, file, _: _download(uri, file))
    for path in missing - _find_copies(folder, weights.fingerprint.files):
        uri = storage.redact(storage.join(weights.folder, path))
        raise WeightsMismatch(f"{uri}: must have size and sha256 as {FINGERPRINT_FILE} says")
    return bool(missing)


def _download(uri: str, file: Path) -> None:
    """Raises Transient if the disk of this node is full, which another node may not have."""
    try:
        storage.download(uri, file)
    except StoreUnready as error:
        if getattr(error.__context__, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise Transient(f"{file.parent}: its disk has no room for {storage.redact(uri)}") from error
        raise


def _copy_all_headers(folder: Path, weights: _StoredWeights) -> bool:
    """As `_copy_all`, with headers-only copies."""
    missing = _remove_others(folder, weights, _find_header_copies(folder, weights.fingerprint.files))
    _bring(folder, weights, missing, _copy_headers)
    return bool(missing)


def _find_copies(folder: Path, digests: Mapping[str, FileDigest]) -> set[str]:
    """The files of `digests` whose content is in `folder`."""
    found = digest_files(folder, [path for path in digests if (folder / path).is_file()])
    return {path for path, digest in found.items() if digest == digests[path]}


def _find_header_copies(folder: Path, digests: Mapping[str, FileDigest]) -> set[str]:
    """The files of `digests` that have a headers-only copy in `folder`: JSON files by content, others by size."""
    whole = {path: digest for path, digest in digests.items() if path.endswith(".json")}
    others = {path: folder / path for path in digests if path not in whole}
    return _find_copies(folder, whole) | {
        path for path, file in others.items() if file.is_file() and file.stat().st_size == digests[path].num_bytes
    }


def _remove_others(folder: Path, weights: _StoredWeights, good: set[str]) -> set[str]:
    """Removes all weights in `folder` except the `good` ones. Returns the files of `weights` that are still missing."""
    with suppress(MissingFile):
        for path in set(weight_files(folder)) - good:
            below(folder, path, source=str(folder)).unlink()
    return weights.fingerprint.files.keys() - good


def _bring(
    folder: Path, weights: _StoredWeights, paths: set[str], bring: Callable[[str, Path, FileDigest], None]
) -> None:
    """Calls `bring` with the URI, the local path and the digest of each file, many at once."""
    source = storage.redact(storage.join(weights.folder, FINGERPRINT_FILE))

    def bring_in(path: str) -> None:
        file = below(folder, path, source=source)
        file.parent.mkdir(parents=True, exist_ok=True)
        bring(storage.join(weights.folder, path), file, weights.fingerprint.files[path])

    with ThreadPoolExecutor(NUM_PARALLEL_FILES, thread_name_prefix="staging") as pool:
        for _ in pool.map(bring_in, sorted(paths)):
            pass


def _copy_headers(uri: str, file: Path, digest: FileDigest) -> None:
    stored = storage.stat(uri)
    if stored is None or stored.num_bytes != digest.num_bytes:
        found = f"{stored.num_bytes} bytes" if stored else "no such file"
        raise WeightsMismatch(f"{storage.redact(uri)}: expected {digest.num_bytes} bytes, found {found}")
    file.write_bytes(_read_headers(uri))
    os.truncate(file, digest.num_bytes)


def _read_headers(uri: str) -> bytes:
    """The part of a file that says how it is loaded."""
    if uri.endswith(".json"):
        return storage.read_bytes(uri)
    if uri.endswith(".safetensors"):
        num_header_bytes = int.from_bytes(storage.read_range(uri, 0, LENGTH_BYTES), "little")
        return storage.read_range(uri, 0, LENGTH_BYTES + min(num_header_bytes, MAX_HEADER_BYTES))
    if uri.endswith(".pth"):
        return storage.read_range(uri, 0, ARCFACE_HEAD_BYTES)
    return b""
