"""Attention in fp8: what makes its loss smaller, and which blocks and steps compute in it. A CPU emulates the kernel."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from lynx_model.engine.attention import Attend, attend_sdpa, choose_fp8_attention
from lynx_model.engine.attention_fp8 import SmoothAttention, emulate_fp8, rotation
from lynx_model.errors import InvalidParams
from lynx_model.fp8_attention import Fp8Attention
from lynx_model.pipeline import LynxPipeline
from lynx_model.spec import EngineOptions
from tests.builders import PARAMS, make_subject
from tests.models import load_tiny, relative_error

MIDDLE = Fp8Attention(blocks=(0.25, 0.75), steps=(0.25, 0.75))
FOUR_STEPS = replace(PARAMS, num_inference_steps=4)


def draw_heads(*, key_mean: float = 0.0, value_mean: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    query, key, value = (draw(1, 700, 3, 64) for _ in range(3))
    return query, key + key_mean * draw(1, 1, 3, 64), value + value_mean * draw(1, 1, 3, 64)


def load(attention: Fp8Attention | None, adapters: str = "lite") -> LynxPipeline:
    """Lite reads no picture of the face, which takes seconds in bfloat16 on a CPU."""
    return load_tiny(adapters, dtype="bfloat16", engine=EngineOptions(fp8_attention=attention))


def smooth(attend: Attend, head_dim: int = 64) -> SmoothAttention:
    return SmoothAttention(attend, head_dim=head_dim, device=torch.device("cpu"))


@pytest.mark.parametrize("head_dim", [128, 64, 24, 5])
def test_a_rotation_is_orthogonal_and_mixes_as_many_channels_as_a_power_of_two_divides(head_dim: int) -> None:
    matrix, size = rotation(head_dim)
    assert torch.equal(matrix @ matrix.T, size * torch.eye(head_dim))
    assert (matrix != 0).sum(1).tolist() == [size] * head_dim
    assert head_dim % size == 0


@pytest.mark.parametrize("head_dim", [64, 24])
def test_what_is_made_smooth_attends_to_the_same(head_dim: int) -> None:
    heads = [x[..., :head_dim] for x in draw_heads(key_mean=3.0, value_mean=3.0)]
    found, expected = smooth(attend_sdpa, head_dim)(*heads), attend_sdpa(*heads)
    assert (found - expected).abs().max() < 5e-5


MEANS = draw_heads(key_mean=3.0, value_mean=3.0)
CHANNELS = torch.cat([torch.full((4,), 4.0), torch.full((60,), 0.5)])


@pytest.mark.parametrize(
    ("heads", "bound"),
    [
        (draw_heads(), 1.1),
        (MEANS, 0.6),
        ((MEANS[0] * CHANNELS, draw_heads()[1] * CHANNELS, draw_heads()[2]), 0.6),
    ],
    ids=["alike", "with means", "with large channels"],
)
def test_the_emulation_is_near_exact_attention_and_nearer_if_what_it_gets_is_smooth(
    heads: tuple[Tensor, Tensor, Tensor], bound: float
) -> None:
    expected = attend_sdpa(*heads)
    plain, smoothed = (relative_error(attend(*heads), expected) for attend in (emulate_fp8, smooth(emulate_fp8)))
    assert 0.001 < smoothed < 0.15
    assert smoothed < bound * plain


def test_the_emulation_has_the_dtype_and_the_scale_of_each_head() -> None:
    query, key, value = draw_heads()
    magnitudes = torch.tensor([1e-2, 1.0, 1e2]).view(3, 1)
    found = smooth(emulate_fp8)(query.bfloat16(), key.bfloat16(), (value * magnitudes).bfloat16())
    expected = attend_sdpa(query, key, value * magnitudes)
    assert found.dtype is torch.bfloat16
    assert all(relative_error(found[:, :, head], expected[:, :, head]) < 0.15 for head in range(3))


def test_blocks_and_steps_outside_the_ranges_stay_exact() -> None:
    """A clip whose steps are all outside equals the exact one to the bit, and so do steps outside of another."""
    exact, partly = load(None), load(MIDDLE)
    kernels = partly._model.transformer.attend_in_fp8
    assert [kernel is not None for kernel in kernels] == [False, True, True, False]
    clip = partly.prepare(make_subject(), FOUR_STEPS)
    assert clip.fp8_steps == (False, True, True, False)
    one_step = replace(PARAMS, num_inference_steps=1)
    assert torch.equal(partly.denoise(make_subject(), one_step), exact.denoise(make_subject(), one_step))
    found, expected = (pipe.denoise(make_subject(), FOUR_STEPS) for pipe in (partly, exact))
    assert 1e-4 < relative_error(found, expected) < 0.1
    everywhere = load(Fp8Attention()).prepare(make_subject(), FOUR_STEPS)
    assert everywhere.fp8_steps == (True,) * 4


def test_only_self_attention_of_the_clip_computes_in_fp8() -> None:
    """Keys and values of the reference picture are those of an exact engine."""
    (exact, *_), (fp8, *_) = (
        load(each, "full").prepare(make_subject(), PARAMS).steps[0] for each in (None, Fp8Attention())
    )
    for one, other in zip(exact.blocks, fp8.blocks, strict=True):
        assert torch.equal(one.reference.key, other.reference.key)


def test_a_range_names_its_blocks_and_steps() -> None:
    assert Fp8Attention().name == "fp8 attention"
    assert MIDDLE.name == "fp8 attention, blocks 0.25 to 0.75, steps 0.25 to 0.75"
    assert Fp8Attention(blocks=(0, 1)).name == Fp8Attention().name
    assert Fp8Attention(blocks=(0.1, 0.9)).share_of_blocks(40) == 0.8
    assert Fp8Attention(steps=(0.3, 0.3)).is_idle
    assert EngineOptions(fp8_attention=Fp8Attention()).numerics == "bfloat16, fp8 attention"


@pytest.mark.parametrize("ends", [(-0.1, 1), (0, 1.1), (0.9, 0.1), (float("nan"), 1)], ids=str)
@pytest.mark.parametrize("kind", ["blocks", "steps"])
def test_other_ranges_are_refused(kind: str, ends: tuple[float, float]) -> None:
    with pytest.raises(InvalidParams, match=rf"fp8_attention\.{kind}=.*must be two fractions"):
        Fp8Attention(**{kind: ends})


def test_it_is_refused_where_it_cannot_work() -> None:
    with pytest.raises(InvalidParams, match="fp8_attention=True: needs bfloat16, but the model is float32"):
        EngineOptions(precision="float32", fp8_attention=Fp8Attention())
    with pytest.raises(InvalidParams, match="must not be given with attention fa3_fp8"):
        EngineOptions(attention="fa3_fp8", fp8_attention=Fp8Attention())
    with pytest.raises(
        InvalidParams, match=r"fp8_attention.blocks=\(0.3, 0.4\): must hold at least one of .* 4 blocks"
    ):
        load(Fp8Attention(blocks=(0.3, 0.4)))
    with pytest.raises(InvalidParams, match="fp8_attention=True: needs bfloat16"):
        choose_fp8_attention(device=torch.device("cuda"), dtype=torch.float32, head_dim=128)
