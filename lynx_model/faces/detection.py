"""A picture -> the faces that lie upright in it, as boxes and landmarks in its pixels. `upright.py` finds turned ones."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from insightface.app import FaceAnalysis
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf

from lynx_model.errors import MissingFile, WeightsMismatch
from lynx_model.faces.pack import FacePack

DETECTOR_SIZE_PX = (640, 640)
"""The size that the original detects at; insightface 2 would merge a run at 128 px into it."""

MIN_FACE_PX = 64
"""A face whose box is narrower or lower than this has too few pixels to tell people apart."""

MARGIN = 0.5
"""Frame put around a picture for the second look, as a share of its sides."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DetectedFace:
    """`box` is (left, top, right, bottom) and `landmarks` (5, 2), both in pixels of the photo, also outside of it.

    `score` says how sure the detector is, at most 1. `turned_degrees` is how far the face lies turned clockwise in the photo;
    the box of such a face has its sides along the face's own axes.
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
        """Whether both are one face: each centre lies well inside the other box."""
        return bool(np.hypot(*(self.centre - other.centre)) < min(self.size_px, other.size_px) / 2)


def load_networks(pack: FacePack, modules: list[str]) -> dict[str, Any]:
    """The networks of `pack` by task, on the CPU: those of `modules` ("detection", "recognition") that it holds.

    Raises:
        MissingFile: If the pack holds no detector that gives landmarks.
        WeightsMismatch: If a file in it is no ONNX network, or insightface refuses its manifest.
    """
    try:
        analysis = FaceAnalysis(name=str(pack.folder), allowed_modules=modules, providers=["CPUExecutionProvider"])
    except AssertionError as error:  # how insightface says that there is no detector
        raise MissingFile(f"face pack {pack.folder}: must hold a face detector (SCRFD)") from error
    except (InvalidProtobuf, InvalidGraph, Fail) as error:
        raise WeightsMismatch(f"face pack {pack.folder}: every *.onnx file must be a network ({error})") from error
    except (TypeError, ValueError) as error:  # how it refuses a pack's manifest, also if that names a file outside
        raise WeightsMismatch(f"face pack {pack.folder}: its manifest.json is refused: {error}") from error
    analysis.prepare(ctx_id=-1, det_size=DETECTOR_SIZE_PX)
    networks: dict[str, Any] = analysis.models
    if not networks["detection"].use_kps:
        raise MissingFile(f"face pack {pack.folder}: its face detector must give five landmarks")
    return networks


def detect(detector: Any, picture: NDArray[np.uint8]) -> list[DetectedFace]:
    """The faces of a picture (H, W, 3), BGR, as it lies.

    A face that fills the picture is larger than the detector's largest anchor. So where no usable face is found, the
    picture gets a second look with a wide black frame around it.

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
    """As `detect`, without the second look."""
    if max(picture.shape[:2]) >= max(DETECTOR_SIZE_PX) * min(picture.shape[:2]):
        return []  # less than a pixel of its shorter side would reach the detector, which fails on that
    boxes, landmarks = detector.detect(picture)
    return [
        DetectedFace(box=box[:4], landmarks=points, score=float(box[4]))
        for box, points in zip(boxes, landmarks, strict=True)
    ]


def _detect_framed(detector: Any, picture: NDArray[np.uint8]) -> list[DetectedFace]:
    """Faces of the picture with a frame around it, in pixels of the picture alone."""
    down, right = (round(side * MARGIN) for side in picture.shape[:2])
    framed = np.pad(picture, ((down, down), (right, right), (0, 0)))
    shift = np.array([right, down], dtype=np.float32)
    return [
        replace(face, box=face.box - np.tile(shift, 2), landmarks=face.landmarks - shift)
        for face in detect_once(detector, framed)
    ]
