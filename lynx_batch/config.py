"""The run file: what to render, with which model, where to and on what.

Relative paths in a run file are relative to that file; paths given on the command line are relative to the working
directory. Unknown keys are errors.
"""

import os
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from lynx_batch.clip import broken_rule
from lynx_batch.errors import ConfigError
from lynx_batch.local_files import read_at_most
from lynx_batch.photo_places import ANYWHERE, explain_entry
from lynx_batch.places import READABLE, WRITABLE, explain_place
from lynx_batch.redaction import redact_all
from lynx_batch.spelling import nearest
from lynx_batch.yaml_text import read_yaml, write_yaml
from lynx_model.errors import InvalidParams
from lynx_model.ranges import explain_step_ranges
from lynx_model.spec import (
    MAX_LORA_SCALE,
    EngineOptions,
    LoraSource,
    ModelSource,
    RenderParams,
)

PATH_KEYS = (
    "manifest",
    "output",
    "model.base",
    "model.adapters",
    "model.adapters.id",
    "model.adapters.ref",
    "model.loras",
    "model.loras.file",
    "cluster.shared_paths",
    "inputs.allow",
)
"""Keys whose value, or each item of it, is a path or URI; relative ones are made absolute."""

NAME_OR_PATH_KEYS = ("faces.pack", "faces.identity")
"""Keys whose value is a path only if it holds a slash; a bare word is a name."""


MAX_RUN_FILE_BYTES = 2**20

PUBLISHED = RenderParams(prompt="any")
"""What the model was published with."""


