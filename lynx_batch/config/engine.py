"""The section `engine` of a run file: how a forward is carried out."""

from dataclasses import fields
from typing import TYPE_CHECKING, Literal, Self, get_type_hints

from pydantic import ValidationInfo, create_model, field_validator, model_validator
from pydantic_core import PydanticCustomError

from lynx_batch.config.section import Section
from lynx_model.errors import InvalidParams
from lynx_model.fp8_attention import EVERYWHERE, Fp8Attention
from lynx_model.spec import EngineOptions
from lynx_model.step_cache import Magnitudes, StepCache

if TYPE_CHECKING:  # a type checker cannot see the keys that `create_model` adds

    class _EngineKeys(Section):
        """The engine's keys are read from `EngineConfig.options`."""

else:
    _HINTS = get_type_hints(EngineOptions)
    _EngineKeys = create_model(
        "_EngineKeys",
        __base__=Section,
        **{
            option.name: (_HINTS[option.name], option.default)
            for option in fields(EngineOptions)
            if option.name not in ("step_cache", "fp8_attention")
        },
    )


class CalibrationConfig(Section):
    """What `lynx-batch models calibrate` has measured; it writes this, and nobody edits it.

    `model` is the fingerprint of the base with its adapters and LoRAs. `points` are noise levels and the magnitude of the residual at each. Their
    `sha256` is part of the ClipIds. Over `num_clips` clips and their branches, ratios of magnitudes deviated by at most `spread`.
    """

    model: str
    num_clips: int
    spread: float
    points: tuple[tuple[float, float], ...]
    sha256: str

    @field_validator("points")
    @classmethod
    def _are_magnitudes(cls, points: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        try:
            Magnitudes(points=points)
        except InvalidParams as error:
            raise PydanticCustomError("broken_rule", "{rule}", {"rule": error.rule}) from error
        return points

    @field_validator("sha256")
    @classmethod
    def _is_as_it_was_written(cls, sha256: str, info: ValidationInfo) -> str:
        points = info.data.get("points")
        if points is not None and Magnitudes(points=points).sha256 != sha256:
            raise PydanticCustomError("broken_rule", "must be as `lynx-batch models calibrate` wrote it")
        return sha256

    @property
    def magnitudes(self) -> Magnitudes:
        return Magnitudes(points=self.points)


_STEP_CACHE = StepCache()


class StepCacheConfig(Section):
    """Skips the transformer's blocks in steps that would change little, which is faster and lossy.

    After the first `keep_first` of the steps, at most `max_skip` steps in a row are skipped, and only while their predicted errors add
    up to less than `threshold`. `calibration` is a file that `lynx-batch models calibrate` has written for the run's model. Null takes the
    one in the models folder. The record of a run has the file's content here.
    """

    kind: Literal["magcache"] = "magcache"
    threshold: float = _STEP_CACHE.threshold
    max_skip: int = _STEP_CACHE.max_skip
    keep_first: float = _STEP_CACHE.keep_first
    calibration: str | CalibrationConfig | None = None

    @property
    def options(self) -> StepCache:
        """Without the model's magnitudes, unless `calibration` holds them."""
        known = self.calibration.magnitudes if isinstance(self.calibration, CalibrationConfig) else None
        return StepCache(
            kind=self.kind,
            threshold=self.threshold,
            max_skip=self.max_skip,
            keep_first=self.keep_first,
            magnitudes=known,
        )


class Fp8AttentionConfig(Section):
    """Computes base self-attention in fp8, which is faster and lossy. `fp8_attention: true` does so everywhere, `false` nowhere.

    `blocks` and `steps` are two fractions each. `blocks: [0.1, 0.9]` leaves the first and the last tenth of the transformer's blocks exact,
    `steps: [0.1, 1]` the first tenth of a clip's steps.
    """

    blocks: tuple[float, float] = EVERYWHERE
    steps: tuple[float, float] = EVERYWHERE

    @property
    def options(self) -> Fp8Attention:
        return Fp8Attention(blocks=self.blocks, steps=self.steps)


class EngineConfig(_EngineKeys):
    __doc__ = EngineOptions.__doc__

    fp8_attention: Fp8AttentionConfig | None = None
    step_cache: StepCacheConfig | None = None

    @field_validator("fp8_attention", mode="before")
    @classmethod
    def _read_truth(cls, value: object) -> object:
        """`true` is fp8 attention everywhere, `false` is none."""
        if isinstance(value, bool):
            return {} if value else None
        if value is not None and not isinstance(value, (dict, Fp8AttentionConfig)):
            raise PydanticCustomError("broken_rule", "must be true, false, or a mapping of blocks and steps")
        return value

    @model_validator(mode="after")
    def _obeys_the_engine(self) -> Self:
        try:
            self.options  # noqa: B018  valid once it exists
        except InvalidParams as error:
            raise PydanticCustomError("broken_rule", "{error}", {"error": str(error)}) from error
        return self

    @property
    def options(self) -> EngineOptions:
        """What can never have an effect is left out, because pictures and names are those without it."""
        cache = None if self.step_cache is None else self.step_cache.options
        attention = None if self.fp8_attention is None else self.fp8_attention.options
        effective = {
            "step_cache": None if cache is None or cache.is_idle else cache,
            "fp8_attention": None if attention is None or attention.is_idle else attention,
        }
        return EngineOptions(**dict(self) | effective)
