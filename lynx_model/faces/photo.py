"""Decodes a photo into sRGB pixels, rotated by its EXIF orientation."""

import struct
from functools import cache
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lynx_model.errors import UnreadableImage
from lynx_model.faces.colour import to_srgb

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF")
"""The formats that cameras and picture editors write. Pillow's other decoders would only add attack surface."""

HEIF = "HEIF"
"""What iPhones write (HEIC). It is read if the optional package pi-heif is installed."""

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif")
HEIF_SUFFIXES = (".heic", ".heif", ".hif")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
NEEDS_HEIF = "HEIC is read only with the extra `heic`: pip install 'lynx-batch[heic]', or convert it to JPEG"

MAX_PIXELS = 80_000_000
"""Larger photos are refused before they are decoded. Pillow suspects a decompression bomb only at a larger size."""

DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, RuntimeError, struct.error)
"""Errors that Pillow's decoders raised for randomly damaged files in tests."""

GREY = ("1", "L", "LA", "La")


def read_photo(data: bytes, *, is_parity: bool = False, at_least_px: int | None = None) -> NDArray[np.uint8]:
    """The picture as a viewer shows it: rotated by its EXIF orientation, in the colours of its profile, on a white background.

    Args:
        data: An encoded picture in one of `FORMATS` or HEIF; only the first frame of an animation is read.
        is_parity: Ignore the colour profile and treat all numbers as sRGB, as the original does.
        at_least_px: Each side may be shrunk to no less than this, for a small picture: most JPEG files are then decoded much faster.

    Returns:
        uint8 (H, W, 3) sRGB.

    Raises:
        UnreadableImage: If its format is another, it is damaged, has more than `MAX_PIXELS`, or has no defined white.
    """
    picture = _open(data)
    try:
        if at_least_px is not None:
            picture.draft(None, (at_least_px, at_least_px))
        picture.load()
        profile = None if is_parity else picture.info.get("icc_profile")
        return np.array(_as_rgb(ImageOps.exif_transpose(picture), profile))
    except DAMAGE as error:
        raise UnreadableImage(f"photo: the {picture.format} file is damaged or cut off ({error})") from error


@cache
def can_read_heif() -> bool:
    """Whether HEIF is read. Registers pi-heif with Pillow once."""
    try:
        from pi_heif import register_heif_opener
    except ModuleNotFoundError:
        return False
    register_heif_opener()
    return True


def _open(data: bytes) -> Image.Image:
    formats = (*FORMATS, HEIF) if can_read_heif() else FORMATS
    if HEIF not in formats and data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS:
        raise UnreadableImage(f"photo of {len(data)} bytes: {NEEDS_HEIF}")
    try:
        picture = Image.open(BytesIO(data), formats=formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(f"photo: must have at most {MAX_PIXELS} pixels ({error})") from error
    except DAMAGE as error:
        reason = ", ".join(formats) if isinstance(error, UnidentifiedImageError) else error
        raise UnreadableImage(f"photo of {len(data)} bytes: is not a readable picture ({reason})") from error
    if picture.width * picture.height > MAX_PIXELS:
        raise UnreadableImage(f"photo of {picture.width}x{picture.height} px: must have at most {MAX_PIXELS} pixels")
    return picture


def _as_rgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    if picture.mode == "F":
        raise UnreadableImage("photo in floating point: must be in whole numbers, because its white is not defined")
    if picture.mode.startswith("I"):
        picture = Image.fromarray((np.asarray(picture).clip(0, 65535) >> 8).astype(np.uint8))
    if not picture.has_transparency_data:
        return to_srgb(picture, profile)
    with_alpha = picture.convert("RGBA")
    colours = to_srgb(picture.convert("L") if picture.mode in GREY else with_alpha.convert("RGB"), profile)
    colours.putalpha(with_alpha.getchannel("A"))
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), colours).convert("RGB")
