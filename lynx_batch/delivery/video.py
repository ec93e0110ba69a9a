"""Frames -> an MP4 and a poster, and back; in memory, so that neither a kill nor a full disk leaves a file behind."""

import io
from collections.abc import Mapping

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

JPEG_QUALITY = 90


def encode_mp4(frames_FHWC: NDArray[np.uint8], *, fps: int, crf: int, tags: Mapping[str, str] | None = None) -> bytes:
    """H.264 yuv420p in BT.709, with the index first so that it plays while it downloads.

    The same frames do not always give the same bytes: with AVX-512, x264's macroblock tree differs now and then.

    Args:
        frames_FHWC: uint8 (F, H, W, 3) RGB; H and W even.
        fps: Frames per second.
        crf: x264's quality, 0 (lossless) to 51.
        tags: Text by key, in the box moov.udta.meta.
    """
    _, height, width, _ = frames_FHWC.shape
    file = io.BytesIO()

    def read_again(url: str, flags: int, options: dict[str, str]) -> io.BytesIO:
        """To move the index to the front, ffmpeg reads its own output while it writes it again."""
        return io.BytesIO(file.getvalue())

    options = {"movflags": "+faststart+use_metadata_tags"}  # keys of any name, not only iTunes' own
    with av.open(file, "w", format="mp4", options=options, io_open=read_again) as container:
        container.metadata.update(tags or {})
        stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.colorspace = stream.codec_context.color_primaries = stream.codec_context.color_trc = 1
        for frame_HWC in frames_FHWC:
            frame = av.VideoFrame.from_ndarray(frame_HWC, format="rgb24").reformat(
                format="yuv420p", dst_colorspace="ITU709"
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def decode_mp4(content: bytes) -> NDArray[np.uint8]:
    """The frames of a video, uint8 (F, H, W, 3) RGB.

    Raises:
        av.FFmpegError: If it cannot be decoded.
    """
    with av.open(io.BytesIO(content), "r") as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    return np.asarray(frames, dtype=np.uint8)


def encode_poster(frames_FHWC: NDArray[np.uint8]) -> bytes:
    """The middle frame as a JPEG."""
    file = io.BytesIO()
    Image.fromarray(frames_FHWC[len(frames_FHWC) // 2]).save(file, format="JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def read_tags(content: bytes) -> dict[str, str]:
    """All tags of a video. Raises av.FFmpegError if it is none."""
    with av.open(io.BytesIO(content), "r") as video:
        return dict(video.metadata)