PARAM_FIELDS = tuple(field.name for field in fields(RenderParams) if field.name != "prompt")
"""What a run may set for all its clips."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _takes_no_truth_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise PydanticCustomError("no_truth", "must not be true or false")
        return value


class AdapterConfig(_Section):
    """Adapter folders, which may come from different variants. `ref: null` switches the Ref-adapter off."""

    id: str
    ref: str | None = None


class LoraConfig(_Section):
    """A LoRA file, and how much of it is added to the base model."""

    file: str
    scale: float = Field(default=1.0, ge=-MAX_LORA_SCALE, le=MAX_LORA_SCALE)


class ModelConfig(_Section):
    """A Diffusers base folder, one adapter folder or `{id: ..., ref: ...}`, and LoRA files or `{file: ..., scale: ...}`; paths or
    URIs of a store.
    """

    base: str
    adapters: str | AdapterConfig
    loras: tuple[str | LoraConfig, ...] = ()

    @property
    def source(self) -> ModelSource:
        """Where the weights lie; looks into a single adapter folder of this machine to see which adapters it holds."""
        adapters = self.adapters if isinstance(self.adapters, str) else dict(self.adapters)
        loras = [lora if isinstance(lora, str) else LoraSource(**dict(lora)) for lora in self.loras]
        return ModelSource.of(self.base, adapters, loras)


class FacesConfig(_Section):
    """How a photo becomes a subject.

    `pack` is a folder, a URI, or a name below the models folder (`free` is the commercially usable one). `identity` is
    `arcface` (what the published adapters expect), `pack` (the pack's own recogniser) or a file in facexlib's layout.
    `parity` reads photos as the original does: it feeds the detector RGB instead of BGR, ignores colour profiles, and turns no face
    upright.
    """

    pack: str = "free"
    identity: str = "arcface"
    parity: bool = False


class EngineConfig(_Section):
    __doc__ = EngineOptions.__doc__
    __annotations__ = {
        option.name: Annotated[get_type_hints(EngineOptions)[option.name], Field(default=option.default)]
        for option in fields(EngineOptions)
    }

    @model_validator(mode="after")
    def _obeys_the_engine(self) -> Self:
        try:
            self.options  # noqa: B018  valid once it exists
        except InvalidParams as error:
            raise PydanticCustomError("broken_rule", "{error}", {"error": str(error)}) from error
        return self

    @property
    def options(self) -> EngineOptions:
        return EngineOptions(**dict(self))


class DefaultsConfig(_Section):
    """What a null manifest cell means; the fields of `RenderParams` except the prompt. No seed: one is derived per clip.

    `truncate_prompts` cuts a text that is longer than the model reads, which is an error otherwise.
    """

    negative_prompt: str = PUBLISHED.negative_prompt
    width: int = PUBLISHED.width
    height: int = PUBLISHED.height
    num_frames: int = PUBLISHED.num_frames
    fps: int = PUBLISHED.fps
    num_inference_steps: int = PUBLISHED.num_inference_steps
    guidance_scale: float = PUBLISHED.guidance_scale
    guidance_scale_image: float | None = PUBLISHED.guidance_scale_image
    ip_scale: float = PUBLISHED.ip_scale
    ref_scale: float = PUBLISHED.ref_scale
    seed: int | None = None
    flow_shift: float | None = PUBLISHED.flow_shift
    ip_start: float = PUBLISHED.ip_start
    ip_end: float = PUBLISHED.ip_end
    ip_blocks: str | None = PUBLISHED.ip_blocks
    ref_start: float = PUBLISHED.ref_start
    ref_end: float = PUBLISHED.ref_end
    ref_blocks: str | None = PUBLISHED.ref_blocks
    guidance_until: float = PUBLISHED.guidance_until
    truncate_prompts: bool = False

    @field_validator(*PARAM_FIELDS)
    @classmethod
    def _obeys_the_model(cls, value: object, info: ValidationInfo) -> object:
        rule = broken_rule(str(info.field_name), value) if value is not None else None
        if rule is not None:
            raise PydanticCustomError("broken_rule", "{rule}", {"rule": rule})
        return value

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> Self:
        for field, value, rule in explain_step_ranges(partial(getattr, self)):
            raise PydanticCustomError("broken_rule", f"{field}={value}: {rule}")
        return self


class InputsConfig(_Section):
    """Where photos may lie, and how long and how much of them is read.

    Each item of `allow` stands for itself and all below it: a folder, a bucket or a folder of one, a web server or a folder of one,
    or all of a kind: `/`, `s3://`, `gs://`, `az://`, `http://`, `https://`. A web address of this machine or its link (127.0.0.1,
    169.254.0.0/16 and the like) is taken only if an item names its host and port.
    A photo is asked for `max_tries` times; each may take `connect_timeout_s` to connect and pause for `read_timeout_s`. All
    together take no longer than that many times the sum of both.
    """

    allow: tuple[str, ...] = Field(default=ANYWHERE, min_length=1)
    max_photo_bytes: int = Field(default=64 * 2**20, ge=1)
    connect_timeout_s: float = Field(default=10.0, gt=0)
    read_timeout_s: float = Field(default=60.0, gt=0)
    max_tries: int = Field(default=3, ge=1)

    @field_validator("allow")
    @classmethod
    def _are_places(cls, allow: tuple[str, ...]) -> tuple[str, ...]:
        for entry in allow:
            if (rule := explain_entry(entry)) is not None:
                raise PydanticCustomError("broken_rule", "{rule}", {"rule": rule})
        return allow

    @property
    def longest_s(self) -> float:
        """For how long one photo may be asked for, with all tries."""
        return self.max_tries * (self.connect_timeout_s + self.read_timeout_s)


class VideoConfig(_Section):
    """How frames become a file; none of this changes a clip's name."""

    crf: int = Field(default=18, ge=0, le=51)


class ClusterConfig(_Section):
    """`address: local` starts a Ray of its own; anything else is an existing cluster's. `max_groups: null` is as many as fit.

    `shared_paths` are folders that all nodes have, with the same content: of a machine's own files, a run on several machines
    and `submit` take only theirs.
    `gpus_per_group: auto` takes the size that `lynx-batch plan` would, and wider groups where a clip needs them; a number
    is the size of every group. A group that is not ready within `ready_within_s` is given up, and formed anew after
    `max_clips_per_group` clips, in case something leaks slowly; null is never. The first node may take as long to join.
    """

    address: str = "local"
    shared_paths: tuple[str, ...] = ()
    gpus_per_group: Literal["auto", 1, 2, 3, 4, 6, 8] = "auto"
    max_groups: int | None = Field(default=None, ge=1)
    max_clips_per_group: int | None = Field(default=500, ge=1)
    ready_within_s: float = Field(default=3600.0, gt=0)

    @property
    def is_local(self) -> bool:
        """Whether the run has a Ray of its own."""
        return self.address == "local"


class RetryConfig(_Section):
    """`max_attempts` on different groups fail a clip. The run ends when more than `max_failed_share` of its clips failed, or
    when nothing but machines failed for `give_up_after_s` beyond the time of the longest clip. A clip is tried on another
    group if it takes `deadline_factor` times what was predicted, and 15 minutes. One that kills its worker three times, alone
    on it, fails whatever `max_attempts` is.
    """

    max_attempts: int = Field(default=3, ge=1)
    max_failed_share: float = Field(default=0.2, gt=0, le=1)
    give_up_after_s: float = Field(default=1800.0, ge=0)
    deadline_factor: float = Field(default=4.0, ge=1)


class RunConfig(_Section):
    manifest: str
    output: str
    model: ModelConfig
    faces: FacesConfig = FacesConfig()
    inputs: InputsConfig = InputsConfig()
    engine: EngineConfig = EngineConfig()
    defaults: DefaultsConfig = DefaultsConfig()
    video: VideoConfig = VideoConfig()
    cluster: ClusterConfig = ClusterConfig()
    retry: RetryConfig = RetryConfig()

    def to_yaml(self) -> bytes:
        """The run file with every key settled, as a run's record keeps it."""
        return write_yaml(self.model_dump(mode="json")).encode()


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
"""Every key of a run file, dotted; those of a list's items without their numbers."""

UNION_MEMBERS = ("str", AdapterConfig.__name__, LoraConfig.__name__)
"""What pydantic adds to the place of a fault where a value may be one of two kinds."""


def load_run_config(path: Path, overrides: dict[str, object]) -> RunConfig:
    """The run file at `path` with `overrides` ({"a.b": value}) laid over it.

    Raises:
        ConfigError: If the file cannot be read, is not YAML, or a key or value breaks a rule; every fault is named.
    """
    try:
        text = _read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"run file {path}: {error}") from error
    content = read_yaml(text, source=f"run file {path}")
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigError(f"run file {path}: must be a mapping of keys, not {type(content).__name__}")
    content = {key: _absolute(key, value, path.resolve().parent) for key, value in content.items()}
    return override(content, overrides, source=f"run file {path}")


