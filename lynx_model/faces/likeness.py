"""How much the person in a clip looks like a subject: the cosine of identity embeddings, frame by frame."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lynx_model.errors import EncoderMismatch, InvalidParams
from lynx_model.faces.align import align_face_for_identity
from lynx_model.faces.detection import detect
from lynx_model.faces.reader import FaceReader
from lynx_model.spec import Subject

NUM_FRAMES = 5

MIN_SCORE = 0.7
"""A face in a frame counts from this score of the detector on. Noise scores up to 0.63, small blurred portraits at least 0.90."""

ENLARGED_BELOW_PX = 256
"""A frame with a shorter side is enlarged to twice its size: its faces are small, and a smooth enlargement reads them better."""

Embedding = NDArray[np.float32]
"""float32 (512,), unit length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """The likeness of a clip to a subject.

    `cosines` has one value per examined frame, from -1 to 1; None where no face was found.
    """

    cosines: tuple[float | None, ...]

    @property
    def mean(self) -> float | None:
        """The mean cosine over the frames with a face; None if there is none."""
        found = [cosine for cosine in self.cosines if cosine is not None]
        return sum(found) / len(found) if found else None

    @property
    def share_found(self) -> float:
        """The share of the examined frames with a face, from 0 to 1."""
        return sum(cosine is not None for cosine in self.cosines) / len(self.cosines)


def likeness(
    reader: FaceReader, subject: Subject, frames_FHWC: NDArray[np.uint8], *, num_frames: int = NUM_FRAMES
) -> Likeness:
    """Compares the largest face of some frames with the subject.

    Args:
        reader: Its encoder must be the one that made the subject's embedding.
        subject: Whom the clip should show.
        frames_FHWC: uint8 (F, H, W, 3) RGB.
        num_frames: How many frames are examined, as in `choose_frames`.

    Raises:
        EncoderMismatch: If the subject's embedding comes from another encoder.
        InvalidParams: If there is no frame, or `num_frames` is below 1.
    """
    if subject.encoder not in (None, reader.encoder):
        raise EncoderMismatch(f"subject: its encoder is {subject.encoder!r}, but the reader's is {reader.encoder!r}")
    embeddings = embed_frames(reader, frames_FHWC, num_frames=num_frames)
    return Likeness(cosines=tuple(None if e is None else float(e @ subject.face_embedding) for e in embeddings))


def embed_frames(
    reader: FaceReader, frames_FHWC: NDArray[np.uint8], *, num_frames: int = NUM_FRAMES
) -> list[Embedding | None]:
    """The embedding of the largest face of each examined frame, to compare with any number of people. None where no face was found.

    Args and errors are as for `likeness`.
    """
    return [_embed_largest(reader, frames_FHWC[index]) for index in choose_frames(len(frames_FHWC), num_frames)]


def choose_frames(num_all: int, num_frames: int = NUM_FRAMES) -> list[int]:
    """The indices of `num_frames` frames at equal distances, the first and the last included; all, if there are fewer.

    Raises:
        InvalidParams: If either number is below 1.
    """
    for name, value in (("frames", num_all), ("num_frames", num_frames)):
        if value < 1:
            raise InvalidParams(name, value, "must be at least 1")
    return [round(place) for place in np.linspace(0, num_all - 1, min(num_frames, num_all))]


def _embed_largest(reader: FaceReader, frame: NDArray[np.uint8]) -> Embedding | None:
    picture = _enlarge(frame)
    faces = detect(reader.detector, np.ascontiguousarray(picture[..., ::-1]))
    clear = [face for face in faces if face.score >= MIN_SCORE]
    if not clear:
        return None
    largest = max(clear, key=lambda face: face.size_px)
    return reader.embed(align_face_for_identity(picture, largest.landmarks))


def _enlarge(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if min(frame.shape[:2]) >= ENLARGED_BELOW_PX:
        return frame
    return np.asarray(cv2.resize(frame, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
