"""Measures the residuals of a run's model for its step cache, by rendering a few clips in this process."""

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count

import torch

from lynx_batch import storage
from lynx_batch.clip import ClipSpec
from lynx_batch.config import CalibrationConfig, RunConfig
from lynx_batch.errors import ConfigError
from lynx_batch.inputs import read_photo_file
from lynx_batch.ledger.tombstones import read_revoked
from lynx_batch.preparation.prepare import ALL_PROBLEMS, describe_rejections, prepare
from lynx_batch.preparation.selection import Selection
from lynx_batch.preparation.staging import fetch_model
from lynx_batch.preparation.step_cache import fingerprint_model
from lynx_model.faces.photo import read_photo
from lynx_model.faces.reader import FaceReader
from lynx_model.pipeline import LynxPipeline
from lynx_model.sampler import OnStep
from lynx_model.step_cache import average, noise_levels


def calibrate(
    config: RunConfig, selection: Selection, *, announce: Callable[[str], None], on_step: OnStep
) -> CalibrationConfig:
    """The calibration of the run's model from the clips of the selected rows, with the number of steps and the flow shift of its defaults.

    `on_step(steps done, steps in total)` counts the steps of all clips. No picture is decoded, and nothing is written.

    Raises:
        Permanent: If the run file, the rows or the model cannot be used; raised before the model is loaded.
    """
    if (num_steps := config.defaults.num_inference_steps) < 2:
        raise ConfigError(f"defaults.num_inference_steps={num_steps}: must be at least 2 to calibrate")
    config = _without_cache(config)
    prepared = prepare(config, selection, datetime.now(UTC), tombstones=read_revoked(config.output))
    if not prepared.clips:
        reasons = prepared.outage or describe_rejections(prepared.rejections, ALL_PROBLEMS)
        raise ConfigError(f"manifest={storage.redact(config.manifest)!r}: must have a row to calibrate with; {reasons}")
    source, faces = fetch_model(prepared.model.source, config.faces)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    announce(f"loading {config.model.base} on {device}")
    pipe = LynxPipeline.load_source(
        source,
        device=device,
        engine=prepared.model.engine.options,
        faces=FaceReader.load(faces.pack, faces.identity, is_parity=faces.parity),
    )
    flow_shift = config.defaults.flow_shift
    total = num_steps * len(prepared.clips)
    done = count(1)
    measured = [_measure(pipe, clip, config, lambda *_: on_step(next(done), total)) for clip in prepared.clips]
    levels = noise_levels(num_steps, prepared.model.traits.flow_shift if flow_shift is None else flow_shift)
    magnitudes, spread = average(levels, measured)
    return CalibrationConfig(
        model=fingerprint_model(prepared.model.identity),
        num_clips=len(measured),
        spread=spread,
        points=magnitudes.points,
        sha256=magnitudes.sha256,
    )


def _without_cache(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"engine": config.engine.model_copy(update={"step_cache": None})})


def _measure(pipe: LynxPipeline, clip: ClipSpec, config: RunConfig, on_step: OnStep) -> list[list[float]]:
    """The magnitudes by step and branch."""
    pictures = (
        (
            storage.redact(portrait.uri),
            read_photo(read_photo_file(portrait.uri, config.inputs), is_parity=config.faces.parity),
        )
        for portrait in clip.person
    )
    params = clip.params.changed(
        num_inference_steps=config.defaults.num_inference_steps, flow_shift=config.defaults.flow_shift
    )
    subject = pipe.read_person(pictures, clip.request.face_index)
    return pipe.measure_magnitudes(pipe.prepare(subject, params), on_step)
