"""The demo from manifest to contact sheet, as `make demo` runs it, but into a folder of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import ROOT

DEMO = ROOT / "jobs" / "demo"
DEADLINE_S = 600


def run(*command: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.ray
def test_the_demo_ends_with_a_contact_sheet_of_full_and_lite(tmp_path: Path, face_pack: Path) -> None:
    command, manifest, sheet = Path(sys.executable).with_name("lynx-batch"), tmp_path / "m.parquet", tmp_path / "s.png"
    photos, prompts = DEMO / "subjects", DEMO / "prompts.txt"
    run(command, "manifest", "build", "--photos", photos, "--prompts", prompts, "--out", manifest)
    outputs = [tmp_path / "full", tmp_path / "lite"]
    for name, output in zip(("run.yaml", "lite.yaml"), outputs, strict=True):
        told = run(command, "render", DEMO / name, "--manifest", manifest, "--output", output)
        assert ": 6 rendered" in told
    shown = run(sys.executable, "-m", "jobs.demo.show", *outputs, "--out", sheet)
    assert shown.count("eileen-collins-p0") + shown.count("grace-hopper-p0") == 12
    assert shown.splitlines()[-1] == f"contact sheet: {sheet}"
    assert sheet.is_file()
