"""Frames -> an MP4 file and a poster."""

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

JPEG_QUALITY = 90


def encode_mp4(frames_FHWC: NDArray[np.uint8], path: Path, *, fps: int, crf: int) -> None:
    """Writes H.264 yuv420p in BT.709, with its index first so that it plays while it loads.

    The same frames do not always give the same bytes: x264's macroblock tree differs now and then where AVX-512 is used.

    Args:
        frames_FHWC: uint8 (F, H, W, 3) RGB; H and W even.
        path: A local file.
        fps: Frames per second.
        crf: x264's quality, 0 (lossless) to 51.
    """
    _, height, width, _ = frames_FHWC.shape
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.colorspace = stream.codec_context.color_primaries = stream.codec_context.color_trc = 1
        for frame_HWC in frames_FHWC:
            frame = av.VideoFrame.from_ndarray(frame_HWC, format="rgb24").reformat(
                format="yuv420p", dst_colorspace="ITU709"
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_poster(frames_FHWC: NDArray[np.uint8], path: Path) -> None:
    """Writes the middle frame as a JPEG."""
    Image.fromarray(frames_FHWC[len(frames_FHWC) // 2]).save(path, format="JPEG", quality=JPEG_QUALITY)
