"""LynxPipeline: one subject + one prompt + parameters -> frames."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from numpy.typing import NDArray
from torch import Tensor

from lynx_model import sampler
from lynx_model.canonical import DEFAULT_FLOW_SHIFT, ModelTraits
from lynx_model.checkpoints.base import BaseSpec, read_base
from lynx_model.engine.attention import check_attention, check_fp8_attention
from lynx_model.engine.offload import call_on_device_of, check_offload
from lynx_model.engine.precision import check_fp8
from lynx_model.errors import EncoderMismatch, InvalidParams, MissingFile
from lynx_model.guidance import Guidance
from lynx_model.network import vae
from lynx_model.network.adapters import CrossAttentionInputs, KeysValues
from lynx_model.network.decoder import VideoDecoder
from lynx_model.network.residuals import Residuals
from lynx_model.network.transformer import BlockConditioning, Conditioning, LynxTransformer
from lynx_model.spec import (
    ALIGNED_FACE_PX,
    EMBEDDING_SIZE,
    ONE_GPU,
    EngineOptions,
    LoraSource,
    ModelSource,
    ParallelPlan,
    RenderParams,
    Subject,
)
from lynx_model.step_plan import plan_steps
from lynx_model.strengths import Strengths
from lynx_model.weights import LoadedModel, load_model

if TYPE_CHECKING:
    from lynx_model.faces.reader import FaceReader, NamedPicture

REFERENCE_PROMPT = "image of a face"
"""The prompt that the Ref-adapter was trained with. Source: bytedance/lynx modules/full/lynx_pipeline.py:140 at 3a6a91a."""

NUM_CACHED_FACES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedClip:
    """A clip with its conditioning computed: one per guidance branch, for each step.

    Steps with the same branches and strengths share their conditioning. Only `full_steps` run the transformer's blocks, and the blocks
    that ever attend in fp8 do so in `fp8_steps`. Steps in `reuses_image` have no branch with the photo alone, and use what it said
    earlier.
    """

    params: RenderParams
    steps: tuple[tuple[Conditioning, ...], ...]
    full_steps: tuple[bool, ...]
    reuses_image: tuple[bool, ...]
    fp8_steps: tuple[bool, ...]

    def can_start_at(self, step: int) -> bool:
        """Whether the step needs no residuals of earlier ones, which no saved state holds."""
        return self.full_steps[step]

    def share_left(self, num_steps_done: int) -> float:
        """The share of the clip's full forwards that come after its first steps."""
        forwards = [
            len(branches) if is_full else 0 for branches, is_full in zip(self.steps, self.full_steps, strict=True)
        ]
        return sum(forwards[num_steps_done:]) / sum(forwards)


