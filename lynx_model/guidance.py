"""Which guidance branches a clip needs, and how their predictions combine.

Source: bytedance/lynx modules/full/lynx_pipeline.py:336-363 and modules/lite/lynx_lite_pipeline.py:302-338 at 3a6a91a.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lynx_model.spec import RenderParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One forward of a step: which text it reads, and whether it sees the subject."""

    has_prompt: bool
    has_subject: bool


CONDITIONAL = Branch(has_prompt=True, has_subject=True)
SUBJECT_ONLY = Branch(has_prompt=False, has_subject=True)
UNCONDITIONAL = Branch(has_prompt=False, has_subject=False)


def plan_branches(params: RenderParams, *, has_image_guidance: bool) -> tuple[Branch, ...]:
    """The branches of every step, in the order that `combine` takes them.

    `has_image_guidance=False` (lite) ignores `guidance_scale_image`.
    """
    if params.guidance_scale <= 1:
        return (CONDITIONAL,)
    if params.guidance_scale_image is None or not has_image_guidance:
        return (CONDITIONAL, UNCONDITIONAL)
    return (CONDITIONAL, UNCONDITIONAL, SUBJECT_ONLY)


def combine(predictions: Sequence[Tensor], params: RenderParams) -> Tensor:
    """One prediction from those of `plan_branches`: away from the unconditional one, by each scale along its own way."""
    if len(predictions) == 1:
        return predictions[0]
    if len(predictions) == 2:
        conditional, unconditional = predictions
        return unconditional + params.guidance_scale * (conditional - unconditional)
    conditional, unconditional, subject_only = predictions
    assert params.guidance_scale_image is not None
    towards_subject = params.guidance_scale_image * (subject_only - unconditional)
    return unconditional + towards_subject + params.guidance_scale * (conditional - subject_only)
