"""Bytes of a photo -> upright RGB pixels."""

import struct
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lynx_model.errors import UnreadableImage

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF")
"""What cameras and picture editors write; Pillow's other decoders only widen what a stranger's file can reach."""

MAX_PIXELS = 80_000_000
"""More is refused before it is decoded. Below the size at which Pillow itself suspects a decompression bomb."""

DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, RuntimeError, struct.error)
"""What Pillow's decoders raise for damaged files, found by damaging files."""


def read_photo(data: bytes) -> NDArray[np.uint8]:
    """The picture as a person sees it: turned as its EXIF orientation says, transparent parts on white.

    Args:
        data: An encoded picture in one of `FORMATS`; of an animation, the first frame counts.

    Returns:
        uint8 (H, W, 3) RGB.

    Raises:
        UnreadableImage: If it is none of these, is damaged, has more than `MAX_PIXELS` or has no defined white.
    """
    picture = _open(data)
    try:
        picture.load()
        return np.array(_as_rgb(ImageOps.exif_transpose(picture)))
    except DAMAGE as error:
        raise UnreadableImage(f"photo: the {picture.format} file is damaged or cut off ({error})") from error


def _open(data: bytes) -> Image.Image:
    try:
        picture = Image.open(BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(f"photo: must have at most {MAX_PIXELS} pixels ({error})") from error
    except DAMAGE as error:
        known = ", ".join(FORMATS)
        raise UnreadableImage(f"photo of {len(data)} bytes: is not a readable picture ({known})") from error
    if picture.width * picture.height > MAX_PIXELS:
        raise UnreadableImage(f"photo of {picture.width}x{picture.height} px: must have at most {MAX_PIXELS} pixels")
    return picture


def _as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise UnreadableImage("photo in floating point: must be in whole numbers, because its white is not defined")
    if picture.mode.startswith("I"):
        picture = Image.fromarray((np.asarray(picture).clip(0, 65535) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")