class LynxPipeline:
    """A loaded model that renders any number of clips. Create it with `load`.

    Renders one clip at a time; only `read_subject` may run concurrently with the other methods.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        device: torch.device,
        faces: "FaceReader | None",
        engine: EngineOptions,
    ) -> None:
        self.device, self.dtype = device, getattr(torch, engine.dtype)
        self.adapters = model.adapters
        self._model, self._faces, self._engine = model, faces, engine
        self._decoder = VideoDecoder(model.vae, is_compiled=engine.compile)
        self._encode_face = lru_cache(maxsize=NUM_CACHED_FACES)(self._encode_face_once)

    @classmethod
    def load(
        cls,
        base: str,
        adapters: str | Mapping[str, str | None],
        device: str = "cuda",
        dtype: str = "bfloat16",
        loras: Sequence[str | LoraSource] = (),
        faces: "FaceReader | None" = None,
        plan: ParallelPlan | None = None,
        engine: EngineOptions | None = None,
    ) -> "LynxPipeline":
        """Loads the model from local folders.

        Args:
            base: A Diffusers folder of Wan2.1-T2V.
            adapters: One published adapter folder, or {"id": folder, "ref": folder or None} to mix variants.
            device: Where the model runs, for example "cuda" or "cpu".
            dtype: "bfloat16" or "float32". Replaces the default precision of `engine`; any other precision must agree with it.
            loras: LoRA files, or `LoraSource`s with a scale; they are added to the base model's weights.
            faces: Only `read_subject` needs it.
            plan: How connected ranks share each clip; None renders on this device alone.
            engine: How a forward is carried out; None takes the fastest exact kernel and does not compile.

        Raises:
            MissingFile: If a file is not there.
            WeightsMismatch: If a tensor is missing, surplus or misshapen.
            InvalidParams: If the plan does not fit the model or the ranks, or the engine does not work on `device`.
        """
        engine = (engine or EngineOptions()).for_dtype(dtype)
        return cls.load_source(
            ModelSource.of(base, adapters, loras), device=device, engine=engine, faces=faces, plan=plan
        )

    @classmethod
    def load_source(
        cls,
        source: ModelSource,
        *,
        device: str,
        engine: EngineOptions,
        faces: "FaceReader | None" = None,
        plan: ParallelPlan | None = None,
    ) -> "LynxPipeline":
        """As `load`, from a `ModelSource` with local paths; the precision is the engine's."""
        torch_device = torch.device(device)
        _check_engine(engine, read_base(Path(source.base)), torch_device)
        model = load_model(source, device=torch_device, engine=engine, plan=plan or ONE_GPU)
        return cls(model, device=torch_device, faces=faces, engine=engine)

    def read_subject(self, image_rgb: NDArray[np.uint8], face_index: int | None = None) -> Subject:
        """The person in a photo (H, W, 3).

        Raises:
            FaceError: If there is no usable face, or several and no `face_index`.
            MissingFile: If the pipeline was loaded without `faces`.
        """
        return self._face_reader().read(image_rgb, face_index)

    def read_person(self, pictures: "Iterable[NamedPicture]", face_index: int | None = None) -> Subject:
        """The person in one or several photos: as `FaceReader.read_person`.

        Raises:
            FaceError: If a photo has no usable face, or several, or shows somebody else than the others.
            MissingFile: If the pipeline was loaded without `faces`, or their pack has no recogniser to compare photos with.
        """
        return self._face_reader().read_person(pictures, face_index)

    def _face_reader(self) -> "FaceReader":
        if self._faces is None:
            raise MissingFile("read_subject needs a FaceReader: pass faces= to LynxPipeline.load")
        return self._faces

    @torch.inference_mode()
    def prepare(self, subject: Subject, params: RenderParams) -> PreparedClip:
        """Computes the conditioning, which is the same at every step: keys and values of text, identity and reference.

        Raises:
            EncoderMismatch: If the subject's embedding is from another encoder than the adapters expect.
            InvalidParams: If the Ref-adapter needs an aligned face and the subject has none, or a range of blocks exceeds the
                model's.
        """
        self._check(subject)
        plan = plan_steps(params, self._traits(), self._engine)
        steps = [[(branch, step.strengths) for branch in step.branches] for step in plan]
        wanted = {key for step in steps for key in step}
        text = {has: self._text(has, params) for has in {branch.has_prompt for branch, _ in wanted}}
        whole = {
            has: self._subject_inputs(has, subject, params) for has in {branch.has_subject for branch, _ in wanted}
        }
        weighted = {
            (has, strengths): _weighted(whole[has], strengths)
            for has, strengths in {(branch.has_subject, strengths) for branch, strengths in wanted}
        }
        conditioning = {
            (branch, strengths): _join(text[branch.has_prompt], weighted[branch.has_subject, strengths])
            for branch, strengths in wanted
        }
        return PreparedClip(
            params=params,
            steps=tuple(tuple(conditioning[key] for key in step) for step in steps),
            full_steps=tuple(step.is_full for step in plan),
            reuses_image=tuple(step.reuses_image for step in plan),
            fp8_steps=tuple(step.is_attending_in_fp8 for step in plan),
        )

    @torch.inference_mode()
    def sample(
        self,
        clip: PreparedClip,
        on_step: sampler.OnStep | None = None,
        *,
        state: sampler.SamplerState | None = None,
        is_to_pause: Callable[[], bool] = lambda: False,
    ) -> Tensor:
        """The latents of a prepared clip, float32 (1, 16, 1 + (F - 1) / 4, H / 8, W / 8).

        `on_step(steps done, steps in total)` is called after each step; an exception that it raises ends the clip. With `state`,
        sampling resumes where another pipeline of the same model paused.

        Raises:
            Paused: If `is_to_pause()` is true before a full step; it carries the state to resume from.
        """
        residuals, guidance = None if all(clip.full_steps) else Residuals(), Guidance(clip.params)
        if state is not None:
            guidance.restore(state.tensors, self.device)
        return sampler.denoise(
            partial(predict_step, self._model.transformer, clip, guidance, residuals),
            sampler.draw_noise(clip.params, self.device),
            sampler.make_schedule(self._model.scheduler_config, clip.params, self.device),
            on_step,
            state=state,
            is_to_pause=is_to_pause,
            can_start_at=clip.can_start_at,
            remembered=guidance.state,
        )

    @torch.inference_mode()
    def measure_magnitudes(self, clip: PreparedClip, on_step: sampler.OnStep | None = None) -> list[list[float]]:
        """The mean magnitude of each branch's residual at each step, for `step_cache.average`. Denoises the whole clip.

        The pipeline must have no step cache, and no other ranks.
        """
        guidance, residuals, measured = Guidance(clip.params), Residuals(), list[list[float]]()

        def predict(latents: Tensor, timestep: Tensor, step: int) -> Tensor:
            velocity = predict_step(self._model.transformer, clip, guidance, residuals, latents, timestep, step)
            measured.append(residuals.magnitudes())
            return velocity

        noise = sampler.draw_noise(clip.params, self.device)
        scheduler = sampler.make_schedule(self._model.scheduler_config, clip.params, self.device)
        sampler.denoise(predict, noise, scheduler, on_step)
        return measured

    def denoise(self, subject: Subject, params: RenderParams, on_step: sampler.OnStep | None = None) -> Tensor:
        """`prepare` and `sample` in one call."""
        return self.sample(self.prepare(subject, params), on_step)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> NDArray[np.uint8]:
        """Decodes latents into frames, uint8 (F, H, W, 3) RGB in host memory."""
        return vae.decode_frames(self._model.vae, self._decoder, latents)

    def _check(self, subject: Subject) -> None:
        expected = self.adapters.identity_encoder
        if subject.encoder not in (None, expected):
            raise EncoderMismatch(
                f"identity encoder {subject.encoder!r}: the adapters take embeddings of {expected!r} only; "
                f"choose it with faces.identity"
            )
        if self.adapters.has_ref and subject.aligned_face is None:
            raise InvalidParams("aligned_face", None, "the Ref-adapter needs an aligned face")

    def _traits(self) -> ModelTraits:
        return ModelTraits(
            num_blocks=len(self._model.transformer.blocks),
            id_stride=self.adapters.id_stride,
            has_ref=self.adapters.has_ref,
            has_image_guidance=self.adapters.has_image_guidance,
            flow_shift=float(self._model.scheduler_config.get("flow_shift", DEFAULT_FLOW_SHIFT)),
        )

    def _text(self, has_prompt: bool, params: RenderParams) -> Sequence[KeysValues]:
        embedding = self._model.text_encoder.embed(params.prompt if has_prompt else params.negative_prompt)
        return self._model.transformer.text_keys_values(embedding)

    def _subject_inputs(self, has_subject: bool, subject: Subject, params: RenderParams) -> "SubjectInputs":
        """Each block's keys and values of the subject: its identity and its reference picture.

        Without a subject these come from an embedding of zeros (which is not the same as tokens of zeros) and a mid-grey picture.
        """
        embedding = subject.face_embedding if has_subject else np.zeros(EMBEDDING_SIZE, np.float32)
        embedding_BNE = torch.from_numpy(embedding).to(self.device, self.dtype).view(1, 1, -1)
        identity = self._model.transformer.identity_keys_values(call_on_device_of(self._model.resampler, embedding_BNE))
        reference = self._reference(subject.aligned_face if has_subject else None, params)
        return list(zip(identity, reference, strict=True))

    def _reference(self, face: NDArray[np.uint8] | None, params: RenderParams) -> Sequence[KeysValues | None]:
        transformer = self._model.transformer
        if transformer.ref_adapter is None:
            return [None] * len(transformer.blocks)
        posterior = self._encode_face(None if face is None else face.tobytes())
        latents = vae.draw_latents(self._model.vae, posterior, seed=params.seed + 1)
        text = transformer.text_keys_values(self._model.text_encoder.embed(REFERENCE_PROMPT))
        return transformer.reference_keys_values(transformer.reference_features(latents.to(self.dtype), text))

    def _encode_face_once(self, face: bytes | None) -> DiagonalGaussianDistribution:
        """Takes the picture's bytes, so that the cache encodes each subject's picture once; the seed matters only for sampling later."""
        shape = (ALIGNED_FACE_PX, ALIGNED_FACE_PX, 3)
        pixels = None if face is None else torch.frombuffer(bytearray(face), dtype=torch.uint8)
        picture_HWC = torch.zeros(shape) if pixels is None else pixels.view(shape) / 127.5 - 1
        return vae.encode_picture(self._model.vae, picture_HWC.permute(2, 0, 1))


