from dataclasses import fields
from math import nan
from pathlib import Path

import pytest

from lynx_batch.cli.options import parse_overrides
from lynx_batch.config import DefaultsConfig, EngineConfig, RunConfig, load_run_config, parse_override, parse_run_config
from lynx_batch.errors import ConfigError
from lynx_batch.preparation.model import locate_model
from lynx_model.fp8_attention import EVERYWHERE, Fp8Attention
from lynx_model.spec import EngineOptions, LoraSource, ModelSource, RenderParams
from tests.models import ROOT

MINIMAL = "manifest: m.parquet\noutput: out\nmodel: {base: base, adapters: full}\n"


def write(folder: Path, text: str) -> Path:
    file = folder / "run.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    "file",
    sorted([*(ROOT / "jobs").glob("*.yaml"), *(ROOT / "jobs" / "demo").glob("*.yaml")]),
    ids=lambda file: file.name,
)
def test_every_run_file_of_the_project_loads(file: Path) -> None:
    assert load_run_config(file, {}).manifest


def test_relative_paths_start_from_the_run_file(tmp_path: Path) -> None:
    config = load_run_config(write(tmp_path, MINIMAL + "faces: {pack: ./packs/mine}"), {})
    assert config.manifest == str(tmp_path / "m.parquet")
    assert config.model.adapters == str(tmp_path / "full")
    assert config.faces.pack == str(tmp_path / "packs" / "mine")


def test_uris_and_bare_names_stay_as_they_are(tmp_path: Path) -> None:
    text = MINIMAL.replace("out\n", "s3://bucket/out\n") + "faces: {pack: free, identity: arcface}"
    config = load_run_config(write(tmp_path, text), {})
    assert (config.output, config.faces.pack, config.faces.identity) == ("s3://bucket/out", "free", "arcface")


def test_a_file_uri_is_a_path(tmp_path: Path) -> None:
    text = (
        "manifest: file:///m.parquet\noutput: file:///out\nfaces: {pack: file:///pack, identity: file:///arcface.pth}\n"
    )
    model = "model: {base: file:///base, adapters: {id: file:///full, ref: null}, loras: [{file: file:///lora}]}"
    config = load_run_config(write(tmp_path, text + model), {})
    assert (config.manifest, config.output) == ("/m.parquet", "/out")
    assert (config.faces.pack, config.faces.identity) == ("/pack", "/arcface.pth")
    loras = (LoraSource(file="/lora"),)
    assert locate_model(config.model) == ModelSource(base="/base", id_adapter="/full", ref_adapter=None, loras=loras)


def test_paths_of_the_command_line_start_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = load_run_config(write(tmp_path, MINIMAL), {"output": "mine"})
    assert config.output == str(tmp_path / "elsewhere" / "mine")


