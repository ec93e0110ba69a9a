"""Renders a single clip in this process, without Ray or a commit, into a file."""

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import torch

from lynx_batch.clip import ClipSpec
from lynx_batch.config import RunConfig, override
from lynx_batch.delivery.deliver import finish
from lynx_batch.errors import ConfigError, PhotoUnreachable, StoreUnavailable, Transient
from lynx_batch.inputs import read_photo_file
from lynx_batch.intake.schema import MANIFEST_SCHEMA
from lynx_batch.ledger.tombstones import read_revoked
from lynx_batch.preparation.model import CheckedModel
from lynx_batch.preparation.origin import Origin
from lynx_batch.preparation.prepare import prepare_rows
from lynx_batch.preparation.selection import Selection
from lynx_batch.preparation.staging import fetch_model
from lynx_batch.rendering.marking import load_marker
from lynx_model.checkpoints.published import models_root
from lynx_model.faces.photo import read_photo
from lynx_model.faces.reader import FaceReader
from lynx_model.faces.upright import describe_turn
from lynx_model.pipeline import LynxPipeline
from lynx_model.sampler import OnStep


def published_config(overrides: dict[str, object]) -> RunConfig:
    """A run file for the published weights, where `lynx-batch models pull` puts them, with `overrides` ({"a.b": value}) applied."""
    root = models_root()
    model = {"base": str(root / "Wan2.1-T2V-14B-Diffusers"), "adapters": str(root / "lynx_full")}
    unused = {"manifest": os.devnull, "output": os.devnull}  # a single clip needs neither
    return override({**unused, "model": model}, overrides, source="--set")


def render_one(
    config: RunConfig,
    *,
    photo: str,
    face_index: int | None,
    prompt: str,
    consent: Mapping[str, str | None],
    selection: Selection,
    out: Path,
    announce: Callable[[str], None],
    on_step: OnStep,
) -> ClipSpec:
    """Renders the clip of a manifest row with this `photo`, `face_index`, `prompt` and cells about the `consent` into the MP4 file `out`.

    Raises:
        Permanent: If the photo, the prompt, the model or `out` cannot be used; raised before the model is loaded.
    """
    row: dict[str, object] = {"row": 0, "subject_uri": photo, "face_index": face_index, "prompt": prompt, **consent}
    model, clip = _identify(config, row, selection)
    _prepare_file(out)
    marker = load_marker(config.provenance)
    source, faces = fetch_model(model.source, config.faces)
    reader = FaceReader.load(faces.pack, faces.identity, is_parity=faces.parity)
    (portrait,) = clip.portraits
    picture = read_photo(read_photo_file(portrait.uri, config.inputs), is_parity=faces.parity)
    subject = reader.read(picture, portrait.face_index)
    if subject.turned_degrees:
        announce(f"{photo}: {describe_turn(subject.turned_degrees)}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    announce(f"loading {config.model.base} on {device}")
    pipe = LynxPipeline.load_source(
        source,
        device=device,
        engine=model.engine.options,
    )
    frames = pipe.decode(pipe.denoise(subject, clip.params, on_step))
    video = config.video.model_copy(update={"preview": None})
    encoded = finish(frames, clip, clip.params, identity=model.identity, video=video, marker=marker)
    for mark, why in encoded.failed_marks.items():
        announce(f"{out} lacks the mark {mark}: {why}")
    out.write_bytes(encoded.video)
    return clip


def _prepare_file(out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: {error}") from error
    if out.is_dir():
        raise ConfigError(f"--out {out}: must be a file, but is a folder")


def _identify(config: RunConfig, row: dict[str, object], selection: Selection) -> tuple[CheckedModel, ClipSpec]:
    schema = pa.schema([("row", pa.int64()), *(field for field in MANIFEST_SCHEMA if field.name in row)])
    origin = Origin(manifest="", folder=str(Path.cwd()))
    table = pa.Table.from_pylist([row], schema)
    prepared = prepare_rows(config, table, origin, selection, datetime.now(UTC), tombstones=read_revoked(config.output))
    for rejection in prepared.rejections:
        is_temporary = rejection.error_type in (PhotoUnreachable.__name__, StoreUnavailable.__name__)
        raise (Transient if is_temporary else ConfigError)(f"{rejection.error_type}: {rejection.error}")
    return prepared.model, prepared.clips[0]