def predict_step(
    transformer: LynxTransformer,
    clip: PreparedClip,
    guidance: Guidance,
    residuals: Residuals | None,
    latents: Tensor,
    timestep: Tensor,
    step: int,
) -> Tensor:
    """The velocity of one step of a clip, float32: its forwards, combined. `residuals` are needed unless every step is full."""
    if residuals is not None:
        residuals.begin_step(is_full=clip.full_steps[step])
    inputs = latents.to(transformer.patch_embedding.weight.dtype)
    velocities = transformer.predict(
        inputs, timestep, clip.steps[step], residuals, is_attending_in_fp8=clip.fp8_steps[step]
    )
    predictions = [velocity.float() for velocity in velocities]
    return guidance.combine(predictions, reuses_image=clip.reuses_image[step])


def _check_engine(engine: EngineOptions, base: BaseSpec, device: torch.device) -> None:
    """Raises InvalidParams if `engine` does not work for a model of that size on `device`; nothing is loaded yet."""
    engine.check_blocks(base.num_blocks)
    engine.check_calibrated()
    dtype = getattr(torch, engine.dtype)
    check_attention(engine.attention, device=device, dtype=dtype, head_dim=base.head_dim)
    if engine.fp8_attention is not None:
        check_fp8_attention(device=device, dtype=dtype, head_dim=base.head_dim)
    if engine.precision == "fp8":
        check_fp8(torch.cuda.get_device_capability(device) if device.type == "cuda" else None)
    if engine.offload == "blocks":
        check_offload(device)


SubjectInputs = Sequence[tuple[KeysValues | None, KeysValues | None]]
"""Per block: keys and values of the identity, and of the reference picture."""


def _weighted(subject: SubjectInputs, strengths: Strengths) -> SubjectInputs:
    # an adapter that is off gets zero values; leaving it out would need another compiled graph
    return [
        (identity and identity.scaled(ip), reference and reference.scaled(ref))
        for (identity, reference), ip, ref in zip(subject, strengths.ip, strengths.ref, strict=True)
    ]


def _join(text: Sequence[KeysValues], subject: SubjectInputs) -> Conditioning:
    return Conditioning(
        tuple(
            BlockConditioning(CrossAttentionInputs(block_text, identity), reference)
            for block_text, (identity, reference) in zip(text, subject, strict=True)
        )
    )
