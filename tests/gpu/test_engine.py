"""fp8 and offload on a real GPU."""

import copy
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

from lynx_model.bench.case import BenchCase, forward_of, random_inputs, random_transformer
from lynx_model.engine.attention import KERNELS, Attend, attend_sdpa, choose_attention, missing_needs
from lynx_model.engine.attention_fp8 import SmoothAttention, attend_flash3_fp8, emulate_fp8
from lynx_model.engine.offload import BlockStream
from lynx_model.engine.precision import quantize_blocks
from lynx_model.fp8_attention import Fp8Attention
from lynx_model.spec import AttentionChoice, EngineOptions, ParallelPlan
from tests.builders import GPU_PARAMS, make_subject
from tests.models import load_tiny, relative_error

TRUE_WIDTH = BenchCase(num_blocks=2, width=256, height=256, num_frames=9)
FP8 = EngineOptions(precision="fp8")

needs_fa3 = pytest.mark.skipif(find_spec("fa3_fwd_interface") is None, reason="needs the package fa3-fwd")


def denoise(engine: EngineOptions) -> Tensor:
    return load_tiny("full", device="cuda", dtype="bfloat16", engine=engine).denoise(make_subject(), GPU_PARAMS).cpu()


@pytest.mark.gpu(1)
def test_fp8_latents_are_nearly_those_of_bfloat16() -> None:
    assert relative_error(denoise(FP8), denoise(EngineOptions())) < 0.08


@pytest.mark.gpu(1)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("attention", ["auto", pytest.param("fa3_fp8", marks=needs_fa3)])
@torch.inference_mode()
def test_a_compiled_fp8_forward_of_the_true_width_is_nearly_that_of_bfloat16(attention: str) -> None:
    torch.manual_seed(0)
    device = torch.device("cuda")
    model = random_transformer(TRUE_WIDTH, device)
    forward = forward_of(model, random_inputs(TRUE_WIDTH, model, device))
    expected = forward()

    quantize_blocks(model.blocks, num_bf16_edge_blocks=0, device=device)
    model.set_up(plan=ParallelPlan(), engine=EngineOptions(attention=attention, compile=True, precision="fp8"))
    assert relative_error(forward(), expected) < 0.15


