"""A folder of portraits -> people: the portrait in the FFHQ frame, the person's matte, and the face's landmarks.

The matte comes from GrabCut (Rother et al., SIGGRAPH 2004), seeded by the landmarks. Colours of the background are replaced by the
nearest colours of the person, so that a soft edge never shows the old background.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lynx_model.errors import FaceError
from lynx_model.faces.align import align_face_for_identity, similarity
from lynx_model.faces.detection import DetectedFace, detect, usable
from lynx_model.faces.reader import FaceReader, choose_face
from lynx_model.faces.upright import find_faces

PORTRAIT_PX = 256
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
HELD_OUT_FILE = "held_out.txt"

FFHQ_LANDMARKS = np.array([[97.5, 120.5], [158.5, 120.5], [127.0, 158.0], [100.5, 185.0], [153.5, 185.0]])
"""Usual landmarks of a portrait in the FFHQ frame of 256 px."""

MAX_DEVIATION_PX = 20.0
"""A portrait whose landmarks are farther than this from the usual ones is aligned first."""

SAME_PERSON_COSINE = 0.70
MAX_LEAK = 0.10
"""The share of the upper sides that a matte may cover."""

MATTE_PX = 128
GRABCUT_STEPS = 4


class BadPortraits(Exception):
    """The folder holds no usable portraits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Portrait:
    """A person in the FFHQ frame.

    `picture_rgb` is uint8 (256, 256, 3) without its background, `matte` uint8 (256, 256), `landmarks` float32 (5, 2) in pixels of the
    picture, and `embedding` float32 (512,) of unit length.
    """

    name: str
    picture_rgb: NDArray[np.uint8]
    matte: NDArray[np.uint8]
    landmarks: NDArray[np.float32]
    embedding: NDArray[np.float32]
    is_held_out: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """The portraits that were kept, and why others were not: reasons by name."""

    portraits: list[Portrait]
    dropped: dict[str, str]


def read_portraits(folder: Path, reader: FaceReader) -> Gallery:
    """Reads all portraits of a folder; those named in its `held_out.txt` are only for judging.

    Args:
        folder: Pictures of one person each, of any size.
        reader: Of a face pack with its own recogniser.

    Raises:
        BadPortraits: If there is no portrait, or none is usable.
    """
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise BadPortraits(f"{folder}: must hold portraits ({', '.join(SUFFIXES)}); 0 found")
    held_out = _held_out_names(folder, {file.stem for file in files})
    kept: list[Portrait] = []
    dropped: dict[str, str] = {}
    for file in sorted(files, key=lambda file: file.stem not in held_out):  # of two alike, the one for judging stays
        try:
            portrait = _read(file, reader, is_held_out=file.stem in held_out)
        except FaceError as error:
            dropped[file.stem] = str(error)
            continue
        reason = _objection(portrait, kept)
        if reason:
            dropped[file.stem] = reason
        else:
            kept.append(portrait)
    if not kept:
        raise BadPortraits(
            f"{folder}: none of {len(files)} portraits is usable, for example {next(iter(dropped.items()))}"
        )
    return Gallery(portraits=sorted(kept, key=lambda portrait: portrait.name), dropped=dropped)


def _held_out_names(folder: Path, known: set[str]) -> set[str]:
    file = folder / HELD_OUT_FILE
    names = set(file.read_text().split()) if file.is_file() else set()
    if unknown := sorted(names - known):
        raise BadPortraits(f"{file}: names no portrait of the folder: {', '.join(unknown)}")
    return names


def _read(file: Path, reader: FaceReader, *, is_held_out: bool) -> Portrait:
    picture = np.asarray(Image.open(file).convert("RGB"))
    face = choose_face(_upright_or_any(reader, picture))
    embedding = reader.embed(align_face_for_identity(picture, face.landmarks))
    picture, landmarks = _in_ffhq_frame(picture, face)
    matte = cut_out(picture, landmarks)
    return Portrait(
        name=file.stem,
        picture_rgb=without_background(picture, matte),
        matte=matte,
        landmarks=landmarks,
        embedding=embedding,
        is_held_out=is_held_out,
    )


