"""Which requests a model renders alike: the form of RenderParams that says what is computed and nothing else.

Two requests share it exactly if the pipeline computes the same for both, so their pixels are equal. It leaves out what nothing
reads (a guidance scale of one branch, the strength of an adapter that is not there) and says in one way what can be said in
several (steps and blocks as those that are meant). What comes to the same picture by arithmetic alone stays apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lynx_model.checkpoints.adapter_spec import describe_adapters
from lynx_model.checkpoints.base import read_base
from lynx_model.checkpoints.json_file import read_json
from lynx_model.errors import WeightsMismatch
from lynx_model.ranges import choose_blocks, is_within
from lynx_model.spec import RANGES, ModelSource, RenderParams

DEFAULT_FLOW_SHIFT = 1.0
"""Of a scheduler whose configuration has none. Source: UniPCMultistepScheduler of diffusers 0.42.1."""

Canonical = dict[str, object]
"""What a model makes of a request, as JSON can say it."""

Stretch = tuple[int, int]
"""The first of some steps or blocks, counted from 0, and the one after the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTraits:
    """What of a model decides which requests are the same to it."""

    num_blocks: int
    id_stride: int
    has_ref: bool
    has_image_guidance: bool
    flow_shift: float

    @classmethod
    def of(cls, source: ModelSource) -> "ModelTraits":
        """Those of the weights at `source`, or of their outlines. Raises MissingFile or WeightsMismatch."""
        adapters = describe_adapters(source.id_adapter, source.ref_adapter)
        return cls(
            num_blocks=read_base(Path(source.base)).num_blocks,
            id_stride=adapters.id_stride,
            has_ref=adapters.has_ref,
            has_image_guidance=adapters.has_image_guidance,
            flow_shift=_read_flow_shift(Path(source.base, "scheduler", "scheduler_config.json")),
        )


def texts_read(params: RenderParams) -> dict[str, str]:
    """The texts that a model reads for a clip, by their fields: without guidance no branch reads the negative prompt."""
    texts = {"prompt": params.prompt}
    return texts | {"negative_prompt": params.negative_prompt} if _num_guided_steps(params) else texts


def canonicalize(params: RenderParams, traits: ModelTraits, texts: Mapping[str, str]) -> Canonical:
    """What a model with `traits` makes of `params`, the seed left out; `texts` gives what stands for each text that it reads."""
    num_steps = params.num_inference_steps
    guidance = _guidance(params, traits)
    shift = traits.flow_shift if params.flow_shift is None else params.flow_shift
    return {
        "texts": {field: texts[text] for field, text in texts_read(params).items()},
        "width": params.width,
        "height": params.height,
        "num_frames": params.num_frames,
        "fps": params.fps,
        "num_inference_steps": num_steps,
        "flow_shift": _number(shift),
        "guidance": guidance,
        "ip": _adapter(
            params.ip_scale,
            _steps(num_steps, params.ip_start, params.ip_end),
            _blocks("ip_blocks", params.ip_blocks, traits.num_blocks, traits.id_stride),
        ),
        "ref": _adapter(
            params.ref_scale if traits.has_ref else 0,
            _steps(num_steps, params.ref_start, params.ref_end),
            _blocks("ref_blocks", params.ref_blocks, traits.num_blocks, 1),
        ),
    }


def _read_flow_shift(file: Path) -> float:
    shift = read_json(file).get("flow_shift", DEFAULT_FLOW_SHIFT)
    low, high = RANGES["flow_shift"]
    if isinstance(shift, bool) or not isinstance(shift, int | float) or not low <= shift <= high:
        raise WeightsMismatch(f"{file}: flow_shift={shift!r}: must be a number between {low} and {high}")
    return float(shift)


def _guidance(params: RenderParams, traits: ModelTraits) -> dict[str, object] | None:
    """None where each step has one branch, which reads neither the negative prompt nor a scale."""
    num_steps = _num_guided_steps(params)
    if not num_steps:
        return None
    image_scale = params.guidance_scale_image if traits.has_image_guidance else None
    return {
        "scale": _number(params.guidance_scale),
        "image_scale": None if image_scale is None else _number(image_scale),
        "num_steps": num_steps,
    }


def _num_guided_steps(params: RenderParams) -> int:
    """How many steps have more than one branch; they are the first ones."""
    steps = _steps(params.num_inference_steps, 0, params.guidance_until)
    return steps[1] if params.guidance_scale > 1 and steps else 0


def _adapter(scale: float, steps: Stretch | None, blocks: Stretch | None) -> dict[str, object] | None:
    """None of an adapter that is off at every step, or in every block that it has a layer for."""
    if scale == 0 or steps is None or blocks is None:
        return None
    return {"scale": _number(scale), "steps": steps, "blocks": blocks}


@lru_cache(maxsize=10_000)
def _steps(num_steps: int, start: float, end: float) -> Stretch | None:
    steps = [step for step in range(num_steps) if is_within(step, num_steps, start, end)]
    return (steps[0], steps[-1] + 1) if steps else None


@lru_cache(maxsize=10_000)
def _blocks(field: str, text: str | None, num_blocks: int, stride: int) -> Stretch | None:
    """Of the blocks that are meant, those with a layer of the adapter: every `stride`-th of the model."""
    blocks = [block for block in choose_blocks(field, text, num_blocks) if block % stride == 0]
    return (blocks[0], blocks[-1] + 1) if blocks else None


def _number(value: float) -> float:
    """5 and 5.0 are one number, so they are one text; so are 0.0 and -0.0."""
    return int(value) if float(value).is_integer() else float(value)
