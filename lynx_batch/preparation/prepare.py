"""Run file + manifest -> clips that can be rendered, and rows that cannot; before Ray or a GPU is asked for anything."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from lynx_batch.clip import ClipRequest, ClipSpec, Naming, Rejection, RenderIdentity, identify
from lynx_batch.config import RunConfig
from lynx_batch.errors import ConfigError
from lynx_batch.intake.check import (
    check_blocks,
    check_rows,
    find_duplicates,
    keys_of_clips,
    reject_expired,
    reject_invalid,
)
from lynx_batch.intake.manifest import folder_of, read_manifest
from lynx_batch.intake.photos import Photo, PhotoProblem, find_outages, hash_photos, host_of
from lynx_batch.intake.problems import RowProblem
from lynx_batch.intake.texts import Readings, check_texts, read_texts
from lynx_batch.preparation.origin import Origin
from lynx_batch.preparation.staging import fetch_headers, find_model, fingerprint, with_headers
from lynx_batch.storage import is_local
from lynx_model.canonical import ModelTraits
from lynx_model.checkpoints.adapter_spec import check_fit, describe_adapters
from lynx_model.checkpoints.base import check_base, read_base
from lynx_model.checkpoints.loras import Lora, describe_loras
from lynx_model.checkpoints.published import PUBLISHED_IDENTITY_ENCODER
from lynx_model.errors import EncoderMismatch
from lynx_model.faces.identity import OWN_RECOGNISER, arcface_file, check_arcface
from lynx_model.faces.pack import find_pack
from lynx_model.tokenizer import Tokenizer

MAX_PROBLEMS_SHOWN = 50
ALL_PROBLEMS = "`lynx-batch manifest check MANIFEST --run RUN.yaml --photos --problems FILE` writes all to FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which rows of the manifest a run takes, and how strict it is with the others."""

    where: str | None = None
    limit: int | None = None
    allow_invalid: bool = False
    allow_duplicates: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether no row is left out."""
        return self.where is None and self.limit is None


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRun:
    """Every row of the manifest, as a clip or a rejection.

    `unreachable` are rows whose photos lie on hosts that gave hardly any, as `outage` says: they are not to blame, and end
    abandoned.
    """

    manifest: pa.Table
    identity: RenderIdentity
    clips: list[ClipSpec]
    rejections: list[Rejection]
    unreachable: list[Rejection] = field(default_factory=list)
    outage: str = ""


def prepare(config: RunConfig, selection: Selection, now: datetime, origin: Origin | None = None) -> PreparedRun:
    """Reads and checks everything that a run of `config` needs; `origin` is where that of a submitted job comes from.

    Raises:
        ConfigError: If rows break rules (all are named) or the manifest cannot be read.
        MissingFile, WeightsMismatch, EncoderMismatch: If the model is not complete, or not one.
        InvalidParams: If the engine asks for what a model of this size cannot do.
    """
    manifest = read_manifest(config.manifest, selection.where, selection.limit)
    return prepare_rows(config, manifest, origin or origin_of(config), selection, now)


def origin_of(config: RunConfig) -> Origin:
    """That of a run that was not submitted."""
    return Origin(manifest=config.manifest, folder=folder_of(config.manifest))


def prepare_rows(
    config: RunConfig, manifest: pa.Table, origin: Origin, selection: Selection, now: datetime
) -> PreparedRun:
    """As `prepare`, of rows that were read already."""
    requests, problems = check_rows(manifest, config.defaults, config.inputs, origin.folder)
    requests = [replace(request, photo_copy=origin.photos.get(request.row)) for request in requests]
    requests, unfit, readings = fit_to_model(config, requests)
    problems += unfit
    if problems and not selection.allow_invalid:
        raise ConfigError(describe_problems(problems))
    requests, expired = reject_expired(requests, now)
    naming = find_naming(config, readings)
    photos = hash_photos((request.photo_uri for request in requests), config.inputs)
    outages = find_outages(photos)
    unreachable, unreadable = _reject_unread(requests, photos, outages)
    clips = name_clips(requests, naming, photos)
    duplicates = find_duplicates(keys_of_clips(clips))
    if duplicates and not selection.allow_duplicates:
        raise ConfigError(describe_problems(duplicates))
    return PreparedRun(
        manifest=manifest,
        identity=naming.identity,
        clips=clips,
        rejections=[*reject_invalid(problems, manifest, config.defaults, origin.folder), *expired, *unreadable],
        unreachable=unreachable,
        outage="; ".join(outages.values()),
    )


def fit_to_model(
    config: RunConfig, requests: Iterable[ClipRequest]
) -> tuple[list[ClipRequest], list[RowProblem], Readings]:
    """The requests that the base model of `config` can render, the problems of the others, and what it reads of their texts.

    Raises:
        ConfigError: If the default negative prompt is longer than the model reads.
        MissingFile, MissingObject, WeightsMismatch: If what it looks at is not there, or damaged.
    """
    base = Path(fetch_headers(config.model.base))
    requests, problems = check_blocks(requests, read_base(base).num_blocks)
    readings = read_texts(requests, Tokenizer.load(base))
    requests, unreadable = check_texts(requests, readings, config.defaults)
    return requests, [*problems, *unreadable], readings


def find_naming(config: RunConfig, readings: Readings) -> Naming:
    """What clips of `config` are named by; `readings` are those of `fit_to_model`. Raises as `identify_model` does."""
    source, _ = with_headers(config)
    return Naming(
        identity=identify_model(config),
        traits=ModelTraits.of(source),
        texts={text: reading.sha256 for text, reading in readings.items()},
    )


def identify_model(config: RunConfig) -> RenderIdentity:
    """Fingerprints of everything that the run file names and that changes the picture.

    A model that is not complete gets none: the fingerprint kept beside it would not fit once the rest arrives.

    Raises:
        EncoderMismatch: If `faces.identity` gives another embedding than the adapters take.
        InvalidParams: If the engine asks for what a model of this size cannot do.
        MissingFile, WeightsMismatch: If a folder is not complete, or the parts of the model do not fit each other.
    """
    source, faces = with_headers(config)
    pack = find_pack(faces.pack)
    base = check_base(Path(source.base))
    config.engine.options.check_blocks(base.num_blocks)
    adapters = describe_adapters(source.id_adapter, source.ref_adapter)
    check_fit(adapters, num_blocks=base.num_blocks, channels=base.channels)
    loras = describe_loras(source)
    is_own = faces.identity == OWN_RECOGNISER
    encoder = pack.identity_encoder if is_own else PUBLISHED_IDENTITY_ENCODER
    if encoder != adapters.identity_encoder:
        raise EncoderMismatch(
            f"faces.identity={config.faces.identity!r} gives embeddings of {encoder!r}, "
            f"but {config.model.source.id_adapter} declares {adapters.identity_encoder!r}"
        )
    identity_file = arcface_file(faces.identity)
    if not is_own:
        check_arcface(identity_file)
    named = find_model(config.model)
    pack_fingerprint = fingerprint(_named(config.faces.pack, pack.folder))
    return RenderIdentity(
        base=fingerprint(named.base),
        id_adapter=fingerprint(named.id_adapter),
        ref_adapter=fingerprint(named.ref_adapter) if named.ref_adapter else None,
        face_pack=pack_fingerprint,
        identity_encoder=pack_fingerprint if is_own else fingerprint(_named(config.faces.identity, identity_file)),
        is_parity=config.faces.parity,
        precision=config.engine.options.numerics,
        loras=", ".join(filter(None, map(_name_lora, loras, (at.file for at in named.loras)))) or None,
    )


def _named(uri: str, here: Path) -> str:
    """The URI of weights in a store; else where they were found on this machine."""
    return str(here) if is_local(uri) else uri


def _name_lora(lora: Lora, uri: str) -> str:
    """What a LoRA at `uri` adds, which is nothing with a scale of 0. An alpha that is declared in another file beside it counts, too."""
    if not lora.scale:
        return ""
    declared = "" if lora.alpha is None else f", alpha {lora.alpha}"
    return f"{lora.scale} x {fingerprint(uri)}{declared}"


def describe_problems(problems: list[RowProblem]) -> str:
    """All problems on a line each, as far as they fit a screen."""
    lines = [f"the manifest breaks {len(problems)} rule(s); nothing was started:"]
    lines += [f"  {problem}" for problem in problems[:MAX_PROBLEMS_SHOWN]]
    if len(problems) > MAX_PROBLEMS_SHOWN:
        lines.append(f"  ... and {len(problems) - MAX_PROBLEMS_SHOWN} more; {ALL_PROBLEMS}")
    return "\n".join(lines)


def describe_rejections(rejections: list[Rejection], who_lists_all: str) -> str:
    """Each row that is rejected on a line, as far as they fit a screen; `who_lists_all` is what to run for the others."""
    rejected = sorted(rejections, key=lambda rejection: rejection.row)
    lines = [f"  row {rejection.row}: {rejection.error}" for rejection in rejected[:MAX_PROBLEMS_SHOWN]]
    if len(rejected) > MAX_PROBLEMS_SHOWN:
        hidden = len(rejected) - MAX_PROBLEMS_SHOWN
        lines.append(f"  ... and {hidden} more: {who_lists_all}")
    return "\n".join(["rejected:", *lines])


def name_clips(requests: Iterable[ClipRequest], naming: Naming, photos: Mapping[str, Photo]) -> list[ClipSpec]:
    """The clips of the requests whose photos could be read; `photos` are from `hash_photos`."""
    return [
        identify(request, photo_sha256=photo, naming=naming)
        for request in requests
        if isinstance(photo := photos[request.photo_uri], str)
    ]


def _reject_unread(
    requests: Iterable[ClipRequest], photos: Mapping[str, Photo], outages: Mapping[str, str]
) -> tuple[list[Rejection], list[Rejection]]:
    """The rows whose photos could not be read: those of a host's outage, and the others."""
    unreachable, unreadable = list[Rejection](), list[Rejection]()
    for request in requests:
        photo = photos[request.photo_uri]
        if isinstance(photo, PhotoProblem):
            is_outage = photo.is_transient and host_of(request.photo_uri) in outages
            error = f"subject_uri={photo.error}"  # which begins with the URI
            rejection = Rejection(row=request.row, error_type=photo.error_type, error=error, inputs=request.inputs)
            (unreachable if is_outage else unreadable).append(rejection)
    return unreachable, unreadable
