"""Finds faces in rotated photos: the detector runs on the photo rotated in steps of 15 degrees, and scores upright faces highest.

The angle between landmarks is no help: on rotated faces the detector places them nearly upright, in the wrong places. Its score is
reliable. The constants below come from the measurements in `lynx_model/MEASURED.md`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lynx_model.faces.detection import DETECTOR_SIZE_PX, DetectedFace, detect, detect_once, usable

STEP_DEGREES = 15

CLEAR_SCORE = 0.93
"""A face with at least this score is within 30 degrees of upright, so no rotation is tried."""

MARGIN = 0.01
"""A rotated view must score better by this much, so that noise does not rotate an upright face."""

MIN_TURNED_SCORE = 0.85
"""The minimum score of a face that is found only in a rotated view; a cat and a cup scored up to 0.79."""

ZOOMS = (0.5, 0.7)
"""The photo's longer side as a share of the detector's input. The first leaves a margin around a face that fills the photo, which
would exceed the detector's largest anchor. The second, for small faces, is the largest at which no rotation cuts off a corner.
"""


def find_faces(detector: Any, image_rgb: NDArray[np.uint8], *, is_parity: bool = False) -> list[DetectedFace]:
    """All faces, each as detected in its upright view, from left to right in the upright photo.

    Args:
        detector: The "detection" network of `load_networks`.
        image_rgb: uint8 (H, W, 3).
        is_parity: Do as the original: rotate nothing, and pass RGB where the detector expects BGR.
    """
    if is_parity:
        return _from_left(detect(detector, image_rgb))
    picture = np.ascontiguousarray(image_rgb[..., ::-1])
    unrotated = detect(detector, picture)
    if _are_upright(unrotated):
        return _from_left(unrotated)
    views = _detect_in_all_views(detector, picture)
    turn = _photo_rotation([*unrotated, *views])
    quarters = round(turn / 90) % 4
    faces = _detect_turned(detector, picture, quarters) if quarters else unrotated
    if turn and not usable(faces):
        faces = [view for view in views if view.turned_degrees == turn]
    faces = list(dict.fromkeys(_best_view(face, views) for face in faces))
    if not usable(unrotated) and not any(face.score >= MIN_TURNED_SCORE for face in usable([*faces, *views])):
        return _from_left(unrotated)
    return _from_left(faces, quarters)


def describe_turn(degrees: int) -> str:
    return f"the face is rotated {degrees} degrees clockwise; it is read upright"


def _are_upright(faces: list[DetectedFace]) -> bool:
    scores = [face.score for face in usable(faces) or faces]
    return bool(scores) and min(scores) >= CLEAR_SCORE


def _detect_in_all_views(detector: Any, picture: NDArray[np.uint8]) -> list[DetectedFace]:
    """The faces of all rotated views, at the first zoom that shows a usable face."""
    faces: list[DetectedFace] = []
    for zoom in ZOOMS:
        faces = [
            face for turn in range(0, 360, STEP_DEGREES) for face in _detect_in_view(detector, picture, turn, zoom)
        ]
        if usable(faces):
            break
    return faces


def _detect_in_view(detector: Any, picture: NDArray[np.uint8], turn: int, zoom: float) -> list[DetectedFace]:
    """Faces of the picture rotated back by `turn` degrees. All views have the same scale, so their scores are comparable."""
    scale = zoom * max(DETECTOR_SIZE_PX) / max(picture.shape[:2])
    matrix = _rotation(picture, turn, scale, DETECTOR_SIZE_PX)
    turned = cv2.warpAffine(picture, matrix, DETECTOR_SIZE_PX)
    return [_move(face, cv2.invertAffineTransform(matrix), turn) for face in detect_once(detector, turned)]


def _detect_turned(detector: Any, picture: NDArray[np.uint8], quarters: int) -> list[DetectedFace]:
    """Faces of the picture rotated back by quarter turns, which changes no pixel: the result is that of an upright photo."""
    turned = np.ascontiguousarray(np.rot90(picture, quarters))
    matrix = _rotation(picture, quarters * 90, 1, turned.shape[1::-1])
    return [_move(face, cv2.invertAffineTransform(matrix), quarters * 90) for face in detect(detector, turned)]


def _rotation(picture: NDArray[np.uint8], turn: int, scale: float, size: Sequence[int]) -> NDArray[np.float64]:
    """The 2x3 matrix that rotates the picture back by `turn` degrees and centres it in one of `size` (width, height)."""
    centre, middle = ((np.array(sides) - 1) / 2 for sides in (picture.shape[1::-1], size))
    matrix = cv2.getRotationMatrix2D(centre.tolist(), turn, scale)
    matrix[:, 2] += middle - centre
    return np.asarray(matrix)


def _move(face: DetectedFace, matrix: NDArray[np.float64], turn: int) -> DetectedFace:
    """The face in pixels of the photo. Its box keeps its proportions, along the face's own axes."""
    centre = matrix[:, :2] @ face.centre + matrix[:, 2]
    half = (face.box[2:] - face.box[:2]) / 2 * np.hypot(*matrix[:, 0])
    return DetectedFace(
        box=np.concatenate([centre - half, centre + half]).astype(np.float32),
        landmarks=(face.landmarks @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32),
        score=face.score,
        turned_degrees=turn,
    )


def _photo_rotation(faces: list[DetectedFace]) -> int:
    """The photo's clockwise rotation: that of the face with the highest score, or 0 unless it clearly beats every upright face."""
    best = max(usable(faces) or faces, key=lambda face: face.score + MARGIN * (face.turned_degrees == 0), default=None)
    return best.turned_degrees if best else 0


def _best_view(face: DetectedFace, views: Iterable[DetectedFace]) -> DetectedFace:
    """The best-scoring view of this face. In a group, one head can be rotated differently from the others."""
    same = [view for view in views if view.is_same(face)]
    same_turn = [view for view in same if view.turned_degrees == face.turned_degrees]  # at the scale of the others
    best, own = (max(some, key=lambda view: view.score, default=face) for some in (same, same_turn))
    return best if best.score > own.score + MARGIN else face


def _from_left(faces: list[DetectedFace], quarters: int = 0) -> list[DetectedFace]:
    """The faces ordered by their left sides, in the photo rotated back by `quarters` quarter turns."""
    right = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)][quarters])
    return sorted(faces, key=lambda face: float(right @ face.centre) - face.width_px / 2)
