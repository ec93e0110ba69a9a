"""Which guidance branches a clip needs, and how their predictions are combined; free of torch.

Source: bytedance/lynx modules/full/lynx_pipeline.py:336-363 and modules/lite/lynx_lite_pipeline.py:302-338 at 3a6a91a.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lynx_model.ranges import is_within
from lynx_model.spec import RenderParams

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One forward of a step: which text it reads, and whether it sees the subject."""

    has_prompt: bool
    has_subject: bool


CONDITIONAL = Branch(has_prompt=True, has_subject=True)
SUBJECT_ONLY = Branch(has_prompt=False, has_subject=True)
UNCONDITIONAL = Branch(has_prompt=False, has_subject=False)


KEPT = ("image_share", "image_rest")
"""The names of what is kept of the branch with the photo alone, in a saved state."""

SMALLEST_SQUARE = 1e-20  # two predictions that are equal have no way between them


def plan_branches(params: RenderParams, *, step: int, has_image_guidance: bool) -> tuple[Branch, ...]:
    """The branches of `step`, counted from 0, in the order that `combine` expects.

    Without image guidance (lite), `guidance_scale_image` is ignored.
    """
    is_guided = is_within(step, params.num_inference_steps, 0, params.guidance_until)
    if params.guidance_scale <= 1 or not is_guided:
        return (CONDITIONAL,)
    if params.guidance_scale_image is None or not has_image_guidance:
        return (CONDITIONAL, UNCONDITIONAL)
    return (CONDITIONAL, UNCONDITIONAL, SUBJECT_ONLY)


def num_forwards(params: RenderParams, *, has_image_guidance: bool) -> int:
    """The number of DiT forwards that a clip takes if no step leaves any out: its branches, summed over all steps."""
    steps = range(params.num_inference_steps)
    return sum(len(plan_branches(params, step=step, has_image_guidance=has_image_guidance)) for step in steps)


def combine(predictions: "Sequence[Tensor]", params: RenderParams) -> "Tensor":
    """Combines the predictions of `plan_branches`, in its order: from the unconditional one, each scale moves in its own direction."""
    if len(predictions) == 1:
        return predictions[0]
    if len(predictions) == 2:
        conditional, unconditional = predictions
        return unconditional + params.guidance_scale * (conditional - unconditional)
    conditional, unconditional, subject_only = predictions
    assert params.guidance_scale_image is not None
    towards_subject = params.guidance_scale_image * (subject_only - unconditional)
    return unconditional + towards_subject + params.guidance_scale * (conditional - subject_only)


class Guidance:
    """Combines the predictions of one clip, step by step, and keeps what later steps reuse of the branch with the photo alone.

    That prediction is split into a share of the way from the unconditional to the conditional one, and a rest. Both change more slowly from
    step to step than the prediction does.
    """

    def __init__(self, params: RenderParams) -> None:
        self._params = params
        self._kept: tuple[Tensor, Tensor] | None = None

    def state(self) -> "dict[str, Tensor]":
        """What later steps reuse, by name; empty if that is nothing."""
        return {} if self._kept is None else dict(zip(KEPT, self._kept, strict=True))

    def restore(self, state: "Mapping[str, Tensor]", device: "torch.device") -> None:
        """Goes on with what `state` of another process returned. Other names are ignored."""
        if all(name in state for name in KEPT):
            share, rest = (state[name].to(device) for name in KEPT)
            self._kept = share, rest

    def combine(self, predictions: "Sequence[Tensor]", *, reuses_image: bool) -> "Tensor":
        """As the function `combine`. If `reuses_image`, the last prediction is missing, and what was kept of it stands in for it."""
        if reuses_image:
            assert self._kept is not None
            conditional, unconditional = predictions
            share, rest = self._kept
            subject_only = unconditional + share * (conditional - unconditional) + rest
            return combine((conditional, unconditional, subject_only), self._params)
        if len(predictions) == 3 and self._params.image_guidance_every > 1:
            self._kept = split_subject_only(*predictions)
        return combine(predictions, self._params)


def split_subject_only(
    conditional: "Tensor", unconditional: "Tensor", subject_only: "Tensor"
) -> "tuple[Tensor, Tensor]":
    """The share s and the rest r of subject_only = unconditional + s (conditional - unconditional) + r, with the smallest rest."""
    by_prompt, by_photo = conditional - unconditional, subject_only - unconditional
    share = (by_prompt * by_photo).sum() / by_prompt.square().sum().clamp(min=SMALLEST_SQUARE)
    return share, by_photo - share * by_prompt
