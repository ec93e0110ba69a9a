"""Presets: fragments of a run file that trade quality for speed, and what each of them is known to lose.

The files are in `presets/`, part of the package. `presets/losses.yaml` is the one place that says what a preset loses.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from lynx_batch.errors import ConfigError
from lynx_batch.spelling import nearest
from lynx_batch.yaml_text import read_yaml

PresetName = Literal["exact", "fast", "draft", "distilled-8", "distilled-4"]
PRESETS: tuple[PresetName, ...] = get_args(PresetName)
"""From the most exact to the fastest. Speed is compared with that of the first."""

NEEDS_LORA = ("distilled-8", "distilled-4")

KEY = "preset"
FOLDER = Path(__file__).parent / "presets"

Content = Mapping[str, Any]
"""What a run file, or a part of one, says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What a preset loses against `exact`, in words.

    Attributes:
        is_measured: False unless the whole preset was measured, on what `text` says.
        num_steps: The steps of the preset and of `exact` in that measurement; None if it holds for any.
    """

    text: str
    is_measured: bool
    num_steps: tuple[int, int] | None = None

    def at(self, steps: Sequence[int], exact_steps: Sequence[int]) -> "Loss":
        """The loss of clips with these numbers of steps. It is not measured, unless the measurement had the same numbers."""
        if self.num_steps is None or {*product(steps, exact_steps)} == {self.num_steps}:
            return self
        measured = "{} steps against {}".format(*self.num_steps)
        here = f"{_list(steps)} against {_list(exact_steps)}"
        return Loss(text=f"not measured at {here}; at {measured}: {self.text}", is_measured=False)


def preset_content(name: object) -> dict[str, Any]:
    """What a preset says. Raises ConfigError if there is none of that name."""
    if name not in PRESETS:
        known = nearest(str(name), PRESETS)
        raise ConfigError(f"{KEY}={name!r}: must be one of {', '.join(PRESETS)}; the nearest is {known}")
    content: dict[str, Any] = _read(f"{name}.yaml")
    return content


def preset_keys(name: object) -> dict[str, object]:
    """The same as {"a.b": value}. Raises as `preset_content`."""
    return dict(_flatten(preset_content(name)))


@cache
def stated_loss(name: PresetName) -> Loss:
    said = _read("losses.yaml")[name]
    steps = said.get("steps")
    return Loss(
        text=said["loss"],
        is_measured=said["measured"],
        num_steps=None if steps is None else (steps["preset"], steps["exact"]),
    )


def merge(lower: Content, upper: Content) -> dict[str, Any]:
    """`upper` on top of `lower`, section by section."""
    both = {
        key: merge(lower[key], value)
        for key, value in upper.items()
        if isinstance(value, dict) and isinstance(lower.get(key), dict)
    }
    return {**lower, **upper, **both}


def apply_presets(content: Content, overrides: Content) -> dict[str, Any]:
    """A run file's `content` with its preset.

    A preset that the file names is what its own keys start from. One among the `overrides` replaces it and overrules the file.

    Raises:
        ConfigError: If there is no preset of that name.
    """
    if KEY in overrides:
        name = overrides[KEY]
        return {**content, KEY: None} if name is None else merge(content, {**preset_content(name), KEY: name})
    own = content.get(KEY)
    return dict(content) if own is None else merge(preset_content(own), content)


def explain_preset(name: PresetName | None, *, has_loras: bool) -> Iterator[str]:
    """A message if the model lacks what the preset needs."""
    if name in NEEDS_LORA and not has_loras:
        yield (
            f"  {KEY}={name}: needs a step-distilled LoRA in model.loras, because without one so few steps give no usable picture; "
            f"for a base that is distilled itself, put the preset's keys into the run file instead"
        )


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _read(file: str) -> Any:
    return read_yaml((FOLDER / file).read_text(encoding="utf-8"), source=file)


def _flatten(content: Content, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
