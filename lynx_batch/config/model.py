"""The sections `model` and `faces` of a run file: which weights, and how a photo becomes a subject."""

from pydantic import Field

from lynx_batch.config.section import Section
from lynx_model.spec import MAX_LORA_SCALE


class AdapterConfig(Section):
    """Adapter folders, which may come from different variants. `ref: null` turns the Ref-adapter off."""

    id: str
    ref: str | None = None


class LoraConfig(Section):
    """A LoRA file, and the factor by which it is added to the base model."""

    file: str
    scale: float = Field(default=1.0, ge=-MAX_LORA_SCALE, le=MAX_LORA_SCALE)


class ModelConfig(Section):
    """The weights: paths, or URIs of a store.

    `base` is a Diffusers folder. `adapters` is one adapter folder or `{id: ..., ref: ...}`. Each of `loras` is a file or
    `{file: ..., scale: ...}`.
    """

    base: str
    adapters: str | AdapterConfig
    loras: tuple[str | LoraConfig, ...] = ()


class FacesConfig(Section):
    """How a photo becomes a subject.

    `pack` is a folder, a URI, or the name of a folder in the models folder (`free` may be used commercially). `identity` is
    `arcface` (which the published adapters expect), `pack` (the pack's own recogniser) or a file in facexlib's layout.
    `parity: true` reads photos as the original code does: it feeds the detector RGB instead of BGR, ignores colour profiles, and does
    not rotate faces upright.
    """

    pack: str = "free"
    identity: str = "arcface"
    parity: bool = False
