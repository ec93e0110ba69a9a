import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lynx_model.errors import UnreadableImage
from lynx_model.faces import photo
from lynx_model.faces.photo import MAX_PIXELS, read_photo
from tests.builders import HOPPER
from tests.models import ROOT

HEIC = ROOT / "tests/golden/photos/hopper.heic"

EXIF_ORIENTATION = 0x0112
TOP_RED = np.zeros((40, 20, 3), np.uint8)
TOP_RED[:20, :, 0] = 255


def encode(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 0) + b"IDAT"


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_a_lossless_picture_comes_back_as_it_was(kind: str) -> None:
    assert np.array_equal(read_photo(encode(Image.fromarray(TOP_RED), kind)), TOP_RED)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_a_lossy_picture_keeps_its_colours_in_rgb_order(kind: str) -> None:
    pixels = read_photo(encode(Image.fromarray(TOP_RED), kind))
    assert np.abs(pixels[5, 10].astype(int) - (255, 0, 0)).max() < 10


def test_a_photo_of_a_phone_is_read_upright() -> None:
    """HEIC that is stored on its side, as phones do. pi-heif cannot write it, so this is a small copy of the demo's portrait."""
    pixels = read_photo(HEIC.read_bytes())
    portrait = Image.open(HOPPER).convert("RGB").resize((256, 300))
    assert pixels.shape == (300, 256, 3)
    assert np.abs(pixels.astype(int) - np.asarray(portrait)).mean() < 6


def test_without_pi_heif_a_photo_of_a_phone_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo, "can_read_heif", lambda: False)  # the package cannot be uninstalled for a test
    with pytest.raises(UnreadableImage, match=r"HEIC is read only with the extra `heic`"):
        read_photo(HEIC.read_bytes())


def test_damaged_heic_is_an_error_of_ours() -> None:
    data = HEIC.read_bytes()
    for seed in range(60):
        damaged = bytearray(data)
        for at in np.random.default_rng(seed).integers(12, len(data), 3):
            damaged[at] ^= 0xFF
        with suppress(UnreadableImage):
            read_photo(bytes(damaged[: len(data) - 100 * (seed % 20)]))


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (2, np.fliplr),
        (3, lambda pixels: np.rot90(pixels, 2)),
        (4, np.flipud),
        (6, lambda pixels: np.rot90(pixels, 1)),
        (8, lambda pixels: np.rot90(pixels, -1)),
    ],
)
def test_the_exif_orientation_is_honoured(
    orientation: int, undo: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo(TOP_RED)))
    assert np.array_equal(read_photo(encode(stored, exif=exif)), TOP_RED)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "PA"])
def test_grey_palette_and_opaque_alpha_become_rgb(mode: str) -> None:
    white_over_black = Image.fromarray(TOP_RED[..., 0])
    pixels = read_photo(encode(white_over_black.convert(mode), "TIFF" if mode == "PA" else "PNG"))
    assert np.array_equal(pixels, np.repeat(TOP_RED[..., :1], 3, axis=2))


def test_cmyk_becomes_rgb() -> None:
    pixels = read_photo(encode(Image.fromarray(TOP_RED).convert("CMYK"), "JPEG"))
    assert np.abs(pixels[5, 10].astype(int) - (255, 0, 0)).max() < 10


def test_sixteen_bits_are_scaled_to_eight() -> None:
    deep = np.array([[0, 0x7FFF], [0x8000, 0xFFFF]], np.uint16)
    assert read_photo(encode(Image.fromarray(deep)))[..., 0].tolist() == [[0, 127], [128, 255]]


def test_what_is_transparent_becomes_white() -> None:
    half = np.dstack([TOP_RED, np.where(np.arange(40)[:, None] < 20, 255, 0).repeat(20, 1)]).astype(np.uint8)
    pixels = read_photo(encode(Image.fromarray(half)))
    assert pixels[5, 10].tolist() == [255, 0, 0]
    assert pixels[30, 10].tolist() == [255, 255, 255]


@pytest.mark.parametrize("data", [b"", b"not a picture", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\xff\xd8\xff"])
def test_what_is_no_picture_is_unreadable(data: bytes) -> None:
    with pytest.raises(UnreadableImage, match=f"photo of {len(data)} bytes: is not a readable picture"):
        read_photo(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "GIF"])
def test_a_picture_that_was_cut_off_is_unreadable(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind)
    with pytest.raises(UnreadableImage):
        read_photo(data[: len(data) * 2 // 3])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side_px", [9_000, 12_000, 60_000])
def test_an_absurdly_large_picture_is_refused_before_it_is_decoded(side_px: int) -> None:
    with pytest.raises(UnreadableImage, match=f"at most {MAX_PIXELS} pixels"):
        read_photo(png_header(side_px, side_px))


def test_floating_point_pixels_have_no_white_and_are_refused() -> None:
    with pytest.raises(UnreadableImage, match="whole numbers"):
        read_photo(encode(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"))