def _read_text(path: Path) -> str:
    content = read_at_most(path, MAX_RUN_FILE_BYTES + 1)
    if len(content) > MAX_RUN_FILE_BYTES:
        raise ConfigError(f"run file {path}: must have at most {MAX_RUN_FILE_BYTES:,} bytes")
    return content.decode()


def override(content: dict[str, Any], overrides: dict[str, object], *, source: str) -> RunConfig:
    """`content` with `overrides` ({"a.b": value}) laid over it. Raises as `parse_run_config` does."""
    for key, value in overrides.items():
        _put(content, key, _absolute(key, value, Path.cwd()))
    return parse_run_config(content, source=source)


def parse_run_config(content: dict[str, Any], *, source: str) -> RunConfig:
    """`content` as a RunConfig. Raises ConfigError naming `source` and every faulty key, value and rule."""
    try:
        config = RunConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError("\n".join([f"{source}:", *_explain_values(error)])) from error
    if faults := list(_explain_places(config)):
        raise ConfigError("\n".join([f"{source}:", *faults]))
    return config


def named_paths(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Keys of the run file, but for the manifest, and the paths or URIs that they give; names are left out."""
    yield "output", config.output
    yield "model.base", config.model.base
    adapters = config.model.adapters
    if isinstance(adapters, str):
        yield "model.adapters", adapters
    else:
        yield from ((f"model.adapters.{kind}", uri) for kind, uri in adapters if uri)
    yield from (("model.loras", lora if isinstance(lora, str) else lora.file) for lora in config.model.loras)
    yield from ((f"faces.{key}", value) for key, value in config.faces if "/" in str(value))


def _explain_places(config: RunConfig) -> Iterator[str]:
    """What of the run lies, or is to be put, where not every process of it would find the same."""
    for key, uri in (("manifest", config.manifest), *named_paths(config)):
        if rule := explain_place(uri, READABLE if key != "output" else WRITABLE):
            shown = f" (got {uri.partition('://')[0]}://...)" if uri.strip() else ""
            yield f"  {key}: {rule}{shown}"


def parse_override(text: str) -> tuple[str, object]:
    """`a.b=c` as ("a.b", c), c being read as YAML. Raises ConfigError if there is no `=`."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {text!r}: must be KEY=VALUE, such as engine.precision=float32")
    return key.strip(), read_yaml(value, source=f"--set {text!r}")


def _explain_values(error: ValidationError) -> Iterator[str]:
    for fault in error.errors():
        *parents, last = fault["loc"]
        if last == "str" and isinstance(fault["input"], dict):
            continue  # the fault of the section that may stand there tells more
        key = ".".join(str(part) for part in (*parents, last) if part not in UNION_MEMBERS)
        if fault["type"] == "extra_forbidden":
            known = nearest(".".join(part for part in key.split(".") if not part.isdigit()), KEYS)
            yield f"  {key}: unknown; the nearest known key is {known}"
        else:
            shown = "" if fault["type"] == "missing" else f" (got {redact_all(fault['input'])!r})"
            yield f"  {key}: {fault['msg']}{shown}"


def _absolute(key: str, value: object, folder: Path) -> object:
    """`value` with every path in it, `file://` or not, made absolute; the items of a list have the list's own key.

    A link stays one, as other nodes may not have its goal.
    """
    if isinstance(value, dict):
        return {name: _absolute(f"{key}.{name}", inner, folder) for name, inner in value.items()}
    if isinstance(value, list):
        return [_absolute(key, item, folder) for item in value]
    is_path = key in PATH_KEYS or (key in NAME_OR_PATH_KEYS and "/" in str(value))
    if not is_path or not isinstance(value, str) or not value.strip():
        return value
    path = value.removeprefix("file://") if value.startswith("file:///") else value
    return value if "://" in path else os.path.abspath(folder / os.path.expanduser(path))


def _put(content: dict[str, Any], key: str, value: object) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(content.get(parent), dict):
            content[parent] = {}
        content = content[parent]
    content[last] = value
