"""Five facial landmarks -> the two upright crops that the model reads.

Landmarks are float (5, 2) in pixels (x, y) of the picture: the eye on the left of the picture (the person's right eye), the other
eye, the nose tip, the left and the right corner of the mouth.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from lynx_model.errors import InvalidParams
from lynx_model.spec import ALIGNED_FACE_PX

IDENTITY_CROP_PX = 112

ARCFACE_LANDMARKS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""The landmarks' positions in a crop of 112 px. Source: insightface 2.1 utils/face_align.py, `arcface_dst`."""

REFERENCE_FACE_RATIO = 0.8
REFERENCE_SHIFT_Y_PX = 10
"""Source: bytedance/lynx modules/common/face_utils.py at 3a6a91a, `align_face` as `extend_face_crop` calls it."""


def align_face_for_identity(image_rgb: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The crop that ArcFace recognisers expect: uint8 (112, 112, 3), black outside the picture."""
    return _warp(image_rgb, landmarks, ARCFACE_LANDMARKS, IDENTITY_CROP_PX)


def align_face_for_reference(image_rgb: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The crop that the Ref-adapter expects, with hair and chin: uint8 (256, 256, 3), black outside the picture."""
    return _warp(image_rgb, landmarks, _reference_landmarks(), ALIGNED_FACE_PX)


def crop_for_identity(aligned_face: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The crop of `align_face_for_identity`, cut from that of `align_face_for_reference`: its landmarks' places are known."""
    return align_face_for_identity(aligned_face, _reference_landmarks())


def similarity(source: NDArray[np.floating], target: NDArray[np.floating]) -> NDArray[np.float64]:
    """The rotation, scale and shift that best map `source` to `target` (least squares), as a 2x3 matrix.

    In the plane a similarity is z -> a z + b over complex numbers, so Umeyama's method (IEEE PAMI 13(4), 1991) needs no singular
    value decomposition: `a` is a quotient.

    Args:
        source: (N, 2) points, not all the same.
        target: (N, 2) points.
    """
    z, w = source @ (1, 1j), target @ (1, 1j)
    z_centred, w_centred = z - z.mean(), w - w.mean()
    a = np.vdot(z_centred, w_centred) / np.vdot(z_centred, z_centred).real
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def _reference_landmarks() -> NDArray[np.float64]:
    centre = IDENTITY_CROP_PX / 2
    lowered = ARCFACE_LANDMARKS + np.array([0, REFERENCE_SHIFT_Y_PX])
    shrunk = (lowered - centre) * REFERENCE_FACE_RATIO + centre
    return np.asarray(shrunk * 2 + (ALIGNED_FACE_PX / 2 - IDENTITY_CROP_PX, 0))


def _warp(
    image_rgb: NDArray[np.uint8], landmarks: NDArray[np.floating], target: NDArray[np.float64], size_px: int
) -> NDArray[np.uint8]:
    if landmarks.shape != target.shape or not np.isfinite(landmarks).all() or np.ptp(landmarks, axis=0).max() == 0:
        raise InvalidParams("landmarks.shape", landmarks.shape, "must be five different points (x, y)")
    matrix = similarity(landmarks.astype(np.float64), target)
    crop = cv2.warpAffine(image_rgb, matrix, (size_px, size_px), flags=cv2.INTER_LINEAR, borderValue=(0, 0, 0))
    return np.asarray(crop, dtype=np.uint8)
