"""The recipe's configuration: sizes of the data and the model, and the seconds of each stage."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

RECIPE = Path(__file__).with_name("recipe.yaml")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSizes(_Section):
    """`num_places` is the number of pictures of each place, `num_prompts` of prompts for each scene, and `num_photos` of photos of each
    person as input of the adapters.
    """

    num_morphs: int
    num_places: int
    num_prompts: int
    num_clips: int
    num_photos: int
    num_frames: int
    frame_px: int


class VaeSizes(_Section):
    encoder_width: int
    decoder_width: int
    width_factors: list[int]


class TransformerSizes(_Section):
    num_blocks: int
    num_heads: int
    ff_width: int
    frequencies: int


class TextSizes(_Section):
    width: int
    ff_width: int
    num_layers: int
    num_heads: int


class AdapterSizes(_Section):
    num_tokens: int
    num_registers: int
    resampler_depth: int
    resampler_width: int
    resampler_ff_width: int


class VaeStage(_Section):
    """`clips_from` is the share of the time after which clips are trained on, not only single frames."""

    seconds: float
    learning_rate: float
    clips_from: float
    batch_frames: int
    batch_photos: int
    batch_clips: int
    clip_frames: int


class TransformerStage(_Section):
    """A batch has `num_people` people with `clips_per_person` clips each.

    `num_judged` clips of a batch also count by their face's likeness, from `likeness_from` of the time on.
    """

    seconds: float
    learning_rate: float
    num_people: int
    clips_per_person: int
    num_judged: int
    likeness_from: float
    likeness_weight: float


class SceneJudgeStage(_Section):
    seconds: float
    num_test_clips: int


class JudgeStage(_Section):
    """Each person gets `clips_per_person` clips of each variant."""

    num_people: int
    clips_per_person: int
    num_steps: int


class Recipe(_Section):
    data: DataSizes
    vae_sizes: VaeSizes
    transformer: TransformerSizes
    text: TextSizes
    adapters: AdapterSizes
    vae: VaeStage
    full: TransformerStage
    lite: TransformerStage
    scene_judge: SceneJudgeStage
    judge: JudgeStage


def load_recipe(file: Path = RECIPE, *, is_smoke: bool = False) -> Recipe:
    """The recipe in `file`; for a smoke run with the values under its key `smoke` in their places.

    Raises:
        pydantic.ValidationError: Names each key that is missing, unknown or of a wrong kind.
    """
    values: dict[str, dict[str, Any]] = yaml.safe_load(file.read_text())
    smoke = values.pop("smoke")
    if is_smoke:
        values = {section: {**values[section], **smoke.get(section, {})} for section in values}
    return Recipe.model_validate(values)
