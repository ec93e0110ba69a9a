"""The demo from manifest to contact sheet, as `make demo` runs it, but into a folder of its own; and what its pictures show."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lynx_batch.config import load_run_config
from lynx_batch.delivery.video import decode_mp4, encode_mp4
from lynx_model import LynxPipeline
from lynx_model.faces.likeness import NUM_FRAMES, embed_frames
from lynx_model.faces.photo import read_photo
from lynx_model.faces.reader import FaceReader
from lynx_model.parameters import PARAMETERS
from lynx_model.spec import RenderParams
from tests.builders import COLLINS, HOPPER
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


@pytest.mark.slow
@pytest.mark.parametrize(("run_file", "least"), [("run.yaml", 0.40), ("lite.yaml", 0.20)])
def test_a_clip_shows_the_person_of_its_photo_and_nobody_else(run_file: str, least: float, face_pack: Path) -> None:
    """Fails if a change ruins the pictures: another test compares numbers, this one sees a face."""
    config = load_run_config(DEMO / run_file, {})
    reader = FaceReader.load(str(face_pack), "pack")
    own, other = (reader.read(read_photo(photo.read_bytes())) for photo in (HOPPER, COLLINS))
    prompt = (DEMO / "prompts.txt").read_text(encoding="utf-8").splitlines()[0]
    defaults = {name: getattr(config.defaults, name) for name in PARAMETERS if name != "prompt"}
    params = RenderParams(prompt=prompt, **defaults | {"seed": 1})
    pipe = LynxPipeline.load(config.model.base, str(config.model.adapters), device="cpu", dtype="float32")
    video = encode_mp4(pipe.decode(pipe.denoise(own, params)), fps=params.fps, crf=18)
    found = [face for face in embed_frames(reader, decode_mp4(video)) if face is not None]
    assert len(found) == NUM_FRAMES
    likeness, likeness_to_other = (np.mean([face @ person.face_embedding for face in found]) for person in (own, other))
    assert likeness > least
    assert likeness > likeness_to_other + 0.15
