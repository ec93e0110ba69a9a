"""A model of the true size with random weights, and the inputs of a forward.

Weights and inputs are never zeros: zeros draw less power, so a GPU would run faster on them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import Tensor, nn

from lynx_model.checkpoints.adapter_spec import AdapterSpec, ResamplerShape
from lynx_model.geometry import latent_shape, num_tokens
from lynx_model.network.adapters import CrossAttentionInputs
from lynx_model.network.transformer import BlockConditioning, Conditioning, LynxTransformer, assemble_transformer
from lynx_model.spec import ALIGNED_FACE_PX, NUM_TEXT_TOKENS, ONE_GPU, EngineOptions

WEIGHT_STD = 0.02
TIMESTEP = 900
NUM_IDENTITY_TOKENS = 16
LITE_TOKEN_SIZE = 2048
DTYPE = torch.bfloat16


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchCase:
    """The sizes of the model, its text encoder, its VAE and the clip. The defaults are those of the published Lynx-full.

    Lite has neither references nor biases.
    """

    num_blocks: int = 40
    num_heads: int = 40
    head_dim: int = 128
    ff_width: int = 13824
    text_size: int = 4096
    num_text_blocks: int = 24
    num_text_heads: int = 64
    text_ff_width: int = 10240
    vocabulary_size: int = 256384
    vae_channels: int = 96
    width: int = 832
    height: int = 480
    num_frames: int = 81
    is_lite: bool = False

    @property
    def channels(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def num_tokens(self) -> int:
        return num_tokens(width=self.width, height=self.height, num_frames=self.num_frames)

    @property
    def num_branches(self) -> int:
        """Guidance branches of one step with the published parameters."""
        return 2 if self.is_lite else 3

    @property
    def flop(self) -> float:
        """FLOP of one forward: the blocks' matrix products on all tokens, and self-attention."""
        products = 2 * self.num_tokens * self.channels * (6 * self.channels + 2 * self.ff_width)
        return float(self.num_blocks * (products + 4 * self.num_tokens**2 * self.channels))


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardInputs:
    """The inputs of a forward, and what its conditioning was computed from: text (1, S, C), identity tokens (1, N, X) and one
    reference feature (1, S, C) per block, none for lite. Latents are (1, C, F, H, W), the timestep is (1,).
    """

    latents: Tensor
    timestep: Tensor
    text: Tensor
    identity: Tensor
    features: tuple[Tensor, ...]
    conditioning: Conditioning


def random_transformer(case: BenchCase, device: torch.device) -> LynxTransformer:
    """A random model of the size of `case` on `device`, set up to run eagerly with "sdpa"; in float32 where diffusers keeps that."""
    model = empty_transformer(case)
    model.rope = WanRotaryPosEmbed(case.head_dim, model.config.patch_size, model.config.rope_max_seq_len).to(device)
    assemble_transformer(
        model,
        adapters_of(case),
        lambda _, part: draw_weights(part, device, in_float32=model._keep_in_fp32_modules),
        device=device,
        engine=EngineOptions(attention="sdpa"),
        plan=ONE_GPU,
    )
    return model.eval()  # type: ignore[no-any-return]


def empty_transformer(case: BenchCase) -> LynxTransformer:
    """The base model of the size of `case`, on the meta device and without adapters."""
    with torch.device("meta"):
        return LynxTransformer(
            num_layers=case.num_blocks,
            num_attention_heads=case.num_heads,
            attention_head_dim=case.head_dim,
            ffn_dim=case.ff_width,
            text_dim=case.text_size,
        )


def draw_weights(module: nn.Module, device: torch.device, in_float32: Iterable[str] = ()) -> None:
    """Gives `module` random parameters on `device`, in float32 if a part of their name is in `in_float32`."""
    kept = set(in_float32)
    for name, parameter in list(module.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        dtype = torch.float32 if kept & set(name.split(".")) else DTYPE
        weight = torch.empty(parameter.shape, device=device, dtype=dtype).normal_(std=WEIGHT_STD)
        setattr(module.get_submodule(owner), leaf, nn.Parameter(weight, requires_grad=False))


def random_inputs(case: BenchCase, model: LynxTransformer, device: torch.device) -> ForwardInputs:
    """Random inputs of a forward of `model`. The model computes the conditioning, so it must not be set up for several ranks yet."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=DTYPE)

    face = latent_shape(width=ALIGNED_FACE_PX, height=ALIGNED_FACE_PX, num_frames=1)
    text_BSX = draw(1, NUM_TEXT_TOKENS, case.text_size)
    identity_BSX = draw(1, NUM_IDENTITY_TOKENS, LITE_TOKEN_SIZE if case.is_lite else case.channels)
    text, identity = model.text_keys_values(text_BSX), model.identity_keys_values(identity_BSX)
    features = () if case.is_lite else model.reference_features(draw(*face), text)
    reference = model.reference_keys_values(features) if features else (None,) * case.num_blocks
    blocks = zip(text, identity, reference, strict=True)
    return ForwardInputs(
        latents=draw(*latent_shape(width=case.width, height=case.height, num_frames=case.num_frames)),
        timestep=torch.tensor([TIMESTEP], device=device),
        text=model.condition_embedder.text_embedder(text_BSX),
        identity=identity_BSX,
        features=features,
        conditioning=Conditioning(tuple(BlockConditioning(CrossAttentionInputs(t, i), r) for t, i, r in blocks)),
    )


def forward_of(model: LynxTransformer, inputs: ForwardInputs, num_branches: int = 1) -> Callable[[], Tensor]:
    """A call that runs `num_branches` guidance branches of one step and returns the last one's velocity.

    Blocks that ever attend in fp8 do so.
    """
    branches = [inputs.conditioning] * num_branches
    return lambda: model.predict(inputs.latents, inputs.timestep, branches, is_attending_in_fp8=True)[-1]


def adapters_of(case: BenchCase) -> AdapterSpec:
    """Adapters of the variant and size of `case`."""
    token_size = LITE_TOKEN_SIZE if case.is_lite else case.channels
    resampler = ResamplerShape(
        depth=4,
        width=1280,
        inner_width=1280,
        ff_width=5120,
        num_queries=NUM_IDENTITY_TOKENS,
        embedding_size=512,
        token_size=token_size,
    )
    return AdapterSpec(
        token_size=token_size,
        channels=case.channels,
        num_id_layers=(case.num_blocks + 1) // 2 if case.is_lite else case.num_blocks,
        has_id_bias=not case.is_lite,
        num_registers=0 if case.is_lite else 16,
        num_ref_layers=0 if case.is_lite else case.num_blocks,
        resampler=resampler,
        identity_encoder="none",
    )
