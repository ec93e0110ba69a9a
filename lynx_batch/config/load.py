"""Reads a run file, applies overrides to it, and names everything that is wrong with it.

Relative paths in a run file start at the file's folder; those on the command line start at the working directory.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from lynx_batch.config.engine import CalibrationConfig
from lynx_batch.config.model import AdapterConfig, LoraConfig
from lynx_batch.config.paths import REFERENCE_KEYS, explain_paths, make_absolute
from lynx_batch.config.preset import KEY, apply_presets, explain_preset
from lynx_batch.config.run import RunConfig
from lynx_batch.errors import ConfigError
from lynx_batch.local_files import read_at_most
from lynx_batch.redaction import redact_all
from lynx_batch.spelling import nearest
from lynx_batch.yaml_text import read_yaml

MAX_RUN_FILE_BYTES = 2**20


def _keys_of(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, item in section.model_fields.items():
        yield prefix + name
        for inner in _sections_in(item.annotation):
            yield from _keys_of(inner, f"{prefix}{name}.")


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections_in(part)


KEYS = tuple(_keys_of(RunConfig))
"""Every key of a run file in dotted form. The items of a list have its key, without their numbers."""

UNION_MEMBERS = ("str", AdapterConfig.__name__, CalibrationConfig.__name__, LoraConfig.__name__)
"""Names that pydantic inserts into the location of an error where a value may have one of two types."""


RULES = {
    "missing": "required",
    "model_type": "must be a mapping of the keys {keys}",
    "tuple_type": "must be a list",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} items",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "greater_than": "must be above {gt}",
    "finite_number": "must be a finite number",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
}
"""The rule behind each of pydantic's error types, in our words; the braces are filled from the error."""


COMPARISONS = frozenset({"greater_than", "greater_than_equal", "less_than_equal"})


def load_run_config(path: Path, overrides: dict[str, object]) -> RunConfig:
    """The run file at `path` with `overrides` ({"a.b": value}) applied.

    A `preset` among the overrides overrules the file, and is overruled by the others.

    Raises:
        ConfigError: If the file cannot be read, is not YAML, or a key or value breaks a rule; the message names every fault.
    """
    try:
        text = _read_text(path)
    except FileNotFoundError as error:
        raise ConfigError(f"run file {path}: does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"run file {path}: must be a text file in UTF-8 that can be read: {error}") from error
    content = read_yaml(text, source=f"run file {path}")
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigError(f"run file {path}: must be a mapping of keys, not {type(content).__name__}")
    content = {key: make_absolute(key, value, path.resolve().parent) for key, value in content.items()}
    return override(content, overrides, source=f"run file {path}")


def _read_text(path: Path) -> str:
    content = read_at_most(path, MAX_RUN_FILE_BYTES + 1)
    if len(content) > MAX_RUN_FILE_BYTES:
        raise ConfigError(f"run file {path}: must have at most {MAX_RUN_FILE_BYTES:,} bytes")
    return content.decode()


def override(content: dict[str, Any], overrides: dict[str, object], *, source: str) -> RunConfig:
    """`content` with its preset and `overrides` ({"a.b": value}) applied; changes `content`.

    Raises:
        ConfigError: As `parse_run_config`, or because there is no such preset.
    """
    try:
        content = apply_presets(content, overrides)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    for key, value in overrides.items():
        if key != KEY:
            _put(content, key, make_absolute(key, value, Path.cwd()))
    return parse_run_config(content, source=source)


def parse_run_config(content: dict[str, Any], *, source: str) -> RunConfig:
    """`content` as a RunConfig. Raises ConfigError naming `source` and every faulty key, value and rule."""
    try:
        config = RunConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError("\n".join([f"{source}:", *_explain_values(error)])) from error
    faults = [*explain_paths(config), *explain_preset(config.preset, has_loras=bool(config.model.loras))]
    if faults:
        raise ConfigError("\n".join([f"{source}:", *faults]))
    return config


def parse_override(text: str) -> tuple[str, object]:
    """`a.b=c` as ("a.b", c), where c is parsed as YAML. Raises ConfigError if there is no `=`."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {text!r}: must be KEY=VALUE, such as engine.precision=float32")
    return key.strip(), read_yaml(value, source=f"--set {text!r}")


def _explain_values(error: ValidationError) -> Iterator[str]:
    for fault in error.errors():
        if not fault["loc"]:  # a rule about several sections, which names its keys itself
            yield f"  {fault['msg']}"
            continue
        *parents, last = fault["loc"]
        if last in UNION_MEMBERS and (last == "str") == isinstance(fault["input"], dict):
            continue  # the value may be text or a section: only the fault of the kind that it is helps
        key = ".".join(str(part) for part in (*parents, last) if part not in UNION_MEMBERS)
        plain = ".".join(part for part in key.split(".") if not part.isdigit())
        if fault["type"] == "extra_forbidden":
            yield f"  {key}: unknown; the nearest known key is {nearest(plain, KEYS)}"
        elif fault["type"] == "missing" and isinstance(last, int):
            yield f"  {key.removesuffix(f'.{last}')}: must have at least {last + 1} items (got {redact_all(fault['input'])!r})"
        else:
            kind = "finite_number" if fault["type"] in COMPARISONS and _is_nan(fault["input"]) else fault["type"]
            said = {**fault.get("ctx", {}), "keys": ", ".join(_keys_in(plain))}
            rule = RULES[kind].format(**said) if kind in RULES else fault["msg"]
            either = " or a mapping of keys" if last == "str" else ""
            is_of_several_keys = fault["type"] == "missing" or isinstance(fault["input"], (dict, BaseModel))
            is_hidden = is_of_several_keys or _may_be_secret(key, fault["input"])
            shown = "" if is_hidden else f" (got {redact_all(fault['input'])!r})"
            yield f"  {key}: {rule}{either}{shown}"


def _keys_in(section: str) -> Iterator[str]:
    """The names of the keys directly in a section."""
    below = (key.removeprefix(f"{section}.") for key in KEYS if key.startswith(f"{section}."))
    return (key for key in below if "." not in key)


def _is_nan(value: object) -> bool:
    """Whether the value is no number, or the word for that, which no comparison holds for."""
    return str(value).lower() == "nan"


def _may_be_secret(key: str, value: object) -> bool:
    """Whether `value` may be a key, or the address of somebody to notify, that somebody pasted into the run file."""
    return key in REFERENCE_KEYS or key.split(".")[0] == "notify" or "-----BEGIN" in str(value)


def _put(content: dict[str, Any], key: str, value: object) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(content.get(parent), dict):
            content[parent] = {}
        content = content[parent]
    content[last] = value
