"""The settings that `bench quality` compares, from a YAML file."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lynx_batch.config.preset import KEY, preset_keys
from lynx_batch.errors import ConfigError
from lynx_batch.local_files import read_at_most
from lynx_batch.yaml_text import read_yaml

MAX_BYTES = 2**20
REFERENCE, OTHER_SEED = "reference", "another seed"
SECTIONS = ("reference", "floors", "settings")

Changes = Mapping[str, object]
"""Keys of a run file in dotted form, and their values."""

REFERENCE_CHANGES: Changes = {
    "engine.compile": False,
    "engine.attention": "auto",
    "engine.fp8_attention": None,
    "engine.step_cache": None,
}
"""What the reference is unless somebody says otherwise: the run file, not compiled, with an exact kernel and every step in full."""

FILES = frozenset({"claims", "manifest.parquet", "manifest-other-seeds.parquet", "comparison.json", "index.html"})
"""What a comparison puts beside the outputs of its settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A way to render the same clips. A floor should make no difference: what it does make is the least that can be measured."""

    name: str
    changes: Changes
    is_floor: bool = False

    @property
    def folder(self) -> str:
        """The name of its output location."""
        return re.sub(r"[^a-z0-9.]+", "-", self.name.lower()).strip("-.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`settings` begins with the floors. Changes of each setting include those of the reference."""

    reference: Setting
    settings: tuple[Setting, ...]


def layered(*layers: Changes) -> dict[str, object]:
    """Changes on top of each other. What a later layer says about a key or a section replaces what earlier layers said about it or in it.

    Of several presets only the last counts. Its keys are part of its layer.
    """
    last = max((number for number, layer in enumerate(layers) if KEY in layer), default=None)
    result: dict[str, object] = {}
    for number, layer in enumerate(layers):
        own = {key: value for key, value in layer.items() if key != KEY or number == last}
        said = {*own, *(preset_keys(own[KEY]) if own.get(KEY) is not None else ())}
        result = {key: value for key, value in result.items() if not any(_overlap(key, other) for other in said)} | own
    return result


def _overlap(one: str, other: str) -> bool:
    """Whether the keys are the same, or one is in the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def read_settings(file: Path, overrides: Changes | None = None) -> Comparison:
    """The comparison that a file describes. `overrides` change the run file for every setting, before the settings do.

    Raises:
        ConfigError: If it cannot be read, is not YAML, or breaks a rule; the message names the key and the rule.
    """
    source = f"--settings {file}"
    try:
        content = read_yaml(read_at_most(file, MAX_BYTES).decode(), source=source)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: must be a text file in UTF-8 that can be read: {error}") from error
    if not isinstance(content, dict) or not content.get("settings"):
        raise ConfigError(
            f"{source}: must have `settings:`, each with a name and the keys of the run file that it changes"
        )
    if unknown := [*content.keys() - set(SECTIONS)]:
        raise ConfigError(f"{source}: {unknown[0]!r}: must be one of {', '.join(SECTIONS)}")
    layers = REFERENCE_CHANGES, overrides or {}, _changes(content.get("reference"), f"{source}: reference")
    floors = _settings(content.get("floors"), f"{source}: floors", layers, is_floor=True)
    settings = _settings(content["settings"], f"{source}: settings", layers)
    reference = layered(*layers)
    found = (Setting(name=OTHER_SEED, changes=reference, is_floor=True), *floors, *settings)
    _check_names([REFERENCE, *(setting.name for setting in found)], source)
    return Comparison(reference=Setting(name=REFERENCE, changes=reference), settings=found)


def _settings(value: object, where: str, below: Sequence[Changes], *, is_floor: bool = False) -> list[Setting]:
    if value is None:
        return []
    if not isinstance(value, dict):
        raise ConfigError(
            f"{where}: must be a mapping of names to changes, such as `12 steps: {{defaults.num_inference_steps: 12}}`"
        )
    return [
        Setting(name=str(name), changes=layered(*below, _changes(changes, f"{where}: {name}")), is_floor=is_floor)
        for name, changes in value.items()
    ]


def _changes(value: object, where: str) -> Changes:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{where}: must be a mapping of keys of the run file, such as `engine.precision: fp8`")
    for key in ("output", "manifest", "quality"):
        if any(each == key or each.startswith(f"{key}.") for each in value):
            raise ConfigError(
                f"{where}: {key}: must not be changed; every setting renders the same rows, ungated, to a place of its own"
            )
    for key, content in value.items():
        if "." not in key and isinstance(content, dict):
            inner = next(iter(content), "…")
            raise ConfigError(
                f"{where}: {key}: must be written with dots, such as `{key}.{inner}: …`; a whole section would lose its other keys"
            )
    if value.get(KEY) is not None:
        try:
            preset_keys(value[KEY])
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
    return value


def _check_names(names: list[str], source: str) -> None:
    folders: dict[str, str] = {}
    for name in names:
        folder = Setting(name=name, changes={}).folder
        if not folder:
            raise ConfigError(f"{source}: {name!r}: a name must have a letter or a digit")
        if folder in FILES:
            raise ConfigError(f"{source}: {name!r}: a name must not be that of a file of the comparison")
        if folder in folders:
            raise ConfigError(f"{source}: {name!r}: must differ from {folders[folder]!r} by more than case and signs")
        folders[folder] = name
