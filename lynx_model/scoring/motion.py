"""Motion: how fast the picture moves, by optical flow between neighbouring frames at a quarter of the size."""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lynx_model.faces.likeness import choose_frames
from lynx_model.scoring.clip import JudgedClip
from lynx_model.scoring.options import NUM_FRAMES
from lynx_model.scoring.scores import MotionScores

STATIC_BELOW = 0.005
"""A clip is static if its picture moves by less than this many shorter sides per second."""


@dataclass(frozen=True, slots=True)
class MotionScorer:
    """Measures Farneback's optical flow between some pairs of neighbouring frames."""

    num_pairs: int = NUM_FRAMES

    @property
    def name(self) -> str:
        return f"farneback-opencv-{cv2.__version__}"

    @property
    def files(self) -> Mapping[str, str]:
        return {}

    def score(self, clip: JudgedClip) -> MotionScores:
        """A clip of one frame does not move."""
        small_FHW = clip.small
        firsts = choose_frames(len(small_FHW) - 1, self.num_pairs) if len(small_FHW) > 1 else []
        moved_px = [_mean_flow_px(small_FHW[first], small_FHW[first + 1]) for first in firsts]
        speeds = np.array(moved_px or [0.0]) / min(small_FHW.shape[1:]) * float(clip.fps)
        mean = float(speeds.mean())
        return MotionScores(
            mean=mean,
            p10=float(np.percentile(speeds, 10)),
            maximum=float(speeds.max()),
            is_static=mean < STATIC_BELOW,
        )


def _mean_flow_px(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
    """The mean length of the flow. Source of the settings: OpenCV's tutorial on dense optical flow."""
    flow = cv2.calcOpticalFlowFarneback(
        before, after, None, pyr_scale=0.5, levels=3, winsize=15, iterations=3, poly_n=5, poly_sigma=1.2, flags=0
    )
    return float(np.hypot(flow[..., 0], flow[..., 1]).mean())
