"""Checks and names a single clip, for `one`: its row first, then its photos, and only then the model, whose weights may be hashed."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from lynx_batch.clip import ClipRequest, ClipSpec, Rejection
from lynx_batch.config import RunConfig, override
from lynx_batch.errors import ConfigError, PhotoUnreachable, StoreUnavailable, Transient
from lynx_batch.intake.faces import check_faces_here, find_photo_problems
from lynx_batch.intake.photos import PhotoProblem
from lynx_batch.intake.problems import RowProblem, shorten
from lynx_batch.intake.schema import MANIFEST_SCHEMA, PHOTO_COLUMNS
from lynx_batch.ledger.tombstones import read_revoked
from lynx_batch.preparation.model import CheckedModel
from lynx_batch.preparation.origin import Origin
from lynx_batch.preparation.prepare import check_requests, prepare_requests
from lynx_batch.preparation.selection import Selection
from lynx_batch.preparation.staging import fetch_weights
from lynx_batch.storage import redact
from lynx_model.checkpoints.published import models_root

ARGUMENTS = {
    **dict.fromkeys(PHOTO_COLUMNS, "PHOTO"),
    "prompt": "PROMPT",
    "face_index": "--face-index",
    "consent_ref": "--consent-ref",
    "consent_scope": "--consent-scope",
    "regions": "--regions",
    "seed": "--seed",
}
"""What the user of `one` gives, by the manifest column that has it."""

PHOTO_COLUMN = re.compile(rf"^({'|'.join(PHOTO_COLUMNS)})=")


def published_config(overrides: dict[str, object]) -> RunConfig:
    """A run file for the published weights, where `lynx-batch models pull` puts them, with `overrides` ({"a.b": value}) applied."""
    root = models_root()
    model = {"base": str(root / "Wan2.1-T2V-14B-Diffusers"), "adapters": str(root / "lynx_full")}
    unused = {"manifest": os.devnull, "output": os.devnull}  # a single clip needs neither
    return override({**unused, "model": model}, overrides, source="--set")


def prepare_one(config: RunConfig, cells: Mapping[str, object], selection: Selection) -> tuple[CheckedModel, ClipSpec]:
    """The model and the clip of a manifest row with these `cells`. Relative photos start at the current folder.

    Raises:
        ConfigError: If the cells, the consent or the photos cannot be used. Its text names what the user of `one` gave, and no manifest.
        Transient: If a photo cannot be read now.
        Permanent: As `prepare`, for the model.
    """
    schema = pa.schema([("row", pa.int64()), *(field for field in MANIFEST_SCHEMA if field.name in cells)])
    table = pa.Table.from_pylist([{"row": 0, **cells}], schema)
    origin = Origin(manifest="", folder=str(Path.cwd()))
    tombstones = read_revoked(config.output)
    lenient = replace(selection, allow_invalid=True)  # else the problems are told by rows of a manifest
    checked = check_requests(config, table, origin, lenient, datetime.now(UTC), tombstones=tombstones)
    if checked.problems:
        raise ConfigError("\n  ".join(_explain(problem, cells) for problem in checked.problems))
    _raise_first(checked.unconsented)
    _check_photos_of_one(config, checked.requests)
    prepared = prepare_requests(config, checked, origin, selection, tombstones=tombstones)
    _raise_first(prepared.rejections)
    return prepared.model, prepared.clips[0]


def _explain(problem: RowProblem, cells: Mapping[str, object]) -> str:
    """A broken rule under the name of the argument that has the value; what no argument gives is one of the run's defaults."""
    column = problem.column
    is_given = column in PHOTO_COLUMNS or cells.get(column) is not None
    return f"{ARGUMENTS[column] if is_given else f'defaults.{column}'}={shorten(problem.value)}: {problem.rule}"


def _check_photos_of_one(config: RunConfig, requests: list[ClipRequest]) -> None:
    """Raises ConfigError or Transient if a photo cannot be used."""
    faces = config.faces.model_copy(update={"pack": fetch_weights(config.faces.pack)})
    wanted = [(uri, request.face_index) for request in requests for uri in request.subject_uris]
    findings = {report.face: report.finding for report in check_faces_here(wanted, faces, config.inputs)}
    for (uri, _), finding in findings.items():
        if isinstance(finding, PhotoProblem):
            kind = Transient if finding.is_transient else ConfigError
            raise kind(f"{redact(uri)}: {finding.error_type}: {finding.error.removeprefix(f'{redact(uri)}: ')}")
    for problem in find_photo_problems(requests, findings):
        raise ConfigError(f"{problem.value}: {problem.rule}")


def _raise_first(rejections: Iterable[Rejection]) -> None:
    for rejection in rejections:
        is_temporary = rejection.error_type in (PhotoUnreachable.__name__, StoreUnavailable.__name__)
        error = PHOTO_COLUMN.sub("", rejection.error)
        raise (Transient if is_temporary else ConfigError)(f"{rejection.error_type}: {error}")
