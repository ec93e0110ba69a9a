"""Frames -> a small silent animation that a mail can show."""

import io
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_BYTES = 1_000_000
"""The goal. Noise may exceed it even at the last of the sizes."""

WEBP_QUALITY = 60


class Size(NamedTuple):
    """Pixels of the longer side, and frames per second."""

    longest_px: int
    max_fps: int


SIZES = (Size(480, 8), Size(360, 6), Size(240, 5))
"""From the best to the smallest; the first that meets the goal is taken."""


def encode_preview(frames_FHWC: NDArray[np.uint8], *, fps: int, kind: Literal["gif", "webp"]) -> bytes:
    """The animation, which repeats for ever. At most `MAX_BYTES`, unless even the smallest size needs more.

    Args:
        frames_FHWC: uint8 (F, H, W, 3) RGB.
        fps: Frames per second of these frames.
        kind: The format.
    """
    content = b""
    for size in SIZES:
        content = _encode(frames_FHWC, fps, kind, size)
        if len(content) <= MAX_BYTES:
            break
    return content


def _encode(frames_FHWC: NDArray[np.uint8], fps: int, kind: Literal["gif", "webp"], size: Size) -> bytes:
    every = max(1, -(-fps // size.max_fps))
    pictures = [_shrink(frame_HWC, size.longest_px) for frame_HWC in frames_FHWC[::every]]
    if kind == "gif":
        pictures = [picture.quantize(method=Image.Quantize.FASTOCTREE) for picture in pictures]
    options = {"quality": WEBP_QUALITY, "method": 0} if kind == "webp" else {}
    file = io.BytesIO()
    first, *others = pictures
    duration_ms = round(1000 * every / fps)
    first.save(file, format=kind.upper(), save_all=True, append_images=others, duration=duration_ms, loop=0, **options)
    return file.getvalue()


def _shrink(frame_HWC: NDArray[np.uint8], longest_px: int) -> Image.Image:
    picture = Image.fromarray(frame_HWC)
    picture.thumbnail((longest_px, longest_px), Image.Resampling.BILINEAR)
    return picture
