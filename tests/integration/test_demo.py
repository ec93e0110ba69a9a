"""The demo from manifest to contact sheet, as `make demo` runs it, but for one prompt and into a folder of its own."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jobs.demo.show import find_clips
from lynx_model.faces.likeness import NUM_FRAMES, embed_frames
from lynx_model.faces.photo import read_photo
from lynx_model.faces.reader import FaceReader
from tests.builders import COLLINS, HOPPER
from tests.heads import Head
from tests.models import ROOT

DEMO = ROOT / "jobs" / "demo"
DEADLINE_S = 600
LEAST_LIKENESS = {"full": 0.40, "lite": 0.20}
LEAST_MARGIN = 0.15
"""By how much a clip is more like its person than like the other one."""


def run(*command: object) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow(s=150)
@pytest.mark.ray
def test_the_demo_ends_with_a_contact_sheet_of_full_and_lite_that_shows_each_person(
    tmp_path: Path, face_pack: Path, head: Head
) -> None:
    """Fails if a change of the engine ruins the pictures: another test compares numbers, this one sees faces."""
    command, manifest, sheet = Path(sys.executable).with_name("lynx-batch"), tmp_path / "m.parquet", tmp_path / "s.png"
    prompts = tmp_path / "prompts.txt"
    prompts.write_text((DEMO / "prompts.txt").read_text(encoding="utf-8").splitlines()[0])
    run(command, "manifest", "build", "--photos", DEMO / "subjects", "--prompts", prompts, "--out", manifest)
    outputs = {"full": tmp_path / "full", "lite": tmp_path / "lite"}
    for name, output in zip(("run.yaml", "lite.yaml"), outputs.values(), strict=True):
        options = [f"--manifest={manifest}", f"--output={output}", f"--address={head.address}"]
        single = "--set=cluster.max_groups=1"
        assert ": 2 rendered" in run(command, "render", DEMO / name, *options, single)

    shown = run(sys.executable, "-m", "jobs.demo.show", *outputs.values(), "--out", sheet)
    assert (shown.count("eileen-collins-p01"), shown.count("grace-hopper-p01")) == (2, 2)
    assert shown.splitlines()[-1] == f"contact sheet: {sheet}"
    assert sheet.is_file()

    reader = FaceReader.load(str(face_pack), "pack")
    people = {photo.stem: reader.read(read_photo(photo.read_bytes())).face_embedding for photo in (COLLINS, HOPPER)}
    for clip in find_clips([str(output) for output in outputs.values()]):
        faces = [face for face in embed_frames(reader, clip.frames) if face is not None]
        assert len(faces) == NUM_FRAMES
        likeness = {name: float(np.mean([face @ person for face in faces])) for name, person in people.items()}
        own = likeness.pop(clip.name.removesuffix("-p01"))
        assert own > LEAST_LIKENESS[clip.variant], clip.name
        assert own > max(likeness.values()) + LEAST_MARGIN, clip.name
