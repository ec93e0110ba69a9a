"""Checks a delivered video against its commit."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import av

from lynx_batch import storage
from lynx_batch.clip import StoredClip
from lynx_batch.delivery.marker import Marker, require_trust_packages
from lynx_batch.delivery.marks import Mark
from lynx_batch.delivery.tags import find_aigc_faults, find_tag_faults
from lynx_batch.delivery.video import decode_mp4, read_tags
from lynx_batch.errors import MissingObject


def find_faults(output: str, clip_id: str, clip: StoredClip, marker: Marker | None = None) -> list[str]:
    """All differences between a stored clip and its commit, found by reading the whole video; empty if there are none.

    Of its marks, the tags, the key `AIGC` and the C2PA signature are read back, and the watermark if `marker` has its network. A label
    is for people.

    Raises:
        ConfigError: If the package is missing that reads its marks.
        StoreUnavailable, StoreRefused: If it cannot be read now, or not by this user, which says nothing about the clip.
    """
    try:
        content = storage.read_bytes(storage.join(output, clip.clip_uri))
    except MissingObject as error:
        return [str(error)]
    return [
        *_compare_files(output, clip, content),
        *_compare_pictures(clip, content),
        *_compare_marks(clip_id, clip, content),
        *(_compare_watermark(clip_id, content, marker) if marker and Mark.WATERMARK in clip.marks else ()),
    ]


def _compare_files(output: str, clip: StoredClip, content: bytes) -> Iterator[str]:
    if len(content) != clip.num_bytes:
        yield f"num_bytes={len(content)}: must be {clip.num_bytes}"
    digest = hashlib.sha256(content).hexdigest()
    if digest != clip.sha256:
        yield f"sha256={digest}: must be {clip.sha256}"
    for uri in filter(None, (clip.poster_uri, clip.preview_uri)):
        if storage.stat(storage.join(output, uri)) is None:
            yield f"{uri}: does not exist"


def _compare_pictures(clip: StoredClip, content: bytes) -> Iterator[str]:
    with TemporaryDirectory(prefix="lynx-batch-") as scratch:
        file = Path(scratch, "clip.mp4")
        file.write_bytes(content)
        try:
            with av.open(str(file)) as video:
                stream = video.streams.video[0]
                size, rate = (stream.width, stream.height), stream.average_rate
                num_frames = sum(1 for _ in video.decode(stream))
        except (av.FFmpegError, IndexError) as error:
            yield f"cannot be decoded: {error}"
            return
    if num_frames != clip.num_frames:
        yield f"num_frames={num_frames}: must be {clip.num_frames}"
    if rate != clip.fps:
        yield f"fps={rate}: must be {clip.fps}"
    if size != (clip.width, clip.height):
        yield f"size={size[0]}x{size[1]}: must be {clip.width}x{clip.height}"


def _compare_watermark(clip_id: str, content: bytes, marker: Marker) -> Iterator[str]:
    try:
        frames = decode_mp4(content)
    except (av.FFmpegError, IndexError):
        return  # which is a fault of its pictures
    for fault in marker.find_watermark_faults(frames, clip_id):
        yield f"watermark: {fault}"


def _compare_marks(clip_id: str, clip: StoredClip, content: bytes) -> Iterator[str]:
    if marks := {Mark.TAGS, Mark.AIGC} & {*clip.marks}:
        try:
            tags = read_tags(content)
        except av.FFmpegError as error:
            yield f"tags cannot be read: {error}"
            return
        if Mark.TAGS in marks:
            yield from find_tag_faults(tags, clip_id)
        if Mark.AIGC in marks:
            yield from find_aigc_faults(tags, clip_id)
    if Mark.C2PA in clip.marks:
        require_trust_packages("clips signed by C2PA")
        from lynx_batch.delivery.content_credentials import find_signature_faults

        yield from find_signature_faults(content, clip_id)
