"""Finds faces however a photo is rotated: the detector looks at it every 15 degrees, and is surest where a face is upright.

The roll of the landmarks cannot be used: on rotated faces the detector places them nearly upright, in the wrong places. Its
score can. `lynx_model/MEASURED.md` has the measurements that the constants below come from.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lynx_model.faces.detection import DETECTOR_SIZE_PX, DetectedFace, detect, detect_once, usable

STEP_DEGREES = 15

CLEAR_SCORE = 0.93
"""From this score on, a face is within 30 degrees of upright, and nothing else is tried."""

MARGIN = 0.01
"""How much better another look must score, so that noise does not rotate an upright face."""

MIN_TURNED_SCORE = 0.85
"""The least score of a face that is found only when the photo is turned: a cat and a cup scored up to 0.79."""

ZOOMS = (0.5, 0.7)
"""The photo's longer side as a share of the detector's picture. The first leaves room around a face that fills the photo, which is
larger than the detector's largest anchor; the second, for small faces, just holds the corners.
"""


def find_faces(detector: Any, image_rgb: NDArray[np.uint8], *, is_parity: bool = False) -> list[DetectedFace]:
    """All faces, each as the detector sees it upright, from left to right in the upright picture.

    Args:
        detector: The "detection" network of `load_networks`.
        image_rgb: uint8 (H, W, 3).
        is_parity: Repeat the original: turn nothing, and feed RGB where the detector expects BGR.
    """
    if is_parity:
        return _from_left(detect(detector, image_rgb))
    picture = np.ascontiguousarray(image_rgb[..., ::-1])
    as_it_lies = detect(detector, picture)
    if _is_clear(as_it_lies):
        return _from_left(as_it_lies)
    looks = _look_around(detector, picture)
    turn = _find_turn([*as_it_lies, *looks])
    quarters = round(turn / 90) % 4
    faces = _detect_turned(detector, picture, quarters) if quarters else as_it_lies
    if turn and not usable(faces):
        faces = [look for look in looks if look.turned_degrees == turn]
    faces = list(dict.fromkeys(_surest(face, looks) for face in faces))
    if not usable(as_it_lies) and not any(face.score >= MIN_TURNED_SCORE for face in usable([*faces, *looks])):
        return _from_left(as_it_lies)
    return _from_left(faces, quarters)


def describe_turn(degrees: int) -> str:
    return f"the face is rotated {degrees} degrees clockwise; it is read upright"


def _is_clear(faces: list[DetectedFace]) -> bool:
    scores = [face.score for face in usable(faces) or faces]
    return bool(scores) and min(scores) >= CLEAR_SCORE


def _look_around(detector: Any, picture: NDArray[np.uint8]) -> list[DetectedFace]:
    """What all turns show, at the first zoom that shows a usable face."""
    faces: list[DetectedFace] = []
    for zoom in ZOOMS:
        faces = [face for turn in range(0, 360, STEP_DEGREES) for face in _look(detector, picture, turn, zoom)]
        if usable(faces):
            break
    return faces


def _look(detector: Any, picture: NDArray[np.uint8], turn: int, zoom: float) -> list[DetectedFace]:
    """Faces of the picture turned back by `turn` degrees. All turns show it at one scale, so their scores compare."""
    scale = zoom * max(DETECTOR_SIZE_PX) / max(picture.shape[:2])
    matrix = _turning(picture, turn, scale, DETECTOR_SIZE_PX)
    turned = cv2.warpAffine(picture, matrix, DETECTOR_SIZE_PX)
    return [_move(face, cv2.invertAffineTransform(matrix), turn) for face in detect_once(detector, turned)]


def _detect_turned(detector: Any, picture: NDArray[np.uint8], quarters: int) -> list[DetectedFace]:
    """Faces of the picture turned back by quarters, which leaves every pixel as it is: they are those of the upright photo."""
    turned = np.ascontiguousarray(np.rot90(picture, quarters))
    matrix = _turning(picture, quarters * 90, 1, turned.shape[1::-1])
    return [_move(face, cv2.invertAffineTransform(matrix), quarters * 90) for face in detect(detector, turned)]


def _turning(picture: NDArray[np.uint8], turn: int, scale: float, size: Sequence[int]) -> NDArray[np.float64]:
    """The 2x3 matrix that turns the picture back by `turn` degrees, into the middle of one of (width, height) `size`."""
    centre, middle = ((np.array(sides) - 1) / 2 for sides in (picture.shape[1::-1], size))
    matrix = cv2.getRotationMatrix2D(centre.tolist(), turn, scale)
    matrix[:, 2] += middle - centre
    return np.asarray(matrix)


def _move(face: DetectedFace, matrix: NDArray[np.float64], turn: int) -> DetectedFace:
    """The face in pixels of the photo. Its box stays as wide and high, along the face's own axes."""
    centre = matrix[:, :2] @ face.centre + matrix[:, 2]
    half = (face.box[2:] - face.box[:2]) / 2 * np.hypot(*matrix[:, 0])
    return DetectedFace(
        box=np.concatenate([centre - half, centre + half]).astype(np.float32),
        landmarks=(face.landmarks @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32),
        score=face.score,
        turned_degrees=turn,
    )


def _find_turn(faces: list[DetectedFace]) -> int:
    """How far the photo lies turned clockwise: as its surest face does; 0 unless that is clearly surer than any upright one."""
    best = max(usable(faces) or faces, key=lambda face: face.score + MARGIN * (face.turned_degrees == 0), default=None)
    return best.turned_degrees if best else 0


def _surest(face: DetectedFace, looks: Iterable[DetectedFace]) -> DetectedFace:
    """The look that scores best for this very face: in a group, one head may lie otherwise than the rest."""
    same = [look for look in looks if look.is_same(face)]
    unturned = [look for look in same if look.turned_degrees == face.turned_degrees]  # at the scale of the others
    best, own = (max(some, key=lambda look: look.score, default=face) for some in (same, unturned))
    return best if best.score > own.score + MARGIN else face


def _from_left(faces: list[DetectedFace], quarters: int = 0) -> list[DetectedFace]:
    """Ordered by their left sides, in the photo turned back by so many quarters."""
    right = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)][quarters])
    return sorted(faces, key=lambda face: float(right @ face.centre) - face.width_px / 2)
