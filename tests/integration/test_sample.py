"""A campaign from its sample to its approval and its big run, as users type it."""

import json
from pathlib import Path

import pytest
from PIL import Image

from lynx_batch.report.sheet import CELL_PX, MARGIN_PX
from tests.builders import COLLINS, HOPPER, row, write_manifest
from tests.heads import Head
from tests.jobs import Job, invoke

pytestmark = [pytest.mark.ray, pytest.mark.slow(s=100)]


DEADLINE_S = 600
OTHER_VIDEO = ("--set", "video.crf=30")
"""A setting that changes no ClipId."""


def rows(template: str = "A person {{verb}}.") -> list[dict[str, object]]:
    """Two people; no prompt repeats, but all come from one template."""
    verbs = ("waves", "sings", "runs", "reads")
    return [
        row(photo, template.replace("{{verb}}", verb), prompt_template=template, subject_id=photo.stem)
        for verb in verbs
        for photo in (COLLINS, HOPPER)
    ]


def test_what_was_approved_is_rendered_and_nothing_else(tmp_path: Path, face_pack: Path, head: Head) -> None:
    job = Job(folder=tmp_path, face_pack=face_pack, rows=rows(), deadline_s=DEADLINE_S, head=head)
    run_file, sheet = tmp_path / "run.yaml", tmp_path / "sheet.png"
    place = f"{job.output}-sample"

    sampled = job.run("--sheet", str(sheet), command="sample")
    assert sampled.exit_code == 0, sampled.stderr
    assert "picked 2 of 8 rows" in sampled.stdout
    assert f"contact sheet: {sheet}" in sampled.stdout
    assert f"lynx-batch approve {place} --by NAME" in sampled.stdout
    assert not Path(job.output).exists(), "nothing is written to the campaign's output"
    assert len([*Path(place, "report").rglob("index.html")]) == 1
    with Image.open(sheet) as picture:
        assert picture.height == MARGIN_PX + 2 * (CELL_PX + MARGIN_PX)
        photo = picture.crop((MARGIN_PX, MARGIN_PX, MARGIN_PX + 100, MARGIN_PX + 100))
        assert photo.convert("L").getextrema()[1] - photo.convert("L").getextrema()[0] > 50, "the photo"

    again = job.run("--sheet", str(sheet), *OTHER_VIDEO, command="sample")
    assert "2 to render" in again.stdout, "the first clips do not show what would be approved"

    refused = invoke("render", run_file, "--require-approval", *OTHER_VIDEO)
    assert refused.exit_code == 2
    assert "nobody has approved anything yet" in refused.output
    assert invoke("approve", place, "--by", "Ada L.").exit_code == 0

    write_manifest(tmp_path / "manifest.parquet", [*rows()[:3], *rows("Buy {{verb}} now!")[:1]])
    changed = invoke("render", run_file, "--require-approval", *OTHER_VIDEO, "--set", "defaults.guidance_scale=7")
    assert changed.exit_code == 2
    assert "template 'Buy {{verb}} now!': was not approved (row 3)" in changed.output
    assert "guidance_scale=7.0: approved is 5.0 (rows 0, 1, 2, 3)" in changed.output
    assert not Path(job.output).exists(), "refused before anything was written"

    write_manifest(tmp_path / "manifest.parquet", rows()[:4])
    rendered = job.run("--require-approval", *OTHER_VIDEO)
    assert rendered.exit_code == 0, rendered.stderr
    assert [r["outcome"] for r in job.metadata()] == ["rendered"] * 4
    (record,) = Path(job.output, "runs").glob("*/run.json")
    (by,) = json.loads(record.read_text())["approvals"]
    assert by.startswith(f"{place}/approvals/")
