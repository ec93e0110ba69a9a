"""A single clip, rendered in this process: no Ray, no commit, just a file."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import torch

from lynx_batch import storage
from lynx_batch.clip import ClipSpec
from lynx_batch.config import ModelConfig, RunConfig
from lynx_batch.delivery.video import encode_mp4
from lynx_batch.errors import ConfigError
from lynx_batch.execution.prepare import Selection, prepare_rows
from lynx_batch.execution.staging import brought, find_model, stage
from lynx_model.faces.photo import read_photo
from lynx_model.faces.reader import FaceReader
from lynx_model.pipeline import LynxPipeline
from lynx_model.published import models_root
from lynx_model.sampler import OnStep


def published_config() -> RunConfig:
    """A run with the published weights where `lynx-batch models pull` puts them."""
    root = models_root()
    model = ModelConfig(base=str(root / "Wan2.1-T2V-14B-Diffusers"), adapters=str(root / "lynx_full"))
    return RunConfig(manifest="", output="", model=model)


def render_one(
    config: RunConfig, *, photo: str, prompt: str, out: Path, announce: Callable[[str], None], on_step: OnStep
) -> ClipSpec:
    """Renders the clip that a manifest row of `photo` and `prompt` would be, into the MP4 file `out`.

    Raises:
        Permanent: If the photo, the prompt or the model is unfit.
    """
    clip = _identify(config, photo, prompt)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    announce(f"loading {config.model.base} on {device}")
    source, faces = brought(find_model(config.model), config.faces, stage)
    pipe = LynxPipeline.load(
        base=source.base,
        adapters={"id": source.id_adapter, "ref": source.ref_adapter},
        device=device,
        dtype=config.engine.dtype,
        faces=FaceReader.load(faces.pack, faces.identity, is_parity=faces.parity),
        loras=source.loras,
        engine=config.engine.options,
    )
    subject = pipe.read_subject(read_photo(storage.read_bytes(clip.request.subject_uri)))
    frames = pipe.decode(pipe.denoise(subject, clip.params, on_step))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(encode_mp4(frames, fps=clip.params.fps, crf=config.video.crf))
    return clip


def _identify(config: RunConfig, photo: str, prompt: str) -> ClipSpec:
    row = pa.table({"row": [0], "subject_uri": [photo], "prompt": [prompt]})
    prepared = prepare_rows(config, row, str(Path.cwd()), Selection(), datetime.now(UTC))
    for rejection in prepared.rejections:
        raise ConfigError(f"{rejection.error_type}: {rejection.error}")
    return prepared.clips[0]
