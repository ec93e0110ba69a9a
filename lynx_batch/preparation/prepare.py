"""Turns a run file and a manifest into clips that can be rendered and rows that cannot, before Ray or a GPU is involved."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from lynx_batch.clip import ClipRequest, ClipSpec, Naming, Rejection, identify
from lynx_batch.config import DefaultsConfig, RunConfig
from lynx_batch.errors import ConfigError
from lynx_batch.intake.check import (
    check_blocks,
    check_rows,
    find_duplicates,
    keys_of_clips,
    reject_invalid,
)
from lynx_batch.intake.consent import NO_KEYS, ConsentRules, reject_revoked_photos, reject_without_consent
from lynx_batch.intake.manifest import folder_of, read_manifest
from lynx_batch.intake.photos import Photo, PhotoProblem, find_outages, hash_photos, host_of
from lynx_batch.intake.problems import RowProblem
from lynx_batch.intake.texts import Readings, check_texts, read_texts
from lynx_batch.ledger.erase import blank_rows, matching_rows
from lynx_batch.planning.revocation import Key
from lynx_batch.preparation.budget import prices_of
from lynx_batch.preparation.consent import read_rules, without_cells
from lynx_batch.preparation.marks import check_marks
from lynx_batch.preparation.model import CheckedModel, check_model
from lynx_batch.preparation.origin import Origin
from lynx_batch.preparation.scorers import check_scorers
from lynx_batch.preparation.selection import Selection
from lynx_batch.preparation.staging import inspect_weights
from lynx_batch.printable import counted
from lynx_model.checkpoints.base import read_base
from lynx_model.tokenizer import Tokenizer

MAX_PROBLEMS_SHOWN = 50
ALL_PROBLEMS = "`lynx-batch manifest check MANIFEST --run RUN.yaml --photos --problems FILE` writes all of them to FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRun:
    """Every row of the manifest, as a clip or a rejection. In `manifest`, rows with a tombstone are blank.

    `unreachable` are rows whose photos are on hosts that are down; `outage` says which. The rows are not to blame and end as
    abandoned.
    """

    manifest: pa.Table
    model: CheckedModel
    clips: list[ClipSpec]
    rejections: list[Rejection]
    unreachable: list[Rejection] = field(default_factory=list)
    outage: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRows:
    """The rows of a manifest before their photos are read: valid requests with their texts, and the other rows with the reasons."""

    manifest: pa.Table
    requests: list[ClipRequest]
    readings: Readings
    rules: ConsentRules
    problems: list[RowProblem]
    unconsented: list[Rejection]


def prepare(
    config: RunConfig,
    selection: Selection,
    now: datetime,
    origin: Origin | None = None,
    *,
    tombstones: frozenset[Key] = NO_KEYS,
) -> PreparedRun:
    """Reads and checks everything that a run of `config` needs.

    `origin` says where a submitted job's manifest comes from; `tombstones` are those of the output.

    Raises:
        ConfigError: If rows break rules (all are named) or the manifest cannot be read.
        MissingFile, WeightsMismatch, EncoderMismatch: If the model is incomplete, or its parts do not fit each other, or if a file of the
            quality gate or a watermark's network is not what it must be.
        ConfigError, MissingFile: If a mark of `provenance` is impossible, or a target of `notify` or a price breaks a rule.
        InvalidParams: If the engine options are impossible for a model of this size.
    """
    manifest = read_manifest(config.manifest, selection.where, selection.limit)
    return prepare_rows(config, manifest, origin or origin_of(config), selection, now, tombstones=tombstones)


def origin_of(config: RunConfig) -> Origin:
    """The origin of a run that was not submitted."""
    return Origin(manifest=config.manifest, folder=folder_of(config.manifest))


def prepare_rows(
    config: RunConfig,
    manifest: pa.Table,
    origin: Origin,
    selection: Selection,
    now: datetime,
    *,
    tombstones: frozenset[Key] = NO_KEYS,
) -> PreparedRun:
    """As `prepare`, for rows that were read already."""
    checked = check_requests(config, manifest, origin, selection, now, tombstones=tombstones)
    return prepare_requests(config, checked, origin, selection, tombstones=tombstones)


def check_requests(
    config: RunConfig,
    manifest: pa.Table,
    origin: Origin,
    selection: Selection,
    now: datetime,
    *,
    tombstones: frozenset[Key] = NO_KEYS,
) -> CheckedRows:
    """Checks everything about rows that needs neither photos nor weights. Raises as `prepare`."""
    requests, problems = check_rows(manifest, config.defaults, config.inputs, origin.folder)
    if origin.photos:
        requests = [_with_copies(request, origin.photos) for request in requests]
    requests, unfit, readings = fit_to_base(inspect_weights(config.model.base).path, config.defaults, requests)
    problems += unfit
    if problems and not selection.allow_invalid:
        raise ConfigError(describe_problems(problems))
    rules = read_rules(config, selection, tombstones)
    requests, unconsented = reject_without_consent(requests, rules, now)
    return CheckedRows(
        manifest=manifest,
        requests=requests,
        readings=readings,
        rules=rules,
        problems=problems,
        unconsented=unconsented,
    )


def prepare_requests(
    config: RunConfig,
    checked: CheckedRows,
    origin: Origin,
    selection: Selection,
    *,
    tombstones: frozenset[Key] = NO_KEYS,
) -> PreparedRun:
    """The rest of `prepare`, for rows of `check_requests`."""
    manifest, requests, rules = checked.manifest, checked.requests, checked.rules
    check_scorers(config.quality)
    prices_of(config.cluster)
    check_marks(config.provenance, {(request.params.width, request.params.height) for request in requests})
    model = check_model(config)  # hashes weights that are new here, so bad rows are reported first
    naming = find_naming(model, checked.readings)
    photos = hash_photos((uri for request in requests for uri in request.photo_uris), config.inputs)
    outages = find_outages(photos)
    unreachable, unreadable = _reject_unread(requests, photos, outages)
    clips, with_tombstone = reject_revoked_photos(name_clips(requests, naming, photos), tombstones)
    clips, listed = reject_revoked_photos(clips, rules.listed)
    duplicates = find_duplicates(keys_of_clips(clips))
    if duplicates and not selection.allow_duplicates:
        raise ConfigError(describe_problems(duplicates))
    invalid = reject_invalid(checked.problems, manifest, config.defaults, origin.folder)
    rejections = [*invalid, *checked.unconsented, *unreadable, *with_tombstone, *listed]
    tombstoned = matching_rows(manifest, tombstones) | {each.row for each in with_tombstone}
    return PreparedRun(
        manifest=blank_rows(manifest, tombstoned),
        model=model,
        clips=clips,
        rejections=without_cells(rejections, tombstoned),
        unreachable=unreachable,
        outage="; ".join(outages.values()),
    )


def fit_to_base(
    base: str, defaults: DefaultsConfig, requests: Iterable[ClipRequest]
) -> tuple[list[ClipRequest], list[RowProblem], Readings]:
    """The requests that a base model can render, the problems of the others, and the texts as the model reads them.

    `base` is its folder on this machine, or a headers-only copy of it.

    Raises:
        ConfigError: If the default negative prompt is longer than the model reads.
        MissingFile, WeightsMismatch: If its configuration or its tokenizer is missing or damaged.
    """
    folder = Path(base)
    requests, problems = check_blocks(requests, read_base(folder).num_blocks)
    readings = read_texts(requests, Tokenizer.load(folder))
    requests, unreadable = check_texts(requests, readings, defaults)
    return requests, [*problems, *unreadable], readings


def find_naming(model: CheckedModel, readings: Readings) -> Naming:
    """What the clips of a run are named by. `readings` are those of `fit_to_base`."""
    texts = {text: reading.sha256 for text, reading in readings.items()}
    return Naming(identity=model.identity, traits=model.traits, texts=texts)


def describe_problems(problems: list[RowProblem]) -> str:
    """One line per problem, as many as fit a screen."""
    lines = [f"the manifest breaks {counted(len(problems), 'rule')}, so nothing was started:"]
    lines += [f"  {problem}" for problem in problems[:MAX_PROBLEMS_SHOWN]]
    if len(problems) > MAX_PROBLEMS_SHOWN:
        lines.append(f"  ... and {len(problems) - MAX_PROBLEMS_SHOWN} more; {ALL_PROBLEMS}")
    return "\n".join(lines)


def describe_rejections(rejections: list[Rejection], who_lists_all: str) -> str:
    """One line per rejected row, as many as fit a screen. `who_lists_all` names the command that lists the others."""
    rejected = sorted(rejections, key=lambda rejection: rejection.row)
    lines = [f"  row {rejection.row}: {rejection.error}" for rejection in rejected[:MAX_PROBLEMS_SHOWN]]
    if len(rejected) > MAX_PROBLEMS_SHOWN:
        hidden = len(rejected) - MAX_PROBLEMS_SHOWN
        lines.append(f"  ... and {hidden} more: {who_lists_all}")
    return "\n".join(["rejected:", *lines])


def name_clips(requests: Iterable[ClipRequest], naming: Naming, photos: Mapping[str, Photo]) -> list[ClipSpec]:
    """The clips of the requests whose photos could all be read. `photos` come from `hash_photos`."""
    clips = []
    for request in requests:
        hashes = [photo for uri in request.photo_uris if isinstance(photo := photos[uri], str)]
        if len(hashes) == len(request.photo_uris):
            clips.append(identify(request, photo_sha256s=hashes, naming=naming))
    return clips


def _with_copies(request: ClipRequest, copies: Mapping[str, str]) -> ClipRequest:
    return replace(request, photo_copies=tuple(copies.get(uri, uri) for uri in request.subject_uris))


def _reject_unread(
    requests: Iterable[ClipRequest], photos: Mapping[str, Photo], outages: Mapping[str, str]
) -> tuple[list[Rejection], list[Rejection]]:
    """The rows with photos that could not be read: first those that wait only for hosts that are down, then the others."""
    unreachable, unreadable = list[Rejection](), list[Rejection]()
    for request in requests:
        problems = {uri: photo for uri in request.photo_uris if isinstance(photo := photos[uri], PhotoProblem)}
        down = [problem for uri, problem in problems.items() if problem.is_transient and host_of(uri) in outages]
        others = [problem for problem in problems.values() if problem not in down]
        if problems:
            worst = [*others, *down][0]
            error = f"{request.photo_column}={worst.error}"  # which begins with the URI
            rejection = Rejection(row=request.row, error_type=worst.error_type, error=error, inputs=request.inputs)
            (unreadable if others else unreachable).append(rejection)
    return unreachable, unreadable
