"""The canonical form of RenderParams: it states what the model computes, and nothing else.

Two requests have the same form exactly if the pipeline computes the same for both, so their pixels are equal. The form omits values
that nothing reads (a guidance scale when there is one branch, the strength of a missing adapter). What a request
can write in several ways (the steps and blocks that a range selects), the form writes in one. Requests whose results are equal only
by arithmetic, such as guidance with two equal scales and with one, keep different forms.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any

from lynx_model.checkpoints.adapter_spec import describe_adapters
from lynx_model.checkpoints.base import read_base
from lynx_model.checkpoints.json_file import read_json
from lynx_model.errors import WeightsMismatch
from lynx_model.parameters import FLOW_SHIFT, PARAMETERS
from lynx_model.ranges import choose_blocks, is_within
from lynx_model.spec import ModelSource, RenderParams

DEFAULT_FLOW_SHIFT = 1.0
"""Flow shift of a scheduler whose configuration has none. Source: UniPCMultistepScheduler of diffusers 0.42.1."""

INTERPRETED = frozenset(
    {
        *("prompt", "negative_prompt", "seed", "flow_shift"),
        *("guidance_scale", "guidance_scale_image", "guidance_until", "image_guidance_every"),
        *("ip_scale", "ip_start", "ip_end", "ip_blocks"),
        *("ref_scale", "ref_start", "ref_end", "ref_blocks"),
    }
)
"""Parameters whose canonical form depends on other parameters or on the model. Every other one is taken as given."""

SETTINGS = tuple(name for name in PARAMETERS if name not in ("prompt", "negative_prompt", "seed"))
"""The parameters that are neither texts nor the seed."""

_SETTINGS_OF = attrgetter(*SETTINGS)

Canonical = dict[str, object]
"""A canonical form, as a JSON object."""

Stretch = tuple[int, int]
"""Consecutive steps or blocks: the first one, counted from 0, and the one after the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTraits:
    """The properties of a model that affect the canonical form of a request."""

    num_blocks: int
    id_stride: int
    has_ref: bool
    has_image_guidance: bool
    flow_shift: float

    @classmethod
    def of(cls, source: ModelSource) -> "ModelTraits":
        """Of the weights at `source`, or of their headers-only copy. Raises MissingFile or WeightsMismatch."""
        adapters = describe_adapters(source.id_adapter, source.ref_adapter)
        return cls(
            num_blocks=read_base(Path(source.base)).num_blocks,
            id_stride=adapters.id_stride,
            has_ref=adapters.has_ref,
            has_image_guidance=adapters.has_image_guidance,
            flow_shift=_read_flow_shift(Path(source.base, "scheduler", "scheduler_config.json")),
        )


def texts_read(params: RenderParams) -> dict[str, str]:
    """Field and text of everything that the text encoder reads for a clip. Without guidance, it does not read the negative prompt."""
    texts = {"prompt": params.prompt}
    return texts | {"negative_prompt": params.negative_prompt} if _num_guided_steps(params) else texts


def canonicalize(params: RenderParams, traits: ModelTraits, texts: Mapping[str, str]) -> Canonical:
    """The canonical form of `params`, without the seed, for a model with `traits`. Each text is replaced by its value in `texts`."""
    read = {field: texts[text] for field, text in texts_read(params).items()}
    return _without_texts(_SETTINGS_OF(params), traits) | {"texts": read}