@pytest.mark.gpu(1)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Argument aux_data:UserWarning")
@pytest.mark.parametrize("is_compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("kernel", KERNELS)
@torch.inference_mode()
def test_an_exact_kernel_agrees_with_float32(kernel: AttentionChoice, is_compiled: bool) -> None:
    torch.manual_seed(0)
    device = torch.device("cuda")
    if need := missing_needs(device=device, dtype=torch.bfloat16, head_dim=128)[kernel]:
        pytest.skip(f"needs {need}")
    attend = choose_attention(kernel, device=device, dtype=torch.bfloat16, head_dim=128)
    heads = [torch.randn(1, tokens, 3, 128, device=device).bfloat16() for tokens in (1000, 700, 700)]
    found = (torch.compile(attend, fullgraph=True) if is_compiled else attend)(*heads)
    assert found.dtype is torch.bfloat16
    assert relative_error(found, attend_sdpa(*(x.float() for x in heads))) < 0.01


@pytest.mark.gpu(1)
@needs_fa3
def test_fp8_attention_is_nearly_exact_whatever_the_magnitude_of_a_head() -> None:
    torch.manual_seed(0)
    magnitudes = torch.tensor([1e-2, 1.0, 1e2], device="cuda").view(3, 1)
    query, key = (torch.randn(1, 2000, 3, 128, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    value = (torch.randn(1, 2000, 3, 128, device="cuda") * magnitudes).bfloat16()
    found, expected = attend_flash3_fp8(query, key, value), attend_sdpa(query, key, value)
    assert found.dtype is torch.bfloat16
    for head in range(3):
        assert relative_error(found[:, :, head], expected[:, :, head]) < 0.15


@pytest.mark.gpu(1)
@needs_fa3
@pytest.mark.parametrize("num_large_channels", [0, 8])
def test_smooth_fp8_attention_is_as_its_emulation_says_and_nearer_to_exact_attention(num_large_channels: int) -> None:
    torch.manual_seed(0)
    device = torch.device("cuda")
    query, key, value = (torch.randn(1, 2000, 3, 128, device=device) for _ in range(3))
    if num_large_channels:
        channels = torch.full((128,), 0.5, device=device)
        channels[:num_large_channels] = 4.0
        query, key = query * channels, key * channels
    heads = [x.bfloat16() for x in (query, key, value)]
    expected = attend_sdpa(*(x.float() for x in heads))

    def error(attend: Attend) -> float:
        return relative_error(attend(*heads), expected)

    smooth, emulated = (
        error(SmoothAttention(attend, head_dim=128, device=device)) for attend in (attend_flash3_fp8, emulate_fp8)
    )
    assert smooth == pytest.approx(emulated, rel=0.25)
    assert smooth < (0.8 if num_large_channels else 1.1) * error(attend_flash3_fp8)


@pytest.mark.gpu(1)
@needs_fa3
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@torch.inference_mode()
def test_a_compiled_forward_with_fp8_attention_in_one_block_is_nearer_than_in_both() -> None:
    torch.manual_seed(0)
    device = torch.device("cuda")
    model = random_transformer(TRUE_WIDTH, device)
    inputs = random_inputs(TRUE_WIDTH, model, device)
    expected = forward_of(model, inputs)()

    def error(attention: Fp8Attention, *, is_fp8_step: bool = True) -> float:
        model.set_up(plan=ParallelPlan(), engine=EngineOptions(fp8_attention=attention, compile=True))
        (found,) = model.predict(
            inputs.latents, inputs.timestep, [inputs.conditioning], is_attending_in_fp8=is_fp8_step
        )
        return relative_error(found, expected)

    exact, one, both = (
        error(Fp8Attention(), is_fp8_step=False),
        error(Fp8Attention(blocks=(0.5, 1))),
        error(Fp8Attention()),
    )
    assert exact < one < both < 0.15


@pytest.mark.gpu(1)
@torch.no_grad()
def test_streamed_blocks_compute_the_same_in_less_memory_than_they_have() -> None:
    """An odd number of blocks, twice; each block computes for about as long as its weights take to arrive."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(4096, 4096), nn.GELU(), nn.Linear(4096, 4096)) for _ in range(9)]
    num_bytes = sum(weight.nbytes for block in blocks for weight in block.parameters())
    x = torch.randn(512, 4096, device="cuda")
    resident = [copy.deepcopy(block).cuda() for block in blocks]
    expected = nn.Sequential(*resident)(x)
    del resident

    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    stream = BlockStream(blocks, torch.device("cuda"))
    for _ in range(2):
        found = x
        for block in stream:
            found = block(found)
        assert torch.equal(found, expected)
    assert torch.cuda.max_memory_allocated() - before < num_bytes / 3


@pytest.mark.gpu(1)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("is_compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("num_edge_blocks", [None, 0, 1], ids=["bfloat16", "fp8", "fp8 with edges"])
def test_offload_changes_nothing_but_where_weights_lie(is_compiled: bool, num_edge_blocks: int | None) -> None:
    resident, offloaded = (
        EngineOptions(
            compile=is_compiled,
            precision="bfloat16" if num_edge_blocks is None else "fp8",
            num_bf16_edge_blocks=num_edge_blocks or 0,
            offload=offload,
        )
        for offload in ("none", "blocks")
    )
    assert torch.equal(denoise(offloaded), denoise(resident))


@pytest.mark.gpu(1)
def test_loading_for_offload_leaves_blocks_adapters_and_resampler_on_the_host() -> None:
    pipe = load_tiny("full", device="cuda", dtype="bfloat16", engine=EngineOptions(offload="blocks"))
    model, transformer = pipe._model, pipe._model.transformer
    on_host = [transformer.id_adapter, transformer.ref_adapter, model.resampler]
    assert {weight.device.type for module in on_host for weight in module.parameters()} == {"cpu"}
    assert {weight.device.type for weight in transformer.blocks.parameters()} == {"cuda"}, "views of the two slots"
    linears = [module for block in transformer.blocks for module in block.modules() if isinstance(module, nn.Linear)]
    assert len({linear.weight.untyped_storage().data_ptr() for linear in linears}) == 1
