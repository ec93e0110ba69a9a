"""The parameters of a clip, each described once.

A field of RenderParams states its type, its default, its rule and its meaning. The run file's `defaults`, the manifest's columns,
the metadata's columns, a clip's name and the user's reference all follow from these fields, so a new parameter is one new field.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import partial
from operator import attrgetter
from types import NoneType
from typing import Any, Protocol, get_args

from lynx_model.errors import InvalidParams
from lynx_model.geometry import (
    MAX_PATCHES,
    SIZE_MULTIPLE_PX,
    TEMPORAL_STRIDE_FRAMES,
    check_num_frames,
    check_size,
)
from lynx_model.ranges import IN_STEP_RANGES, explain_step_ranges, parse_blocks

DEFAULT_NEGATIVE_PROMPT = (
    "Bright tones, overexposed, blurred background, static, subtitles, style, works, paintings, images, overall gray, "
    "worst quality, low quality, JPEG compression residue, ugly, incomplete, extra fingers, poorly drawn hands, "
    "poorly drawn faces, deformed, disfigured, misshapen limbs, fused fingers, still picture, messy background, "
    "three legs, many people in the background, walking backwards"
)
"""The negative prompt that Lynx was published with. Source: bytedance/lynx infer.py at 3a6a91a (Apache-2.0)."""

MAX_SEED = 2**63 - 2  # the reference picture is encoded with seed + 1, and seeds are signed 64-bit


class Rule(Protocol):
    """What every value of a parameter must obey, whatever the other parameters are."""

    @property
    def text(self) -> str:
        """The rule in words, for the user's reference."""

    def check(self, name: str, value: Any, /) -> object:
        """Raises InvalidParams if `value` breaks the rule; `name` is the parameter's."""


@dataclass(frozen=True, slots=True)
class Range:
    """A number from `low` to `high`, both included; NaN is refused."""

    low: float
    high: float

    @property
    def text(self) -> str:
        return f"{self.low} to {self.high}"

    def check(self, name: str, value: float) -> None:
        if not self.low <= value <= self.high:  # NaN fails this, too
            raise InvalidParams(name, value, f"must be between {self.low} and {self.high}")


@dataclass(frozen=True, slots=True)
class CustomRule:
    """A rule with a function of its own."""

    text: str
    check: Callable[[str, Any], object]


def _check_not_blank(name: str, text: str) -> None:
    if not text.strip():
        raise InvalidParams(name, text, "must not be empty")


NOT_BLANK = CustomRule("not empty", _check_not_blank)
SIZE = CustomRule(f"a multiple of {SIZE_MULTIPLE_PX}, at most {MAX_PATCHES * SIZE_MULTIPLE_PX}", check_size)
NUM_FRAMES = CustomRule(
    f"{TEMPORAL_STRIDE_FRAMES} k + 1, at most {(MAX_PATCHES - 1) * TEMPORAL_STRIDE_FRAMES + 1}",
    lambda _name, value: check_num_frames(value),
)
BLOCKS = CustomRule("the first and the last block, such as `8-31`", parse_blocks)
FRACTION = Range(0, 1)
GUIDANCE = Range(0, 100)
STRENGTH = Range(0, 10)
FLOW_SHIFT = Range(0.01, 100)


