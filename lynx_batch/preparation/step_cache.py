"""The calibration of the step cache: the file that holds it for each model, and the engine with its content.

It is not beside the weights, where every JSON file counts as a weight.
"""

import hashlib
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile

from pydantic import ValidationError

from lynx_batch import storage
from lynx_batch.clip import RenderIdentity, canonical_json
from lynx_batch.config import CalibrationConfig, EngineConfig
from lynx_batch.errors import ConfigError, MissingObject, StoreRefused
from lynx_model.checkpoints.published import models_root

KEY = "engine.step_cache.calibration"
ADVICE = "`lynx-batch models calibrate RUN.yaml` makes one"

WEIGHTS = ("base", "id_adapter", "ref_adapter", "loras")
"""The parts of a run's identity that decide the magnitudes of residuals."""


def fingerprint_model(identity: RenderIdentity) -> str:
    """The fingerprint of the base with its adapters and LoRAs."""
    weights = {name: part for name, part in asdict(identity).items() if name in WEIGHTS}
    return hashlib.sha256(canonical_json(weights)).hexdigest()


def calibration_file(root: Path, fingerprint: str) -> Path:
    """Where the calibration of the model with that fingerprint is, in the models folder `root`."""
    return root / "calibrations" / f"{fingerprint}.json"


def open_folder(root: Path) -> None:
    """Makes the folder of calibrations in the models folder `root`. Raises ConfigError if nothing can be written there."""
    folder = calibration_file(root, "").parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"--root {root}: must be a folder that can be written to: {error.strerror}") from error


def with_file(engine: EngineConfig) -> EngineConfig:
    """`engine` with the content of the calibration that it names, if any. Raises ConfigError if that is not a calibration."""
    cache = engine.step_cache
    if cache is None or not isinstance(cache.calibration, str):
        return engine
    return _with_calibration(engine, _read(cache.calibration))


def with_calibration(engine: EngineConfig, identity: RenderIdentity) -> EngineConfig:
    """`engine` with the content of the calibration of the model that `identity` names.

    Raises:
        ConfigError: If there is none, or the one that the run file names is unreadable or of other weights.
    """
    if engine.step_cache is None or engine.options.step_cache is None:
        return engine
    calibration = engine.step_cache.calibration
    fingerprint = fingerprint_model(identity)
    if calibration is None:
        file = calibration_file(models_root(), fingerprint)
        if not file.is_file():
            raise ConfigError(f"engine.step_cache: needs a calibration of this model, but there is no {file}; {ADVICE}")
        calibration = str(file)
    if isinstance(calibration, str):
        calibration = _read(calibration)
    if calibration.model != fingerprint:
        rule = f"must be of this model, {fingerprint[:12]}, but is of other weights, {calibration.model[:12]}"
        raise ConfigError(f"{KEY}: {rule}; {ADVICE}")
    return _with_calibration(engine, calibration)


def _with_calibration(engine: EngineConfig, calibration: CalibrationConfig) -> EngineConfig:
    assert engine.step_cache is not None
    cache = engine.step_cache.model_copy(update={"calibration": calibration})
    return engine.model_copy(update={"step_cache": cache})


def _read(uri: str) -> CalibrationConfig:
    shown = storage.redact(uri)
    try:
        return CalibrationConfig.model_validate_json(storage.read_bytes(uri))
    except (MissingObject, StoreRefused) as error:
        raise ConfigError(f"{KEY}: {error}; {ADVICE}") from error
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ConfigError(f"{KEY}={shown!r}: must be a file of `lynx-batch models calibrate`: {reason}") from error
