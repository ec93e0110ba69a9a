"""Faces that lie turned in their photo, with the free face pack's detector and recogniser."""

from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from lynx_model.errors import FaceError, FaceTooSmall, NoFaceFound
from lynx_model.faces.detection import detect
from lynx_model.faces.photo import read_photo
from lynx_model.faces.reader import FaceReader
from lynx_model.faces.upright import find_faces
from lynx_model.spec import Subject
from tests.builders import SUBJECTS, cosine, side_by_side


@pytest.fixture(scope="module")
def reader(face_pack: Path) -> FaceReader:
    return FaceReader.load(str(face_pack), "pack")


@pytest.fixture(scope="module")
def photos() -> dict[str, np.ndarray]:
    return {name: read_photo((SUBJECTS / f"{name}.jpg").read_bytes()) for name in ("eileen-collins", "grace-hopper")}


@pytest.fixture(scope="module")
def upright(reader: FaceReader, photos: dict[str, np.ndarray]) -> dict[str, Subject]:
    return {name: reader.read(photo) for name, photo in photos.items()}


def turn(photo: np.ndarray, degrees: int) -> np.ndarray:
    """Clockwise; at quarters without touching a pixel."""
    if degrees % 90 == 0:
        return np.ascontiguousarray(np.rot90(photo, -degrees // 90))
    return np.array(Image.fromarray(photo).rotate(-degrees, Image.Resampling.BICUBIC, expand=True, fillcolor="grey"))


def difference(one: Subject, other: Subject) -> float:
    """Of the crops that the Ref-adapter reads, in grey levels."""
    assert one.aligned_face is not None
    assert other.aligned_face is not None
    return float(np.abs(one.aligned_face.astype(int) - other.aligned_face).mean())


@pytest.mark.parametrize("name", ["eileen-collins", "grace-hopper"])
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_photo_turned_by_quarters_shows_the_same_person(
    reader: FaceReader, photos: dict[str, np.ndarray], upright: dict[str, Subject], name: str, degrees: int
) -> None:
    subject = reader.read(turn(photos[name], degrees))
    assert subject.turned_degrees == degrees
    assert cosine(subject, upright[name]) > 0.999
    assert difference(subject, upright[name]) < 1


@pytest.mark.parametrize("degrees", [-15, 15, 30, 45, 60, 75, 135, 225, 315])
def test_a_photo_turned_by_any_angle_shows_the_same_person(
    reader: FaceReader, photos: dict[str, np.ndarray], upright: dict[str, Subject], degrees: int
) -> None:
    subject = reader.read(turn(photos["eileen-collins"], degrees))
    assert abs((subject.turned_degrees - degrees + 180) % 360 - 180) <= 15
    assert cosine(subject, upright["eileen-collins"]) > 0.75


@pytest.mark.parametrize("name", ["eileen-collins", "grace-hopper"])
def test_an_upright_photo_is_read_as_it_lies(reader: FaceReader, photos: dict[str, np.ndarray], name: str) -> None:
    (face,) = find_faces(reader.detector, photos[name])
    (as_it_lies,) = detect(reader.detector, np.ascontiguousarray(photos[name][..., ::-1]))
    assert np.array_equal(face.landmarks, as_it_lies.landmarks)
    assert face.turned_degrees == 0


@pytest.mark.parametrize("name", ["chelsea", "coffee", "moon"])
def test_no_face_is_seen_in_a_cat_a_cup_or_the_moon_however_they_are_turned(reader: FaceReader, name: str) -> None:
    with pytest.raises(NoFaceFound):
        reader.read(np.atleast_3d(getattr(skimage.data, name)()) * np.ones(3, np.uint8))


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_faces_are_counted_from_the_left_of_the_upright_picture(
    reader: FaceReader, photos: dict[str, np.ndarray], upright: dict[str, Subject], degrees: int
) -> None:
    group = turn(side_by_side(photos["grace-hopper"], photos["eileen-collins"]), degrees)
    for index, name in enumerate(("grace-hopper", "eileen-collins")):
        subject = reader.read(group, index)
        assert (subject.turned_degrees, cosine(subject, upright[name]) > 0.9) == (degrees, True)


def test_a_head_that_lies_otherwise_than_the_rest_is_upright_as_well(
    reader: FaceReader, photos: dict[str, np.ndarray], upright: dict[str, Subject]
) -> None:
    group = side_by_side(turn(photos["eileen-collins"], 90), photos["grace-hopper"])
    for index, (name, degrees) in enumerate((("eileen-collins", 90), ("grace-hopper", 0))):
        subject = reader.read(group, index)
        assert (subject.turned_degrees, cosine(subject, upright[name]) > 0.9) == (degrees, True)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_face_that_fills_the_photo_is_found(
    reader: FaceReader, photos: dict[str, np.ndarray], degrees: int
) -> None:
    (face,) = find_faces(reader.detector, photos["eileen-collins"])
    left, top, right, bottom = face.box.astype(int)
    filling = photos["eileen-collins"][top + 11 : bottom - 11, left + 11 : right - 11].repeat(4, 0).repeat(4, 1)
    subject = reader.read(turn(filling, degrees))
    assert subject.turned_degrees == degrees
    assert cosine(subject, reader.read(filling)) > 0.95


def test_a_small_turned_face_is_found_in_a_large_photo(
    reader: FaceReader, photos: dict[str, np.ndarray], upright: dict[str, Subject]
) -> None:
    large = np.full((2600, 2000, 3), 90, np.uint8)
    large[1000:1512, 700:1212] = photos["eileen-collins"]
    subject = reader.read(turn(large, 90))
    assert abs(subject.turned_degrees - 90) <= 15
    assert cosine(subject, upright["eileen-collins"]) > 0.85


def test_a_turned_face_that_is_too_small_is_refused(reader: FaceReader, photos: dict[str, np.ndarray]) -> None:
    with pytest.raises(FaceTooSmall, match=r"largest face is \d\d px"):
        reader.read(turn(photos["eileen-collins"][::2, ::2], 90))


def test_parity_turns_nothing(face_pack: Path, photos: dict[str, np.ndarray], upright: dict[str, Subject]) -> None:
    parity = FaceReader.load(str(face_pack), "pack", is_parity=True)
    subject = parity.read(turn(photos["eileen-collins"], 90))
    assert subject.turned_degrees == 0
    assert cosine(subject, upright["eileen-collins"]) < 0.4
    with pytest.raises(FaceError):
        parity.read(turn(photos["grace-hopper"], 90))
