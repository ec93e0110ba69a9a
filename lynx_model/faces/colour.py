"""Converts colours from an embedded ICC profile to sRGB, which the models were trained on."""

from io import BytesIO

import numpy as np
import structlog
from PIL import Image, ImageCms

log = structlog.get_logger()

MAX_PROFILE_BYTES = 8 * 2**20
"""Cameras' profiles have a few hundred bytes, the largest profiles of printing presses a few million."""

MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""ICC's names of colour spaces -> Pillow's names of picture modes."""

PROFILE_DAMAGE = (ImageCms.PyCMSError, OSError, ValueError, TypeError)
"""Errors that Pillow raised for randomly damaged profiles in tests."""


def to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture in RGB, with its colours converted from `profile` to sRGB.

    White stays white and black stays black (relative colorimetric, black point compensation). An unusable profile is ignored with
    a warning, because most such pictures are in sRGB. A profile equivalent to sRGB changes no pixel.

    Args:
        picture: In mode 1, L, P, RGB or CMYK; alpha is dropped.
        profile: An ICC profile; None means sRGB.
    """
    if profile is None:
        return picture.convert("RGB")
    try:
        return _convert(picture, profile)
    except PROFILE_DAMAGE as error:
        log.warning("colour_profile_ignored", num_bytes=len(profile), reason=str(error))
        return picture.convert("RGB")


def _convert(picture: Image.Image, profile: bytes) -> Image.Image:
    if len(profile) > MAX_PROFILE_BYTES:
        raise ValueError(f"has more than {MAX_PROFILE_BYTES} bytes")
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    mode = MODES.get(source.profile.xcolor_space)
    if mode is None or not _describes(mode, picture.mode):
        raise ValueError(f"is for {source.profile.xcolor_space.strip()}, but the picture is {picture.mode}")
    transform = ImageCms.buildTransform(
        *(source, ImageCms.createProfile("sRGB"), mode, "RGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if mode != "CMYK" and _changes_nothing(transform, mode):
        return picture.convert("RGB")
    converted = ImageCms.applyTransform(picture.convert(mode), transform)
    assert converted is not None  # None only for an in-place conversion
    return converted


def _describes(profile_mode: str, picture_mode: str) -> bool:
    """Whether the profile's mode fits the picture's. A grey picture may also have an RGB profile."""
    own = {"1": "L", "L": "L", "CMYK": "CMYK"}.get(picture_mode, "RGB")
    return profile_mode == own or (profile_mode, own) == ("RGB", "L")


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether no colour of a grid over all hues and shades changes by more than one level."""
    shades = np.arange(256, dtype=np.uint8)[::15]
    colours = np.stack(np.meshgrid(shades, shades, shades), axis=-1).reshape(len(shades), -1, 3)
    probe = Image.fromarray(colours).convert(mode)
    before, after = np.asarray(probe.convert("RGB")), np.asarray(ImageCms.applyTransform(probe, transform))
    return int(np.abs(before.astype(int) - after).max()) <= 1
