import pickle
from pathlib import Path

import numpy as np
import pytest

from lynx_model.errors import InvalidParams
from lynx_model.parameters import MAX_SEED
from lynx_model.spec import EngineOptions, LoraSource, ModelSource, ParallelPlan, RenderParams, Subject

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", ""),
        ("prompt", " \n"),
        ("width", 833),
        ("width", 0),
        ("height", -16),
        ("num_frames", 82),
        ("num_frames", 0),
        ("fps", 0),
        ("fps", 121),
        ("num_inference_steps", 0),
        ("guidance_scale", NAN),
        ("guidance_scale", -0.1),
        ("guidance_scale_image", INFINITY),
        ("guidance_scale_image", -1.0),
        ("ip_scale", NAN),
        ("ref_scale", 10.5),
        ("seed", -1),
        ("seed", MAX_SEED + 1),
        ("flow_shift", 0.0),
        ("flow_shift", -INFINITY),
        ("ip_start", -0.1),
        ("ip_end", 1.1),
        ("ref_start", NAN),
        ("ref_blocks", "3-1"),
        ("guidance_until", 2.0),
        ("image_guidance_every", 0),
        ("image_guidance_every", 1001),
    ],
)
def test_a_value_outside_its_rule_is_refused_with_field_value_and_rule(field: str, value: object) -> None:
    with pytest.raises(InvalidParams) as caught:
        RenderParams(**{"prompt": "a person waves", field: value})
    assert caught.value.field == field
    assert caught.value.value is value
    assert str(caught.value) == f"{field}={value!r}: {caught.value.rule}"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", "一个人在雨中微笑"),
        ("negative_prompt", ""),
        ("num_frames", 121),
        ("guidance_scale", 0.0),
        ("guidance_scale_image", None),
        ("ref_scale", 0.0),
        ("seed", 0),
        ("seed", MAX_SEED),
        ("flow_shift", 5.0),
        ("ip_end", 0.0),
        ("ref_start", 1.0),
        ("ip_blocks", "0-0"),
        ("guidance_until", 0.0),
        ("image_guidance_every", 1000),
    ],
)
def test_a_value_on_the_edge_of_its_rule_is_taken(field: str, value: object) -> None:
    assert getattr(RenderParams(**{"prompt": "a person waves", field: value}), field) == value


def test_a_range_of_steps_must_not_end_before_it_starts() -> None:
    with pytest.raises(InvalidParams, match=r"ref_end=0.2: must not be before ref_start=0.5"):
        RenderParams(prompt="a person waves", ref_start=0.5, ref_end=0.2)


def test_an_error_about_a_parameter_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(InvalidParams("width", 833, "must be even")))
    assert (error.field, error.value, error.rule) == ("width", 833, "must be even")


@pytest.mark.parametrize("embedding", [np.ones(512), np.zeros(512), np.full(512, NAN), np.ones(128) / 128**0.5])
def test_a_subject_needs_512_numbers_of_unit_length(embedding: np.ndarray) -> None:
    with pytest.raises(InvalidParams, match="face_embedding"):
        Subject(face_embedding=embedding.astype(np.float32))


@pytest.mark.parametrize("face", [np.zeros((112, 112, 3), np.uint8), np.zeros((256, 256, 3), np.float32)])
def test_a_subject_takes_only_the_crop_that_the_model_reads(face: np.ndarray) -> None:
    with pytest.raises(InvalidParams, match="aligned_face"):
        Subject(face_embedding=np.eye(512, dtype=np.float32)[0], aligned_face=face)


def test_a_subject_shows_neither_embedding_nor_crop() -> None:
    subject = Subject(face_embedding=np.eye(512, dtype=np.float32)[0], aligned_face=np.zeros((256, 256, 3), np.uint8))
    assert "array" not in repr(subject)


def test_a_plan_needs_a_rank() -> None:
    assert ParallelPlan(ulysses=4).num_ranks == 4
    with pytest.raises(InvalidParams, match="ulysses=0"):
        ParallelPlan(ulysses=0)


def test_an_engine_names_a_kernel_that_exists() -> None:
    with pytest.raises(
        InvalidParams, match="attention='foo': must be one of auto, fa3, fa3_fp8, fa4, cudnn, fa2, sdpa"
    ):
        EngineOptions(attention="foo")


def test_a_dtype_replaces_the_default_precision_and_must_agree_with_any_other() -> None:
    assert EngineOptions().for_dtype("float32") == EngineOptions(precision="float32")
    fp8 = EngineOptions(precision="fp8")
    assert fp8.for_dtype("bfloat16") == fp8
    for options, dtype, fault in (
        (fp8, "float32", "precision='fp8': needs bfloat16, but the model is float32"),
        (EngineOptions(precision="float32"), "bfloat16", "precision='float32': needs float32"),
        (EngineOptions(attention="fa3"), "float32", "attention='fa3': needs bfloat16"),
        (EngineOptions(), "float16", "dtype='float16': must be one of bfloat16, float32"),
    ):
        with pytest.raises(InvalidParams, match=fault):
            options.for_dtype(dtype)


def test_an_adapter_folder_without_ref_layers_is_lite(tmp_path: Path) -> None:
    assert ModelSource.of("base", str(tmp_path)).ref_adapter is None


def test_a_lora_without_a_scale_is_added_whole() -> None:
    source = ModelSource.of("base", {"id": "lite"}, ["a", LoraSource(file="b", scale=0.5)])
    assert source.loras == (LoraSource(file="a", scale=1.0), LoraSource(file="b", scale=0.5))


def test_adapters_of_two_folders_are_mixed_as_named() -> None:
    source = ModelSource.of("base", {"id": "lite", "ref": "full"})
    assert (source.id_adapter, source.ref_adapter) == ("lite", "full")


@pytest.mark.parametrize("adapters", [{}, {"ref": "full"}, {"id": "lite", "reef": "full"}])
def test_adapters_need_an_id_and_nothing_unknown(adapters: dict[str, str]) -> None:
    with pytest.raises(InvalidParams, match="adapters"):
        ModelSource.of("base", adapters)
