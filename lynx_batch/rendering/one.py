"""Renders a single clip in this process, without Ray or a commit, into a file."""

from collections.abc import Callable
from pathlib import Path

import torch

from lynx_batch.clip import ClipSpec
from lynx_batch.config import RunConfig
from lynx_batch.delivery.deliver import finish
from lynx_batch.errors import ConfigError
from lynx_batch.inputs import read_photo_file
from lynx_batch.intake.problems import name_photos
from lynx_batch.preparation.model import CheckedModel
from lynx_batch.preparation.staging import fetch_model
from lynx_batch.rendering.marking import load_marker
from lynx_batch.storage import redact
from lynx_model.faces.photo import read_photo
from lynx_model.faces.reader import FaceReader
from lynx_model.faces.upright import describe_turn
from lynx_model.pipeline import LynxPipeline
from lynx_model.sampler import OnStep


def render_one(
    config: RunConfig,
    model: CheckedModel,
    clip: ClipSpec,
    *,
    out: Path,
    announce: Callable[[str], None],
    on_step: OnStep,
) -> None:
    """Renders a clip of `prepare_one` into the MP4 file `out`.

    Raises:
        Permanent: If the photos, the model or `out` cannot be used; raised before the model is loaded.
    """
    _prepare_file(out)
    marker = load_marker(config.provenance)
    source, faces = fetch_model(model.source, config.faces)
    reader = FaceReader.load(faces.pack, faces.identity, is_parity=faces.parity)
    pictures = (
        (redact(each.uri), read_photo(read_photo_file(each.uri, config.inputs), is_parity=faces.parity))
        for each in clip.person
    )
    subject = reader.read_person(pictures, clip.request.face_index)
    if subject.turned_degrees:
        announce(f"{name_photos(clip.request)}: {describe_turn(subject.turned_degrees)}")
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


def _prepare_file(out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: {error}") from error
    if out.is_dir():
        raise ConfigError(f"--out {out}: must be a file, but is a folder")
