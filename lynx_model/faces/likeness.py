"""The faces in a clip's frames, as embeddings that can be compared with any number of people."""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lynx_model.errors import InvalidParams
from lynx_model.faces.align import align_face_for_identity
from lynx_model.faces.detection import DetectedFace, detect
from lynx_model.faces.reader import FaceReader

NUM_FRAMES = 5

MIN_SCORE = 0.7
"""A face in a frame counts from this score of the detector on. Noise scores up to 0.63, small blurred portraits at least 0.90."""

ENLARGED_BELOW_PX = 256
"""A frame with a shorter side is enlarged to twice its size: its faces are small, and a smooth enlargement reads them better."""

MAX_OVERLAP = 0.5

Embedding = NDArray[np.float32]
"""float32 (512,), unit length."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameFaces:
    """The faces in one frame: the embedding of the largest, the shorter side of its box in pixels of the frame, and their number.

    A box that lies by more than half in that of a larger face does not count: the detector sometimes boxes a large face twice.
    """

    embedding: Embedding
    size_px: int
    num_faces: int


def read_faces(reader: FaceReader, frames: Iterable[NDArray[np.uint8]]) -> list[FrameFaces | None]:
    """The upright faces in each frame, uint8 (H, W, 3) RGB. None where no face was found."""
    return [_read_frame(reader, frame) for frame in frames]


def embed_frames(
    reader: FaceReader, frames_FHWC: NDArray[np.uint8], *, num_frames: int = NUM_FRAMES
) -> list[Embedding | None]:
    """The embedding of the largest face of each examined frame. None where no face was found.

    Args:
        reader: Finds and embeds the faces.
        frames_FHWC: uint8 (F, H, W, 3) RGB.
        num_frames: How many frames are examined, as in `choose_frames`.

    Raises:
        InvalidParams: If there is no frame, or `num_frames` is below 1.
    """
    chosen = choose_frames(len(frames_FHWC), num_frames)
    return [None if faces is None else faces.embedding for faces in read_faces(reader, frames_FHWC[chosen])]


def choose_frames(num_all: int, num_frames: int = NUM_FRAMES) -> list[int]:
    """The indices of `num_frames` frames at equal distances, the first and the last included; all, if there are fewer.

    Raises:
        InvalidParams: If either number is below 1.
    """
    for name, value in (("frames", num_all), ("num_frames", num_frames)):
        if value < 1:
            raise InvalidParams(name, value, "must be at least 1")
    return [round(place) for place in np.linspace(0, num_all - 1, min(num_frames, num_all))]


def _read_frame(reader: FaceReader, frame: NDArray[np.uint8]) -> FrameFaces | None:
    picture = _enlarge(frame)
    faces = _distinct(_clear_faces(reader, picture))
    if not faces:
        return None
    largest = faces[0]
    return FrameFaces(
        embedding=reader.embed(align_face_for_identity(picture, largest.landmarks)),
        size_px=round(largest.size_px * frame.shape[0] / picture.shape[0]),
        num_faces=len(faces),
    )


def _clear_faces(reader: FaceReader, picture: NDArray[np.uint8]) -> list[DetectedFace]:
    faces = detect(reader.detector, np.ascontiguousarray(picture[..., ::-1]))
    return [face for face in faces if face.score >= MIN_SCORE]


def _distinct(faces: Iterable[DetectedFace]) -> list[DetectedFace]:
    """The faces that do not overlap a larger one much, the largest first."""
    kept: list[DetectedFace] = []
    for face in sorted(faces, key=lambda face: -face.size_px):
        if all(_overlap(face, larger) <= MAX_OVERLAP for larger in kept):
            kept.append(face)
    return kept


def _overlap(face: DetectedFace, other: DetectedFace) -> float:
    """The share of the face's box that lies in the other's."""
    start, end = np.maximum(face.box[:2], other.box[:2]), np.minimum(face.box[2:], other.box[2:])
    return float(np.prod(np.maximum(end - start, 0)) / np.prod(face.box[2:] - face.box[:2]))


def _enlarge(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if min(frame.shape[:2]) >= ENLARGED_BELOW_PX:
        return frame
    return np.asarray(cv2.resize(frame, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
