"""A clip as it is judged: the frames of the MP4 that will be delivered, and what ffmpeg's detectors note about each."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from lynx_model.errors import UnreadableVideo
from lynx_model.faces.likeness import choose_frames
from lynx_model.scoring.options import NUM_FRAMES
from lynx_model.spec import RenderParams, Subject

BLACK_PIXEL = 0.1
"""A pixel is black if its luma is at most this share of the range: 25 of 255. ffmpeg's default for blackdetect."""

MIN_BLACK_S = 0.1
MIN_FROZEN_S = 0.5
"""Shorter stretches do not count. ffmpeg's own minimum is 2 s, which is too long for a clip of 5 s."""

MAX_FROZEN_DB = -60
"""The picture is frozen if it differs from the stretch's first by at most this much, which is 0.25 of 255. ffmpeg's default."""

CUT_SCORE = 10
"""A frame whose scene change scores at least this, of 100, begins a new scene. ffmpeg's default."""

SMALL, MIN_SMALL_PX = 0.25, 120
"""The small grey frames have a quarter of the size, but a shorter side of at least so many pixels if the clip has them."""


DAMAGE = (av.FFmpegError, ValueError, AttributeError)
"""Errors that PyAV raised for randomly damaged files in tests; the last two for streams without a format or a codec."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JudgedClip:
    """One clip, decoded.

    Attributes:
        frames: All frames, uint8 (F, H, W, 3) RGB.
        small: The same in grey at about a quarter of the size, uint8 (F, h, w).
        chosen: Indices of the frames that scorers with networks examine.
        notes: What ffmpeg's detectors said about each frame, `lavfi.*` -> text.
        times_s: When each frame is shown.
        fps: The rate that the file states.
        params: What was ordered.
        subject: Whom the clip should show, as the model saw them.
        rendered: The frames before they were encoded, shaped like `frames`; None if unknown.
        num_not_finite: How many of the latents were NaN or infinite, or None if unknown.
    """

    frames: NDArray[np.uint8]
    small: NDArray[np.uint8]
    chosen: tuple[int, ...]
    notes: tuple[Mapping[str, str], ...]
    times_s: tuple[float, ...]
    fps: Fraction
    params: RenderParams
    subject: Subject
    rendered: NDArray[np.uint8] | None = None
    num_not_finite: int | None = None

    @property
    def chosen_frames(self) -> list[NDArray[np.uint8]]:
        return [self.frames[index] for index in self.chosen]

    @property
    def frame_s(self) -> float:
        """How long one frame is shown."""
        return float(1 / self.fps)

    @property
    def length_s(self) -> float:
        return self.times_s[-1] + self.frame_s


def read_clip(
    mp4: bytes,
    *,
    params: RenderParams,
    subject: Subject,
    num_frames: int = NUM_FRAMES,
    rendered: NDArray[np.uint8] | None = None,
    num_not_finite: int | None = None,
) -> JudgedClip:
    """Decodes a clip and runs ffmpeg's detectors on it, in one pass.

    `mp4` is the file that will be delivered; `chosen` gets at most `num_frames` frames. The others are as in `JudgedClip`.

    Raises:
        UnreadableVideo: If it cannot be decoded, or has no frame.
        InvalidParams: If `num_frames` is below 1.
    """
    frames, times_s, notes, fps = _decode(mp4)
    return JudgedClip(
        frames=frames,
        small=np.stack([_shrink(frame) for frame in frames]),
        chosen=tuple(choose_frames(len(frames), num_frames)),
        notes=notes,
        times_s=times_s,
        fps=fps,
        params=params,
        subject=subject,
        rendered=rendered,
        num_not_finite=num_not_finite,
    )


def _decode(mp4: bytes) -> tuple[NDArray[np.uint8], tuple[float, ...], tuple[dict[str, str], ...], Fraction]:
    """`frames`, `times_s`, `notes` and `fps` of a clip."""
    about = f"clip of {len(mp4)} bytes"
    try:
        with av.open(io.BytesIO(mp4), "r") as container:
            if not container.streams.video:
                raise UnreadableVideo(f"{about}: must have a video stream")
            stream = container.streams.video[0]
            fps = Fraction(stream.average_rate or 0)
            shown = list(_examine(stream, container.decode(stream)))
        if not shown or not fps:
            raise UnreadableVideo(f"{about}: has {len(shown)} frames, {fps} per second; must have some")
        frames, times_s, notes = zip(*shown, strict=True)
        return np.stack(frames), times_s, notes, fps
    except DAMAGE as error:
        raise UnreadableVideo(f"{about}: cannot be decoded ({error})") from error


def _examine(
    stream: av.VideoStream, frames: Iterator[av.VideoFrame]
) -> Iterator[tuple[NDArray[np.uint8], float, dict[str, str]]]:
    """Each frame with its time and notes. The detectors keep every frame and change no pixel."""
    graph = _detectors(stream)
    for frame in frames:
        graph.vpush(frame)
        yield from _pull(graph)
    graph.vpush(None)
    yield from _pull(graph)


def _detectors(stream: av.VideoStream) -> av.filter.Graph:
    """The graph. In a clip shorter than a second, a stretch of half its length counts as frozen."""
    length_s = float((stream.duration or 0) * (stream.time_base or 0))
    min_frozen_s = min(MIN_FROZEN_S, length_s / 2)
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add_buffer(template=stream),
        graph.add("blackdetect", f"d={MIN_BLACK_S}:pix_th={BLACK_PIXEL}"),
        graph.add("freezedetect", f"n={MAX_FROZEN_DB}dB:d={min_frozen_s}"),
        graph.add("scdet", f"t={CUT_SCORE}"),
        graph.add("buffersink"),
    ).configure()
    return graph


def _pull(graph: av.filter.Graph) -> Iterator[tuple[NDArray[np.uint8], float, dict[str, str]]]:
    while True:
        try:
            frame = graph.vpull()
        except (BlockingIOError, EOFError):  # it needs another frame, or has had the last
            return
        yield np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8), float(frame.time or 0), dict(frame.metadata)


def _shrink(frame_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    shorter_px = min(frame_HWC.shape[:2])
    scale = min(1, max(SMALL, MIN_SMALL_PX / shorter_px))
    grey = cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), dtype=np.uint8)
