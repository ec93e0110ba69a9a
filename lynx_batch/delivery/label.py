"""The visible label: a text or a logo, drawn once for each frame size and burnt into a corner of the frames."""

import io
import math
from functools import lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from lynx_batch import storage
from lynx_batch.config import LabelConfig
from lynx_batch.errors import ConfigError
from lynx_batch.named_files import read_named_file

MAX_FILE_BYTES = 64 * 2**20
MAX_LOGO_PX = 20_000_000
MAX_LOGO_RATIO = 50

MEASURED_PX = 200
"""The font size at which a font is measured."""

MIN_CAPITAL_PX = 20
"""A capital letter at that size; a font of symbols may have none."""

PADDING, MARGIN = 0.35, 0.5
"""Space around the text, and from the label to the frame's edges, in heights of a capital letter."""

OPAQUE = 255
TEXT_COLOUR, BACKGROUND = (255, 255, 255, 255), (0, 0, 0, 150)

NO_CHARACTER = "\uffff"
"""Unicode guarantees that this is no character, so every font shows its sign for a missing one."""


class Label:
    """Burns one label into frames of any size."""

    def __init__(self, config: LabelConfig) -> None:
        """Reads the font or the logo.

        Raises:
            ConfigError: If it is unfit, or the font lacks a character of the text.
            MissingFile, InputRefused, StoreRefused, StoreUnavailable: As `read_named_file`.
        """
        self._config = config
        self._logo = None if config.logo is None else _read_logo(config.logo)
        self._font = _read_font(config.font)
        if config.text is not None:
            _check_characters(config, self._font)
        self._draw = lru_cache(maxsize=16)(self._draw_once)

    @property
    def is_at_start_only(self) -> bool:
        return self._config.seconds is not None

    def check_fit(self, width: int, height: int) -> None:
        """Raises ConfigError if the label does not fit into a frame of that size."""
        label, margin = self._draw(width, height)
        if label.width + 2 * margin > width or label.height + 2 * margin > height:
            name = "text" if self._config.logo is None else "logo"
            raise ConfigError(
                f"provenance.label.{name}={getattr(self._config, name)!r}: must fit into every clip, but takes "
                f"{label.width + 2 * margin}x{label.height + 2 * margin} of {width}x{height} pixels; "
                f"shorten it or lower provenance.label.height={self._config.height:g}"
            )

    def burn(self, frames_FHWC: NDArray[np.uint8], *, fps: int) -> NDArray[np.uint8]:
        """A copy of the frames, uint8 (F, H, W, 3), with the label on those that are to show it."""
        seconds = self._config.seconds
        num_labelled = len(frames_FHWC) if seconds is None else math.ceil(seconds * fps)
        return self._burn(frames_FHWC, num_labelled)

    def burn_all(self, frames_FHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A copy of the frames with the label on each: pictures that are shown without the video's start need it, too."""
        return self._burn(frames_FHWC, len(frames_FHWC))

    def _burn(self, frames_FHWC: NDArray[np.uint8], num_labelled: int) -> NDArray[np.uint8]:
        _, height, width, _ = frames_FHWC.shape
        label, margin = self._draw(width, height)
        vertical, horizontal = self._config.corner.split("-")
        top = margin if vertical == "top" else height - margin - label.height
        left = margin if horizontal == "left" else width - margin - label.width
        labelled = frames_FHWC.copy()
        part = labelled[:num_labelled, top : top + label.height, left : left + label.width]
        colour, opacity = np.asarray(label)[..., :3].astype(np.uint16), np.asarray(label)[..., 3:].astype(np.uint16)
        part[...] = ((part * (OPAQUE - opacity) + colour * opacity + OPAQUE // 2) // OPAQUE).astype(np.uint8)
        return labelled

    def _draw_once(self, width: int, height: int) -> tuple[Image.Image, int]:
        """The label as RGBA, and its distance from the edges in pixels."""
        height_px = math.ceil(self._config.height * min(width, height))
        margin = max(1, round(MARGIN * height_px))
        if self._logo is not None:
            width_px = max(1, round(self._logo.width * height_px / self._logo.height))
            return self._logo.resize((width_px, height_px), Image.Resampling.LANCZOS), margin
        return _draw_text(str(self._config.text), self._font, height_px), margin


def _draw_text(text: str, font: bytes, capital_px: int) -> Image.Image:
    """The text in white on a dark box. A capital letter has at least `capital_px`."""
    scaled = _scale(font, capital_px)
    left, top, right, bottom = map(round, scaled.getbbox(text))
    padding = max(1, round(PADDING * capital_px))
    picture = Image.new("RGBA", (right - left + 2 * padding, bottom - top + 2 * padding), BACKGROUND)
    ImageDraw.Draw(picture).text((padding - left, padding - top), text, font=scaled, fill=TEXT_COLOUR)
    return picture


def _scale(font: bytes, capital_px: int) -> ImageFont.FreeTypeFont:
    """The font at the smallest size whose capital letters have `capital_px`."""
    size = max(1, capital_px * MEASURED_PX // max(1, _capital_height(_at(font, MEASURED_PX))))
    while _capital_height(_at(font, size)) < capital_px:
        size += 1
    return _at(font, size)


def _capital_height(font: ImageFont.FreeTypeFont) -> int:
    """Rows of an H that are at least half covered."""
    width, height = (mask := font.getmask("H")).size
    rows = np.frombuffer(bytes(mask), np.uint8).reshape(height, width).max(axis=1, initial=0)
    return int((rows >= OPAQUE // 2).sum())


def _at(font: bytes, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(io.BytesIO(font), size)


def builtin_font() -> bytes:
    """An OpenType font of the Latin characters, and of the Chinese ones that labels and the demo's prompts use."""
    return (files("lynx_batch.delivery") / "fonts" / "NotoSansCJKsc-label.otf").read_bytes()


def _read_font(uri: str | None) -> bytes:
    if uri is None:
        return builtin_font()
    content = read_named_file("provenance.label.font", uri, MAX_FILE_BYTES)
    try:
        usable = _capital_height(_at(content, MEASURED_PX)) >= MIN_CAPITAL_PX
    except (OSError, ValueError):
        usable = False
    if not usable:
        raise ConfigError(f"provenance.label.font={storage.redact(uri)!r}: must be a TrueType or OpenType font")
    return content


def _check_characters(config: LabelConfig, font: bytes) -> None:
    text = str(config.text)
    scaled = ImageFont.truetype(io.BytesIO(font), MEASURED_PX, layout_engine=ImageFont.Layout.BASIC)
    missing_sign = _shape(scaled, NO_CHARACTER)
    missing = [sign for sign in dict.fromkeys(text) if not sign.isspace() and _shape(scaled, sign) == missing_sign]
    if missing:
        which = "the built-in font" if config.font is None else f"the font {storage.redact(config.font)}"
        raise ConfigError(
            f"provenance.label.text={text!r}: {which} lacks {''.join(missing)!r}; name one that has it in "
            f"provenance.label.font"
        )


def _shape(font: ImageFont.FreeTypeFont, sign: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(sign)
    return mask.size, bytes(mask)


def _read_logo(uri: str) -> Image.Image:
    content, rule = read_named_file("provenance.label.logo", uri, MAX_FILE_BYTES), None
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            size = f"{picture.width}x{picture.height}"
            if picture.width * picture.height > MAX_LOGO_PX:
                rule = f"must have at most {MAX_LOGO_PX:,} pixels, not {size}"
            elif picture.width > MAX_LOGO_RATIO * picture.height:
                rule = f"must be at most {MAX_LOGO_RATIO} times as wide as high, not {size}"
            else:
                logo = picture.convert("RGBA")
    except UnidentifiedImageError:  # its message is about our own object
        rule = "must be a PNG file"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        rule = f"must be a PNG file: {error}"
    if rule is None and not logo.getchannel("A").getbbox():
        rule = "must not be transparent everywhere"
    if rule is not None:
        raise ConfigError(f"provenance.label.logo={storage.redact(uri)!r}: {rule}")
    return logo
