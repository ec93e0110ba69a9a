"""Technical scores: whether the file is what was ordered, and whether its pictures are black, frozen, empty, cut or blurred."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from lynx_model.scoring.clip import BLACK_PIXEL, CUT_SCORE, JudgedClip
from lynx_model.scoring.scores import TechnicalScores

CONSTANT_BELOW = 2.0
"""A frame is constant if its greys deviate by less than this from their mean, of 255 (standard deviation)."""

TOLERANCE_S = 1e-3
"""The times of frames are whole ticks of the file's clock, which are below a tenth of this."""

MAX_DB = 100.0
"""The difference of identical pictures, which would be infinite."""


@dataclass(frozen=True, slots=True)
class TechnicalScorer:
    """Reads ffmpeg's detectors and measures pixels. Needs no network and no file."""

    @property
    def name(self) -> str:
        return f"libavfilter-{'.'.join(map(str, av.library_versions['libavfilter']))}"

    @property
    def files(self) -> Mapping[str, str]:
        return {}

    def score(self, clip: JudgedClip) -> TechnicalScores:
        num_frames, height, width, _ = clip.frames.shape
        black = list(_stretches(clip, "lavfi.black_start", "lavfi.black_end"))
        frozen = list(_stretches(clip, "lavfi.freezedetect.freeze_start", "lavfi.freezedetect.freeze_end"))
        constant = _runs(clip.small.std(axis=(1, 2)) < CONSTANT_BELOW)
        cuts = [float(notes.get("lavfi.scd.score", 0)) for notes in clip.notes]
        sharpness = [_sharpness(frame) for frame in clip.chosen_frames]
        flicker = _flicker(clip.small)
        return TechnicalScores(
            num_frames=num_frames,
            width=width,
            height=height,
            fps=float(clip.fps),
            is_as_ordered=_is_as_ordered(clip),
            num_not_finite=clip.num_not_finite,
            black_share=sum(black) / clip.length_s,
            longest_black_s=max(black, default=0.0),
            frozen_share=sum(frozen) / clip.length_s,
            longest_frozen_s=max(frozen, default=0.0),
            constant_share=sum(constant) / num_frames,
            longest_constant_s=max(constant, default=0) * clip.frame_s,
            black_area=float((clip.small <= BLACK_PIXEL * 255).mean()),
            num_cuts=sum(cut >= CUT_SCORE for cut in cuts),
            max_cut=max(cuts),
            sharpness=float(np.mean(sharpness)),
            min_sharpness=min(sharpness),
            flicker=float(flicker.mean()) if len(flicker) else 0.0,
            max_flicker=float(flicker.max(initial=0)),
            encoding_db=_encoding_db(clip),
        )


def _is_as_ordered(clip: JudgedClip) -> bool:
    params = clip.params
    wanted = (params.num_frames, params.height, params.width, 3)
    places_s = np.arange(len(clip.times_s)) / params.fps
    is_steady = clip.frames.shape == wanted and np.allclose(clip.times_s, places_s, rtol=0, atol=TOLERANCE_S)
    return bool(is_steady and clip.fps == params.fps)


def _stretches(clip: JudgedClip, start: str, end: str) -> Iterator[float]:
    """The lengths, in seconds, of what ffmpeg notes with a start and an end. It notes no end for what lasts until the clip's."""
    begun_s: float | None = None
    for notes in clip.notes:
        if end in notes and begun_s is not None:
            yield float(notes[end]) - begun_s
            begun_s = None
        if start in notes:
            begun_s = float(notes[start])
    if begun_s is not None:
        yield clip.length_s - begun_s


def _runs(marks: NDArray[np.bool_]) -> list[int]:
    """The lengths of all runs of True."""
    edges = np.flatnonzero(np.diff(marks.astype(np.int8), prepend=0, append=0))
    return [int(end - start) for start, end in edges.reshape(-1, 2)]


def _sharpness(frame_HWC: NDArray[np.uint8]) -> float:
    """The variance of the Laplacian of the greys. Source: Pech-Pacheco et al., ICPR 2000, LAPV."""
    return float(cv2.Laplacian(cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var())


def _flicker(small_FHW: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How far each inner frame's brightness is from the mean of its neighbours'."""
    brightness = small_FHW.mean(axis=(1, 2), dtype=np.float64)
    return np.asarray(np.abs(brightness[1:-1] - (brightness[:-2] + brightness[2:]) / 2))


def _encoding_db(clip: JudgedClip) -> float | None:
    if clip.rendered is None or clip.rendered.shape != clip.frames.shape:
        return None
    chosen = list(clip.chosen)
    differences = cv2.absdiff(clip.rendered[chosen], clip.frames[chosen])
    error = float(np.mean(np.square(differences, dtype=np.float32)))
    return min(MAX_DB, 10 * math.log10(255**2 / error)) if error else MAX_DB
