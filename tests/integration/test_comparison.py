"""`bench quality` on the tiny model: the same clips with several settings, rendered once."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lynx_batch.cli import app
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.runs import read_runs
from tests.builders import HOPPER, row
from tests.jobs import Job

SETTINGS = """
settings:
  the same again: {}
  4 steps: {defaults.num_inference_steps: 4}
"""


@pytest.mark.slow
@pytest.mark.ray
def test_settings_are_compared_clip_by_clip_and_nothing_is_rendered_twice(tmp_path: Path, face_pack: Path) -> None:
    Job(folder=tmp_path, face_pack=face_pack, rows=[row(), row(HOPPER, "She nods.", clip_name="nod")])
    (tmp_path / "settings.yaml").write_text(SETTINGS, encoding="utf-8")
    out = tmp_path / "compared"
    command = [
        "bench",
        "quality",
        str(tmp_path / "run.yaml"),
        "--settings",
        str(tmp_path / "settings.yaml"),
        "--out",
        str(out),
    ]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    results = {each["setting"]: each for each in json.loads((out / "comparison.json").read_text())}
    assert [*results] == ["reference", "another seed", "the same again", "4 steps"]
    assert [each["num_clips"] for each in results.values()] == [2, 2, 2, 2]
    assert results["the same again"]["pictures"]["psnr_db"] > 60, "the same seeds in another place"
    assert results["another seed"]["pictures"]["psnr_db"] < results["the same again"]["pictures"]["psnr_db"]
    assert results["4 steps"]["differences"]["likeness_mean"]["num"] == 2
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count("<video") == 8
    assert "nod: She nods." in page
    outputs = [out / name for name in ("reference", "another-seed", "the-same-again", "4-steps")]
    assert all(len(list_editions(str(output)).in_force) == 2 for output in outputs)

    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0, again.output
    assert [len(read_runs(str(output))) for output in outputs] == [1, 1, 1, 1], "nothing was rendered again"
    other = CliRunner().invoke(app, [*command, "--set", "defaults.width=80"])
    assert other.exit_code == 2
    assert "must be empty or hold a comparison of the same clips" in other.output
    (tmp_path / "settings.yaml").write_text(
        SETTINGS.replace("again: {}", "again: {engine.compile: true}"), encoding="utf-8"
    )
    changed = CliRunner().invoke(app, command)
    assert changed.exit_code == 2
    assert "setting 'the-same-again': must name a setting" in changed.output