def about(help_text: str, rule: Rule | None = None, *, neutral: object = MISSING) -> dict[str, object]:
    """The metadata of a field of RenderParams: `help`, `rule` and `neutral` of its Parameter."""
    return {"help": help_text, "rule": rule, "neutral": neutral}


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderParams:
    """What to render of a subject, and how. Every field changes the picture.

    Guidance takes three branches per step, two if `guidance_scale_image` is None, and one if `guidance_scale` is at most 1.
    `lynx_model.ranges` explains how steps and blocks are counted.

    Raises:
        InvalidParams: If a field breaks its rule; the error names field, value and rule.
    """

    prompt: str = field(metadata=about("What the person does, and where.", NOT_BLANK))
    negative_prompt: str = field(default=DEFAULT_NEGATIVE_PROMPT, metadata=about("What the video must not show."))
    width: int = field(default=832, metadata=about("Width in pixels.", SIZE))
    height: int = field(default=480, metadata=about("Height in pixels.", SIZE))
    num_frames: int = field(default=81, metadata=about("Number of frames of the clip.", NUM_FRAMES))
    fps: int = field(
        default=16,
        metadata=about("Frames per second of the MP4. The number of frames stays the same.", Range(1, 120)),
    )
    num_inference_steps: int = field(default=50, metadata=about("Number of denoising steps.", Range(1, 1000)))
    guidance_scale: float = field(
        default=5.0,
        metadata=about(
            "How strongly to follow the prompt. 1 or less turns guidance off: one forward per step.", GUIDANCE
        ),
    )
    guidance_scale_image: float | None = field(
        default=2.0,
        metadata=about(
            "How strongly to follow the photo. Null guides text and photo together: two forwards per step instead of three.",
            GUIDANCE,
        ),
    )
    ip_scale: float = field(default=1.0, metadata=about("Strength of the ID-adapter. 0 turns it off.", STRENGTH))
    ref_scale: float = field(default=1.0, metadata=about("Strength of the Ref-adapter. 0 turns it off.", STRENGTH))
    seed: int = field(default=42, metadata=about("The clip's only source of randomness.", Range(0, MAX_SEED)))
    flow_shift: float | None = field(
        default=None,
        metadata=about("Shift of the noise schedule. Null takes the base model's own.", FLOW_SHIFT, neutral=None),
    )
    ip_start: float = field(
        default=0.0,
        metadata=about("Fraction of the steps at which the ID-adapter starts to work.", FRACTION, neutral=0.0),
    )
    ip_end: float = field(
        default=1.0,
        metadata=about(
            "Fraction of the steps at which the ID-adapter stops. It works at step i of n, counted from 0, if start <= i / n < end.",
            FRACTION,
            neutral=1.0,
        ),
    )
    ip_blocks: str | None = field(
        default=None,
        metadata=about(
            "Transformer blocks in which the ID-adapter works, counted from 0. Null is all.", BLOCKS, neutral=None
        ),
    )
    ref_start: float = field(default=0.0, metadata=about("As `ip_start`, for the Ref-adapter.", FRACTION, neutral=0.0))
    ref_end: float = field(default=1.0, metadata=about("As `ip_end`, for the Ref-adapter.", FRACTION, neutral=1.0))
    ref_blocks: str | None = field(
        default=None, metadata=about("As `ip_blocks`, for the Ref-adapter.", BLOCKS, neutral=None)
    )
    guidance_until: float = field(
        default=1.0,
        metadata=about(
            "Fraction of the steps after which guidance stops. Each later step takes one forward, with the prompt.",
            FRACTION,
            neutral=1.0,
        ),
    )
    image_guidance_every: int = field(
        default=1,
        metadata=about(
            "At every n-th step only, the third forward tells how the photo changes the picture. The steps between reuse that.",
            Range(1, 1000),
            neutral=1,
        ),
    )

    def __post_init__(self) -> None:
        for name in PARAMETERS:
            check_parameter(name, getattr(self, name))
        self._check_step_ranges()

    def changed(self, **values: Any) -> "RenderParams":
        """A copy with these values. Checks only what may have changed, so it is much faster than `dataclasses.replace`."""
        copy = object.__new__(RenderParams)
        for put, value in zip(PUT_VALUES, ALL_VALUES(self), strict=True):
            put(copy, value)
        for name, value in values.items():
            check_parameter(name, value)
            object.__setattr__(copy, name, value)
        if not IN_STEP_RANGES.isdisjoint(values):
            copy._check_step_ranges()
        return copy

    def _check_step_ranges(self) -> None:
        for fault in explain_step_ranges(partial(getattr, self)):
            raise InvalidParams(*fault)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A field of RenderParams.

    Attributes:
        annotation: Its type as the class states it, such as `float | None`.
        kind: That type without None.
        default: What the model was published with; MISSING for the prompt.
        help: One line for the user's reference.
        rule: None if every value of the type is allowed.
        neutral: The value that computes the same as before the parameter existed, so clips named earlier keep their names;
            MISSING if there is none.
    """

    name: str
    annotation: Any
    kind: type
    default: object
    help: str
    rule: Rule | None
    neutral: object

    @property
    def is_optional(self) -> bool:
        """Whether None is allowed."""
        return NoneType in get_args(self.annotation)


def _describe(each: Field[Any]) -> Parameter:
    kinds = [kind for kind in get_args(each.type) or (each.type,) if kind is not NoneType]
    return Parameter(name=each.name, annotation=each.type, kind=kinds[0], default=each.default, **each.metadata)


PARAMETERS: Mapping[str, Parameter] = {each.name: _describe(each) for each in fields(RenderParams)}
"""Every field of RenderParams by its name, in the class's order."""

ALL_VALUES = attrgetter(*PARAMETERS)
"""The values of all fields, in that order."""

PUT_VALUES = tuple(getattr(RenderParams, name).__set__ for name in PARAMETERS)
"""What puts a value into each field of a new object, in that order: several times faster than `object.__setattr__`."""


def check_parameter(name: str, value: Any) -> None:
    """Raises InvalidParams if `value` breaks the rule of the parameter `name`, whatever the other parameters are."""
    parameter = PARAMETERS[name]
    if parameter.rule is not None and not (value is None and parameter.is_optional):
        parameter.rule.check(name, value)