def _upright_or_any(reader: FaceReader, picture_rgb: NDArray[np.uint8]) -> list[DetectedFace]:
    """The faces of a picture. Rotated ones are looked for only where no upright one is found: that takes a second."""
    upright = detect(reader.detector, np.ascontiguousarray(picture_rgb[..., ::-1]))
    return upright if usable(upright) else find_faces(reader.detector, picture_rgb)


def _objection(portrait: Portrait, kept: list[Portrait]) -> str | None:
    """Why this portrait is of no use beside the others, or None."""
    leak = _leak(portrait.matte)
    if leak > MAX_LEAK:
        return f"its matte covers {leak:.0%} of the picture's upper sides; at most {MAX_LEAK:.0%}"
    for other in kept:
        if float(other.embedding @ portrait.embedding) > SAME_PERSON_COSINE:
            return f"shows the same person as {other.name}"
    return None


def _in_ffhq_frame(picture: NDArray[np.uint8], face: DetectedFace) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The picture at 256 px and its landmarks; warped by a similarity only if the face is not in its usual place."""
    height, width = picture.shape[:2]
    scale = PORTRAIT_PX / width
    resized = (face.landmarks + 0.5) * scale - 0.5
    if height == width and np.abs(resized - FFHQ_LANDMARKS).max() <= MAX_DEVIATION_PX:
        if width != PORTRAIT_PX:
            picture = np.asarray(Image.fromarray(picture).resize((PORTRAIT_PX, PORTRAIT_PX), Image.Resampling.LANCZOS))
        return picture, resized.astype(np.float32)
    matrix = similarity(face.landmarks.astype(np.float64), FFHQ_LANDMARKS)
    warped = _shrink_and_warp(picture, matrix)
    return warped, (face.landmarks @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def _shrink_and_warp(picture: NDArray[np.uint8], matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The picture warped to 256 px. A large picture is blurred first, so that fine detail does not alias."""
    scale = float(np.hypot(*matrix[:, 0]))
    if scale < 1:
        picture = cv2.GaussianBlur(picture, (0, 0), 0.5 * (1 / scale - 1) + 1e-3)
    size = (PORTRAIT_PX, PORTRAIT_PX)
    return np.asarray(cv2.warpAffine(picture, matrix, size, borderMode=cv2.BORDER_REPLICATE), dtype=np.uint8)


