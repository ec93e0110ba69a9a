"""`check --photos`: every photo is searched for the face that its rows mean, with the real detector in real processes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from structlog.testing import capture_logs

from lynx_batch.config import FacesConfig, InputsConfig
from lynx_batch.errors import LynxError
from lynx_batch.intake.faces import check_faces
from lynx_batch.intake.photos import PhotoProblem
from lynx_model.errors import MissingFile
from tests import builders, crashes

COLLINS, HOPPER = str(builders.COLLINS), str(builders.HOPPER)


def write_group(file: Path) -> str:
    """Both people side by side."""
    pictures = [Image.open(photo).convert("RGB").resize((400, 400)) for photo in (COLLINS, HOPPER)]
    Image.fromarray(np.hstack([np.asarray(picture) for picture in pictures])).save(file)
    return str(file)


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
    findings = check_faces(wanted, FacesConfig(pack=str(face_pack)), InputsConfig(), num_processes=2)
    problems = {face: finding for face, finding in findings.items() if isinstance(finding, PhotoProblem)}
    assert findings.keys() - problems.keys() == {(turned, None)}
    assert findings[turned, None] == 270
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
    problems = check_faces(wanted, FacesConfig(pack=str(face_pack)), InputsConfig(), num_processes=2)
    assert {face: problem.error_type for face, problem in problems.items()} == {
        (killer, None): "UnreadableImage",
        (killer, 1): "UnreadableImage",
        (str(tmp_path / "blank.png"), None): "NoFaceFound",
    }
    assert "must not kill the process" in problems[killer, None].error


def test_an_error_that_nobody_foresaw_costs_the_other_photos_nothing(face_pack: Path) -> None:
    wanted: list[Any] = [(COLLINS, "first"), (HOPPER, 0), (HOPPER, 9)]
    with capture_logs() as logs:
        found = check_faces(wanted, FacesConfig(pack=str(face_pack)), InputsConfig(), num_processes=1)
    assert found[COLLINS, "first"].error_type == "UnreadableImage"
    assert "cannot be searched for faces: TypeError" in found[COLLINS, "first"].error
    assert found[HOPPER, 9].error_type == "NoFaceFound"
    assert [entry["event"] for entry in logs] == ["photo_search_failed"]


def test_a_missing_face_pack_is_not_blamed_on_the_photos(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="face pack"):
        check_faces([(COLLINS, None)], FacesConfig(pack=str(tmp_path / "none")), InputsConfig())


def test_no_faces_have_no_problems() -> None:
    assert check_faces([], FacesConfig(), InputsConfig()) == {}
    assert issubclass(MissingFile, LynxError)
