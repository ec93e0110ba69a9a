"""Runs with marks on a real local Ray: what is committed carries them, and `verify` reads them back."""

from pathlib import Path

import pytest

from tests.builders import HOPPER, row
from tests.certificates import key_pem, make_chain, make_key
from tests.heads import Head
from tests.jobs import Job
from tests.watermarks import write_network


@pytest.mark.slow
def test_a_run_commits_marked_clips_and_leaves_no_key_anywhere(tmp_path: Path, face_pack: Path) -> None:
    key = make_key("es256")
    pem, prompt = key_pem(key).decode(), "Countess waves from a terrace."
    (tmp_path / "chain.pem").write_bytes(b"".join(make_chain(key)))
    c2pa = {"certificates": "chain.pem", "private_key": "env:SIGNING_KEY"}
    provenance = {
        "marking": "required",
        "label": {"text": "AI"},
        "aigc": {"content_producer": "Example"},
        "c2pa": c2pa,
    }
    rows = [row(str(HOPPER), prompt, subject_id="ada-lovelace", consent_ref="CRM-17", seed=seed) for seed in (1, 2)]
    settings = {"provenance": provenance, "video": {"preview": "webp"}}
    job = Job(folder=tmp_path, face_pack=face_pack, rows=rows, steps=1, settings=settings, env={"SIGNING_KEY": pem})

    done = job.run()
    assert done.exit_code == 0, done.stderr
    commits = job.commits()
    assert [commit["marks"] for commit in commits] == [["label", "tags", "aigc", "c2pa"]] * 2
    assert job.metadata()[0]["marks"] == [(mark, "applied") for mark in ("label", "tags", "aigc", "c2pa")]
    lines = [line for line in pem.splitlines() if "PRIVATE" not in line]
    left = {file: file.read_bytes() for file in Path(job.output).rglob("*") if file.is_file()}
    told = [*left.values(), done.stdout.encode(), done.stderr.encode()]
    assert not any(line.encode() in content for content in told for line in lines)
    videos = [content for file, content in left.items() if file.suffix == ".mp4"]
    assert not any(word in video for video in videos for word in (b"ada-lovelace", b"CRM-17", b"Countess"))

    assert job.ask("verify").exit_code == 0
    video = Path(job.output) / str(commits[0]["clip_uri"])
    content = bytearray(video.read_bytes())
    content[-30] ^= 1
    video.write_bytes(content)
    found = job.ask("verify")
    assert found.exit_code == 3
    assert "c2pa: assertion.bmffHash.mismatch" in found.stdout


@pytest.mark.slow
def test_a_clip_whose_marking_fails_is_tried_again_and_fails_in_the_end(
    tmp_path: Path, face_pack: Path, head: Head
) -> None:
    provenance = {"marking": "required", "watermark": write_network(tmp_path / "weak.jit", strength=0.0)}
    settings = {"provenance": provenance, "retry": {"max_attempts": 2, "max_failed_share": 1.0}}
    job = Job(folder=tmp_path, face_pack=face_pack, rows=[row(str(HOPPER))], steps=1, settings=settings, head=head)

    done = job.run()
    assert done.exit_code == 3, done.stderr
    (ended,) = job.metadata()
    assert (ended["outcome"], ended["error_type"], ended["attempts"]) == ("failed", "NotMarked", 2)
    assert "watermark: " in str(ended["error"])
    assert job.num_commits() == 0
