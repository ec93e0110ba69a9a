"""A prompt is read the same wherever the text encoder lives, and only once."""

import pytest
import torch

from lynx_model.errors import InvalidParams
from lynx_model.network.text import TextEncoder
from lynx_model.spec import NUM_TEXT_TOKENS, EngineOptions, ModelSource, TextPlacement
from lynx_model.weights import load_model
from tests.models import BASE, MODEL


def load(placement: TextPlacement = "resident", dtype: str = "float32") -> TextEncoder:
    source = ModelSource.of(str(BASE), str(MODEL / "lynx_lite"))
    engine = EngineOptions(text_encoder=placement).for_dtype(dtype)
    return load_model(source, device=torch.device("cpu"), engine=engine).text_encoder


@pytest.mark.parametrize("placement", ["staged", "cpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_place_of_the_encoder_changes_no_number(placement: TextPlacement, dtype: str) -> None:
    assert torch.equal(load(placement, dtype).embed("a person waves"), load(dtype=dtype).embed("a person waves"))


def test_a_staged_encoder_leaves_nothing_on_the_device() -> None:
    encoder = load("staged")
    for _ in range(2):
        assert {weight.device.type for weight in encoder._encoder.parameters()} == {"meta"}
        encoder.embed("a person waves")


def test_an_embedding_is_zero_after_the_prompts_own_tokens() -> None:
    encoder = load()
    short, empty, long = (encoder.embed(prompt) for prompt in ("one", "", "word " * 600))
    assert {embedding.shape for embedding in (short, empty, long)} == {(1, NUM_TEXT_TOKENS, 64)}
    num_rows = [int(embedding.any(dim=-1).sum()) for embedding in (empty, short, long)]
    assert num_rows[0] == 1, "the end of the text"
    assert 1 < num_rows[1] < 10
    assert num_rows[2] == NUM_TEXT_TOKENS


def test_a_prompt_is_read_once() -> None:
    encoder = load()
    for prompt in ("one", "two", "one", "one"):
        encoder.embed(prompt)
    assert encoder._read.cache_info().misses == 2


def test_an_unknown_place_is_refused() -> None:
    with pytest.raises(InvalidParams, match="text_encoder='gpu': must be one of resident, staged, cpu"):
        EngineOptions(text_encoder="gpu")
