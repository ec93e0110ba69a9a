import numpy as np
import pytest

from lynx_model.errors import InvalidParams
from lynx_model.faces.align import (
    ARCFACE_LANDMARKS,
    align_face_for_identity,
    align_face_for_reference,
    similarity,
)
from tests.models import GOLDEN

CASES = sorted(file.stem for file in GOLDEN.glob("*.npz") if "aligned_face" in np.load(file))

MAX_GREY_LEVELS = 2


def test_the_golden_cases_are_there() -> None:
    assert CASES


@pytest.mark.parametrize("case", CASES)
def test_the_reference_crop_is_the_originals(case: str) -> None:
    golden = np.load(GOLDEN / f"{case}.npz")
    crop = align_face_for_reference(golden["image"], golden["landmarks"])
    assert np.abs(crop.astype(int) - golden["aligned_face"]).max() <= MAX_GREY_LEVELS


@pytest.mark.filterwarnings("ignore:`estimate` is deprecated:FutureWarning")
def test_the_identity_crop_is_insightfaces() -> None:
    from insightface.utils.face_align import norm_crop

    golden = np.load(GOLDEN / "full_guided.npz")
    crop = align_face_for_identity(golden["image"], golden["landmarks"])
    assert crop.shape == (112, 112, 3)
    assert np.abs(crop.astype(int) - norm_crop(golden["image"], golden["landmarks"])).max() <= 1


@pytest.mark.parametrize("seed", range(20))
def test_a_similarity_is_found_again(seed: int) -> None:
    random = np.random.default_rng(seed)
    angle, scale, shift = random.uniform(-np.pi, np.pi), random.uniform(0.1, 10), random.normal(size=2) * 100
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = ARCFACE_LANDMARKS @ (scale * rotation).T + shift
    assert similarity(ARCFACE_LANDMARKS, moved) == pytest.approx(np.column_stack([scale * rotation, shift]))


@pytest.mark.parametrize("seed", range(20))
def test_between_unlike_shapes_it_is_umeyamas_least_squares(seed: int) -> None:
    from skimage.transform import SimilarityTransform

    points = np.random.default_rng(seed).normal(size=(5, 2)) * 100
    upstream = SimilarityTransform.from_estimate(points, ARCFACE_LANDMARKS).params[:2]
    assert similarity(points, ARCFACE_LANDMARKS) == pytest.approx(upstream)


def test_outside_of_the_picture_is_black() -> None:
    white = np.full((112, 112, 3), 255, np.uint8)
    crop = align_face_for_identity(white, (ARCFACE_LANDMARKS + np.array([60, 0])).astype(np.float32))
    assert crop[:, :50].min() == 255
    assert crop[:, 60:].max() == 0


@pytest.mark.parametrize("landmarks", [np.ones((5, 2)), np.full((5, 2), np.nan), np.ones((4, 2))])
def test_landmarks_that_are_not_five_points_are_refused(landmarks: np.ndarray) -> None:
    with pytest.raises(InvalidParams, match="five different points"):
        align_face_for_identity(np.zeros((8, 8, 3), np.uint8), landmarks)
