"""A run goes on in an output location that an earlier version wrote."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.test_render import COLLINS, HOPPER, Job, make_job, row
from tests.models import ROOT

__all__ = ["make_job"]
pytestmark = pytest.mark.ray

OLD_OUTPUT = ROOT / "tests" / "data" / "output-contract-1"


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_run_goes_on_in_an_old_output(make_job: Callable[..., Job], tmp_path: Path) -> None:
    """Clips of another contract version have other names, so each is rendered once more, and the old ones stay as they are."""
    output = Path(shutil.copytree(OLD_OUTPUT, tmp_path / "out"))
    old = files_in(output)
    names = {"clip_name": "boat"}
    rows = [
        row(COLLINS, "A person waves from a boat.", subject_id="eileen-collins", **names),
        row(HOPPER, "A person waves from a boat.", subject_id="grace-hopper", **names),
    ]
    job = make_job(rows, output=str(output))

    told = job.run()
    assert told.exit_code == 0, told.stderr
    assert [r["outcome"] for r in job.metadata()] == ["rendered"] * 2
    assert job.num_commits() == 4
    assert old.items() <= files_in(output).items()
    again = job.run()
    assert (again.exit_code, job.num_commits()) == (0, 4), again.stderr
    assert "4 clips committed" in job.run(command="status").stdout
    for command, expected in (("verify", "4 of 4 clips read, 0 faulty"), ("prune", "0 files")):
        assert expected in job.run(command=command).stdout
    exported = tmp_path / "named"
    told = job.run(str(exported), "--name", "{subject_id}/{clip_name}.mp4", command="export")
    assert told.exit_code == 0, told.stdout
    newest = {r["subject_id"]: (output / r["clip_uri"]).read_bytes() for r in job.metadata()}
    assert {f"{subject}/boat.mp4": video for subject, video in newest.items()} == files_in(exported)
