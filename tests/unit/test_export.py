"""`export`: rendered clips under readable names."""

from dataclasses import replace
from pathlib import Path

import pytest

from lynx_batch import storage
from lynx_batch.errors import ConfigError, MissingObject
from lynx_batch.ledger.export import copy_clips, name_clips
from lynx_batch.ledger.metadata import Outcome, RowOutcome
from tests.unit.test_ledger import clip, ended, record, write_metadata


def rendered(clip_id: str, row: int, **cells: object) -> RowOutcome:
    spec = clip(clip_id, row)
    return ended(Outcome.RENDERED, replace(spec, request=replace(spec.request, **cells)))


@pytest.fixture
def output(tmp_path: Path) -> str:
    """Two clips of ada and one of bob, in the store and in the metadata; and a row that was rejected."""
    output = str(tmp_path / "out")
    rows = [
        rendered("aa11", 0, subject_id="ada", clip_name="wave"),
        rendered("bb22", 1, subject_id="ada", clip_name="smile"),
        rendered("cc33", 2, subject_id="bob", clip_name="wave", priority=3),
        ended(Outcome.REJECTED, row=3),
    ]
    for row in rows[:3]:
        assert row.commit is not None
        storage.write_bytes(storage.join(output, row.commit.clip_uri), row.commit.clip_id.encode())
    write_metadata(output, "run-1", rows)
    return output


def test_clips_get_names_from_their_metadata(output: str, tmp_path: Path) -> None:
    clips = name_clips(output, "{subject_id}/{clip_name}-{row:03}.mp4")
    copy_clips(clips, str(tmp_path / "named"))
    copy_clips(clips, str(tmp_path / "named"))
    named = {str(p.relative_to(tmp_path / "named")): p.read_text() for p in (tmp_path / "named").rglob("*.mp4")}
    assert named == {"ada/wave-000.mp4": "aa11", "ada/smile-001.mp4": "bb22", "bob/wave-002.mp4": "cc33"}
    original = Path(output) / record("aa11").clip_uri
    assert (tmp_path / "named" / "ada" / "wave-000.mp4").samefile(original), "no space is used on the same disk"


def test_clips_are_copied_to_another_store(output: str) -> None:
    copy_clips(name_clips(output, "{clip_id}.mp4"), "memory://named")
    assert storage.read_bytes("memory://named/aa11.mp4") == b"aa11"


def test_the_newest_run_decides_the_names_of_a_clip(output: str) -> None:
    write_metadata(output, "run-2", [rendered("aa11", 7, clip_name="first"), rendered("aa11", 8, clip_name="second")])
    assert sorted(name_clips(output, "{clip_id}-{row}")) == ["aa11-7", "aa11-8", "bb22-1", "cc33-2"]


def test_a_clip_made_anew_takes_its_name_from_the_old_one(output: str) -> None:
    write_metadata(output, "run-2", [rendered("dd44", 0, subject_id="ada", clip_name="wave")])
    clips = name_clips(output, "{subject_id}/{clip_name}.mp4")
    assert clips["ada/wave.mp4"] == storage.join(output, record("dd44").clip_uri)
    assert len(clips) == 3


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{clip_name}.mp4", r"row 2 of run run-1: 'wave\.mp4' must not be the name of row 0, too"),
        ("{consent_ref}.mp4", "row 0 of run run-1: consent_ref must not be null"),
        ("{clipname}.mp4", "'clipname' must be a column of the metadata"),
        ("{clip_name.__class__}", "must be a column"),
        ("{}.mp4", "must be a column"),
        ("{row", "expected '}'"),
        ("{clip_name:d}", "row 0 of run run-1: Unknown format code 'd'"),
        ("../{clip_id}.mp4", "must be a relative path"),
        ("/{clip_id}.mp4", "must be a relative path"),
        ("{subject_id}//{clip_id}", "must be a relative path"),
        ("{clip_id}\\x", "must not hold control characters or backslashes"),
    ],
)
def test_a_name_that_cannot_be_is_told_with_its_row_and_rule(output: str, template: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        name_clips(output, template)


def test_a_cell_does_not_lead_out_of_the_destination(output: str) -> None:
    write_metadata(output, "run-2", [rendered("aa11", 0, clip_name="../../etc/passwd")])
    with pytest.raises(ConfigError, match=r"row 0 of run run-2: '.*passwdaa11' must be a relative path"):
        name_clips(output, "x/{clip_name}{clip_id}")


def test_a_clip_cannot_be_the_folder_of_another(output: str) -> None:
    write_metadata(output, "run-2", [rendered("dd44", 0, clip_name="a"), rendered("ee55", 1, clip_name="a/b")])
    cells = {"subject_id": "x", "clip_name": "z"}
    write_metadata(
        output, "run-3", [rendered(clip_id, 9 + n, **cells) for n, clip_id in enumerate(["aa11", "bb22", "cc33"])]
    )
    with pytest.raises(ConfigError, match="'a' must not be a clip and the folder of 'a/b'"):
        name_clips(output, "{clip_name}")


def test_a_clip_that_is_gone_is_named(output: str, tmp_path: Path) -> None:
    (Path(output) / record("aa11").clip_uri).unlink()
    with pytest.raises(MissingObject, match="aa11"):
        copy_clips(name_clips(output, "{clip_id}"), str(tmp_path / "named"))
