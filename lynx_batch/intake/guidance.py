"""`num_guidance_branches`: a manifest column that selects the parts of the guidance, as a shorthand for two scales.

With three branches, text and photo are guided separately; with two, together. One branch has no guidance, as distilled models need.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from lynx_batch.config import DefaultsConfig

BRANCHES = "num_guidance_branches"
BrokenRule = tuple[str, object, str]
"""Column, value and rule."""


def explain_guidance(cells: Mapping[str, Any], defaults: DefaultsConfig) -> Iterator[BrokenRule]:
    """The cells of a row that contradict its `num_guidance_branches`. `cells` holds no nulls."""
    branches = cells.get(BRANCHES)
    if branches is None:
        return
    if branches not in (1, 2, 3):
        yield BRANCHES, branches, "must be 1, 2 or 3"
        return
    where = f"where {BRANCHES} is {branches}"
    scale = cells.get("guidance_scale", defaults.guidance_scale)
    image_scale = cells.get("guidance_scale_image", defaults.guidance_scale_image)
    if branches == 1 and cells.get("guidance_scale", 1.0) > 1:
        yield "guidance_scale", scale, f"must be null or at most 1 {where}"
    if branches > 1 and scale <= 1:
        yield "guidance_scale", scale, f"must be above 1 {where}"
    if branches < 3 and "guidance_scale_image" in cells:
        yield "guidance_scale_image", image_scale, f"must be null {where}"
    if branches == 3 and image_scale is None:
        yield "guidance_scale_image", image_scale, f"must be given, in the row or in the run's defaults, {where}"


def settle_guidance(cells: Mapping[str, Any]) -> dict[str, float | None]:
    """The scales that a row's `num_guidance_branches` determines, whatever the run's defaults are."""
    match cells.get(BRANCHES):
        case 1:
            return {"guidance_scale": 1.0, "guidance_scale_image": None}
        case 2:
            return {"guidance_scale_image": None}
    return {}
