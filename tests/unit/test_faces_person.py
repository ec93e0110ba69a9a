"""Several photos of one person, on real photos of two people with the free face pack.

Photos of the same person are the portrait, its mirror image and degraded copies of it.
"""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from lynx_model.errors import DifferentPeople, SeveralFaces
from lynx_model.faces.person import MIN_LIKENESS, choose_reference, find_stranger
from lynx_model.faces.photo import read_photo
from lynx_model.faces.photo_quality import PhotoQuality
from lynx_model.faces.reader import FaceReader
from tests.builders import COLLINS, HOPPER, side_by_side

Picture = np.ndarray


@pytest.fixture(scope="module")
def reader(face_pack: Path) -> FaceReader:
    return FaceReader.load(str(face_pack), "pack")


@pytest.fixture(scope="module")
def photos() -> dict[str, Picture]:
    portrait = read_photo(COLLINS.read_bytes())
    return {
        "blurred": np.asarray(cv2.GaussianBlur(portrait, (0, 0), 2)),
        "portrait": portrait,
        "mirrored": np.ascontiguousarray(portrait[:, ::-1]),
        "hopper": read_photo(HOPPER.read_bytes()),
        "both": side_by_side(portrait, read_photo(HOPPER.read_bytes())),
    }


def test_the_identity_is_the_mean_and_the_reference_the_sharp_photo(
    reader: FaceReader, photos: dict[str, Picture]
) -> None:
    named = [(name, photos[name]) for name in ("blurred", "portrait", "mirrored")]
    person, each = reader.read_person(named), [reader.read(picture) for _, picture in named]
    mean = np.mean([subject.face_embedding for subject in each], axis=0)
    assert np.allclose(person.face_embedding, mean / np.linalg.norm(mean), atol=1e-6)
    assert any(np.array_equal(person.aligned_face, sharp.aligned_face) for sharp in each[1:])
    assert person.encoder == each[0].encoder


def test_one_photo_is_read_as_ever(reader: FaceReader, photos: dict[str, Picture]) -> None:
    person, single = reader.read_person([("a", photos["hopper"])]), reader.read(photos["hopper"])
    assert np.array_equal(person.face_embedding, single.face_embedding)
    assert np.array_equal(person.aligned_face, single.aligned_face)


@pytest.mark.parametrize("names", [("portrait", "mirrored", "hopper"), ("hopper", "blurred", "portrait", "mirrored")])
def test_a_photo_of_somebody_else_is_named(
    reader: FaceReader, photos: dict[str, Picture], names: tuple[str, ...]
) -> None:
    with pytest.raises(
        DifferentPeople, match=r"^hopper: must show the same person as the other photos, and clearly; the likeness is"
    ):
        reader.read_person((name, photos[name]) for name in names)


def test_of_two_photos_one_is_named(reader: FaceReader, photos: dict[str, Picture]) -> None:
    with pytest.raises(
        DifferentPeople, match=r"^(hopper|portrait): must show the same person as the other photo, and clearly;"
    ):
        reader.read_person((name, photos[name]) for name in ("portrait", "hopper"))


def test_a_photo_that_cannot_be_used_is_named(reader: FaceReader, photos: dict[str, Picture]) -> None:
    with pytest.raises(SeveralFaces, match=r"^both: photo: 2 face"):
        reader.read_person((name, photos[name]) for name in ("portrait", "both"))


def test_likeness_is_the_mean_over_the_other_photos() -> None:
    def at(degrees: float) -> np.ndarray:
        return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], np.float32)

    limit = float(np.degrees(np.arccos(MIN_LIKENESS)))
    assert find_stranger({"a": at(0), "b": at(limit - 1)}) is None
    assert find_stranger({"a": at(0), "b": at(limit + 1)}) is not None
    stranger = find_stranger({"a": at(0), "b": at(10), "c": at(120), "d": at(20)})
    assert stranger is not None
    assert stranger.photo == "c"


def test_the_reference_is_the_most_frontal_of_the_sharp_photos() -> None:
    sharp = PhotoQuality(
        short_side_px=800,
        face_px=200,
        sharpness=20,
        yaw_degrees=-20,
        roll_degrees=0,
        luminance=0.4,
        clipped=0,
        dark=0,
        num_faces=1,
    )
    frontal = replace(sharp, yaw_degrees=5, sharpness=9)
    blurred, small = replace(sharp, yaw_degrees=0, sharpness=3), replace(sharp, yaw_degrees=0, face_px=70)
    assert choose_reference([sharp, blurred, frontal, small]) == 2
    assert choose_reference([replace(blurred, sharpness=2), blurred]) == 1
    assert choose_reference([frontal, frontal]) == 0
