"""Presets of run files: what they say, what overrules what, and which ones a run cannot use."""

import tomllib
from pathlib import Path

import pytest
import yaml

from lynx_batch.comparison.settings import read_settings
from lynx_batch.config import RunConfig, load_run_config, parse_run_config
from lynx_batch.config.preset import (
    FOLDER,
    NEEDS_LORA,
    PRESETS,
    PresetName,
    merge,
    preset_content,
    stated_loss,
)
from lynx_batch.errors import ConfigError
from lynx_batch.planning.cost import H100, H200, GpuType
from lynx_batch.preparation.single import published_config
from lynx_model.spec import EngineOptions
from tests.jobs import invoke
from tests.models import ROOT
from tests.presets import predicted_s

CAMPAIGN = ROOT / "jobs" / "campaign.yaml"
LORAS = {"model.loras": ["/models/loras/steps.safetensors"]}
MINIMAL = "manifest: m.parquet\noutput: out\nmodel: {base: base, adapters: full, loras: [lora.safetensors]}\n"


def write(folder: Path, text: str) -> Path:
    file = folder / "run.yaml"
    file.write_text(MINIMAL + text, encoding="utf-8")
    return file


def test_the_package_has_a_file_and_a_stated_loss_for_each_preset() -> None:
    assert {file.name for file in FOLDER.iterdir()} == {*(f"{name}.yaml" for name in PRESETS), "losses.yaml"}
    assert [*yaml.safe_load((FOLDER / "losses.yaml").read_text(encoding="utf-8"))] == [*PRESETS]
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel == {"packages": ["lynx_batch", "lynx_model"]}, "with all files in them"


@pytest.mark.parametrize("name", PRESETS)
def test_the_comment_of_a_preset_states_its_loss(name: str) -> None:
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.removeprefix("# ") for line in lines if line.startswith("# "))
    assert comment.endswith(f" Loss: {stated_loss(name).text}.")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_goes_with_the_campaign(name: str) -> None:
    config = load_run_config(CAMPAIGN, {"preset": name, **LORAS})
    said, known = preset_content(name), config.model_dump()
    assert config.preset == name
    assert said
    assert merge(known, said) == known
    assert config.model.base == load_run_config(CAMPAIGN, {}).model.base


def test_a_preset_overrules_the_run_file_and_set_overrules_the_preset(tmp_path: Path) -> None:
    file = write(tmp_path, "defaults: {num_inference_steps: 40, width: 480}\nengine: {precision: float32}\n")
    plain, draft = (load_run_config(file, {"preset": name}) for name in (None, "draft"))
    assert (plain.preset, plain.defaults.num_inference_steps) == (None, 40)
    assert (draft.defaults.num_inference_steps, draft.defaults.width) == (30, 480)
    changed = load_run_config(file, {"defaults.num_inference_steps": 12, "preset": "draft"})
    assert (changed.defaults.num_inference_steps, changed.engine.precision) == (12, draft.engine.precision)


def test_a_preset_leaves_the_calibration_of_a_step_cache_and_exact_takes_the_cache_away(tmp_path: Path) -> None:
    file = write(tmp_path, "engine: {step_cache: {threshold: 0.5, calibration: /c.json}}\n")
    fast, exact = (load_run_config(file, {"preset": name}).engine.step_cache for name in ("fast", "exact"))
    assert fast is not None
    assert (fast.threshold, fast.calibration) == (0.12, "/c.json")
    assert exact is None


def test_exact_turns_off_all_that_is_lossy_in_a_run_file(tmp_path: Path) -> None:
    lossy = "engine: {precision: fp8, num_bf16_edge_blocks: 1, attention: fa3_fp8, step_cache: {threshold: 1}}\n"
    fewer = "defaults: {guidance_until: 0.5, image_guidance_every: 2, num_inference_steps: 8}\n"
    file = write(tmp_path, lossy + fewer)
    exact = load_run_config(file, {"preset": "exact"})
    assert exact.engine.options.numerics == EngineOptions().numerics
    assert (exact.defaults.guidance_until, exact.defaults.image_guidance_every) == (1, 1)
    assert exact.defaults.num_inference_steps == 8, "the steps are the file's"
    in_fp8 = write(tmp_path, "engine: {fp8_attention: {blocks: [0.1, 0.9]}}\n")
    assert load_run_config(in_fp8, {"preset": "exact"}).engine.options.numerics == EngineOptions().numerics
    assert load_run_config(file, {"preset": "fast"}).engine.options.attention == "auto"


def test_the_keys_of_a_run_file_overrule_the_preset_that_it_names(tmp_path: Path) -> None:
    file = write(tmp_path, "preset: draft\ndefaults: {num_inference_steps: 40}\nengine: {step_cache: null}\n")
    named = load_run_config(file, {})
    assert (named.defaults.num_inference_steps, named.defaults.guidance_until) == (40, 0.5)
    assert named.engine.step_cache is None
    other = load_run_config(file, {"preset": "distilled-8"})
    assert (other.preset, other.defaults.num_inference_steps, other.defaults.guidance_until) == ("distilled-8", 8, 1)
    none = load_run_config(file, {"preset": None})
    assert (none.preset, none.defaults.num_inference_steps, none.defaults.guidance_until) == (None, 40, 1)


