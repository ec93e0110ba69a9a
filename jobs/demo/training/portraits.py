"""A folder of portraits -> people: the portrait in the FFHQ frame, the person's matte, and the face's landmarks.

Colours of the background are replaced by the nearest colours of the person, so that a soft edge never shows the old background.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jobs.demo.training.mattes import Segmenter, doubt, matte_of
from lynx_model.errors import FaceError, Permanent
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
MAX_DOUBT = 0.3
"""A portrait is left out if of more of it nobody can say whether it shows the person."""


class BadPortraits(Permanent):
    """The folder holds no usable portraits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Portrait:
    """A person in the FFHQ frame.

    `picture_rgb` is uint8 (256, 256, 3) without its background, `matte` uint8 (256, 256), `landmarks` float32 (5, 2) in pixels of the
    picture, and `embedding` float32 (512,) of unit length. `doubt` is the share of pixels that may or may not show the person.
    """

    name: str
    picture_rgb: NDArray[np.uint8]
    matte: NDArray[np.uint8]
    landmarks: NDArray[np.float32]
    embedding: NDArray[np.float32]
    doubt: float
    is_held_out: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """The portraits that were kept, and why others were not: reasons by name."""

    portraits: list[Portrait]
    dropped: dict[str, str]


def read_portraits(folder: Path, reader: FaceReader, segmenter: Segmenter) -> Gallery:
    """Reads all portraits of a folder; those named in its `held_out.txt` are only for judging.

    Args:
        folder: Pictures of one person each, of any size.
        reader: Of a face pack with its own recogniser.
        segmenter: Finds the person.

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
            portrait = _read(file, reader, segmenter, is_held_out=file.stem in held_out)
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


def _read(file: Path, reader: FaceReader, segmenter: Segmenter, *, is_held_out: bool) -> Portrait:
    picture = np.asarray(Image.open(file).convert("RGB"))
    face = choose_face(_upright_or_any(reader, picture))
    embedding = reader.embed(align_face_for_identity(picture, face.landmarks))
    picture, landmarks = _in_ffhq_frame(picture, face)
    likelihood = segmenter.find_person(picture)
    x, y = landmarks.mean(0).astype(int).tolist()
    matte = matte_of(picture, likelihood, (x, y))
    return Portrait(
        name=file.stem,
        picture_rgb=without_background(picture, matte),
        matte=matte,
        landmarks=landmarks,
        embedding=embedding,
        doubt=doubt(likelihood),
        is_held_out=is_held_out,
    )


def _upright_or_any(reader: FaceReader, picture_rgb: NDArray[np.uint8]) -> list[DetectedFace]:
    """The faces of a picture. Rotated ones are looked for only where no upright one is found: that takes a second."""
    upright = detect(reader.detector, np.ascontiguousarray(picture_rgb[..., ::-1]))
    return upright if usable(upright) else find_faces(reader.detector, picture_rgb)


def _objection(portrait: Portrait, kept: list[Portrait]) -> str | None:
    """Why this portrait is of no use beside the others, or None."""
    if portrait.doubt > MAX_DOUBT:
        return f"{portrait.doubt:.1%} of it may or may not show the person; at most {MAX_DOUBT:.1%}"
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