def _leak(matte: NDArray[np.uint8]) -> float:
    """The share of the picture's upper left or upper right side that the matte covers, whichever is larger."""
    upper = matte[: PORTRAIT_PX // 2] / 255
    return float(max(upper[:, :14].mean(), upper[:, -14:].mean()))


def cut_out(picture_rgb: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The matte of the person, uint8 (256, 256): 255 is the person, 0 the background."""
    small_bgr = cv2.resize(picture_rgb, (MATTE_PX, MATTE_PX), interpolation=cv2.INTER_AREA)[..., ::-1].copy()
    face = _FaceShape.of(landmarks * (MATTE_PX / PORTRAIT_PX))
    labels = _seeds(face)
    cv2.grabCut(small_bgr, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), GRABCUT_STEPS, cv2.GC_INIT_WITH_MASK)
    return _soften(_in_one_piece((labels & 1).astype(np.uint8), face))  # foreground labels are odd


@dataclass(frozen=True, slots=True)
class _FaceShape:
    """Centre and height (eyes to mouth) of a face in a small picture, in pixels."""

    x: float
    y: float
    unit: float

    @classmethod
    def of(cls, landmarks: NDArray[np.floating]) -> "_FaceShape":
        eyes, mouth = landmarks[:2].mean(0), landmarks[3:].mean(0)
        x, y = (eyes + mouth) / 2
        return cls(float(x), float(y), max(float(np.linalg.norm(mouth - eyes)), MATTE_PX * 0.22))

    def ellipse(
        self, grid: tuple[NDArray[np.floating], NDArray[np.floating]], *, up: float, wide: float, high: float
    ) -> NDArray[np.bool_]:
        """Pixels inside an ellipse whose centre is `up` face heights above the face's."""
        x, y = grid
        inside = ((x - self.x) / (wide * self.unit)) ** 2 + ((y - self.y + up * self.unit) / (high * self.unit)) ** 2
        return np.asarray(inside <= 1)


def _seeds(face: _FaceShape) -> NDArray[np.uint8]:
    """GrabCut's labels: certain where every head is or none is, a guess elsewhere. Face, hair above the brow and neck are certain."""
    y, x = np.mgrid[:MATTE_PX, :MATTE_PX].astype(np.float64)
    aside = np.abs(x - face.x) / face.unit
    below = (y - face.y) / face.unit
    shoulders = (below > 1.25) & (aside < 1.0 + 1.6 * np.clip(below - 1.25, 0, None))
    chest = (below > 1.25) & (aside < 0.45 + 0.75 * np.clip(below - 1.25, 0, None))
    labels = np.full((MATTE_PX, MATTE_PX), cv2.GC_PR_BGD, np.uint8)
    labels[face.ellipse((x, y), up=0.35, wide=1.5, high=1.95) | shoulders] = cv2.GC_PR_FGD
    face_itself = face.ellipse((x, y), up=-0.05, wide=0.95, high=1.2)
    hair = face.ellipse((x, y), up=0.75, wide=1.02, high=1.0)
    labels[face_itself | hair | chest] = cv2.GC_FGD
    too_wide = ((aside > 1.75) & (below < 0.8)) | ((aside > 1.6) & (below < -0.6))
    too_high = (below < -0.3) & ~face.ellipse((x, y), up=0.3, wide=1.75, high=2.3)
    labels[too_wide | too_high] = cv2.GC_BGD
    labels[:2] = cv2.GC_BGD
    return labels


def _in_one_piece(person: NDArray[np.uint8], face: _FaceShape) -> NDArray[np.uint8]:
    """The connected part that holds the face, without holes and thin threads."""
    opened = cv2.morphologyEx(person, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)))
    _, parts = cv2.connectedComponents(opened)
    part = (parts == parts[int(face.y), int(face.x)]).astype(np.uint8)
    closed = cv2.morphologyEx(part, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9)))
    return _without_holes(np.asarray(closed, dtype=np.uint8))


def _without_holes(person: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mask with every part of the background filled that does not reach the picture's border."""
    _, parts = cv2.connectedComponents(1 - person)
    borders = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    return np.where(np.isin(parts, borders) & (person == 0), 0, 1).astype(np.uint8)


def _soften(person: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The small mask as a matte at 256 px whose edge lies slightly inside the mask's."""
    blurred = cv2.GaussianBlur(cv2.erode(person, np.ones((2, 2), np.uint8)).astype(np.float32), (0, 0), 1.3)
    large = cv2.resize(blurred, (PORTRAIT_PX, PORTRAIT_PX), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip((large - 0.25) / 0.55, 0, 1) * 255, dtype=np.uint8)


def without_background(picture_rgb: NDArray[np.uint8], matte: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture with the nearest colours of the person wherever the matte is not nearly full, growing smoother outwards."""
    solid = matte > 235
    _, nearest = cv2.distanceTransformWithLabels(
        (~solid).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colours = np.zeros((nearest.max() + 1, 3), np.uint8)
    colours[nearest[solid]] = picture_rgb[solid]
    filled = colours[nearest]
    smooth = cv2.GaussianBlur(filled, (0, 0), 4)
    share = cv2.GaussianBlur(solid.astype(np.float32), (0, 0), 2)[..., None]
    blended = filled * share + smooth * (1 - share)
    return np.where(solid[..., None], picture_rgb, blended.round()).astype(np.uint8)


def over_colour(portraits: list[Portrait], colour: tuple[int, int, int]) -> Iterator[NDArray[np.uint8]]:
    """Each person in front of a plain colour, to judge the mattes by."""
    for portrait in portraits:
        alpha = portrait.matte[..., None] / 255
        yield (portrait.picture_rgb * alpha + np.array(colour) * (1 - alpha)).astype(np.uint8)