@pytest.mark.parametrize("overrides", [{}, {"engine.step_cache.max_skip": 7, "defaults.guidance_until": 1}])
def test_the_record_of_a_run_has_the_content_and_means_the_same_again(overrides: dict[str, object]) -> None:
    config = load_run_config(CAMPAIGN, {"preset": "fast", **overrides})
    kept = yaml.safe_load(config.to_yaml())
    assert (kept["preset"], kept["engine"]["precision"]) == ("fast", config.engine.precision)
    assert parse_run_config(kept, source="record") == config


def test_the_record_of_a_run_is_a_run_file(tmp_path: Path) -> None:
    config = load_run_config(CAMPAIGN, {"preset": "draft", "engine.step_cache": None})
    (tmp_path / "kept.yaml").write_bytes(config.to_yaml())
    assert load_run_config(tmp_path / "kept.yaml", {}) == config


@pytest.mark.parametrize("name", ["fsat", 3, True, ["fast"]])
def test_an_unknown_preset_is_told_with_the_known_ones(tmp_path: Path, name: object) -> None:
    told = f"preset={name!r}: must be one of exact, fast, draft, distilled-8, distilled-4; the nearest is"
    for overrides, text in (({"preset": name}, ""), ({}, yaml.safe_dump({"preset": name}))):
        with pytest.raises(ConfigError) as caught:
            load_run_config(write(tmp_path, text), overrides)
        assert str(caught.value).startswith(f"run file {tmp_path / 'run.yaml'}: {told}")


@pytest.mark.parametrize("command", ["render", "plan", "submit", "sample", "doctor", "models calibrate"])
def test_each_command_refuses_an_unknown_preset(tmp_path: Path, command: str) -> None:
    result = invoke(*command.split(), write(tmp_path, ""), "--preset", "fsat")
    assert result.exit_code == 2
    assert "the nearest is fast" in " ".join(result.output.split())


def test_a_single_clip_and_a_check_take_presets_too(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    for words in (["one", tmp_path / "a.jpg", "Hi."], ["manifest", "check", "m.parquet", "--run", write(tmp_path, "")]):
        result = invoke(*words, "--preset", "drat")
        assert (result.exit_code, "the nearest is draft" in " ".join(result.output.split())) == (2, True)
    assert published_config({"preset": "draft"}).defaults.num_inference_steps == 30


@pytest.mark.parametrize("command", ["doctor", "manifest check m.parquet"])
def test_a_preset_without_a_run_file_to_change_is_refused(command: str) -> None:
    result = invoke(*command.split(), "--preset", "fast")
    assert result.exit_code == 2
    assert "--preset" in result.output


@pytest.mark.parametrize("name", NEEDS_LORA)
def test_a_distilled_preset_without_a_lora_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"preset={name}: needs a step-distilled LoRA in model.loras"):
        load_run_config(CAMPAIGN, {"preset": name})
    assert load_run_config(CAMPAIGN, {"preset": name, **LORAS}).preset == name


def test_the_distilled_run_file_takes_its_settings_from_the_preset() -> None:
    file = ROOT / "jobs" / "distilled.yaml"
    config = load_run_config(file, {})
    own = {key for section, keys in yaml.safe_load(file.read_text()).items() if section == "defaults" for key in keys}
    assert config.preset == "distilled-4"
    assert own.isdisjoint(preset_content("distilled-4")["defaults"])
    assert (config.defaults.num_inference_steps, config.defaults.guidance_scale) == (4, 1)


def test_a_setting_of_a_comparison_may_be_a_preset(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("settings: {fast: {preset: fast, engine.compile: false}}", encoding="utf-8")
    (_, setting) = read_settings(file).settings
    assert {"preset": "fast", "engine.compile": False}.items() <= setting.changes.items()
    config: RunConfig = load_run_config(CAMPAIGN, dict(setting.changes))
    assert config.engine.step_cache == load_run_config(CAMPAIGN, {"preset": "fast"}).engine.step_cache is not None
    assert config.engine.options.compile is False
    file.write_text("settings: {quick: {preset: quick}}", encoding="utf-8")
    with pytest.raises(ConfigError, match="settings: quick: preset='quick': must be one of"):
        read_settings(file)


@pytest.mark.parametrize(
    ("name", "times"), [("fast", 2.5), ("draft", 5.0), ("distilled-8", 8.0), ("distilled-4", 30.0)]
)
@pytest.mark.parametrize("gpu", [H100, H200], ids=lambda gpu: gpu.name)
def test_a_preset_is_predicted_to_be_as_fast_as_it_says(name: PresetName, times: float, gpu: GpuType) -> None:
    """At the true size, with the steps that the calibration of the demo's model skips."""
    assert predicted_s("exact", gpu) > times * predicted_s(name, gpu)
