"""What the technical and motion scores say of clips that are really encoded and decoded."""

import io
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lynx_model.errors import InvalidParams, UnreadableVideo
from lynx_model.faces.reader import FaceReader
from lynx_model.scoring.clip import JudgedClip, read_clip
from lynx_model.scoring.motion import MotionScorer
from lynx_model.scoring.options import JudgeOptions
from lynx_model.scoring.scores import MotionScores, TechnicalScores
from lynx_model.scoring.technical import TechnicalScorer
from lynx_model.spec import RenderParams
from tests.builders import COLLINS, HOPPER, make_subject
from tests.clips import FPS, HEIGHT, NUM_FRAMES, PARAMS, WIDTH, encode, film, load_photo

HALF = NUM_FRAMES // 2


@pytest.fixture(scope="module")
def moving(face_pack: Path) -> np.ndarray:
    return film(FaceReader.load(str(face_pack), "pack"), load_photo(COLLINS))


@pytest.fixture(scope="module")
def another(face_pack: Path) -> np.ndarray:
    return film(FaceReader.load(str(face_pack), "pack"), load_photo(HOPPER))


def read(frames: np.ndarray, params: RenderParams = PARAMS, fps: int = FPS) -> JudgedClip:
    return read_clip(encode(frames, fps), params=params, subject=make_subject(), rendered=frames)


def technical(frames: np.ndarray, params: RenderParams = PARAMS, fps: int = FPS) -> TechnicalScores:
    return TechnicalScorer().score(read(frames, params, fps))


def motion(frames: np.ndarray, fps: int = FPS) -> MotionScores:
    return MotionScorer().score(read(frames, fps=fps))


def test_a_moving_clip_has_no_fault(moving: np.ndarray) -> None:
    found = technical(moving)
    assert (found.num_frames, found.height, found.width, found.fps) == (NUM_FRAMES, HEIGHT, WIDTH, FPS)
    assert found.is_as_ordered
    assert found.num_not_finite is None
    assert found.black_share == found.frozen_share == found.constant_share == 0
    assert found.longest_black_s == found.longest_frozen_s == found.longest_constant_s == 0
    assert found.num_cuts == 0
    assert found.max_cut < 8
    assert found.flicker < 0.5
    assert found.encoding_db > 38
    assert found.sharpness >= found.min_sharpness > 20


def test_black_until_the_end_is_measured(moving: np.ndarray) -> None:
    """ffmpeg reports no end of a stretch that lasts until the clip's end."""
    frames = moving.copy()
    frames[HALF:] = 0
    found = technical(frames)
    assert found.black_share == pytest.approx((NUM_FRAMES - HALF) / NUM_FRAMES, abs=1e-3)
    assert found.longest_black_s == pytest.approx((NUM_FRAMES - HALF) / FPS, abs=1e-3)
    assert found.constant_share == pytest.approx((NUM_FRAMES - HALF) / NUM_FRAMES)
    assert found.frozen_share == pytest.approx(found.black_share)
    assert found.num_cuts == 1


def test_two_black_stretches_add_up(moving: np.ndarray) -> None:
    frames = moving.copy()
    frames[:4] = frames[20:26] = 0
    found = technical(frames)
    assert found.black_share == pytest.approx(10 / NUM_FRAMES, abs=1e-3)
    assert found.longest_black_s == pytest.approx(6 / FPS, abs=1e-3)


def test_a_clip_that_is_all_black_is_black(moving: np.ndarray) -> None:
    found = technical(np.zeros_like(moving))
    assert found.black_share == found.frozen_share == found.constant_share == found.black_area == 1
    assert found.encoding_db == 100


