"""How good a photo is: the demo's two photos, and copies of them that are blurred, dark, small, overexposed, noisy or turned."""

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from lynx_model.faces.detection import DetectedFace, load_networks
from lynx_model.faces.pack import find_pack
from lynx_model.faces.photo import read_photo
from lynx_model.faces.photo_quality import (
    GOOD_SHARPNESS,
    PhotoQuality,
    Verdict,
    judge,
    measure,
    roll_degrees,
    yaw_degrees,
)
from lynx_model.faces.reader import choose_face
from lynx_model.faces.upright import find_faces
from tests.builders import COLLINS, HOPPER, side_by_side

GOOD = PhotoQuality(
    short_side_px=512,
    face_px=120,
    sharpness=8,
    yaw_degrees=-30,
    roll_degrees=90,
    luminance=0.16,
    clipped=0.1,
    dark=0.25,
    num_faces=1,
)
"""Every value at its limit."""

Picture = np.ndarray


@pytest.fixture(scope="module")
def detector(face_pack: Path) -> Any:
    return load_networks(find_pack(str(face_pack)), ["detection"])["detection"]


@pytest.fixture(scope="module")
def hopper() -> Picture:
    return read_photo(HOPPER.read_bytes())


@pytest.fixture(scope="module")
def face(detector: Any, hopper: Picture) -> DetectedFace:
    return choose_face(find_faces(detector, hopper))


def measured(detector: Any, image: Picture, index: int | None = None) -> PhotoQuality:
    faces = find_faces(detector, image)
    return measure(image, faces, choose_face(faces, index))


def scaled(image: Picture, factor: float) -> Picture:
    return np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA))


def exposed(image: Picture, factor: float) -> Picture:
    return np.clip(image * factor, 0, 255).astype(np.uint8)


def blurred(image: Picture, sigma: float) -> Picture:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma))


def noisy(image: Picture) -> Picture:
    return np.clip(image + np.random.default_rng(0).normal(0, 10, image.shape), 0, 255).astype(np.uint8)


def as_jpeg(image: Picture) -> Picture:
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=30)
    return read_photo(file.getvalue())


def half_in_shadow(image: Picture, face: DetectedFace) -> Picture:
    shadow = image.copy()
    shadow[:, int(face.centre[0]) :] //= 16
    return shadow


def turn_head(image: Picture, landmarks: np.ndarray, degrees: float) -> Picture:
    """The photo as if the head, an ellipsoid with a nose, were turned to the right side of the picture. The world turns with it."""
    if degrees < 0:
        width = image.shape[1]
        mirrored = np.stack([width - 1 - landmarks[:, 0], landmarks[:, 1]], axis=1)[[1, 0, 2, 4, 3]]
        return turn_head(np.ascontiguousarray(image[:, ::-1]), mirrored, -degrees)[:, ::-1].copy()
    left, right, nose, *mouth = landmarks
    eyes_px = float(np.hypot(*(right - left)))
    centre = (left + right) / 2 * 0.6 + np.mean(mouth, axis=0) * 0.4
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    x, y = (columns - centre[0]) / eyes_px, (rows - centre[1]) / eyes_px
    depth = np.sqrt(np.clip(1 - (x / 1.15) ** 2 - (y / 1.7) ** 2, 0, None)) - 0.2
    above = np.where(rows < nose[1], 0.4, 0.14)
    depth += 0.4 * np.exp(-(((columns - nose[0]) / eyes_px / 0.16) ** 2) - ((rows - nose[1]) / eyes_px / above) ** 2)
    angle = np.radians(degrees)
    seen = np.maximum.accumulate((x * np.cos(angle) + depth * np.sin(angle)) * eyes_px + centre[0], axis=1)
    seen += columns * 1e-4  # what is hidden stays the shortest step
    source = np.stack([np.interp(columns[0], line, columns[0]) for line in seen]).astype(np.float32)
    return np.asarray(cv2.remap(image, source, rows, cv2.INTER_LINEAR))


def test_a_sharp_frontal_portrait_is_good(detector: Any, hopper: Picture) -> None:
    quality = measured(detector, hopper)
    assert judge(quality).verdict is Verdict.GOOD
    assert judge(quality).reasons == ()
    assert (quality.short_side_px, quality.num_faces) == (512, 1)
    assert abs(quality.yaw_degrees) < 5
    assert quality.sharpness > 5 * GOOD_SHARPNESS


def test_a_face_smaller_than_the_crop_is_usable(detector: Any) -> None:
    judgement = judge(measured(detector, read_photo(COLLINS.read_bytes())))
    assert judgement.verdict is Verdict.USABLE
    assert judgement.reasons == ("the face is 91 px wide; at least 120 px give a good likeness",)


