"""`bench quality`: the settings that it reads, and how it measures differences."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lynx_batch.comparison.paired import difference
from lynx_batch.comparison.pictures import MAX_PSNR_DB, Lpips, compare_videos
from lynx_batch.comparison.settings import read_settings
from lynx_batch.errors import ConfigError
from lynx_model.errors import WeightsMismatch
from tests.clips import encode

FRAMES = np.broadcast_to(np.linspace(40, 200, 64).astype(np.uint8)[None, None, :, None], (9, 64, 64, 3)).copy()


def settings(folder: Path, text: str) -> Path:
    file = folder / "settings.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_every_setting_changes_the_reference_and_has_a_folder_of_its_own(tmp_path: Path) -> None:
    comparison = read_settings(
        settings(
            tmp_path,
            """
reference: {engine.precision: float32}
floors: {Other kernel: {engine.attention: sdpa}}
settings: {"12 steps": {defaults.num_inference_steps: 12}, compiled: {engine.compile: true}}
""",
        )
    )
    assert [(each.folder, each.is_floor) for each in comparison.settings] == [
        ("another-seed", True),
        ("other-kernel", True),
        ("12-steps", False),
        ("compiled", False),
    ]
    kept = {
        "engine.compile": False,
        "engine.attention": "auto",
        "engine.fp8_attention": None,
        "engine.step_cache": None,
        "engine.precision": "float32",
    }
    assert comparison.reference.changes == comparison.settings[0].changes == kept
    assert comparison.settings[2].changes == {**kept, "defaults.num_inference_steps": 12}
    assert comparison.settings[3].changes == {**kept, "engine.compile": True}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("reference: {}", "must have `settings:`"),
        ("settings: {a: {engine.compile: true}}\nfloor: {}", "'floor': must be one of reference, floors, settings"),
        ("settings: [a]", "settings: must be a mapping of names to changes"),
        ("settings: {a: 3}", "settings: a: must be a mapping of keys of the run file"),
        ("settings: {a: {quality.max_reseeds: 1}}", "settings: a: quality: must not be changed"),
        ("settings: {a: {output: x}}", "settings: a: output: must not be changed"),
        (
            "settings: {a: {engine: {compile: true}}}",
            "settings: a: engine: must be written with dots, such as `engine.compile: …`",
        ),
        ("reference: {defaults: {}}\nsettings: {a: {}}", "reference: defaults: must be written with dots"),
        ("settings: {A b: {}, a-B: {}}", "'a-B': must differ from 'A b'"),
        ("settings: {Reference: {}}", "'Reference': must differ from 'reference'"),
        ("settings: {'?': {}}", "'?': a name must have a letter or a digit"),
    ],
)
def test_faulty_settings_are_named(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_settings(settings(tmp_path, text))
    assert fault in str(error.value)


def test_a_difference_is_a_mean_of_pairs_with_its_95_percent_range() -> None:
    found = difference([0.5, 0.7, 0.6], [0.4, 0.7, 0.7])
    assert found is not None
    # differences 0.1, 0, -0.1: their standard error is 0.1 / sqrt(3), and t is 4.303 for two degrees of freedom
    assert found.mean == pytest.approx(0, abs=1e-9)
    assert [found.low, found.high] == pytest.approx([-0.2484, 0.2484], abs=1e-3)
    assert difference([1.0], [0.5]).low is None
    assert difference([], []) is None


def test_equal_clips_have_no_distance_and_others_less_the_more_they_differ() -> None:
    clip = encode(FRAMES)
    equal = compare_videos(clip, clip)
    assert (equal.psnr_db, equal.ssim) == (MAX_PSNR_DB, pytest.approx(1))
    near, far = (compare_videos(encode(FRAMES + np.uint8(shift)), clip) for shift in (4, 30))
    assert MAX_PSNR_DB > near.psnr_db > far.psnr_db
    assert near.psnr_db == pytest.approx(20 * np.log10(255 / 4), abs=2)
    assert near.ssim > far.ssim
    assert compare_videos(encode(FRAMES[:5]), clip) is None


def test_a_network_of_two_pictures_measures_how_different_they_look(tmp_path: Path) -> None:
    pictures = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, "h", "w"]) for name in "ab"]
    number = helper.make_tensor_value_info("d", TensorProto.FLOAT, [1])
    nodes = [
        helper.make_node("Sub", ["a", "b"], ["c"]),
        helper.make_node("Abs", ["c"], ["e"]),
        helper.make_node("ReduceMean", ["e"], ["f"], keepdims=0),
        helper.make_node("Reshape", ["f", "one"], ["d"]),
    ]
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "mean", pictures, [number], [one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, tmp_path / "mean.onnx")
    lpips = Lpips.load(tmp_path / "mean.onnx")
    clip = encode(FRAMES)
    assert compare_videos(clip, clip, lpips).lpips == 0
    assert compare_videos(encode(FRAMES + np.uint8(30)), clip, lpips).lpips == pytest.approx(30 / 127.5, abs=0.05)
    (tmp_path / "no.onnx").write_bytes(b"x")
    with pytest.raises(WeightsMismatch, match=r"--lpips .*no.onnx: must be an ONNX network of two pictures"):
        Lpips.load(tmp_path / "no.onnx")
