"""Frames -> an uploaded, hashed object below the output location: marked, encoded, signed, hashed, uploaded, in this order."""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lynx_batch import output as output_names
from lynx_batch import storage
from lynx_batch.clip import ClipSpec, RenderIdentity, StoredClip
from lynx_batch.config import VideoConfig
from lynx_batch.delivery.marker import Marker
from lynx_batch.delivery.marks import Mark, MarkLog
from lynx_batch.delivery.preview import encode_preview
from lynx_batch.delivery.tags import find_aigc_faults, find_tag_faults, tags_of
from lynx_batch.delivery.video import decode_mp4, encode_mp4, encode_poster, read_tags
from lynx_batch.errors import StoreUnavailable
from lynx_batch.outage import retry_while_unavailable
from lynx_batch.stages import Stage
from lynx_model.spec import RenderParams


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedClip:
    """The files of a clip, in memory, and the marks that its video carries. `preview_kind` is the suffix of the preview's name."""

    video: bytes
    poster: bytes
    num_frames: int
    fps: int
    width: int
    height: int
    preview: bytes | None = None
    preview_kind: str | None = None
    marks: tuple[str, ...] = ()
    failed_marks: Mapping[str, str] = field(default_factory=dict)

    def stored_as(self, clip_id: str, attempt: str) -> StoredClip:
        """What it is once that attempt has uploaded it."""
        kind = self.preview_kind
        return StoredClip(
            clip_uri=output_names.video_path(clip_id, attempt),
            poster_uri=output_names.poster_path(clip_id, attempt),
            preview_uri=None if kind is None else output_names.preview_path(clip_id, attempt, kind),
            sha256=hashlib.sha256(self.video).hexdigest(),
            num_bytes=len(self.video),
            num_frames=self.num_frames,
            fps=self.fps,
            width=self.width,
            height=self.height,
            marks=self.marks,
            failed_marks=dict(self.failed_marks),
        )


def finish(
    frames_FHWC: NDArray[np.uint8],
    clip: ClipSpec,
    params: RenderParams,
    *,
    identity: RenderIdentity,
    video: VideoConfig,
    marker: Marker,
    stage: Callable[[Stage], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> EncodedClip:
    """The files of a clip with all its marks; the signature comes last.

    `params` has the seed that was rendered. `stage` measures the stages `mark` and `encode`.

    Raises:
        NotMarked: If a mark fails that the run requires.
    """
    marks = MarkLog(is_required=marker.is_required)

    def marking() -> AbstractContextManager[None]:
        return stage(Stage.MARK) if marker.is_on else nullcontext()

    with marking():
        has_preview = video.preview is not None
        shown, stills = marker.mark_frames(
            frames_FHWC, clip.clip_id, fps=params.fps, has_preview=has_preview, marks=marks
        )
    with stage(Stage.ENCODE):
        tags = tags_of(clip, params, video.tags)
        encoded = encode(
            shown,
            fps=params.fps,
            crf=video.crf,
            tags=tags | marker.tags(clip.clip_id),
            stills_FHWC=stills,
            preview_kind=video.preview,
        )
    with marking():
        _read_back(encoded.video, clip.clip_id, has_tags=bool(tags), marker=marker, marks=marks)
        sealed = marker.sign(encoded.video, clip, identity, marks)
    applied, failed = tuple(map(str, marks.applied)), {str(mark): why for mark, why in marks.failed.items()}
    return replace(encoded, video=sealed, marks=applied, failed_marks=failed)


def _read_back(video: bytes, clip_id: str, *, has_tags: bool, marker: Marker, marks: MarkLog) -> None:
    """Notes which marks the encoded video carries."""
    found = read_tags(video)
    if has_tags:
        marks.expect(Mark.TAGS, find_tag_faults(found, clip_id))
    if marker.tags(clip_id):
        marks.expect(Mark.AIGC, find_aigc_faults(found, clip_id))
    if Mark.WATERMARK in marks.applied:
        marks.expect(Mark.WATERMARK, marker.find_watermark_faults(decode_mp4(video), clip_id))


def encode(
    frames_FHWC: NDArray[np.uint8],
    *,
    fps: int,
    crf: int,
    tags: Mapping[str, str] | None = None,
    stills_FHWC: NDArray[np.uint8] | None = None,
    preview_kind: Literal["gif", "webp"] | None = None,
) -> EncodedClip:
    """Encodes the frames, uint8 (F, H, W, 3), as a video with a poster and perhaps a preview.

    Poster and preview show `stills_FHWC`, or else the same frames.
    """
    num_frames, height, width, _ = frames_FHWC.shape
    stills = frames_FHWC if stills_FHWC is None else stills_FHWC
    return EncodedClip(
        video=encode_mp4(frames_FHWC, fps=fps, crf=crf, tags=tags),
        poster=encode_poster(stills),
        preview=None if preview_kind is None else encode_preview(stills, fps=fps, kind=preview_kind),
        preview_kind=preview_kind,
        num_frames=num_frames,
        fps=fps,
        width=width,
        height=height,
    )


def upload(encoded: EncodedClip, stored: StoredClip, *, output: str) -> None:
    """Uploads the files under the names of `stored`. Nobody else writes to an attempt's file names.

    Raises:
        StoreUnavailable: If for minutes the store does not accept them, or holds fewer or more bytes than were sent.
    """
    files = {stored.poster_uri: encoded.poster, stored.preview_uri: encoded.preview, stored.clip_uri: encoded.video}
    for name, content in files.items():
        if name is not None and content is not None:
            retry_while_unavailable(partial(_upload, content, storage.join(output, name)))


def _upload(content: bytes, uri: str) -> None:
    storage.write_bytes(uri, content)
    stored = storage.stat(uri)
    num_stored = stored.num_bytes if stored else 0
    if num_stored != len(content):
        raise StoreUnavailable(f"{storage.redact(uri)}: sent {len(content)} bytes, but the store holds {num_stored}")