@pytest.mark.parametrize(
    ("degrade", "verdict", "reason"),
    [
        (lambda image, face: scaled(image, 0.6), Verdict.USABLE, "the face is 105 px wide; at least 120 px"),
        (lambda image, face: scaled(image, 0.4), Verdict.POOR, "the face is 71 px wide; at least 120 px"),
        (lambda image, face: scaled(image, 0.9), Verdict.USABLE, "the photo's shorter side is 461 px; at least 512 px"),
        (lambda image, face: blurred(image, 5), Verdict.USABLE, "the face is blurred: its sharpness is "),
        (lambda image, face: blurred(image, 10), Verdict.POOR, "the face is blurred: its sharpness is "),
        (
            lambda image, face: exposed(image, 0.2),
            Verdict.USABLE,
            "the face is too dark: its brightness is 11%; at least 16%",
        ),
        (
            lambda image, face: exposed(image, 0.1),
            Verdict.POOR,
            "the face is too dark: its brightness is 6%; at least 16%",
        ),
        (half_in_shadow, Verdict.USABLE, "of the face is black without detail; at most 25%"),
        (lambda image, face: exposed(image, 1.6), Verdict.USABLE, "the face is overexposed: 19%"),
        (lambda image, face: exposed(image, 2.5), Verdict.POOR, "the face is overexposed: 58%"),
    ],
)
def test_a_degraded_copy_is_not_good_and_the_reason_names_value_and_rule(
    detector: Any,
    hopper: Picture,
    face: DetectedFace,
    degrade: Callable[[Picture, DetectedFace], Picture],
    verdict: Verdict,
    reason: str,
) -> None:
    judgement = judge(measured(detector, degrade(hopper, face)))
    assert any(reason in text for text in judgement.reasons), judgement
    assert judgement.verdict is verdict, judgement


def test_sharpness_depends_neither_on_size_nor_on_brightness(detector: Any, hopper: Picture) -> None:
    sharpness = measured(detector, hopper).sharpness
    for copy in (scaled(hopper, 0.5), scaled(hopper, 2), exposed(hopper, 0.3), as_jpeg(hopper)):
        assert measured(detector, copy).sharpness == pytest.approx(sharpness, rel=0.25)


@pytest.mark.parametrize("spoil", [noisy, as_jpeg])
def test_neither_noise_nor_jpeg_blocks_make_a_blurred_face_sharp(detector: Any, hopper: Picture, spoil: Any) -> None:
    assert measured(detector, spoil(blurred(hopper, 10))).sharpness < GOOD_SHARPNESS


@pytest.mark.parametrize(("degrees", "verdict"), [(45, Verdict.USABLE), (-50, Verdict.POOR)])
def test_a_turned_head_is_not_good(detector: Any, degrees: int, verdict: Verdict) -> None:
    collins = read_photo(COLLINS.read_bytes())
    turned = turn_head(collins, choose_face(find_faces(detector, collins)).landmarks, degrees)
    judgement = judge(replace(GOOD, yaw_degrees=measured(detector, turned).yaw_degrees))
    assert judgement.reasons[0].startswith("the head is turned to the side by about ")
    assert judgement.verdict is verdict


@pytest.mark.parametrize("degrees", [-30, -15, 15, 30, 45])
def test_the_turn_of_a_head_is_estimated_to_10_degrees(
    detector: Any, hopper: Picture, face: DetectedFace, degrees: int
) -> None:
    turned = turn_head(hopper, face.landmarks, degrees)
    assert measured(detector, turned).yaw_degrees == pytest.approx(degrees, abs=10)


def test_a_rotated_photo_shows_no_turned_head(detector: Any, hopper: Picture) -> None:
    quality, upright = measured(detector, np.ascontiguousarray(np.rot90(hopper, -1))), measured(detector, hopper)
    assert quality.roll_degrees == pytest.approx(90, abs=5)
    assert quality.yaw_degrees == pytest.approx(upright.yaw_degrees, abs=3)
    assert quality.sharpness == pytest.approx(upright.sharpness, rel=0.1)
    assert judge(quality).verdict is Verdict.GOOD


def test_yaw_and_roll_follow_from_the_landmarks() -> None:
    frontal = np.array([[0, 0], [10, 0], [5, 6], [2, 11], [8, 11]], np.float32)
    to_the_right = (
        frontal + np.eye(5, 2, -2, dtype=np.float32)[:, ::-1] * 0 + [[0, 0], [0, 0], [3.7, 0], [0, 0], [0, 0]]
    )
    assert yaw_degrees(frontal) == 0
    assert yaw_degrees(to_the_right) == pytest.approx(45)
    assert yaw_degrees(to_the_right[:, ::-1] * (-1, 1)) == pytest.approx(45)
    assert roll_degrees(frontal[:, ::-1] * (-1, 1)) == pytest.approx(90)


def test_another_person_in_the_photo_is_named(detector: Any, hopper: Picture) -> None:
    quality = measured(detector, side_by_side(hopper, hopper), index=1)
    assert judge(quality).verdict is Verdict.USABLE
    assert judge(quality).reasons == ("the photo shows 2 faces; a photo of one person alone is safest",)


def test_a_face_that_is_cut_off_is_measured_where_it_is_in_the_photo(hopper: Picture, face: DetectedFace) -> None:
    half = exposed(hopper, 0)[: int(face.centre[1])]
    quality = measure(half, [face], face)
    assert (quality.luminance, quality.dark, quality.sharpness) == (0, 1, 0)


def test_values_at_their_limits_are_good() -> None:
    assert judge(GOOD).verdict is Verdict.GOOD


def test_the_worst_rule_decides_and_comes_first() -> None:
    judgement = judge(replace(GOOD, face_px=119, sharpness=3.9, num_faces=3))
    assert judgement.verdict is Verdict.POOR
    assert [reason.partition(" is ")[0] for reason in judgement.reasons[:2]] == ["the face", "the face"]
    assert judgement.reasons[0].startswith("the face is blurred: its sharpness is 3.9")
    assert len(judgement.reasons) == 3