@lru_cache(maxsize=10_000)
def _without_texts(settings: tuple[Any, ...], traits: ModelTraits) -> Canonical:
    """The part of the canonical form that many clips share, which must not be changed. `settings` are the values of `SETTINGS`."""
    params = RenderParams(prompt="any", **dict(zip(SETTINGS, settings, strict=True)))
    num_steps = params.num_inference_steps
    shift = traits.flow_shift if params.flow_shift is None else params.flow_shift
    ip_steps = _steps(num_steps, params.ip_start, params.ip_end)
    ip_blocks = _blocks("ip_blocks", params.ip_blocks, traits.num_blocks, traits.id_stride)
    ref_steps = _steps(num_steps, params.ref_start, params.ref_end)
    ref_blocks = _blocks("ref_blocks", params.ref_blocks, traits.num_blocks, 1)
    adapters = {
        "ip": _adapter(params.ip_scale, ip_steps, ip_blocks),
        "ref": _adapter(params.ref_scale if traits.has_ref else 0, ref_steps, ref_blocks),
    }
    changes = {step for adapter in adapters.values() if adapter for step in adapter["steps"]}
    return _values_taken_as_given(params) | {
        "flow_shift": _number(shift),
        "guidance": _guidance(params, traits, changes),
        **adapters,
    }


def _values_taken_as_given(params: RenderParams) -> Canonical:
    """The parameters that `canonicalize` does not interpret, except those at their neutral value."""
    values = {each: getattr(params, each.name) for each in PARAMETERS.values() if each.name not in INTERPRETED}
    return {
        each.name: _number(value) if isinstance(value, int | float) else value
        for each, value in values.items()
        if value != each.neutral
    }


def _read_flow_shift(file: Path) -> float:
    shift = read_json(file).get("flow_shift", DEFAULT_FLOW_SHIFT)
    low, high = FLOW_SHIFT.low, FLOW_SHIFT.high
    if isinstance(shift, bool) or not isinstance(shift, int | float) or not low <= shift <= high:
        raise WeightsMismatch(f"{file}: flow_shift={shift!r}: must be a number between {low} and {high}")
    return float(shift)


def _guidance(params: RenderParams, traits: ModelTraits, changes: Set[int]) -> dict[str, object] | None:
    """None if every step has one branch, which reads neither the negative prompt nor a scale.

    `changes` are the steps at which an adapter starts or stops.
    """
    num_steps = _num_guided_steps(params)
    if not num_steps:
        return None
    image_scale = params.guidance_scale_image if traits.has_image_guidance else None
    every = 1 if image_scale is None else min(params.image_guidance_every, _longest_stretch(num_steps, changes))
    return {
        "scale": _number(params.guidance_scale),
        "image_scale": None if image_scale is None else _number(image_scale),
        "num_steps": num_steps,
        **({"image_every": every} if every > 1 else {}),
    }


def _longest_stretch(num_steps: int, changes: Set[int]) -> int:
    """The most steps in a row, of the first `num_steps`, without one of the `changes` between them."""
    bounds = sorted({0, num_steps, *(step for step in changes if step < num_steps)})
    return max(after - before for before, after in pairwise(bounds))


def _num_guided_steps(params: RenderParams) -> int:
    """How many steps have more than one branch. They are the first ones."""
    steps = _steps(params.num_inference_steps, 0, params.guidance_until)
    return steps[1] if params.guidance_scale > 1 and steps else 0


def _adapter(scale: float, steps: Stretch | None, blocks: Stretch | None) -> dict[str, Any] | None:
    """None if the adapter is off at every step, or in every block for which it has a layer."""
    if scale == 0 or steps is None or blocks is None:
        return None
    return {"scale": _number(scale), "steps": steps, "blocks": blocks}


@lru_cache(maxsize=10_000)
def _steps(num_steps: int, start: float, end: float) -> Stretch | None:
    steps = [step for step in range(num_steps) if is_within(step, num_steps, start, end)]
    return (steps[0], steps[-1] + 1) if steps else None


@lru_cache(maxsize=10_000)
def _blocks(field: str, text: str | None, num_blocks: int, stride: int) -> Stretch | None:
    """The selected blocks that have a layer of the adapter; it has one in every `stride`-th block of the model."""
    blocks = [block for block in choose_blocks(field, text, num_blocks) if block % stride == 0]
    return (blocks[0], blocks[-1] + 1) if blocks else None


def _number(value: float) -> float:
    """One representation of equal numbers: 5 for 5.0, and 0 for -0.0."""
    return int(value) if float(value).is_integer() else float(value)
