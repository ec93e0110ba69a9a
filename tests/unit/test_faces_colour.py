"""Photos with embedded colour profiles, as phones, cameras and presses write them."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms
from structlog.testing import capture_logs

from lynx_model.errors import UnreadableImage
from lynx_model.faces.photo import read_photo
from tests.builders import COLLINS
from tests.profiles import ADOBE, P3, SRGB, cmyk_profile, gamma, grey_profile, rgb_profile, srgb_curve

DISPLAY_P3, ADOBE_RGB = rgb_profile(P3, srgb_curve()), rgb_profile(ADOBE, gamma(563 / 256))
LINEAR_GREY = grey_profile(gamma(1))
GREY = Image.new("L", (8, 8), 128)
LINEAR_HALF = 188
"""128 of 255 in linear light, in sRGB."""


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.open(COLLINS).convert("RGB")


def encode(picture: Image.Image, kind: str, profile: bytes, **options: object) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, icc_profile=profile, **options)
    return buffer.getvalue()


def convert(picture: Image.Image, profile: bytes) -> Image.Image:
    target = ImageCms.ImageCmsProfile(BytesIO(profile))
    converted = ImageCms.profileToProfile(picture, ImageCms.createProfile("sRGB"), target, ImageCms.Intent(1))
    assert converted is not None
    return converted


def distance(pixels: np.ndarray, picture: Image.Image) -> np.ndarray:
    return np.abs(pixels.astype(int) - np.asarray(picture))


@pytest.mark.parametrize("profile", [DISPLAY_P3, ADOBE_RGB], ids=["Display P3", "Adobe RGB"])
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_a_wide_gamut_picture_comes_back_in_srgb(
    photo: Image.Image, profile: bytes, kind: str, options: dict[str, object]
) -> None:
    data = encode(convert(photo, profile), kind, profile, **options)
    assert distance(read_photo(data), photo).max() <= 2
    as_numbers = distance(read_photo(data, is_parity=True), photo)
    assert as_numbers.mean() > 3
    assert as_numbers.max() > 25


@pytest.mark.parametrize("kind", ["JPEG", "AVIF"])
def test_a_lossy_wide_gamut_picture_is_about_as_near_as_its_coding(photo: Image.Image, kind: str) -> None:
    wide, plain = (
        encode(picture, kind, profile, quality=95)
        for picture, profile in ((convert(photo, DISPLAY_P3), DISPLAY_P3), (photo, rgb_profile(SRGB, srgb_curve())))
    )
    assert distance(read_photo(wide), photo).mean() < distance(read_photo(plain), photo).mean() + 0.5


def test_a_profile_that_is_srgb_by_another_name_changes_no_pixel(photo: Image.Image) -> None:
    data = encode(photo, "PNG", rgb_profile(SRGB, srgb_curve()))
    assert np.array_equal(read_photo(data), np.asarray(photo))


def test_a_turned_picture_is_converted_as_well(photo: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = convert(photo, DISPLAY_P3).transpose(Image.Transpose.ROTATE_90)
    assert distance(read_photo(encode(stored, "PNG", DISPLAY_P3, exif=exif)), photo).max() <= 2


@pytest.mark.parametrize(
    "picture",
    [
        GREY,
        Image.merge("LA", (GREY, Image.new("L", GREY.size, 255))),
        Image.fromarray(np.full((8, 8), 0x8000, np.uint16)),
    ],
    ids=["L", "LA", "I;16"],
)
def test_grey_of_a_grey_profile_is_converted(picture: Image.Image) -> None:
    assert np.unique(read_photo(encode(picture, "PNG", LINEAR_GREY))).tolist() == [LINEAR_HALF]


def test_grey_with_a_transparent_shade_is_converted() -> None:
    assert np.unique(read_photo(encode(GREY, "PNG", LINEAR_GREY, transparency=3))).tolist() == [LINEAR_HALF]
    assert np.unique(read_photo(encode(GREY, "PNG", LINEAR_GREY, transparency=128))).tolist() == [255]


def test_grey_of_a_colour_profile_is_converted() -> None:
    assert np.unique(read_photo(encode(GREY, "PNG", rgb_profile(P3, gamma(1))))).tolist() == [LINEAR_HALF]


def test_transparent_parts_are_white_and_the_rest_is_converted(photo: Image.Image) -> None:
    wide = convert(photo, DISPLAY_P3)
    wide.putalpha(
        Image.fromarray(
            np.where(np.arange(photo.height)[:, None] < 100, 255, 0).repeat(photo.width, 1).astype(np.uint8)
        )
    )
    pixels = read_photo(encode(wide, "PNG", DISPLAY_P3))
    assert distance(pixels, photo)[:100].max() <= 2
    assert pixels[100:].min() == 255


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_what_its_press_prints(kind: str) -> None:
    press = cmyk_profile((100, 0, 50, 0, 50, 0, 30, 0, 50, 0, 30, 0, 30, 0, 0, 0))
    paper, cyan = Image.new("CMYK", (8, 8), 0), Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    assert read_photo(encode(paper, kind, press)).min() >= 254
    pixels = read_photo(encode(cyan, kind, press))
    assert np.abs(pixels.astype(int) - 119).max() <= 3, "L* 50, and no colour"
    assert read_photo(encode(cyan, kind, press), is_parity=True)[0, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        (b"no profile", "cannot open profile"),
        (DISPLAY_P3[:200], "cannot open profile"),
        (DISPLAY_P3.replace(b"rTRC", b"xTRC"), "cannot build transform"),
        (LINEAR_GREY, "is for GRAY, but the picture is RGB"),
        (cmyk_profile((100,) * 16), "is for CMYK, but the picture is RGB"),
        (bytes(9 * 2**20), "has more than 8388608 bytes"),
    ],
    ids=["text", "cut off", "curve missing", "grey", "CMYK", "huge"],
)
def test_a_profile_that_cannot_be_used_is_ignored_and_told(photo: Image.Image, profile: bytes, reason: str) -> None:
    with capture_logs() as logs:
        pixels = read_photo(encode(photo, "TIFF", profile))
    assert np.array_equal(pixels, np.asarray(photo))
    assert [line["event"] for line in logs] == ["colour_profile_ignored"]
    assert reason in logs[0]["reason"]


def test_a_png_whose_profile_is_a_bomb_is_refused_with_the_reason(photo: Image.Image) -> None:
    with pytest.raises(UnreadableImage, match=r"is not a readable picture .*too large"):
        read_photo(encode(photo, "PNG", bytes(9 * 2**20)))


def test_random_faults_in_a_profile_stop_no_photo() -> None:
    random, small = np.random.default_rng(0), Image.new("RGB", (4, 4), "red")
    for _ in range(200):
        broken = bytearray(DISPLAY_P3)
        for place in random.integers(0, len(broken), 4):
            broken[place] = random.integers(0, 256)
        assert read_photo(encode(small, "TIFF", bytes(broken))).shape == (4, 4, 3)
