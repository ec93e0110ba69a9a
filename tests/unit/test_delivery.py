"""Frames become a video file that plays, at the name of its attempt."""

import hashlib
import io
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lynx_batch.delivery.video import decode_mp4, encode_mp4
from tests.builders import deliver


@pytest.fixture
def frames() -> NDArray[np.uint8]:
    """A smooth picture whose colour moves."""
    rows, columns = np.mgrid[0:48, 0:64]
    moving = [np.stack([columns * 3, rows * 4, np.full_like(rows, 20 * number)], axis=-1) for number in range(9)]
    return np.stack(moving).astype(np.uint8)


def test_the_video_holds_the_frames(frames: NDArray[np.uint8]) -> None:
    content = encode_mp4(frames, fps=24, crf=10)

    with av.open(io.BytesIO(content)) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 24
    decoded = decode_mp4(content)
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).mean() < 3


def test_the_colours_are_those_of_the_frames() -> None:
    """A plain colour survives; with the wrong matrix it would be off by more than 10."""
    colour = np.full((5, 48, 64, 3), (200, 60, 90), np.uint8)
    content = encode_mp4(colour, fps=16, crf=5)
    with av.open(io.BytesIO(content)) as video:
        frame = next(video.decode(video=0))
        assert frame.colorspace == av.video.reformatter.Colorspace.ITU709
        decoded = frame.reformat(format="rgb24", src_colorspace="ITU709").to_ndarray()
    assert np.abs(decoded.astype(int) - (200, 60, 90)).max() <= 4


def test_the_index_comes_before_the_frames(frames: NDArray[np.uint8]) -> None:
    content = encode_mp4(frames, fps=16, crf=18)
    assert content.index(b"moov") < content.index(b"mdat")


def test_a_delivered_clip_is_what_lies_there(tmp_path: Path, frames: NDArray[np.uint8]) -> None:
    delivered = deliver(frames, output=str(tmp_path), clip_id="ab12", attempt="run-1", fps=16, crf=18)

    assert delivered.clip_uri == "clips/ab/ab12/run-1.mp4"
    content = (tmp_path / delivered.clip_uri).read_bytes()
    assert (delivered.sha256, delivered.num_bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert (delivered.num_frames, delivered.width, delivered.height) == (9, 64, 48)
    with Image.open(tmp_path / delivered.poster_uri) as poster:
        assert poster.size == (64, 48)
