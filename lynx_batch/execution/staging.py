"""Weights that lie in a store, brought to this machine: whole for whoever renders, as outlines for whoever only checks.

A folder of a store must hold its `lynx-fingerprint.json`, and is kept by that fingerprint below the user's cache folder
(`XDG_CACHE_HOME` moves it): it is fetched once, however many workers, runs and URIs ask for it.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs
import structlog

from lynx_batch import storage
from lynx_batch.config import FacesConfig, ModelConfig, RunConfig
from lynx_batch.errors import ConfigError, MissingObject, Transient
from lynx_batch.execution.tasks import WorkerSettings
from lynx_model.errors import WeightsMismatch
from lynx_model.faces.identity import ARCFACE_HEAD_BYTES
from lynx_model.fingerprint import (
    FINGERPRINT_FILE,
    WEIGHT_SUFFIXES,
    FileDigest,
    Fingerprint,
    hash_file,
    keep_fingerprint,
    parse_fingerprint,
)
from lynx_model.headers import LENGTH_BYTES
from lynx_model.spec import REF_FILE, ModelSource

log = structlog.get_logger()

NUM_PARALLEL_FILES = 8

Fetch = Callable[[str], str]
"""The path on this machine of weights at a URI; a path stays as it is."""


def find_model(model: ModelConfig) -> ModelSource:
    """Where the weights of `model` lie, be it here or in a store."""
    source, folder = model.source, model.adapters
    if isinstance(folder, str) and not storage.is_local(folder) and storage.stat(storage.join(folder, REF_FILE)):
        return replace(source, ref_adapter=folder)
    return source


def brought(model: ModelSource, faces: FacesConfig, fetch: Fetch) -> tuple[ModelSource, FacesConfig]:
    """The same weights, on this machine."""
    local_model = replace(
        model,
        base=fetch(model.base),
        id_adapter=fetch(model.id_adapter),
        ref_adapter=fetch(model.ref_adapter) if model.ref_adapter else None,
        loras=tuple(replace(lora, file=fetch(lora.file)) for lora in model.loras),
    )
    return local_model, faces.model_copy(update={"pack": fetch(faces.pack), "identity": fetch(faces.identity)})


def outlined(config: RunConfig) -> tuple[ModelSource, FacesConfig]:
    """The weights of a run, as outlines where they lie in a store; raises as `outline` does."""
    return brought(find_model(config.model), config.faces, outline)


def with_staged_weights(settings: WorkerSettings) -> WorkerSettings:
    """`settings` whose weights are on this machine, all of them."""
    model, faces = brought(settings.model, settings.faces, stage)
    return replace(settings, model=model, faces=faces)


def stage(uri: str) -> str:
    """A folder of weights, or one file of it, copied to this machine. Blocks while another process copies the same.

    Raises:
        MissingObject: If the folder, or its fingerprint, is not there.
        WeightsMismatch: If the folder does not hold what its fingerprint says.
        Transient: If the store fails or the disk is too small; another call goes on with the files that are missing.
    """
    return _fetch(uri, "weights", _copy_all)


def outline(uri: str) -> str:
    """As `stage`, but a few megabytes instead of gigabytes: enough to check and fingerprint weights, not to load them.

    Files have their names and sizes; JSON is whole, safetensors files have their header, PyTorch's the names of their tensors,
    and the rest is a hole.
    """
    return _fetch(uri, "outlines", _sketch_all)


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoredWeights:
    """Files of a folder in a store. `file` is the one that was asked for, empty if it was the folder."""

    folder: str
    fingerprint: Fingerprint
    file: str = ""


def _fetch(uri: str, kind: str, fill: Callable[[Path, _StoredWeights], None]) -> str:
    if storage.is_local(uri):
        return uri
    weights = _find(uri)
    home = platformdirs.user_cache_path("lynx-batch") / kind / weights.fingerprint.value
    folder, partial = home / Path(weights.folder).name, home / ".partial"
    with _locked(home):
        if not folder.is_dir():
            started_s = time.perf_counter()
            partial.mkdir(exist_ok=True)
            fill(partial, weights)
            keep_fingerprint(partial, weights.fingerprint)
            partial.rename(folder)
            seconds = round(time.perf_counter() - started_s, 2)
            log.info("weights_fetched", uri=storage.redact(uri), kind=kind, seconds=seconds)
    return str(folder / weights.file)


def _find(uri: str) -> _StoredWeights:
    folder, _, name = uri.rstrip("/").rpartition("/")
    is_file = Path(name).suffix in WEIGHT_SUFFIXES
    weights = _read(folder if is_file else uri.rstrip("/"))
    if not is_file:
        return weights
    if name not in weights.fingerprint.files:
        raise ConfigError(f"{storage.redact(uri)}: must be listed in the {FINGERPRINT_FILE} of its folder")
    return replace(weights, file=name, fingerprint=Fingerprint(files={name: weights.fingerprint.files[name]}))


def _read(folder: str) -> _StoredWeights:
    kept = storage.join(folder, FINGERPRINT_FILE)
    try:
        text = storage.read_bytes(kept)
    except MissingObject as error:
        advice = "`lynx-batch models check FOLDER` makes it: do that first, then copy the folder to the store"
        raise MissingObject(f"{error}; {advice}") from error
    return _StoredWeights(folder=folder, fingerprint=parse_fingerprint(text, source=storage.redact(kept)))


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process that holds it, however it ends."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _copy_all(folder: Path, weights: _StoredWeights) -> None:
    sizes = {path: digest.num_bytes for path, digest in weights.fingerprint.files.items()}
    needed_bytes = sum(num_bytes for path, num_bytes in sizes.items() if not (folder / path).exists())
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise Transient(
            f"{folder.parent}: needs {needed_bytes / 1e9:.1f} GB for {storage.redact(weights.folder)}, "
            f"its disk has {free_bytes / 1e9:.1f} GB left"
        )
    _fill(folder, weights, _copy)


def _sketch_all(folder: Path, weights: _StoredWeights) -> None:
    _fill(folder, weights, _sketch)


def _fill(folder: Path, weights: _StoredWeights, bring: Callable[[str, Path, FileDigest], None]) -> None:
    """Brings every file that is not there yet, many at once. A file gets its name only when it is complete."""

    def bring_in(path: str) -> None:
        file = folder / path
        if file.exists():
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.part")
        bring(storage.join(weights.folder, path), part, weights.fingerprint.files[path])
        part.rename(file)

    with ThreadPoolExecutor(NUM_PARALLEL_FILES, thread_name_prefix="staging") as pool:
        for _ in pool.map(bring_in, weights.fingerprint.files):
            pass


def _copy(uri: str, file: Path, digest: FileDigest) -> None:
    storage.download(uri, file)
    if hash_file(file) != digest:
        raise WeightsMismatch(f"{storage.redact(uri)}: must have size and sha256 as {FINGERPRINT_FILE} says")


def _sketch(uri: str, file: Path, digest: FileDigest) -> None:
    stored = storage.stat(uri)
    if stored is None or stored.num_bytes != digest.num_bytes:
        found = f"{stored.num_bytes} bytes" if stored else "no such file"
        raise WeightsMismatch(f"{storage.redact(uri)}: expected {digest.num_bytes} bytes, found {found}")
    file.write_bytes(_gist(uri))
    os.truncate(file, digest.num_bytes)


def _gist(uri: str) -> bytes:
    """What of a file tells how it is to be loaded."""
    if uri.endswith(".json"):
        return storage.read_bytes(uri)
    if uri.endswith(".safetensors"):
        num_header_bytes = int.from_bytes(storage.read_range(uri, 0, LENGTH_BYTES), "little")
        return storage.read_range(uri, 0, LENGTH_BYTES + num_header_bytes)
    if uri.endswith(".pth"):
        return storage.read_range(uri, 0, ARCFACE_HEAD_BYTES)
    return b""
