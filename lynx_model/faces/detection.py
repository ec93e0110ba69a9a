"""Detects upright faces in a picture, as boxes and landmarks in its pixels. `upright.py` also finds rotated ones."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from insightface.app import FaceAnalysis
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf

from lynx_model.errors import MissingFile, WeightsMismatch
from lynx_model.faces.onnx_sessions import session_options
from lynx_model.faces.pack import FacePack

DETECTOR_SIZE_PX = (640, 640)
"""The detection size of the original. Without it, insightface 2 would add the results of a run at 128 px."""

MIN_FACE_PX = 64
"""A face with a narrower or lower box has too few pixels to tell people apart."""

MARGIN = 0.5
"""Width of the frame around a picture in the second detection, as a share of its sides."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DetectedFace:
    """`box` is (left, top, right, bottom) and `landmarks` (5, 2), both in pixels of the photo; they can lie outside it.

    `score` is the detector's confidence, at most 1. `turned_degrees` is the face's clockwise rotation in the photo; the box of a
    rotated face is aligned with the face's own axes.
    """

    box: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    score: float
    turned_degrees: int = 0

    @property
    def centre(self) -> NDArray[np.floating]:
        return (self.box[:2] + self.box[2:]) / 2

    @property
    def width_px(self) -> float:
        return float(self.box[2] - self.box[0])

    @property
    def size_px(self) -> int:
        """The shorter side of the box."""
        return int(min(self.box[2:] - self.box[:2]))

    def is_same(self, other: "DetectedFace") -> bool:
        """Whether both are the same face: each centre is well inside the other's box."""
        return bool(np.hypot(*(self.centre - other.centre)) < min(self.size_px, other.size_px) / 2)


def load_networks(pack: FacePack, modules: list[str]) -> dict[str, Any]:
    """Loads the networks of `pack` for the tasks `modules` ("detection", "recognition"), on the CPU; by task, as far as it has them.

    Raises:
        MissingFile: If the pack has no detector that gives landmarks.
        WeightsMismatch: If a file in it is not an ONNX network, or insightface refuses its manifest.
    """
    try:
        analysis = FaceAnalysis(
            name=str(pack.folder),
            allowed_modules=modules,
            providers=["CPUExecutionProvider"],
            sess_options=session_options(),
        )
    except AssertionError as error:  # insightface's way to say that there is no detector
        raise MissingFile(f"face pack {pack.folder}: must hold a face detector (SCRFD)") from error
    except (InvalidProtobuf, InvalidGraph, Fail) as error:
        raise WeightsMismatch(f"face pack {pack.folder}: every *.onnx file must be a network ({error})") from error
    except (
        TypeError,
        ValueError,
    ) as error:  # insightface refuses the manifest, for example because it names a file outside the pack
        raise WeightsMismatch(f"face pack {pack.folder}: its manifest.json is refused: {error}") from error
    analysis.prepare(ctx_id=-1, det_size=DETECTOR_SIZE_PX)
    networks: dict[str, Any] = analysis.models
    if not networks["detection"].use_kps:
        raise MissingFile(f"face pack {pack.folder}: its face detector must give five landmarks")
    return networks


def detect(detector: Any, picture: NDArray[np.uint8]) -> list[DetectedFace]:
    """The upright faces in a picture.

    A face that fills the picture is larger than the detector's largest anchor. So if no usable face is found, detection runs again
    on the picture with a wide black frame.

    Args:
        detector: The "detection" network of `load_networks`.
        picture: uint8 (H, W, 3) in BGR.
    """
    faces = detect_once(detector, picture)
    if not usable(faces):
        framed = _detect_framed(detector, picture)
        faces = framed if usable(framed) else faces
    return faces


def usable(faces: list[DetectedFace]) -> list[DetectedFace]:
    return [face for face in faces if face.size_px >= MIN_FACE_PX]


def detect_once(detector: Any, picture: NDArray[np.uint8]) -> list[DetectedFace]:
    """As `detect`, without the second detection."""
    if max(picture.shape[:2]) >= max(DETECTOR_SIZE_PX) * min(picture.shape[:2]):
        return []  # the shorter side would shrink to less than a pixel, and the detector would fail
    boxes, landmarks = detector.detect(picture)
    return [
        DetectedFace(box=box[:4], landmarks=points, score=float(box[4]))
        for box, points in zip(boxes, landmarks, strict=True)
    ]


def _detect_framed(detector: Any, picture: NDArray[np.uint8]) -> list[DetectedFace]:
    """Faces of the picture with a frame around it, in pixels of the picture without the frame."""
    down, right = (round(side * MARGIN) for side in picture.shape[:2])
    framed = np.pad(picture, ((down, down), (right, right), (0, 0)))
    shift = np.array([right, down], dtype=np.float32)
    return [
        replace(face, box=face.box - np.tile(shift, 2), landmarks=face.landmarks - shift)
        for face in detect_once(detector, framed)
    ]
