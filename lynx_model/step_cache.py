"""The step cache: which steps run the transformer's blocks, and which add once more what the blocks added before; free of torch.

The residual of a forward is the output of its blocks less their input. From step to step its magnitude changes by a ratio that
hardly depends on the prompt or the person, so it can be measured once for a model. While the ratios since the last full step stay
close to 1, the old residual stands in for the new one.

Source: MagCache, arXiv 2506.09045, section 4.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Literal

import numpy as np

from lynx_model.errors import InvalidParams

FIRST_NOISE_LEVEL = 0.999
"""Of an unshifted schedule, as in `sampler.make_schedule`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Magnitudes:
    """The mean magnitude of a model's residuals at some noise levels: (level, magnitude), the lowest level first.

    As a function of the noise level it holds for any number of steps and any shift of the schedule. Only ratios are used.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        levels = [level for level, _ in self.points]
        if len(levels) < 2 or not all(low < high for low, high in pairwise((0.0, *levels))) or levels[-1] > 1:
            raise InvalidParams("points", self.points[:3], "must be at noise levels that rise within 0 to 1")
        if not all(0 < magnitude < math.inf for _, magnitude in self.points):
            raise InvalidParams("points", self.points[:3], "must have magnitudes above 0")

    @property
    def sha256(self) -> str:
        numbers = [[float(level), float(magnitude)] for level, magnitude in self.points]
        return hashlib.sha256(json.dumps(numbers).encode()).hexdigest()

    def ratio(self, before: float, after: float) -> float | None:
        """The magnitude at noise level `after` over that at `before`; None unless both are within the measured levels."""
        levels = [level for level, _ in self.points]
        if not all(levels[0] <= level <= levels[-1] for level in (before, after)):
            return None
        logarithms = [math.log(magnitude) for _, magnitude in self.points]
        return math.exp(np.interp(after, levels, logarithms) - np.interp(before, levels, logarithms))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCache:
    """When a step may reuse the residuals of an earlier one.

    After the first `keep_first` of the steps, at most `max_skip` in a row reuse residuals, and only while their predicted errors
    add up to less than `threshold`. `magnitudes` belong to the model; without them nothing can be rendered yet.
    """

    kind: Literal["magcache"] = "magcache"
    threshold: float = 0.12
    max_skip: int = 2
    keep_first: float = 0.2
    magnitudes: Magnitudes | None = None

    def __post_init__(self) -> None:
        rules = {
            "kind": (self.kind == "magcache", "must be magcache"),
            "threshold": (0 <= self.threshold < math.inf, "must be a number of at least 0"),
            "max_skip": (self.max_skip >= 0, "must be at least 0"),
            "keep_first": (0 <= self.keep_first <= 1, "must be from 0 to 1"),
        }
        for name, (is_obeyed, rule) in rules.items():
            if not is_obeyed:
                raise InvalidParams(f"step_cache.{name}", getattr(self, name), rule)

    @property
    def is_idle(self) -> bool:
        """Whether it can never skip a step."""
        return not (self.threshold and self.max_skip) or self.keep_first == 1

    @property
    def name(self) -> str:
        """Everything about it that changes the picture."""
        measured = "uncalibrated" if self.magnitudes is None else self.magnitudes.sha256
        return f"{self.kind} {float(self.threshold)} {self.max_skip} {float(self.keep_first)} {measured}"

    def check_calibrated(self) -> Magnitudes:
        """The model's magnitudes. Raises InvalidParams if they are missing."""
        if self.magnitudes is None:
            raise InvalidParams("step_cache.magnitudes", None, "must be measured (`lynx-batch models calibrate`)")
        return self.magnitudes

    def full_steps(self, levels: Sequence[float], conditions: Sequence[object]) -> tuple[bool, ...]:
        """For each step, whether it runs the blocks.

        `levels` are the noise levels of the steps, `conditions` what the blocks attend to at each. The first and the last step are
        full, and so is each step whose conditions differ from those before, or whose noise level was not measured.

        Raises:
            InvalidParams: If the model's magnitudes are missing.
        """
        ratios = self._ratios(levels, conditions)
        full: list[bool] = []
        product, error, num_skipped = 1.0, 0.0, 0
        for ratio in ratios:
            if ratio is not None:
                product *= ratio
                error += abs(1 - product)
            is_full = ratio is None or error >= self.threshold or num_skipped >= self.max_skip
            product, error, num_skipped = (1.0, 0.0, 0) if is_full else (product, error, num_skipped + 1)
            full.append(is_full)
        return tuple(full)

    def _ratios(self, levels: Sequence[float], conditions: Sequence[object]) -> list[float | None]:
        """By how much the magnitude changes at each step; None at steps that must be full whatever it is."""
        magnitudes, num_steps = self.check_calibrated(), len(levels)
        return [
            magnitudes.ratio(levels[step - 1], levels[step])
            if 0 < step < num_steps - 1
            and step / num_steps >= self.keep_first
            and conditions[step] == conditions[step - 1]
            else None
            for step in range(num_steps)
        ]


def noise_levels(num_steps: int, flow_shift: float) -> tuple[float, ...]:
    """The noise level of each step, as `sampler.make_schedule` sets it."""
    unshifted = np.linspace(FIRST_NOISE_LEVEL, 0.0, num_steps + 1)[:-1]
    return tuple(float(flow_shift * level / (1 + (flow_shift - 1) * level)) for level in unshifted)


def average(levels: Sequence[float], clips: Sequence[Sequence[Sequence[float]]]) -> tuple[Magnitudes, float]:
    """The magnitudes of a model from those of some clips, by clip, step and branch, at the noise `levels` of the steps.

    From step to step they change by the geometric mean of what the branches of all clips changed by. The second result is their
    spread: the largest relative deviation of one of these ratios from its mean.
    """
    logarithms = [fmean(math.log(magnitude) for clip in clips for magnitude in clip[0])]
    deviations = [0.0]
    for step in range(1, len(levels)):
        changes = [
            math.log(after / before)
            for clip in clips
            for before, after in zip(clip[step - 1], clip[step], strict=False)  # later steps may have fewer branches
        ]
        logarithms.append(logarithms[-1] + fmean(changes))
        deviations += [abs(math.exp(change - fmean(changes)) - 1) for change in changes]
    points = zip(reversed(levels), map(math.exp, reversed(logarithms)), strict=True)
    return Magnitudes(points=tuple(points)), max(deviations)
