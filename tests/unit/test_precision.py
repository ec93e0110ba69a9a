"""fp8 linear layers: how far from float they are, what they save, and where they are refused."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from lynx_model.engine.precision import FP8, FP8_LAYERS, Fp8Linear, check_fp8, quantize
from lynx_model.errors import InvalidParams
from lynx_model.pipeline import LynxPipeline
from lynx_model.spec import EngineOptions
from tests.builders import PARAMS, make_subject
from tests.models import BASE, MODEL, load_tiny, relative_error

FP8_ROUNDING = 2**-4  # 3 bits of mantissa: half a step, relative to the number


@pytest.fixture(scope="module")
def bf16() -> LynxPipeline:
    return load_tiny("full", dtype="bfloat16")


@pytest.fixture(scope="module")
def fp8() -> LynxPipeline:
    return load_tiny("full", dtype="bfloat16", engine=EngineOptions(precision="fp8"))


@pytest.mark.parametrize("dim", [-1, (1, 3)], ids=["a scale per row", "a scale per head"])
def test_quantised_numbers_times_their_scale_are_the_numbers_up_to_rounding(dim: int | tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 9, 4, 8) * torch.tensor([1e-3, 1.0, 30.0, 1e4]).view(4, 1)
    quantized, scale = quantize(x, dim)
    restored = quantized.float() * scale
    assert quantized.dtype is FP8
    assert torch.isfinite(restored).all()
    # numbers below the smallest normal one of fp8 keep an absolute step
    assert ((restored - x).abs() <= FP8_ROUNDING * x.abs() + 2**-10 * scale).all()


def test_zeros_stay_zeros() -> None:
    quantized, scale = quantize(torch.zeros(2, 16), dim=1)
    assert not (quantized.float() * scale).any()


@pytest.mark.parametrize(("num_tokens", "inputs", "outputs"), [(45, 96, 288), (1, 256, 96)])
def test_an_fp8_layer_is_the_float_layer_up_to_rounding(num_tokens: int, inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(inputs, outputs, dtype=torch.bfloat16)
    magnitudes = torch.logspace(-2, 2, num_tokens).view(-1, 1)
    x = (torch.randn(2, num_tokens, inputs) * magnitudes).bfloat16()

    with torch.inference_mode():
        found = Fp8Linear(linear, torch.device("cpu"))(x)
        expected = nn.functional.linear(x.float(), linear.weight.float(), linear.bias.float())

    assert found.shape == expected.shape
    assert found.dtype is torch.bfloat16
    error_per_token = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert error_per_token.max() < 0.06, "every token has its own scale, so small ones are as exact as large ones"


def test_an_fp8_model_renders_nearly_what_bfloat16_does(bf16: LynxPipeline, fp8: LynxPipeline) -> None:
    expected, found = (pipe.denoise(make_subject(), PARAMS) for pipe in (bf16, fp8))
    assert 0.001 < relative_error(found, expected) < 0.08


def test_fp8_halves_the_weights_of_its_layers_and_leaves_the_rest_alone(bf16: LynxPipeline, fp8: LynxPipeline) -> None:
    before, after = (pipe._model.transformer for pipe in (bf16, fp8))
    for name, weight in after.named_parameters():
        layer = name.partition(".")[2].partition(".")[2].removesuffix(".weight")
        is_fp8 = name.startswith("blocks.") and layer in FP8_LAYERS
        if not name.endswith(".scale"):
            assert weight.nbytes == before.get_parameter(name).nbytes // (2 if is_fp8 else 1), name


def test_edge_blocks_stay_bfloat16() -> None:
    engine = EngineOptions(precision="fp8", num_bf16_edge_blocks=1)
    blocks = load_tiny("lite", dtype="bfloat16", engine=engine)._model.transformer.blocks
    assert [block.attn1.to_qkv.weight.dtype for block in blocks] == [torch.bfloat16, FP8, FP8, torch.bfloat16]


def test_edge_blocks_must_leave_some_in_fp8() -> None:
    with pytest.raises(InvalidParams, match="4 blocks"):
        load_tiny("lite", dtype="bfloat16", engine=EngineOptions(precision="fp8", num_bf16_edge_blocks=2))


@pytest.mark.parametrize(
    "engine", [EngineOptions(precision="fp8", num_bf16_edge_blocks=2), EngineOptions(attention="cudnn")], ids=str
)
def test_an_engine_that_cannot_work_is_refused_before_any_weight_is_read(tmp_path: Path, engine: EngineOptions) -> None:
    (tmp_path / "transformer").mkdir()
    shutil.copy(BASE / "transformer" / "config.json", tmp_path / "transformer")
    with pytest.raises(InvalidParams):
        LynxPipeline.load(str(tmp_path), str(MODEL / "lynx_full"), "cpu", engine=engine)


@pytest.mark.parametrize("number", [-1, 1])
def test_edge_blocks_are_refused_where_they_mean_nothing(number: int) -> None:
    with pytest.raises(InvalidParams, match="num_bf16_edge_blocks"):
        EngineOptions(num_bf16_edge_blocks=number)


def test_fp8_is_refused_where_it_cannot_work() -> None:
    check_fp8((8, 9))
    with pytest.raises(InvalidParams, match=r"8\.9 .* has 8\.6"):
        check_fp8((8, 6))
    with pytest.raises(InvalidParams, match="bfloat16"):
        load_tiny("lite", dtype="float32", engine=EngineOptions(precision="fp8"))


def test_fp8_attention_is_never_chosen_on_its_own_and_refused_without_its_gpu() -> None:
    with pytest.raises(InvalidParams, match="needs a CUDA device"):
        load_tiny("lite", dtype="bfloat16", engine=EngineOptions(attention="fa3_fp8"))
