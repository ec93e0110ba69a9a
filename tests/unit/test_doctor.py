"""`doctor` says what is there, what fits and what is amiss, before anything loads."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lynx_batch.cli import app
from lynx_batch.cli.findings import Level, _fit, fit_published, fit_run
from lynx_batch.config import EngineConfig, RunConfig, load_run_config
from lynx_model.machine import Gpu, Machine
from lynx_model.memory import GIB, PUBLISHED_FULL, ClipSize
from tests.models import ROOT

RUN = ROOT / "jobs" / "demo" / "run.yaml"


def machine(free_gib: float) -> Machine:
    gpu = Gpu(name="a GPU", free_bytes=int(free_gib * GIB), total_bytes=141 * GIB, missing_needs={"sdpa": None})
    return Machine(torch_version="2.13.0", cuda="13.0", driver="580.65.06", gpus=(gpu,))


@pytest.fixture
def demo(tmp_path: Path) -> list[str]:
    """Arguments that make the demo's run file one that can run."""
    (tmp_path / "manifest.parquet").touch()
    (tmp_path / "face.onnx").touch()
    settings = {"manifest": tmp_path / "manifest.parquet", "output": tmp_path / "out", "faces.pack": tmp_path}
    return [str(RUN), *(part for key, value in settings.items() for part in ("--set", f"{key}={value}"))]


def test_a_run_that_can_begin_is_told_so(demo: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", *demo])
    assert result.exit_code == 0, result.output
    assert f"{tmp_path / 'out'}: takes create-only puts" in result.output
    assert "this run, 17 frames of 160x96, float32" in result.output
    assert not list((tmp_path / "out").rglob("probe-*"))


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("manifest", "nowhere.parquet", "nothing lies there"),
        ("faces.pack", "nowhere", "face pack 'nowhere'"),
        ("model.base", "nowhere", "no such file"),
    ],
)
def test_what_a_run_names_and_is_not_there_is_a_fault(demo: list[str], key: str, value: str, fault: str) -> None:
    result = CliRunner().invoke(app, ["doctor", *demo, "--set", f"{key}={value}"])
    assert result.exit_code == 2
    assert fault in result.output
    assert result.output.count("fault") == 1


def test_a_base_install_is_told_what_it_lacks() -> None:
    program = "import sys; sys.modules['torch'] = None; from lynx_batch.cli import app; app(['doctor'])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "lacks torch: pip install 'lynx-batch[render]'" in result.stdout


def full_run(**engine: object) -> RunConfig:
    return load_run_config(RUN, {f"engine.{key}": value for key, value in engine.items()})


@pytest.mark.parametrize(
    ("free_gib", "text"),
    [
        (139, "fits: takes 53.4 GiB of each GPU"),
        (48, "engine: {text_encoder: staged} takes 44.8 GiB of each GPU and 10.6 GiB of host memory a worker"),
        (24, "engine: {text_encoder: staged, offload: blocks} takes 11.9 GiB"),
        (8, "nor does any setting"),
    ],
)
def test_what_fits_is_told_and_what_to_change(free_gib: float, text: str) -> None:
    full, _ = fit_published(machine(free_gib))
    assert text in full.text
    assert full.level is Level.NOTE


def test_a_run_that_does_not_fit_is_a_fault() -> None:
    assert fit_run(full_run(), machine(139)).level is Level.OK
    misfit = fit_run(full_run(), machine(1.6))
    assert misfit.level is Level.FAULT
    assert "does not fit" in misfit.text


def test_gpus_that_take_a_branch_each_save_no_memory_and_those_that_share_tokens_do() -> None:
    long = ClipSize(width=1280, height=720, num_frames=961)
    levels = [_fit("it", PUBLISHED_FULL, long, EngineConfig(), number, machine(139)).level for number in (1, 2, 4)]
    assert levels == [Level.FAULT, Level.FAULT, Level.OK]
