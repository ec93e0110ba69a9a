"""Measures a photo and its face, and judges how good a likeness the model can make of it.

The model reads a face from two aligned crops, whatever the photo's size. So sharpness and exposure are measured on an aligned crop too:
they depend neither on the photo's resolution nor on the face's rotation. The thresholds come from `lynx_model/MEASURED.md`, "Photos",
unless they name another source. They are not calibrated on rendered clips.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import NDArray

from lynx_model.faces.align import ARCFACE_LANDMARKS, IDENTITY_CROP_PX, similarity
from lynx_model.faces.detection import DetectedFace, usable

FACE_CENTRE_PX, FACE_HALF_AXES_PX = (56, 70), (30, 40)
"""The ellipse from forehead to chin that counts as the face, in a crop of 112 px."""

SMOOTHING_PX = 1.0
"""The standard deviation by which the crop is smoothed before its Laplacian, so that noise and JPEG blocks do not pass for detail."""

CLIPPED_LUMA, DARK_LUMA = 250, 20
"""From here on a pixel is white without detail; down to here it is black without detail. From 0 to 255."""

NOSE_DEPTH = 0.37
"""How far the nose tip is in front of the eyes, in distances between the eyes, as far as the detector's landmarks show it.

It is 0.53 on a mean head (insightface 2.1, `meanshape_68.pkl`), but YuNet places the nose of a turned head too near to its middle.
"""

GOOD_SIDE_PX = 512
"""The shorter side of a photo. Source: the rule of 512 px in Lynx's FAQ, as this project's task states it. Lynx's README does not."""

GOOD_FACE_PX, POOR_FACE_PX = 120, 80
"""A face of 120 px fills the crop of the Ref-adapter pixel for pixel; a smaller one is enlarged, one of 80 px by half."""

GOOD_SHARPNESS, POOR_SHARPNESS = 8, 4
GOOD_YAW_DEGREES, POOR_YAW_DEGREES = 30, 40
GOOD_LUMINANCE, POOR_LUMINANCE = 0.16, 0.08
GOOD_CLIPPED, POOR_CLIPPED = 0.10, 0.35
GOOD_DARK, POOR_DARK = 0.25, 0.50


class Verdict(StrEnum):
    GOOD = "good"
    USABLE = "usable"
    POOR = "will disappoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoQuality:
    """What was measured of a photo and one of its faces.

    `short_side_px` is the photo's, `face_px` the width of the face's box. `sharpness` is the energy of fine detail relative to the
    face's contrast, times 1000: about 26 for a sharp portrait, below 8 for a blurred one. `yaw_degrees` is how far the head is turned,
    positive if the nose points to the right side of the picture. It is an estimate from the landmarks, good to about 10 degrees up to 45 and
    too small beyond. `roll_degrees` is the clockwise rotation of the line through the eyes; it has no rule, because the face is read
    upright. `luminance` is the mean over the face, from 0 (black) to 1 (white); `clipped` and `dark` are the shares of its pixels that
    are white or black without detail. `num_faces` counts the faces that are large enough to be used.
    """

    short_side_px: int
    face_px: int
    sharpness: float
    yaw_degrees: float
    roll_degrees: float
    luminance: float
    clipped: float
    dark: float
    num_faces: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """`reasons` say why the verdict is not good, the worst first; each names a value and its rule."""

    verdict: Verdict
    reasons: tuple[str, ...] = ()


def measure(image_rgb: NDArray[np.uint8], faces: Sequence[DetectedFace], face: DetectedFace) -> PhotoQuality:
    """Measures `face`, one of the `faces` that were found in a photo, uint8 (H, W, 3) sRGB."""
    luma, weight = _face_pixels(image_rgb, face.landmarks.astype(np.float64))
    pixels = luma[weight]
    return PhotoQuality(
        short_side_px=min(image_rgb.shape[:2]),
        face_px=round(face.width_px),
        sharpness=_sharpness(luma, weight),
        yaw_degrees=yaw_degrees(face.landmarks),
        roll_degrees=roll_degrees(face.landmarks),
        luminance=float(pixels.mean() / 255),
        clipped=float((pixels >= CLIPPED_LUMA).mean()),
        dark=float((pixels <= DARK_LUMA).mean()),
        num_faces=len(usable(list(faces))),
    )


def judge(quality: PhotoQuality) -> Judgement:
    """The worst verdict that one of the rules gives, with the reason of each rule that is not met."""
    faults = sorted(_faults(quality), key=lambda fault: fault[0] is not Verdict.POOR)
    verdict = faults[0][0] if faults else Verdict.GOOD
    return Judgement(verdict=verdict, reasons=tuple(reason for _, reason in faults))


def yaw_degrees(landmarks: NDArray[np.floating]) -> float:
    """How far a head is turned, from five landmarks (5, 2): positive if the nose points to the right side of the picture.

    A turn by t moves the nose tip sideways by NOSE_DEPTH * sin(t) and shortens the distance between the eyes to cos(t).
    """
    left, right, tip = (complex(*point) for point in landmarks[:3].tolist())
    eyes, nose = right - left, tip - (left + right) / 2
    return float(np.degrees(np.arctan2((nose * eyes.conjugate()).real, NOSE_DEPTH * abs(eyes) ** 2)))


