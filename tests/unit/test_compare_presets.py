"""`plan --compare-presets`: one table of what a run takes with each preset."""

import json
from pathlib import Path
from typing import Any

import pytest

from lynx_batch.config import CalibrationConfig, load_run_config
from lynx_batch.config.preset import PRESETS, stated_loss
from lynx_batch.ledger.commits import commit
from lynx_batch.preparation.model import check_model
from lynx_batch.preparation.prepare import prepare
from lynx_batch.preparation.selection import Selection
from lynx_batch.preparation.step_cache import calibration_file, fingerprint_model
from lynx_model.step_cache import Magnitudes
from tests.builders import NOW, record, row, write_manifest, write_run
from tests.jobs import invoke

MAGNITUDES = Magnitudes(points=((0.001, 1.0), (1.0, 1.05)))


@pytest.fixture
def run_file(tmp_path: Path, face_pack: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four clips on the tiny model, in float32, which every preset but the distilled ones changes; a models folder that is empty."""
    monkeypatch.setenv("LYNX_BATCH_MODELS", str(tmp_path / "models"))
    write_manifest(tmp_path / "manifest.parquet", [row(prompt=f"p{n}", seed=n) for n in range(4)])
    defaults = {"width": 832, "height": 480, "num_frames": 81}
    return write_run(tmp_path, face_pack, engine={"precision": "float32"}, defaults=defaults)


def calibrate(run_file: Path) -> None:
    """Puts a calibration of the run's model into the models folder."""
    model = fingerprint_model(check_model(load_run_config(run_file, {})).identity)
    calibration = CalibrationConfig(
        model=model, num_clips=1, spread=0.0, points=MAGNITUDES.points, sha256=MAGNITUDES.sha256
    )
    file = calibration_file(run_file.parent / "models", model)
    file.parent.mkdir(parents=True)
    file.write_text(calibration.model_dump_json(), encoding="utf-8")


def compared(run_file: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    """What each preset takes, by its name."""
    result = invoke("plan", run_file, "--compare-presets", "--json", *arguments)
    assert result.exit_code == 0, result.output
    told = {each["preset"]: each for each in json.loads(result.output)["presets"]}
    assert [*told] == [*PRESETS]
    return told


def test_each_preset_says_what_it_takes_and_loses(run_file: Path) -> None:
    calibrate(run_file)
    told = compared(run_file, "--gpus", "4xH100@2")
    exact, fast, draft = (told[name]["costs"] for name in ("exact", "fast", "draft"))
    assert exact["num_clips"] == fast["num_clips"] == 4
    assert exact["gpu_s"] > fast["gpu_s"] > draft["gpu_s"]
    assert exact["gpu_hours"] > fast["gpu_hours"] > draft["gpu_hours"]
    assert exact["makespan_s"] > fast["makespan_s"]
    assert fast["usd"] == pytest.approx(2 * fast["gpu_hours"])
    assert fast["clips_per_gpu_hour"] == pytest.approx(3600 / fast["gpu_s"])
    assert told["exact"]["times_exact"] == 1
    assert told["fast"]["times_exact"] == pytest.approx(exact["gpu_s"] / fast["gpu_s"])
    assert [each["loss"] for each in told.values()] == [stated_loss(name).text for name in PRESETS]
    assert not (run_file.parent / "out").exists(), "nothing is written"


def test_a_loss_is_that_of_the_steps_with_which_it_was_measured_and_no_other(run_file: Path) -> None:
    calibrate(run_file)
    told = compared(run_file, "--set", "defaults.num_inference_steps=8")
    assert [told[name]["costs"]["num_steps"] for name in ("exact", "fast", "draft")] == [[8], [8], [8]]
    manifest = run_file.parent / "manifest.parquet"
    write_manifest(manifest, [row(prompt="p", seed=n, num_inference_steps=steps) for n, steps in enumerate((None, 12))])
    mixed = compared(run_file)
    assert mixed["draft"]["costs"]["num_steps"] == [12, 30]
    for name, here, measured in (
        ("fast", "8 against 8", "50 steps against 50"),
        ("draft", "8 against 8", "30 steps against 50"),
    ):
        assert told[name]["loss"] == f"not measured at {here}; at {measured}: {stated_loss(name).text}"
        assert told[name]["is_loss_measured"] is mixed[name]["is_loss_measured"] is False
    assert told["exact"]["is_loss_measured"] is mixed["exact"]["is_loss_measured"] is True
    assert mixed["draft"]["loss"].startswith("not measured at 12, 30 against 12, 50; ")
    assert "12, 30" in invoke("plan", run_file, "--compare-presets").output


def test_a_preset_that_cannot_be_used_is_told_with_the_reason_and_the_others_with_their_figures(run_file: Path) -> None:
    told = compared(run_file)
    assert told["exact"]["costs"]
    assert told["fast"]["costs"] is told["fast"]["times_exact"] is None
    assert "needs a calibration of this model" in told["fast"]["reason"]
    assert "needs a step-distilled LoRA in model.loras" in told["distilled-4"]["reason"]
    shown = " ".join(invoke("plan", run_file, "--compare-presets").output.split())
    assert "cannot be used: engine.step_cache: needs a calibration" in shown
    assert "predicted from shipped figures of compiled forwards" in shown


def test_what_is_committed_counts_and_rows_that_exact_rejects_do_not(run_file: Path) -> None:
    exact = load_run_config(run_file, {"preset": "exact"})
    commit(exact.output, record(prepare(exact, Selection(), NOW).clips[0].clip_id))
    assert compared(run_file)["exact"]["costs"]["num_clips"] == 4
    rows = [row(prompt="p", seed=1), row(prompt="p", seed=2, width=7), row("nowhere.jpg", seed=3)]
    write_manifest(run_file.parent / "manifest.parquet", rows)
    assert compared(run_file, "--allow-invalid")["exact"]["costs"]["num_clips"] == 1
    assert invoke("plan", run_file, "--compare-presets").exit_code == 2, "as without the option"


def test_gpus_without_fp8_are_told_and_what_to_do(run_file: Path) -> None:
    calibrate(run_file)
    told = compared(run_file, "--gpus", "8xH100", "--gpus", "8xA100")
    assert "engine.precision=fp8: needs GPUs that multiply fp8, unlike A100" in told["fast"]["reason"]
    assert compared(run_file, "--gpus", "8xA100", "--set", "engine.precision=bfloat16")["fast"]["costs"]


def test_set_overrules_every_preset(run_file: Path) -> None:
    calibrate(run_file)
    usual, short = compared(run_file), compared(run_file, "--set", "defaults.num_frames=5")
    for name in ("exact", "fast", "draft"):
        assert short[name]["costs"]["gpu_s"] < usual[name]["costs"]["gpu_s"] / 2


def test_without_a_row_there_are_no_figures(run_file: Path) -> None:
    assert compared(run_file, "--limit", "0")["exact"]["reason"] == "no row to render"


@pytest.mark.parametrize("options", [["--preset", "fast"], ["--deadline", "1h"], ["--rows"], ["--out", "rows.csv"]])
def test_what_does_not_go_with_a_comparison_is_refused(run_file: Path, options: list[str]) -> None:
    result = invoke("plan", run_file, "--compare-presets", *options)
    assert result.exit_code == 2
    assert f"{options[0]}: must not be given with --compare-presets" in " ".join(result.output.split())
