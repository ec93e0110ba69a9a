"""Frames -> an uploaded, hashed object below the output location."""

import hashlib
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lynx_batch import output as output_names
from lynx_batch import storage
from lynx_batch.clip import StoredClip
from lynx_batch.delivery.video import encode_mp4, encode_poster
from lynx_batch.errors import StoreUnavailable
from lynx_batch.outage import retry_while_unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredClip(StoredClip):
    """A video that was just stored, and how long encoding and upload took."""

    encode_s: float
    upload_s: float


def deliver(
    frames_FHWC: NDArray[np.uint8], *, output: str, clip_id: str, attempt: str, fps: int, crf: int
) -> DeliveredClip:
    """Encodes the frames and uploads the video with a poster. Nobody else writes to an attempt's file names.

    Raises:
        StoreUnavailable: If for minutes the store does not accept them, or holds fewer or more bytes than were sent.
    """
    clip_uri, poster_uri = output_names.video_path(clip_id, attempt), output_names.poster_path(clip_id, attempt)
    started_s = time.perf_counter()
    video, poster = encode_mp4(frames_FHWC, fps=fps, crf=crf), encode_poster(frames_FHWC)
    encoded_s = time.perf_counter()
    retry_while_unavailable(lambda: _upload(poster, storage.join(output, poster_uri)))
    retry_while_unavailable(lambda: _upload(video, storage.join(output, clip_uri)))
    uploaded_s = time.perf_counter()
    num_frames, height, width, _ = frames_FHWC.shape
    return DeliveredClip(
        clip_uri=clip_uri,
        poster_uri=poster_uri,
        sha256=hashlib.sha256(video).hexdigest(),
        num_bytes=len(video),
        num_frames=num_frames,
        fps=fps,
        width=width,
        height=height,
        encode_s=encoded_s - started_s,
        upload_s=uploaded_s - encoded_s,
    )


def _upload(content: bytes, uri: str) -> None:
    storage.write_bytes(uri, content)
    stored = storage.stat(uri)
    num_stored = stored.num_bytes if stored else 0
    if num_stored != len(content):
        raise StoreUnavailable(f"{storage.redact(uri)}: sent {len(content)} bytes, but the store holds {num_stored}")
