"""`check --photos`: every photo is searched for the face that its rows mean, with the real detector in real processes."""

from collections.abc import Set
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from structlog.testing import capture_logs

from lynx_batch.config import FacesConfig, InputsConfig
from lynx_batch.errors import LynxError
from lynx_batch.intake import faces as intake_faces
from lynx_batch.intake.faces import Finding, PhotoFace, UsableFace, check_faces
from lynx_batch.intake.photos import PhotoProblem
from lynx_model.errors import MissingFile
from tests import builders, crashes

COLLINS, HOPPER = str(builders.COLLINS), str(builders.HOPPER)


def write_group(file: Path) -> str:
    """Both people side by side."""
    pictures = [Image.open(photo).convert("RGB").resize((400, 400)) for photo in (COLLINS, HOPPER)]
    Image.fromarray(np.hstack([np.asarray(picture) for picture in pictures])).save(file)
    return str(file)


def findings_of(
    wanted: list[Any], face_pack: Path, num_processes: int, compared: Set[str] = frozenset()
) -> dict[PhotoFace, Finding]:
    faces = FacesConfig(pack=str(face_pack))
    reports = check_faces(wanted, faces, InputsConfig(), num_processes, compared=compared)
    return {report.face: report.finding for report in reports}


def problems_of(findings: dict[PhotoFace, Finding]) -> dict[PhotoFace, PhotoProblem]:
    return {face: finding for face, finding in findings.items() if isinstance(finding, PhotoProblem)}


def test_each_face_that_cannot_be_used_has_its_reason(tmp_path: Path, face_pack: Path) -> None:
    group, blank, broken = (
        write_group(tmp_path / "group.png"),
        str(tmp_path / "blank.png"),
        str(tmp_path / "broken.jpg"),
    )
    Image.new("RGB", (200, 200), "grey").save(blank)
    Path(broken).write_bytes(b"no picture")
    missing, turned = str(tmp_path / "none.jpg"), str(tmp_path / "turned.png")
    Image.open(HOPPER).transpose(Image.Transpose.ROTATE_90).save(turned)
    wanted = [(COLLINS, None), (HOPPER, 0), (group, None), (group, 1), (group, 2), (blank, None)]
    wanted += [(broken, None), (missing, None), (COLLINS, None), (turned, None)]
    findings = findings_of(wanted, face_pack, 2, compared={COLLINS})
    problems = problems_of(findings)
    embedded = {face for face, seen in findings.items() if isinstance(seen, UsableFace) and seen.embedding is not None}
    assert embedded == {(COLLINS, None)}
    assert {face: seen.turned_degrees for face, seen in findings.items() if isinstance(seen, UsableFace)} == {
        (COLLINS, None): 0,
        (HOPPER, 0): 0,
        (group, 1): 0,
        (turned, None): 270,
    }
    assert findings[HOPPER, 0].judgement.verdict == "good"
    assert findings[COLLINS, None].judgement.verdict == "usable"
    assert {face: problem.error_type for face, problem in problems.items()} == {
        (group, None): "SeveralFaces",
        (group, 2): "NoFaceFound",
        (blank, None): "NoFaceFound",
        (broken, None): "UnreadableImage",
        (missing, None): "MissingObject",
    }


def test_a_photo_that_kills_the_process_that_searches_it_is_named_and_the_others_are_searched(
    tmp_path: Path, face_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in crashes.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    killer = str(crashes.write_crashing(tmp_path / "killer.jpg", Path(COLLINS)))
    Image.new("RGB", (200, 200), "grey").save(tmp_path / "blank.png")
    wanted = [(killer, None), (killer, 1), (COLLINS, None), (HOPPER, 0), (str(tmp_path / "blank.png"), None)]
    problems = problems_of(findings_of(wanted, face_pack, 2))
    assert {face: problem.error_type for face, problem in problems.items()} == {
        (killer, None): "UnreadableImage",
        (killer, 1): "UnreadableImage",
        (str(tmp_path / "blank.png"), None): "NoFaceFound",
    }
    assert "must not kill the process" in problems[killer, None].error


def test_an_error_that_nobody_foresaw_costs_the_other_photos_nothing(face_pack: Path) -> None:
    wanted: list[Any] = [(COLLINS, "first"), (HOPPER, 0), (HOPPER, 9)]
    with capture_logs() as logs:
        found = findings_of(wanted, face_pack, 1)
    assert found[COLLINS, "first"].error_type == "UnreadableImage"
    assert "cannot be searched for faces: TypeError" in found[COLLINS, "first"].error
    assert found[HOPPER, 9].error_type == "NoFaceFound"
    assert [entry["event"] for entry in logs] == ["photo_search_failed"]


def test_a_missing_face_pack_is_not_blamed_on_the_photos(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="face pack"):
        findings_of([(COLLINS, None)], tmp_path / "none", 1)


def test_a_missing_face_pack_is_told_once_for_many_photos(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with capture_logs() as logs, pytest.raises(MissingFile, match="face pack"):
        findings_of([(COLLINS, None), (HOPPER, None), (HOPPER, 0)], tmp_path / "none", 1)
    assert logs == []
    assert "Traceback" not in "".join(capfd.readouterr())


def test_no_faces_have_no_problems() -> None:
    assert list(check_faces([], FacesConfig(), InputsConfig())) == []
    assert issubclass(MissingFile, LynxError)


def test_pictures_are_small_and_made_only_if_asked_for(tmp_path: Path, face_pack: Path) -> None:
    group = write_group(tmp_path / "group.png")
    faces, wanted = FacesConfig(pack=str(face_pack)), [(HOPPER, None), (group, None)]
    seen, refused = check_faces(wanted, faces, InputsConfig(), 1, with_pictures=True)
    assert Image.open(BytesIO(seen.crop_jpeg)).size == (256, 256)
    assert max(Image.open(BytesIO(seen.photo_jpeg)).size) == 256
    assert isinstance(refused.finding, PhotoProblem)
    assert Image.open(BytesIO(refused.photo_jpeg)).size == (256, 128)
    assert refused.crop_jpeg == b""
    assert len(seen.crop_jpeg + seen.photo_jpeg) < 50_000
    for report in check_faces(wanted, faces, InputsConfig(), 1):
        assert (report.photo_jpeg, report.crop_jpeg) == (b"", b"")


def test_the_order_of_the_reports_is_that_of_the_photos_however_few_are_held(
    tmp_path: Path, face_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_faces, "MAX_AHEAD", 2)
    photos = [str(tmp_path / f"{number}.png") for number in range(5)]
    for photo in photos:
        Image.new("RGB", (64, 64)).save(photo)
    assert list(findings_of([(photo, None) for photo in photos], face_pack, 2)) == [(photo, None) for photo in photos]
