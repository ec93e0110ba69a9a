"""A run goes on in an output location that an earlier version wrote."""

import shutil
from pathlib import Path

import pytest

from tests.builders import COLLINS, HOPPER, row
from tests.heads import Head
from tests.jobs import Job
from tests.models import OLD_OUTPUT
from tests.stores import read_folder

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_run_goes_on_in_an_old_output(face_pack: Path, tmp_path: Path, head: Head) -> None:
    """Clips of another contract version have other names, so each is rendered once more, and the old ones stay as they are."""
    output = Path(shutil.copytree(OLD_OUTPUT, tmp_path / "out"))
    old = read_folder(output)
    people = {"eileen-collins": COLLINS, "grace-hopper": HOPPER}
    rows = [row(photo, subject_id=name, clip_name="boat") for name, photo in people.items()]
    job = Job(folder=tmp_path, face_pack=face_pack, rows=rows, output=str(output), head=head)

    told = job.run()
    assert told.exit_code == 0, told.stderr
    assert [r["outcome"] for r in job.metadata()] == ["rendered"] * 2
    assert old.items() <= read_folder(output).items()
    assert (job.run().exit_code, job.num_commits()) == (0, 4)

    said = {"status": "4 clips committed", "verify": "4 of 4 clips read, 0 faulty", "prune": "0 files"}
    for command, expected in said.items():
        assert expected in job.ask(command).stdout
    exported = tmp_path / "named"
    told = job.ask("export", str(exported), "--name", "{subject_id}/{clip_name}.mp4")
    assert told.exit_code == 0, told.stdout
    newest = {f"{r['subject_id']}/boat.mp4": (output / r["clip_uri"]).read_bytes() for r in job.metadata()}
    assert {name: content for name, content in read_folder(exported).items() if name != "export.json"} == newest