def test_an_override_replaces_one_key(tmp_path: Path) -> None:
    overrides = dict(
        parse_override(text) for text in ("engine.precision=float32", "defaults.guidance_scale_image=null")
    )
    config = load_run_config(write(tmp_path, MINIMAL + "defaults: {width: 480}"), overrides)
    assert config.engine.options.precision == "float32"
    assert config.defaults.guidance_scale_image is None
    assert config.defaults.width == 480


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("engine.precison=fp8", "engine.precison: unknown; the nearest known key is engine.precision"),
        ("precision=fp8", "precision: unknown; the nearest known key is engine.precision"),
        ("engin.precision=fp8", "engin: unknown; the nearest known key is engine"),
        (
            "model.adapters={id: a, reff: b}",
            "model.adapters.reff: unknown; the nearest known key is model.adapters.ref",
        ),
        (
            "model.loras=[{file: a, sclae: 1}]",
            "model.loras.0.sclae: unknown; the nearest known key is model.loras.scale",
        ),
    ],
)
def test_a_misspelt_key_is_told_with_the_nearest_one(tmp_path: Path, override: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_run_config(write(tmp_path, MINIMAL), dict([parse_override(override)]))
    assert str(caught.value).splitlines()[1:] == [f"  {told}"]


def test_all_that_is_lossy_in_an_engine_tells_its_clips_apart() -> None:
    engines = [
        EngineOptions(precision=precision, attention=attention, num_bf16_edge_blocks=number)
        for precision, number in (("bfloat16", 0), ("fp8", 0), ("fp8", 1), ("fp8", 5))
        for attention in ("auto", "fa3_fp8")
    ] + [EngineOptions(precision="float32")]
    ranges = [EVERYWHERE, (0.1, 0.9)]
    engines += [
        EngineOptions(fp8_attention=Fp8Attention(blocks=blocks, steps=steps)) for blocks in ranges for steps in ranges
    ]
    exact = [EngineOptions(compile=True), EngineOptions(attention="fa3"), EngineOptions(offload="blocks")]
    assert len({engine.numerics for engine in engines}) == len(engines)
    assert {engine.numerics for engine in exact} == {"bfloat16"}


def test_a_run_file_takes_every_engine_option_with_its_default() -> None:
    assert set(EngineConfig.model_fields) == {field.name for field in fields(EngineOptions)}
    assert EngineConfig().options == EngineOptions()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("true", Fp8Attention()),
        ("false", None),
        ("null", None),
        ("{}", Fp8Attention()),
        ("{blocks: [0.1, 0.9], steps: [0.2, 1]}", Fp8Attention(blocks=(0.1, 0.9), steps=(0.2, 1.0))),
        ("{steps: [0.5, 0.5]}", None),
    ],
)
def test_fp8_attention_is_everywhere_nowhere_or_in_some_blocks_and_steps(
    tmp_path: Path, value: str, expected: Fp8Attention | None
) -> None:
    config = load_run_config(write(tmp_path, MINIMAL), dict([parse_override(f"engine.fp8_attention={value}")]))
    assert config.engine.options.fp8_attention == expected
    (tmp_path / "recorded.yaml").write_bytes(config.to_yaml())
    assert load_run_config(tmp_path / "recorded.yaml", {}).engine == config.engine


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("fp8_attention=3", "engine.fp8_attention: must be true, false, or a mapping of blocks and steps"),
        ("fp8_attention=yes", r"engine.fp8_attention: must be true, false, .* \(got 'yes'\)"),
        ("fp8_attention={steps: [0.1]}", r"engine.fp8_attention.steps: must have at least 2 items \(got \[0.1\]\)"),
        ("fp8_attention={steps: [0, 0.1, 1]}", r"engine.fp8_attention.steps: must have at most 2 items"),
        ("fp8_attention={blocks: [0.9, 0.1]}", r"engine: fp8_attention.blocks=\(0.9, 0.1\): must be two fractions"),
        ("fp8_attention={blocks: [.nan, 1]}", r"engine: fp8_attention.blocks=\(nan, 1.0\): must be two fractions"),
        ("fp8_attention={block: [0, 1]}", "engine.fp8_attention.block: unknown; the nearest known key is"),
        ("num_bf16_edge_blocks=true", "engine.num_bf16_edge_blocks: must not be true or false"),
        ("num_bf16_edge_blocks=-1", "engine: num_bf16_edge_blocks=-1: must be at least 0"),
        ("offload=layers", "engine.offload: must be 'none' or 'blocks'"),
    ],
)
def test_an_engine_option_that_breaks_its_rule_is_named(tmp_path: Path, key: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        load_run_config(write(tmp_path, MINIMAL), dict([parse_override(f"engine.{key}")]))


def test_edge_blocks_are_refused_without_fp8(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_bf16_edge_blocks=5: needs precision fp8"):
        load_run_config(write(tmp_path, MINIMAL + "engine: {num_bf16_edge_blocks: 5}"), {})


@pytest.mark.parametrize("attention", ["fa3", "fa3_fp8", "fa2", "cudnn"])
def test_a_kernel_that_needs_bfloat16_is_refused_beside_float32(tmp_path: Path, attention: str) -> None:
    text = MINIMAL + f"engine: {{attention: {attention}, precision: "
    with pytest.raises(ConfigError, match=f"attention='{attention}': needs bfloat16, but the model is float32"):
        load_run_config(write(tmp_path, text + "float32}"), {})
    assert load_run_config(write(tmp_path, text + "fp8}"), {}).engine.options.attention == attention


def test_loras_are_files_with_or_without_a_scale(tmp_path: Path) -> None:
    text = MINIMAL.replace(
        "adapters: full", "adapters: full, loras: [a.safetensors, {file: b.safetensors, scale: 0.8}]"
    )
    assert locate_model(load_run_config(write(tmp_path, text), {}).model).loras == (
        LoraSource(file=str(tmp_path / "a.safetensors"), scale=1.0),
        LoraSource(file=str(tmp_path / "b.safetensors"), scale=0.8),
    )


def test_loras_of_the_command_line_start_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_run_config(write(tmp_path, MINIMAL), dict([parse_override("model.loras=[{file: a, scale: 2}]")]))
    assert locate_model(config.model).loras == (LoraSource(file=str(tmp_path / "a"), scale=2.0),)


@pytest.mark.parametrize("lora", ["{file: a, scale: 11}", "{scale: 1}", "{file: a, weight: 1}", "3"])
def test_a_lora_that_breaks_a_rule_is_named(tmp_path: Path, lora: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.loras\.0"):
        load_run_config(write(tmp_path, MINIMAL.replace("full}", f"full, loras: [{lora}]}}")), {})


def test_a_default_range_of_steps_must_not_end_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"defaults: ip_end=0.2: must not be before ip_start=0.5"):
        load_run_config(write(tmp_path, MINIMAL + "defaults: {ip_start: 0.5, ip_end: 0.2}"), {})


@pytest.mark.parametrize("text", ["engine.precision", "=float32", "a.b=[1"])
def test_a_malformed_override_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_override(text)


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    text = (
        MINIMAL + "engine: {precison: float32}\nvideo: {crf: 99}\ndefaults: {width: 833, ip_scale: .nan, fps: many}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_run_config(write(tmp_path, text), {})
    lines = str(caught.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == [
        "engine.precison",
        "defaults.width",
        "defaults.fps",
        "defaults.ip_scale",
        "video.crf",
    ]
    assert lines[1].strip() == "defaults.width: must be a positive multiple of 16 px; the nearest is 832 (got 833)"


@pytest.mark.parametrize("seed", ["0100", "100", "1e2", "0x64"])
def test_numbers_mean_what_they_look_like_in_run_files_and_overrides(tmp_path: Path, seed: str) -> None:
    assert load_run_config(write(tmp_path, MINIMAL + f"defaults: {{seed: {seed}}}"), {}).defaults.seed == 100
    overrides = dict([parse_override(f"defaults.seed={seed}")])
    assert load_run_config(write(tmp_path, MINIMAL), overrides).defaults.seed == 100


@pytest.mark.parametrize("seed", ["1:30", "yes", "true", "2027-01-31", "0b1", "1.5"])
def test_what_does_not_look_like_a_number_is_none(tmp_path: Path, seed: str) -> None:
    with pytest.raises(ConfigError, match=r"defaults\.seed: .*\(got "):
        load_run_config(write(tmp_path, MINIMAL + f"defaults: {{seed: {seed}}}"), {})


def test_yes_and_no_are_text_and_mean_true_and_false_where_that_is_asked_for(tmp_path: Path) -> None:
    text = MINIMAL + "engine: {compile: yes}\ndefaults: {negative_prompt: no, truncate_prompts: off}"
    config = load_run_config(write(tmp_path, text), {})
    assert (config.engine.options.compile, config.defaults.truncate_prompts, config.defaults.negative_prompt) == (
        True,
        False,
        "no",
    )


def test_a_key_that_comes_twice_is_an_error_in_run_files_and_overrides(tmp_path: Path) -> None:
    text = MINIMAL + "defaults: {width: 480}\nvideo: {crf: 20}\ndefaults: {height: 480}\n"
    with pytest.raises(ConfigError, match=r"(?s)run\.yaml: key 'defaults': must not appear twice.*line 6"):
        load_run_config(write(tmp_path, text), {})
    with pytest.raises(ConfigError, match=r"(?s)--set 'defaults=.*key 'seed': must not appear twice"):
        parse_override("defaults={seed: 1, seed: 2}")
    assert parse_overrides(["defaults.seed=1", "defaults.seed=2"]) == {"defaults.seed": 2}, "as options do"


@pytest.mark.parametrize("text", ["1e3", "0100", "no", "1:30", "~", "2027-01-31"])
def test_text_that_looks_like_something_else_is_kept_by_a_runs_record(tmp_path: Path, text: str) -> None:
    config = load_run_config(write(tmp_path, MINIMAL + f"defaults: {{negative_prompt: '{text}'}}"), {})
    (tmp_path / "again.yaml").write_bytes(config.to_yaml())
    assert load_run_config(tmp_path / "again.yaml", {}).defaults.negative_prompt == text


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to("/elsewhere")
    config = load_run_config(write(tmp_path, MINIMAL.replace("base: base", "base: ./models/../models/base")), {})
    assert config.model.base == str(tmp_path / "models" / "base")


def test_a_shared_path_is_relative_to_the_run_file(tmp_path: Path) -> None:
    config = load_run_config(write(tmp_path, MINIMAL + "cluster: {shared_paths: [/models, models]}"), {})
    assert config.cluster.shared_paths == ("/models", str(tmp_path / "models"))


@pytest.mark.parametrize("text", ["", "- a\n", "just words", "a: [1", "a: \x07"])
def test_what_is_no_run_file_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        load_run_config(write(tmp_path, text), {})


def test_a_run_file_that_is_missing_or_not_utf8_is_an_error_that_names_it(tmp_path: Path) -> None:
    for content in (None, "manifest: 中文".encode("gbk")):
        if content:
            (tmp_path / "run.yaml").write_bytes(content)
        with pytest.raises(ConfigError, match=r"run\.yaml"):
            load_run_config(tmp_path / "run.yaml", {})


def test_defaults_are_those_of_the_model_except_for_the_seed() -> None:
    defaults = DefaultsConfig()
    params = RenderParams(prompt="any")
    names = {field.name for field in fields(RenderParams)} - {"prompt"}
    assert set(DefaultsConfig.model_fields) == names | {"truncate_prompts"}
    assert {n: getattr(defaults, n) for n in names - {"seed"}} == {n: getattr(params, n) for n in names - {"seed"}}
    assert defaults.seed is None


def test_a_run_file_written_again_means_the_same(tmp_path: Path) -> None:
    config = load_run_config(write(tmp_path, MINIMAL + "defaults: {negative_prompt: 模糊, seed: 7}"), {})
    (tmp_path / "again.yaml").write_bytes(config.to_yaml())
    assert load_run_config(tmp_path / "again.yaml", {}) == config


def test_a_config_from_values_names_its_source() -> None:
    with pytest.raises(ConfigError, match=r"^here:\n  manifest: required"):
        parse_run_config({"output": "o", "model": {"base": "b", "adapters": "a"}}, source="here")
    assert RunConfig.model_config["frozen"]


@pytest.mark.parametrize(
    "place", ["file://host/x", "memory://x", "simplecache::s3://b/x", "zip://a::s3://b/x", "local:///x", "ftp://h/x"]
)
@pytest.mark.parametrize(
    "key", ["output", "manifest", "model.base", "model.adapters", "model.adapters.id", "faces.pack", "faces.identity"]
)
def test_what_not_every_process_of_a_run_sees_alike_is_refused(tmp_path: Path, key: str, place: str) -> None:
    file = write(tmp_path, MINIMAL)
    with pytest.raises(ConfigError, match=rf"{key}: must be (a path or a URI|file:///)"):
        load_run_config(file, {key: place})


def test_files_of_scorers_are_relative_to_the_run_file_and_never_in_a_store(tmp_path: Path) -> None:
    file = write(tmp_path, MINIMAL + "quality: {safety: {falconsai: vit}, prompt: {model: /models/clip}}\n")
    quality = load_run_config(file, {}).quality
    assert quality is not None
    assert quality.scorer_files == {
        "quality.safety.falconsai": str(tmp_path / "vit"),
        "quality.prompt.model": "/models/clip",
    }
    told = r"quality\.prompt\.model: must be a path: .* not fetched from a store; .* \(got s3://\.\.\.\)"
    with pytest.raises(ConfigError, match=told):
        load_run_config(file, {"quality.prompt.model": "s3://bucket/clip"})


def test_an_output_is_no_web_page_but_weights_may_be(tmp_path: Path) -> None:
    file = write(tmp_path, MINIMAL)
    assert load_run_config(file, {"model.base": "https://h/base"}).model.base == "https://h/base"
    with pytest.raises(ConfigError, match="output: must be"):
        load_run_config(file, {"output": "https://h/out?signature=x"})


def test_places_of_photos_are_relative_to_the_run_file(tmp_path: Path) -> None:
    text = "manifest: m\noutput: o\nmodel: {base: b, adapters: a}\ninputs: {allow: [photos/, 's3://bucket/faces/']}\n"
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    config = load_run_config(tmp_path / "run.yaml", {})
    assert config.inputs.allow == (str(tmp_path / "photos"), "s3://bucket/faces/")
    with pytest.raises(ConfigError, match=r"inputs\.allow"):
        load_run_config(tmp_path / "run.yaml", {"inputs.allow": ["memory://"]})


def test_a_home_that_nobody_has_is_a_folder_of_that_name(tmp_path: Path) -> None:
    config = load_run_config(write(tmp_path, MINIMAL), {"manifest": "~nobody-of-that-name/m.parquet"})
    assert config.manifest == str(Path.cwd() / "~nobody-of-that-name/m.parquet")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"video": "fast"}, "video: must be a mapping of the keys crf, tags, preview (got 'fast')"),
        ({"model": {"base": "b", "adapters": 7}}, "model.adapters: must be text or a mapping of keys (got 7)"),
        ({"model": {"base": "b", "adapters": {"id": 1}}}, "model.adapters.id: must be text (got 1)"),
        ({"model": {"base": "b", "adapters": "a", "loras": "x"}}, "model.loras: must be a list (got 'x')"),
        ({"model": {"base": "b", "adapters": "a", "loras": [{"scale": 1}]}}, "model.loras.0.file: required"),
        ({"inputs": {"allow": []}}, "inputs.allow: must not be empty (got [])"),
        ({"inputs": {"read_timeout_s": 0}}, "inputs.read_timeout_s: must be above 0.0 (got 0)"),
        ({"video": {"crf": 1.5}}, "video.crf: must be a whole number (got 1.5)"),
        ({"retry": {"deadline_factor": "{x}"}}, "retry.deadline_factor: must be a number (got '{x}')"),
        (
            {"quality": {"safety": True}},
            "quality.safety: must be a mapping of the keys max_score, opennsfw2, falconsai, max_falconsai (got True)",
        ),
        (
            {"cluster": {"node_types": [3]}},
            "cluster.node_types.0: must be a mapping of the keys gpu, gpus, max, usd_per_hour, spot (got 3)",
        ),
        ({"retry": {"max_attempts": True}}, "retry.max_attempts: must not be true or false (got True)"),
        ({"quality": {"likeness": {"min_mean": nan}}}, "quality.likeness.min_mean: must be a finite number (got nan)"),
        (
            {"quality": {"likeness": {"min_mean": "nan"}}},
            "quality.likeness.min_mean: must be a finite number (got 'nan')",
        ),
        (
            {"quality": {"technical": False}},
            "quality: needs at least one of likeness, technical, safety and prompt",
        ),
        (
            {"provenance": {"use": {"scope": " "}}},
            "provenance.use.scope: must be one name, without commas, such as ad or EU (got ' ')",
        ),
        (
            {"provenance": {"use": {"regions": ["EU,US"]}}},
            "provenance.use.regions: must be one name, without commas, such as ad or EU (got ['EU,US'])",
        ),
        ({"engine": {"compile": "maybe"}}, "engine.compile: must be true or false (got 'maybe')"),
        ({"cluster": {"gpus_per_group": 5}}, "cluster.gpus_per_group: must be 'auto', 1, 2, 3, 4, 6 or 8 (got 5)"),
        (
            {"engine": {"precision": "float32", "attention": "fa3"}},
            "engine: attention='fa3': needs bfloat16, but the model is float32",
        ),
    ],
)
def test_a_value_of_a_wrong_kind_is_named_with_its_rule(changes: dict[str, object], line: str) -> None:
    content = {"manifest": "m", "output": "o", "model": {"base": "b", "adapters": "a"}} | changes
    with pytest.raises(ConfigError) as caught:
        parse_run_config(content, source="here")
    assert str(caught.value).splitlines()[1:] == [f"  {line}"]
