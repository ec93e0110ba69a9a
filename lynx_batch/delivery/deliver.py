"""Frames -> an uploaded, hashed object below the output location."""

import hashlib
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
class EncodedClip:
    """The files of a clip, in memory."""

    video: bytes
    poster: bytes
    num_frames: int
    fps: int
    width: int
    height: int

    def stored_as(self, clip_id: str, attempt: str) -> StoredClip:
        """What it is once that attempt has uploaded it."""
        return StoredClip(
            clip_uri=output_names.video_path(clip_id, attempt),
            poster_uri=output_names.poster_path(clip_id, attempt),
            sha256=hashlib.sha256(self.video).hexdigest(),
            num_bytes=len(self.video),
            num_frames=self.num_frames,
            fps=self.fps,
            width=self.width,
            height=self.height,
        )


def encode(frames_FHWC: NDArray[np.uint8], *, fps: int, crf: int) -> EncodedClip:
    """Encodes the frames, uint8 (F, H, W, 3), as a video with a poster."""
    num_frames, height, width, _ = frames_FHWC.shape
    video, poster = encode_mp4(frames_FHWC, fps=fps, crf=crf), encode_poster(frames_FHWC)
    return EncodedClip(video=video, poster=poster, num_frames=num_frames, fps=fps, width=width, height=height)


def upload(encoded: EncodedClip, stored: StoredClip, *, output: str) -> None:
    """Uploads the files under the names of `stored`. Nobody else writes to an attempt's file names.

    Raises:
        StoreUnavailable: If for minutes the store does not accept them, or holds fewer or more bytes than were sent.
    """
    retry_while_unavailable(lambda: _upload(encoded.poster, storage.join(output, stored.poster_uri)))
    retry_while_unavailable(lambda: _upload(encoded.video, storage.join(output, stored.clip_uri)))


def _upload(content: bytes, uri: str) -> None:
    storage.write_bytes(uri, content)
    stored = storage.stat(uri)
    num_stored = stored.num_bytes if stored else 0
    if num_stored != len(content):
        raise StoreUnavailable(f"{storage.redact(uri)}: sent {len(content)} bytes, but the store holds {num_stored}")