def roll_degrees(landmarks: NDArray[np.floating]) -> float:
    """The clockwise rotation of the line through the eyes, from -180 to 180."""
    right, down = (landmarks[1] - landmarks[0]).tolist()
    return float(np.degrees(np.arctan2(down, right)))


def _face_pixels(
    image_rgb: NDArray[np.uint8], landmarks: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The luma, from 0 to 255, of an aligned crop of 112 px, and which of its pixels belong to the face and to the photo.

    A large face is shrunk by averaging, as a viewer would; linear interpolation alone would let noise pass for detail.
    """
    region, landmarks = _cut_out(image_rgb, landmarks)
    scale = float(np.hypot(*similarity(landmarks, ARCFACE_LANDMARKS)[:, 0]))
    if scale < 1:
        height, width = region.shape[:2]
        size = max(1, round(width * scale)), max(1, round(height * scale))
        region = np.asarray(cv2.resize(region, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        landmarks = landmarks * (size[0] / width, size[1] / height)
    matrix, crop_size = similarity(landmarks, ARCFACE_LANDMARKS), (IDENTITY_CROP_PX, IDENTITY_CROP_PX)
    luma = cv2.warpAffine(cv2.cvtColor(region, cv2.COLOR_RGB2GRAY), matrix, crop_size, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(np.ones(region.shape[:2], np.uint8), matrix, crop_size, flags=cv2.INTER_NEAREST)
    ellipse = cv2.ellipse(np.zeros_like(inside), FACE_CENTRE_PX, FACE_HALF_AXES_PX, 0, 0, 360, 1, -1)
    weight = (inside & ellipse).astype(bool)
    return luma.astype(np.float32), weight if weight.any() else ellipse.astype(bool)


def _cut_out(
    image_rgb: NDArray[np.uint8], landmarks: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The part of the photo around the face, and the landmarks in its pixels."""
    centre, reach = landmarks.mean(axis=0), 3 * float(np.ptp(landmarks, axis=0).max())
    height, width = image_rgb.shape[:2]
    left, top = np.clip(np.floor(centre - reach), 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(np.ceil(centre + reach), (left + 1, top + 1), (width, height)).astype(int)
    return image_rgb[top:bottom, left:right], landmarks - (left, top)


def _sharpness(luma: NDArray[np.float32], weight: NDArray[np.bool_]) -> float:
    """The variance of the smoothed crop's Laplacian as a share of the crop's own variance, times 1000.

    The division makes it independent of contrast and exposure.
    """
    smooth = cv2.GaussianBlur(luma, (0, 0), SMOOTHING_PX)
    contrast = float(luma[weight].var())
    return 1000 * float(cv2.Laplacian(smooth, cv2.CV_32F)[weight].var()) / contrast if contrast else 0.0


def _faults(quality: PhotoQuality) -> list[tuple[Verdict, str]]:
    q, yaw = quality, abs(quality.yaw_degrees)
    rules = (
        (
            *(q.face_px < GOOD_FACE_PX, q.face_px < POOR_FACE_PX),
            f"the face is {q.face_px} px wide; at least {GOOD_FACE_PX} px give a good likeness",
        ),
        (
            *(q.short_side_px < GOOD_SIDE_PX, False),
            f"the photo's shorter side is {q.short_side_px} px; at least {GOOD_SIDE_PX} px are recommended for Lynx",
        ),
        (
            *(q.sharpness < GOOD_SHARPNESS, q.sharpness < POOR_SHARPNESS),
            f"the face is blurred: its sharpness is {q.sharpness:.1f}; a sharp face has at least {GOOD_SHARPNESS}",
        ),
        (
            *(yaw > GOOD_YAW_DEGREES, yaw > POOR_YAW_DEGREES),
            f"the head is turned to the side by about {yaw:.0f} degrees; at most {GOOD_YAW_DEGREES} show enough of the face",
        ),
        (
            *(q.luminance < GOOD_LUMINANCE, q.luminance < POOR_LUMINANCE),
            f"the face is too dark: its brightness is {q.luminance:.0%}; at least {GOOD_LUMINANCE:.0%} shows its features",
        ),
        (
            *(q.dark > GOOD_DARK, q.dark > POOR_DARK),
            f"{q.dark:.0%} of the face is black without detail; at most {GOOD_DARK:.0%} is fine",
        ),
        (
            *(q.clipped > GOOD_CLIPPED, q.clipped > POOR_CLIPPED),
            f"the face is overexposed: {q.clipped:.0%} of it is white without detail; at most {GOOD_CLIPPED:.0%} is fine",
        ),
        (
            *(q.num_faces > 1, False),
            f"the photo shows {q.num_faces} faces; a photo of one person alone is safest",
        ),
    )
    return [(Verdict.POOR if is_poor else Verdict.USABLE, text) for is_faulty, is_poor, text in rules if is_faulty]