def test_a_black_half_of_the_picture_is_an_area(moving: np.ndarray) -> None:
    frames = moving.copy()
    frames[:, HEIGHT // 2 :] = 0
    assert technical(frames).black_area - technical(moving).black_area > 0.3
    assert technical(frames).black_share == 0


def test_a_frozen_stretch_is_measured(moving: np.ndarray) -> None:
    frames = moving.copy()
    frames[5:20] = frames[5]
    found = technical(frames)
    assert found.longest_frozen_s == pytest.approx(15 / FPS, abs=1e-3)
    assert found.frozen_share == pytest.approx(15 / NUM_FRAMES, abs=1e-3)
    assert technical(np.repeat(moving[:1], NUM_FRAMES, axis=0)).frozen_share == pytest.approx(1)


def test_a_short_clip_can_be_frozen(moving: np.ndarray) -> None:
    """Half a second is more than it has; half its length counts."""
    assert technical(np.repeat(moving[:1], 5, axis=0)).frozen_share == pytest.approx(1)
    assert technical(moving[::4][:5]).frozen_share == 0


@pytest.mark.parametrize("grey", [0, 40, 127, 255])
def test_a_single_colour_is_constant(moving: np.ndarray, grey: int) -> None:
    frames = moving.copy()
    frames[3:9] = grey
    found = technical(frames)
    assert found.constant_share == pytest.approx(6 / NUM_FRAMES)
    assert found.longest_constant_s == pytest.approx(6 / FPS)


def test_a_cut_is_counted(moving: np.ndarray, another: np.ndarray) -> None:
    found = technical(np.concatenate([moving[:HALF], another[HALF:]]))
    assert found.num_cuts == 1
    assert found.max_cut > 20


def test_flicker_is_told_from_a_fade(moving: np.ndarray) -> None:
    def lit(strengths: np.ndarray) -> TechnicalScores:
        return technical((moving * strengths[:, None, None, None]).astype(np.uint8))

    flickering = lit(np.tile([0.7, 0.9], NUM_FRAMES)[:NUM_FRAMES])
    fading = lit(np.linspace(0.9, 0.5, NUM_FRAMES))
    assert flickering.flicker > 10
    assert fading.flicker < 0.5
    assert flickering.max_flicker >= flickering.flicker


def test_blur_lowers_the_sharpness(moving: np.ndarray) -> None:
    blurred = moving[:, ::8, ::8].repeat(8, axis=1).repeat(8, axis=2)
    smooth = np.stack([np.asarray((f.astype(np.uint16) + np.roll(f, 1, 0) + np.roll(f, 1, 1)) // 3) for f in moving])
    assert technical(smooth.astype(np.uint8)).sharpness < technical(moving).sharpness < technical(blurred).sharpness


@pytest.mark.parametrize(
    ("ordered", "fps"),
    [({"num_frames": 29}, FPS), ({"width": WIDTH + 16}, FPS), ({"height": HEIGHT - 16}, FPS), ({}, FPS + 1)],
)
def test_a_file_that_is_not_what_was_ordered_is_told(moving: np.ndarray, ordered: dict[str, int], fps: int) -> None:
    assert not technical(moving, replace(PARAMS, **ordered), fps).is_as_ordered


def test_a_frame_that_is_shown_longer_is_told(moving: np.ndarray) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index, picture in enumerate(moving):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index + (index >= HALF), Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    clip = read_clip(file.getvalue(), params=PARAMS, subject=make_subject())
    assert len(clip.frames) == NUM_FRAMES
    assert not TechnicalScorer().score(clip).is_as_ordered


@pytest.mark.parametrize("fps", [1, 8, 24, 30, 120])
def test_every_rate_is_measured_exactly(moving: np.ndarray, fps: int) -> None:
    found = technical(moving, replace(PARAMS, fps=fps), fps)
    assert found.is_as_ordered
    assert found.fps == fps


def test_what_the_encoding_lost_is_measured(moving: np.ndarray, another: np.ndarray) -> None:
    clip = read(moving)
    assert TechnicalScorer().score(replace(clip, rendered=another)).encoding_db < 15
    assert TechnicalScorer().score(replace(clip, rendered=None)).encoding_db is None
    assert TechnicalScorer().score(replace(clip, rendered=moving[1:])).encoding_db is None
    assert TechnicalScorer().score(replace(clip, num_not_finite=3)).num_not_finite == 3


def test_motion_does_not_depend_on_size_or_rate(moving: np.ndarray, face_pack: Path) -> None:
    """The camera crosses the same part of the photo: in frames of twice the size, and in half the frames."""
    large = film(FaceReader.load(str(face_pack), "pack"), load_photo(COLLINS), width=832, height=480)
    found = motion(moving)
    assert motion(large).mean == pytest.approx(found.mean, rel=0.15)
    assert motion(moving[::2], fps=FPS // 2).mean == pytest.approx(found.mean, rel=0.15)
    assert found.p10 <= found.mean <= found.maximum
    assert not found.is_static


def test_a_still_picture_is_static(moving: np.ndarray) -> None:
    still = np.repeat(moving[:1], NUM_FRAMES, axis=0)
    grain = np.random.default_rng(0).normal(0, 2, still.shape)
    assert motion(still).is_static
    assert motion((still + grain).clip(0, 255).astype(np.uint8)).is_static
    assert motion(moving[:1]).mean == 0


def test_a_small_clip_is_measured(moving: np.ndarray) -> None:
    """The demo's and the tests' clips have few pixels."""
    small = np.ascontiguousarray(moving[:9, ::5, ::5][:, :48, :64])
    params = replace(PARAMS, width=64, height=48, num_frames=9)
    assert technical(small, params).is_as_ordered
    assert not motion(small).is_static


@pytest.mark.parametrize("damage", [lambda mp4: b"", lambda mp4: b"text", lambda mp4: mp4[:1000]])
def test_a_file_that_is_no_video_is_told(moving: np.ndarray, damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(UnreadableVideo, match=r"clip of \d+ bytes: "):
        read_clip(damage(encode(moving)), params=PARAMS, subject=make_subject())


def test_a_number_of_frames_below_one_is_refused(moving: np.ndarray) -> None:
    with pytest.raises(InvalidParams, match="num_frames=0: must be at least 1"):
        read_clip(encode(moving), params=PARAMS, subject=make_subject(), num_frames=0)
    with pytest.raises(InvalidParams, match="num_frames=0: must be at least 1"):
        JudgeOptions(num_frames=0)
