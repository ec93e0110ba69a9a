"""Packs a submitted job: its run file, and the manifest and photos that are on this machine.

A photo is packed only after it was decoded as a picture, so a row cannot make any other file travel. Every other path must be
inside a folder of `cluster.shared_paths`. A run on several machines that was not submitted refuses photos outside of these folders, too,
because nothing travels with it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from os.path import normpath
from pathlib import Path

import pyarrow as pa

from lynx_batch import storage
from lynx_batch.clip import ClipRequest, Rejection
from lynx_batch.config import InputsConfig, RunConfig, named_paths
from lynx_batch.errors import ConfigError
from lynx_batch.inputs import read_photo_file
from lynx_batch.intake.check import check_rows, find_duplicates, keys_of_requests
from lynx_batch.intake.consent import reject_revoked_requests, reject_without_consent
from lynx_batch.intake.manifest import folder_of, hash_manifest, read_manifest, write_manifest
from lynx_batch.intake.photos import hash_photos
from lynx_batch.intake.problems import RowProblem
from lynx_batch.intake.schema import ROW
from lynx_batch.intake.texts import warn_of_long_texts
from lynx_batch.ledger.runs import new_run_id
from lynx_batch.planning.revocation import Kind
from lynx_batch.preparation.approval import check_approved, require_files, settings_of
from lynx_batch.preparation.budget import require_prices
from lynx_batch.preparation.consent import read_rules, read_tombstones
from lynx_batch.preparation.marks import check_marks
from lynx_batch.preparation.model import check_model
from lynx_batch.preparation.origin import ORIGIN_FILE
from lynx_batch.preparation.prepare import describe_problems, fit_to_base, origin_of
from lynx_batch.preparation.scorers import check_scorers
from lynx_batch.preparation.selection import Selection
from lynx_batch.preparation.staging import inspect_weights
from lynx_batch.preparation.step_cache import with_file
from lynx_batch.printable import counted
from lynx_model.errors import LynxError, MissingFile
from lynx_model.faces.photo import read_photo

RUN_FILE, MANIFEST_FILE = "run.yaml", "manifest.parquet"
MAX_FAULTS_SHOWN = 20

MAX_PACKAGE_BYTES = 90 * 2**20
"""A cluster takes 100 MiB a job. Source: ray 2.60.0, _private/ray_constants.py, DASHBOARD_CLIENT_MAX_SIZE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A job: a folder of files, the command to run in it, and the metadata to record with it.

    `rejections` are the rows that it will reject because of their consent, as far as that can be seen from here.
    """

    run_id: str
    folder: Path
    command: list[str]
    metadata: dict[str, str]
    rejections: list[Rejection]


def pack(config: RunConfig, selection: Selection, folder: Path, *, is_unsafe_allowed: bool = False) -> Package:
    """Writes into `folder` a run file that means on the cluster what `config` means here, and the files that it needs.

    Raises:
        ConfigError: If `render` would refuse the rows, something must be approved first, the cluster may not have a path, or the photos are
            too large to travel.
        InvalidParams, WeightsMismatch, EncoderMismatch, MissingObject: If the model can be read from here and is unfit.
    """
    now = datetime.now(UTC)
    require_prices(config)
    refuse_private_paths(config)
    engine = with_file(config.engine)
    manifest = read_manifest(config.manifest, selection.where, selection.limit)
    requests = _check_rows(config, manifest, selection)
    requests, rejections = _check_consents(config, requests, selection, now)
    with suppress(MissingFile):  # the cluster may have what this machine lacks; it is checked there
        check_marks(config.provenance, {(r.params.width, r.params.height) for r in requests})
    with suppress(MissingFile):
        model = check_model(config)
        engine = model.engine
        require_files(config)
        check_approved(config, settings_of(config, model), requests)
    with suppress(MissingFile):
        check_scorers(config.quality)
    run_id, run_file = new_run_id(now), folder / RUN_FILE
    there = _localise(config.model_copy(update={"engine": engine}), requests, folder)
    run_file.write_bytes(there.to_yaml())
    metadata = {
        "run_id": run_id,
        "output": storage.redact(config.output),
        "manifest_sha256": hash_manifest(config.manifest),
    }
    command = [
        *_command(run_file.name, run_id, selection),
        *(["--unsafe-commit"] if is_unsafe_allowed else []),
        *(["--origin", ORIGIN_FILE] if there.manifest != config.manifest else []),
    ]
    return Package(run_id=run_id, folder=folder, command=command, metadata=metadata, rejections=rejections)


def _command(run_file: str, run_id: str, selection: Selection) -> list[str]:
    options = {"--run-id": run_id, "--where": selection.where, "--limit": selection.limit}
    flags = {
        "--allow-invalid": selection.allow_invalid,
        "--allow-duplicates": selection.allow_duplicates,
        "--allow-missing-consent": selection.allow_missing_consent,
    }
    return [
        *("lynx-batch", "render", run_file),
        *(part for option, value in options.items() if value is not None for part in (option, str(value))),
        *(flag for flag, is_set in flags.items() if is_set),
    ]


def _localise(config: RunConfig, requests: list[ClipRequest], folder: Path) -> RunConfig:
    """`config` for the cluster. Puts the whole manifest and the photos of `requests` into `folder` if any of them must travel."""
    shared_paths = (*config.cluster.shared_paths, ".")  # what travels has the same path on every node
    cluster = config.cluster.model_copy(update={"address": "auto", "shared_paths": shared_paths})
    changes: dict[str, object] = {"cluster": cluster}
    photos = {uri: path for uri in _private_photos(requests, config) if (path := storage.path_of(uri)) is not None}
    if photos or _is_private(config.manifest, config):
        _check_size(config.manifest, set(photos.values()))
        write_manifest(read_manifest(config.manifest).drop_columns([ROW]), str(folder / MANIFEST_FILE))
        origin = origin_of(config).model_copy(update={"photos": _pack_photos(photos, config.inputs, folder)})
        (folder / ORIGIN_FILE).write_text(origin.model_dump_json(), encoding="utf-8")
        changes["manifest"] = MANIFEST_FILE
        changes["inputs"] = config.inputs.model_copy(update={"allow": (*config.inputs.allow, ".")})
    return config.model_copy(update=changes)


def _is_private(uri: str, config: RunConfig) -> bool:
    """Whether `uri` is a file of this machine that other machines of the cluster may not have."""
    path = storage.path_of(uri)
    if path is None:
        return False
    return not any(Path(normpath(path)).is_relative_to(folder) for folder in config.cluster.shared_paths)


def _private_photos(requests: Iterable[ClipRequest], config: RunConfig) -> list[str]:
    distinct = dict.fromkeys(uri for request in requests for uri in request.subject_uris)
    return [uri for uri in distinct if _is_private(uri, config)]


def refuse_private_paths(config: RunConfig, photos: Iterable[str] = ()) -> None:
    """Raises ConfigError if the run file or `photos` name files that other machines of the cluster may not have."""
    rule = (
        "the cluster may not have it; use a bucket, or a folder that all nodes have and that cluster.shared_paths names"
    )
    named = chain(named_paths(config), (("subject_uri", photo) for photo in photos))
    faults = [f"{key}={uri!r}: {rule}" for key, uri in named if _is_private(uri, config)]
    if faults:
        more = [f"... and {len(faults) - MAX_FAULTS_SHOWN} more"] if len(faults) > MAX_FAULTS_SHOWN else []
        raise ConfigError("\n  ".join(["the run names files of this machine:", *faults[:MAX_FAULTS_SHOWN], *more]))


def _check_rows(config: RunConfig, manifest: pa.Table, selection: Selection) -> list[ClipRequest]:
    """The requests of the good rows. Raises ConfigError for bad rows, unless `selection` allows them."""
    requests, problems = check_rows(manifest, config.defaults, config.inputs, folder_of(config.manifest))
    private = _private_photos(requests, config)
    faults = {uri: rule for uri in private if (rule := _explain_picture(uri, config.inputs)) is not None}
    problems += [
        RowProblem(row=request.row, column=request.photo_column, value=uri, rule=faults[uri])
        for request in requests
        for uri in request.subject_uris
        if uri in faults
    ]
    try:
        base = inspect_weights(config.model.base).path
        _, unfit, _ = fit_to_base(base, config.defaults, requests)
        problems += unfit
    except MissingFile:  # the cluster may have what this machine lacks; it is checked there
        warn_of_long_texts(requests)
    if not selection.allow_duplicates:
        problems += find_duplicates(keys_of_requests(requests))
    if problems and not selection.allow_invalid:
        raise ConfigError(describe_problems(problems))
    bad_rows = {problem.row for problem in problems}
    return [request for request in requests if request.row not in bad_rows]


def _check_consents(
    config: RunConfig, requests: list[ClipRequest], selection: Selection, now: datetime
) -> tuple[list[ClipRequest], list[Rejection]]:
    """The requests with a valid consent, and the rejections of the others. Of photos that do not travel, the hash is unknown here."""
    rules = read_rules(config, selection, read_tombstones(config.output))
    requests, rejections = reject_without_consent(requests, rules, now)
    if any(key.kind is Kind.PHOTO_SHA256 for key in rules.revoked):
        hashed = hash_photos(_private_photos(requests, config), config.inputs)
        known = {uri: photo for uri, photo in hashed.items() if isinstance(photo, str)}
        requests, revoked = reject_revoked_requests(requests, known, rules.revoked)
        rejections += revoked
    return requests, rejections


def _explain_picture(uri: str, inputs: InputsConfig) -> str | None:
    try:
        _read_picture(uri, inputs)
    except LynxError as error:
        return f"must be a photo on this machine: {error}"
    return None


def _read_picture(uri: str, inputs: InputsConfig) -> bytes:
    """The bytes of a photo that decodes. Raises LynxError if it does not, or if `inputs` does not allow it."""
    content = read_photo_file(uri, inputs)
    read_photo(content)
    return content


def _check_size(manifest: str, photos: set[Path]) -> None:
    num_bytes = sum(file.num_bytes for file in storage.list_files(manifest)) + sum(p.stat().st_size for p in photos)
    if num_bytes > MAX_PACKAGE_BYTES:
        raise ConfigError(
            f"manifest={storage.redact(manifest)!r}: with {counted(len(photos), 'photo')} of this machine it has "
            f"{num_bytes / 2**20:.0f} MiB, but a job takes at most {MAX_PACKAGE_BYTES // 2**20}; use a bucket"
        )


def _pack_photos(photos: Mapping[str, Path], inputs: InputsConfig, folder: Path) -> dict[str, str]:
    """Copies each photo into `folder`. Returns the path in it for each URI."""
    (folder / "photos").mkdir()
    return {uri: _pack_photo(photo, inputs, folder) for uri, photo in photos.items()}


def _pack_photo(photo: Path, inputs: InputsConfig, folder: Path) -> str:
    content = _read_picture(str(photo), inputs)
    name = f"photos/{hashlib.sha256(content).hexdigest()}{photo.suffix}"
    (folder / name).write_bytes(content)
    return name
