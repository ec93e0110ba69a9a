"""`bench quality` on the tiny model: the same clips with several settings, rendered once."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.runs import read_runs
from tests.builders import HOPPER, row
from tests.heads import Head
from tests.jobs import Job

SETTINGS = """
settings:
  4 steps: {defaults.num_inference_steps: 4}
"""


def compare(*arguments: str) -> tuple[int, str]:
    """The exit code and the error of `bench quality`, in a process of its own, as it starts several runs."""
    program = str(Path(sys.executable).with_name("lynx-batch"))
    result = subprocess.run(
        [program, "bench", "quality", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, result.stderr if result.returncode else ""


@pytest.mark.slow(s=100)
@pytest.mark.ray
def test_settings_are_compared_clip_by_clip_and_nothing_is_rendered_twice(
    tmp_path: Path, face_pack: Path, head: Head
) -> None:
    Job(folder=tmp_path, face_pack=face_pack, rows=[row(), row(HOPPER, "She nods.", clip_name="nod")], head=head)
    (tmp_path / "settings.yaml").write_text(SETTINGS, encoding="utf-8")
    out = tmp_path / "compared"
    command = [str(tmp_path / "run.yaml"), "--settings", str(tmp_path / "settings.yaml"), "--out", str(out)]
    assert compare(*command) == (0, "")
    results = {each["setting"]: each for each in json.loads((out / "comparison.json").read_text())}
    assert [*results] == ["reference", "another seed", "4 steps"]
    assert [each["num_clips"] for each in results.values()] == [2, 2, 2]
    assert results["another seed"]["pictures"]["psnr_db"] < 60
    assert results["4 steps"]["differences"]["likeness_mean"]["num"] == 2
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count("<video") == 6
    assert "nod: She nods." in page
    outputs = [out / name for name in ("reference", "another-seed", "4-steps")]
    assert all(len(list_editions(str(output)).in_force) == 2 for output in outputs)

    for of in ("metadata", "judged"):  # as if it had been killed before it wrote what follows the commits
        shutil.rmtree(out / "4-steps" / of)
    assert compare(*command) == (0, "")
    assert [len(read_runs(str(output))) for output in outputs] == [1, 1, 2]
    assert all(len(list_editions(str(output)).in_force) == 2 for output in outputs), "nothing was rendered again"
    assert {each["setting"]: each for each in json.loads((out / "comparison.json").read_text())} == results
    assert compare(*command) == (0, "")
    assert [len(read_runs(str(output))) for output in outputs] == [1, 1, 2]
    for change, told in (
        ("defaults.width=80", "must be empty or hold a comparison of the same clips"),
        ("engine.offload=blocks", "setting 'reference': engine: must be as in"),
        ("video.crf=40", "setting 'reference': video: must be as in"),
        ("quality.num_frames=2", "setting 'reference': quality.num_frames: must be as in"),
    ):
        exit_code, error = compare(*command, "--set", change)
        assert (exit_code, told in " ".join(error.split())) == (2, True), error
    (tmp_path / "settings.yaml").write_text(
        SETTINGS.replace("steps: {", "steps: {engine.compile: true, "), encoding="utf-8"
    )
    exit_code, error = compare(*command)
    assert (exit_code, "setting '4 steps': engine: must be as in" in " ".join(error.split())) == (2, True), error
