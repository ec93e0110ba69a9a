"""A run with a step cache on a real local Ray."""

from pathlib import Path

import pytest

from lynx_batch.config import CalibrationConfig, load_run_config
from lynx_batch.preparation.model import check_model
from lynx_batch.preparation.step_cache import calibration_file, fingerprint_model
from lynx_model.step_cache import Magnitudes
from tests.builders import HOPPER, row
from tests.heads import Head
from tests.jobs import Job

MAGNITUDES = Magnitudes(points=((0.001, 1.0), (1.0, 1.05)))


@pytest.mark.slow
def test_the_record_of_a_run_asks_for_the_same_clips_without_the_models_folder(
    tmp_path: Path, face_pack: Path, head: Head
) -> None:
    settings = {"engine": {"precision": "float32", "step_cache": {"threshold": 1.0}}}
    job = Job(folder=tmp_path, face_pack=face_pack, rows=[row(HOPPER)], steps=8, settings=settings, head=head)
    exact = load_run_config(tmp_path / "run.yaml", {"engine.step_cache": None})
    model = fingerprint_model(check_model(exact).identity)
    calibration = CalibrationConfig(
        model=model, num_clips=1, spread=0.0, points=MAGNITUDES.points, sha256=MAGNITUDES.sha256
    )
    file = calibration_file(tmp_path / "models", model)
    file.parent.mkdir(parents=True)
    file.write_text(calibration.model_dump_json())
    job.env["LYNX_BATCH_MODELS"] = str(tmp_path / "models")

    done = job.run()
    assert done.exit_code == 0, done.stderr
    (commit,) = job.commits()
    assert MAGNITUDES.sha256 in commit["identity"]["precision"]

    (kept,) = (Path(job.output) / "runs").glob("*/run.yaml")
    (tmp_path / "run.yaml").write_bytes(kept.read_bytes())
    job.env["LYNX_BATCH_MODELS"] = str(tmp_path / "nowhere")
    again = job.run()
    assert again.exit_code == 0, again.stderr
    assert "0 to render, 1 rendered before" in again.stdout
