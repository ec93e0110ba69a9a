"""`bench quality`: the settings that it reads, and how it measures differences."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lynx_batch.comparison.compare import compare
from lynx_batch.comparison.paired import difference
from lynx_batch.comparison.pictures import MAX_PSNR_DB, Lpips, compare_videos
from lynx_batch.comparison.settings import Setting, read_settings
from lynx_batch.comparison.speed import speed, timed_rows
from lynx_batch.config import RunConfig, load_run_config
from lynx_batch.errors import ConfigError
from lynx_batch.ledger.commits import CommitRecord
from lynx_batch.ledger.events import EventKind, write_event
from lynx_batch.ledger.tombstones import Tombstone, put_tombstone
from lynx_batch.planning.revocation import keys_of
from lynx_model.errors import WeightsMismatch
from tests.builders import NOW, event, record, row, write_manifest, write_run
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


CACHE = "engine.step_cache"


@pytest.mark.parametrize(
    ("reference", "change", "key", "value"),
    [
        ("{preset: fast}", "{preset: exact}", CACHE, None),
        ("{preset: fast}", "{engine.step_cache: null}", CACHE, None),
        ("{preset: fast}", "{engine.step_cache: {threshold: 0.5}}", f"{CACHE}.threshold", 0.5),
        ("{preset: fast}", "{engine.step_cache.max_skip: 1}", f"{CACHE}.threshold", 0.12),
        ("{preset: fast}", "{preset: null}", CACHE, None),
        (
            "{engine.fp8_attention.blocks: [0.1, 0.9]}",
            "{engine.fp8_attention: true}",
            "engine.fp8_attention.blocks",
            (0, 1),
        ),
        ("{engine.fp8_attention: true}", "{engine.fp8_attention: false}", "engine.fp8_attention", None),
        ("{engine.precision: float32}", "{preset: fast}", "engine.precision", "fp8"),
        ("{}", "{preset: fast}", f"{CACHE}.calibration", "/the/runs.json"),
        ("{}", "{preset: fast, engine.step_cache.calibration: /other.json}", f"{CACHE}.calibration", "/other.json"),
    ],
)
def test_what_a_setting_says_replaces_what_the_reference_says(
    tmp_path: Path, reference: str, change: str, key: str, value: object
) -> None:
    changed = read_settings(settings(tmp_path, f"reference: {reference}\nsettings: {{a: {change}}}")).settings[-1]
    assert value_of(load(tmp_path, changed), key) == value


@pytest.mark.parametrize(
    ("override", "key", "of_reference", "of_fast"),
    [
        ({"engine.attention": "sdpa"}, "engine.attention", "sdpa", "auto"),
        ({"engine.compile": True}, "engine.compile", True, True),
        ({f"{CACHE}.max_skip": 3}, f"{CACHE}.max_skip", 3, 4),
        ({"defaults.width": 480}, "defaults.width", 480, 480),
        ({"preset": "draft"}, "defaults.num_inference_steps", 30, 50),
    ],
)
def test_an_override_changes_the_run_file_of_every_setting_and_a_setting_overrules_it(
    tmp_path: Path, override: dict[str, object], key: str, of_reference: object, of_fast: object
) -> None:
    comparison = read_settings(settings(tmp_path, "settings: {fast: {preset: fast}}"), override)
    found = [value_of(load(tmp_path, each), key) for each in (comparison.reference, comparison.settings[-1])]
    assert found == [of_reference, of_fast]


def load(folder: Path, setting: Setting) -> RunConfig:
    """A run file whose step cache has a calibration of its own, with the changes of `setting`."""
    (folder / "run.yaml").write_text(
        "manifest: m\noutput: o\nmodel: {base: b, adapters: a}\nengine: {step_cache: {calibration: /the/runs.json}}\n"
    )
    return load_run_config(folder / "run.yaml", dict(setting.changes))


def value_of(config: object, key: str) -> object:
    for name in key.split("."):
        config = getattr(config, name)
    return config


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
        ("settings: {Claims: {}}", "'Claims': a name must not be that of a file of the comparison"),
        ("settings: {manifest.parquet: {}}", "'manifest.parquet': a name must not be"),
        ("settings: {a: {preset: fsat}}", "settings: a: preset='fsat': must be one of"),
    ],
)
def test_faulty_settings_are_named(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_settings(settings(tmp_path, text))
    assert fault in str(error.value)


def test_people_who_were_revoked_where_the_run_renders_are_rendered_for_no_comparison(
    tmp_path: Path, face_pack: Path
) -> None:
    run_file = job(tmp_path, face_pack, [row(), row(subject_id="ada")])
    (key,) = keys_of("ada", None)
    tombstone = Tombstone(kind=key.kind, digest=key.digest, revoked_at=NOW, revoked_by="me")
    put_tombstone(str(tmp_path / "out"), tombstone)
    with pytest.raises(ConfigError, match=r"manifest row 1: .*revoked"):
        compare(run_file, read_settings(settings(tmp_path, "settings: {a: {}}")), str(tmp_path / "compared"))


def test_a_setting_of_a_default_that_no_row_takes_is_refused(tmp_path: Path, face_pack: Path) -> None:
    run_file = job(tmp_path, face_pack, [row(num_inference_steps=2), row(num_inference_steps=3)])
    comparison = read_settings(
        settings(tmp_path, "settings: {fast: {preset: exact}, more: {defaults.num_inference_steps: 4}}")
    )
    with pytest.raises(ConfigError) as error:
        compare(run_file, comparison, str(tmp_path / "compared"))
    assert "setting 'more': defaults.num_inference_steps=4: must not be changed, because every row" in str(error.value)


def test_what_a_setting_saves_is_the_median_over_its_clips_that_did_not_wait_for_the_compiler(tmp_path: Path) -> None:
    """The first clip is slow in each of two groups. The setting lacks the long clip of row 4."""
    seconds = {"reference": [50.0, 10.0, 10.0, 50.0, 90.0, 10.0], "fast": [400.0, 5.0, 5.0, 300.0, None, 5.0]}
    reference, fast = (commits_of(tmp_path / name, of) for name, of in seconds.items())
    timed = sorted(timed_rows(str(tmp_path / "reference"), reference) & timed_rows(str(tmp_path / "fast"), fast))
    assert timed == [1, 2, 5]
    assert speed([fast[row] for row in timed], [reference[row] for row in timed]) == (5.0, 2.0)


def commits_of(folder: Path, seconds: list[float | None]) -> dict[int, CommitRecord]:
    """Clips of groups of three that took so long to render; None is a clip that is not there."""
    commits = {}
    for number, took_s in enumerate(seconds):
        if took_s is not None:
            attempt = f"run-{number}"
            commits[number] = record(f"ab{number}", attempt).model_copy(
                update={"committed_at": NOW + timedelta(minutes=number), "stage_s": {"denoise_s": took_s}}
            )
            ended = event(EventKind.RENDERED, minutes=number, clip_id=f"ab{number}")
            write_event(str(folder), ended.model_copy(update={"attempt": attempt, "group": f"g{number // 3}"}))
    return commits


def job(folder: Path, face_pack: Path, rows: list[dict[str, object]]) -> Path:
    write_manifest(folder / "manifest.parquet", rows)
    return write_run(folder, face_pack, engine={"precision": "float32"})


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
