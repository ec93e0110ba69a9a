"""The model of a run as one value: it is complete, its parts fit each other, and each of its weights has a fingerprint.

Everything that asks about the model, from naming clips to predicting memory, takes a `CheckedModel`.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from lynx_batch import storage
from lynx_batch.clip import RenderIdentity
from lynx_batch.config import EngineConfig, FacesConfig, ModelConfig, RunConfig
from lynx_batch.preparation.staging import InspectedWeights, inspect_weights
from lynx_batch.preparation.step_cache import with_calibration
from lynx_model.canonical import ModelTraits
from lynx_model.checkpoints.adapter_spec import AdapterSpec, check_fit, describe_adapters
from lynx_model.checkpoints.base import BaseSpec, check_base
from lynx_model.checkpoints.loras import Lora, describe_loras
from lynx_model.checkpoints.published import PUBLISHED_IDENTITY_ENCODER
from lynx_model.engine.memory import ModelSize
from lynx_model.errors import EncoderMismatch
from lynx_model.faces.identity import OWN_RECOGNISER, arcface_file, check_arcface
from lynx_model.faces.pack import FacePack, find_pack
from lynx_model.spec import REF_FILE, LoraSource, ModelSource


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedModel:
    """The model of a run.

    `source` says where the weights are: paths of this machine or URIs of a store. `headers` are the same weights on this machine,
    as headers-only copies if they are in a store. `engine` is the run file's, with the calibration of its step cache. `identity` is what
    the names of clips take from the model.
    """

    source: ModelSource
    headers: ModelSource
    base: BaseSpec
    adapters: AdapterSpec
    size: ModelSize
    traits: ModelTraits
    engine: EngineConfig
    face_pack: FacePack
    identity: RenderIdentity


def check_model(config: RunConfig) -> CheckedModel:
    """Checks and fingerprints everything that the run file names and that changes the picture. Reads headers, not weights.

    An incomplete model gets no fingerprint, because one kept beside it would be wrong once the missing files arrive.

    Raises:
        ConfigError: If the step cache has no calibration of this model.
        EncoderMismatch: If `faces.identity` makes other embeddings than the adapters take.
        InvalidParams: If the engine options are impossible for a model of this size.
        MissingFile, MissingObject, WeightsMismatch: If a folder is incomplete, or the parts of the model do not fit each other.
    """
    source = locate_model(config.model)
    seen = {uri: inspect_weights(uri) for uri in (*source.parts, config.faces.pack, config.faces.identity)}
    headers = source.moved({uri: seen[uri].path for uri in source.parts})
    faces = config.faces.model_copy(update={key: seen[getattr(config.faces, key)].path for key in ("pack", "identity")})
    pack = find_pack(faces.pack)
    base = check_base(Path(headers.base))
    config.engine.options.check_blocks(base.num_blocks)
    adapters = describe_adapters(headers.id_adapter, headers.ref_adapter)
    check_fit(adapters, num_blocks=base.num_blocks, channels=base.channels)
    loras = describe_loras(headers)
    _check_encoder(config, source, faces, pack, adapters)
    weights = _identify(config, source, seen, loras, pack)
    engine = with_calibration(config.engine, weights)
    return CheckedModel(
        source=source,
        headers=headers,
        base=base,
        adapters=adapters,
        size=ModelSize.of(headers),
        traits=ModelTraits.of(headers),
        engine=engine,
        face_pack=pack,
        identity=replace(weights, precision=engine.options.numerics),
    )


def locate_model(model: ModelConfig) -> ModelSource:
    """Where the weights of `model` are; looks into a single adapter folder to see whether it holds a Ref-adapter, too."""
    adapters = model.adapters if isinstance(model.adapters, str) else dict(model.adapters)
    if isinstance(adapters, str) and not storage.is_local(adapters):
        has_ref = storage.stat(storage.join(adapters, REF_FILE)) is not None
        adapters = {"id": adapters, "ref": adapters if has_ref else None}
    loras = [lora if isinstance(lora, str) else LoraSource(**dict(lora)) for lora in model.loras]
    return ModelSource.of(model.base, adapters, loras)


def _check_encoder(
    config: RunConfig, source: ModelSource, faces: FacesConfig, pack: FacePack, adapters: AdapterSpec
) -> None:
    is_own = faces.identity == OWN_RECOGNISER
    encoder = pack.identity_encoder if is_own else PUBLISHED_IDENTITY_ENCODER
    if encoder != adapters.identity_encoder:
        raise EncoderMismatch(
            f"faces.identity={config.faces.identity!r} gives embeddings of {encoder!r}, "
            f"but {source.id_adapter} declares {adapters.identity_encoder!r}"
        )
    if not is_own:
        check_arcface(arcface_file(faces.identity))


def _identify(
    config: RunConfig, source: ModelSource, seen: dict[str, InspectedWeights], loras: tuple[Lora, ...], pack: FacePack
) -> RenderIdentity:
    face_pack = seen[config.faces.pack].fingerprint(pack.folder)
    seen_identity = seen[config.faces.identity]
    is_own = config.faces.identity == OWN_RECOGNISER
    named_loras = (_name_lora(lora, seen[at.file]) for lora, at in zip(loras, source.loras, strict=True))
    return RenderIdentity(
        base=seen[source.base].fingerprint(),
        id_adapter=seen[source.id_adapter].fingerprint(),
        ref_adapter=seen[source.ref_adapter].fingerprint() if source.ref_adapter else None,
        face_pack=face_pack,
        identity_encoder=face_pack if is_own else seen_identity.fingerprint(arcface_file(seen_identity.path)),
        is_parity=config.faces.parity,
        precision=config.engine.options.numerics,
        loras=", ".join(filter(None, named_loras)) or None,
    )


def _name_lora(lora: Lora, weights: InspectedWeights) -> str:
    """What a LoRA adds, which is nothing with a scale of 0. An alpha that another file beside it declares counts, too."""
    if not lora.scale:
        return ""
    declared = "" if lora.alpha is None else f", alpha {lora.alpha}"
    return f"{lora.scale} x {weights.fingerprint()}{declared}"
