"""The calibration of a step cache: from `models calibrate` to the names of clips, and to each place where a run takes it."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from lynx_batch.config import CalibrationConfig, RunConfig, load_run_config, parse_run_config
from lynx_batch.errors import ConfigError
from lynx_batch.preparation.model import check_model
from lynx_batch.preparation.package import pack
from lynx_batch.preparation.prepare import prepare
from lynx_batch.preparation.selection import Selection
from lynx_batch.preparation.step_cache import calibration_file, fingerprint_model
from lynx_model.step_cache import Magnitudes, noise_levels
from tests.builders import COLLINS, HOPPER, row, several_photos, tiny_run
from tests.jobs import Job, invoke, worker_settings
from tests.models import MODEL

CACHE = {"threshold": 0.5, "max_skip": 2}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, face_pack: Path) -> Job:
    rows = [row(COLLINS), row(HOPPER), row(HOPPER, "Hi.", num_inference_steps=3)]
    settings = {"engine": {"precision": "float32", "step_cache": CACHE}}
    return Job(folder=tmp_path_factory.mktemp("calibrated"), face_pack=face_pack, rows=rows, steps=8, settings=settings)


@pytest.fixture(scope="module")
def models(job: Job) -> Path:
    """A models folder with the calibration that `models calibrate` makes of two rows."""
    root = job.folder / "models"
    result = invoke("models", "calibrate", job.folder / "run.yaml", "--count", "2", "--root", root)
    assert result.exit_code == 0, result.output
    assert "2 clips at 8 noise levels, spread " in result.output.replace("\n", " ")
    return root


@pytest.fixture
def calibrated(models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only file in the models folder."""
    monkeypatch.setenv("LYNX_BATCH_MODELS", str(models))
    (file,) = (models / "calibrations").iterdir()
    return file


def config_of(job: Job, **cache: object) -> RunConfig:
    return load_run_config(job.folder / "run.yaml", {f"engine.step_cache.{key}": value for key, value in cache.items()})


def test_the_file_names_the_model_and_holds_its_magnitudes_at_the_runs_noise_levels(job: Job, calibrated: Path) -> None:
    content = json.loads(calibrated.read_text())
    model = check_model(config_of(job))
    assert content["model"] == calibrated.stem == fingerprint_model(model.identity)
    assert content["num_clips"] == 2
    assert [level for level, _ in content["points"]] == sorted(noise_levels(8, model.traits.flow_shift))
    assert 0 < content["spread"] < 1
    assert Magnitudes(points=tuple(map(tuple, content["points"]))).sha256 == content["sha256"]


def test_a_row_with_several_photos_can_be_calibrated(tmp_path: Path, face_pack: Path) -> None:
    settings = {"engine": {"precision": "float32"}}
    mirrored = tmp_path / "mirrored.png"
    ImageOps.mirror(Image.open(COLLINS)).save(mirrored)
    job = Job(folder=tmp_path, face_pack=face_pack, rows=[several_photos(COLLINS, mirrored)], settings=settings)
    result = invoke("models", "calibrate", job.folder / "run.yaml", "--root", tmp_path)
    assert (result.exit_code, "1 clip at 2 noise levels" in " ".join(result.output.split())) == (0, True), result.output


def test_one_step_cannot_be_calibrated(job: Job, tmp_path: Path) -> None:
    command = ["models", "calibrate", job.folder / "run.yaml", "--set", "defaults.num_inference_steps=1"]
    result = invoke(*command, "--root", tmp_path)
    assert result.exit_code == 2
    assert "defaults.num_inference_steps=1: must be at least 2 to calibrate" in " ".join(result.output.split())


@pytest.mark.slow
def test_calibrating_again_gives_the_same_bytes(job: Job, calibrated: Path, tmp_path: Path) -> None:
    command = ["models", "calibrate", job.folder / "run.yaml", "--count", "2", "--root", tmp_path]
    assert invoke(*command).exit_code == 0
    assert (tmp_path / "calibrations" / calibrated.name).read_bytes() == calibrated.read_bytes()


@pytest.mark.usefixtures("calibrated")
def test_clips_are_named_by_the_settings_and_the_magnitudes(job: Job, tmp_path: Path) -> None:
    def name(**cache: object) -> str:
        return prepare(config_of(job, **cache), Selection(limit=1), datetime.now(UTC)).clips[0].clip_id

    exact = prepare(without_cache(job), Selection(limit=1), datetime.now(UTC)).clips[0].clip_id
    other = other_calibration(check_model(config_of(job)).engine.step_cache.calibration, tmp_path)
    changes = [{}, {"threshold": 0.4}, {"max_skip": 3}, {"keep_first": 0.3}, {"calibration": str(other)}]
    assert len({exact, *(name(**change) for change in changes)}) == 1 + len(changes)
    assert name(threshold=0) == name(max_skip=0) == name(keep_first=1) == exact, "nothing is skipped"


def without_cache(job: Job) -> RunConfig:
    return load_run_config(job.folder / "run.yaml", {"engine.step_cache": None})


def other_calibration(calibration: CalibrationConfig, folder: Path) -> Path:
    """One of the same model with other magnitudes."""
    points = tuple((level, magnitude * (1 + level)) for level, magnitude in calibration.points)
    sha256 = Magnitudes(points=points).sha256
    file = folder / "other.json"
    file.write_text(calibration.model_copy(update={"points": points, "sha256": sha256}).model_dump_json())
    return file


def test_what_a_run_file_names_is_taken_wherever_the_models_folder_is(
    job: Job, calibrated: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = check_model(config_of(job)).engine
    monkeypatch.setenv("LYNX_BATCH_MODELS", str(tmp_path))
    assert check_model(config_of(job, calibration=str(calibrated))).engine == expected
    monkeypatch.chdir(calibrated.parent)
    assert check_model(config_of(job, calibration=calibrated.name)).engine == expected


@pytest.mark.parametrize("command", ["plan", "render", "one", "submit"])
def test_a_model_without_a_calibration_ends_each_command_with_advice(
    job: Job, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LYNX_BATCH_MODELS", str(tmp_path))
    run_file = job.folder / "run.yaml"
    if command == "submit":
        with pytest.raises(ConfigError, match="models calibrate"):
            pack(shared(config_of(job), job), Selection(), tmp_path)
        return
    target = [COLLINS, "Hi.", "--run", run_file, "--out", tmp_path / "a.mp4"] if command == "one" else [run_file]
    result = invoke(command, *target)
    assert result.exit_code == 2
    told = " ".join(result.output.split())
    assert "engine.step_cache: needs a calibration of this model, but there is no" in told
    assert "`lynx-batch models calibrate RUN.yaml` makes one" in told
    assert not Path(job.output).exists()


def shared(config: RunConfig, job: Job, **model: object) -> RunConfig:
    """As on a cluster that has all folders but this machine's."""
    paths = (str(MODEL), str(job.face_pack), str(COLLINS.parent))
    return config.model_copy(
        update={
            "output": "s3://bucket/out",
            "cluster": config.cluster.model_copy(update={"shared_paths": paths}),
            "model": config.model.model_copy(update=model),
        }
    )


def test_a_calibration_of_other_weights_is_refused(job: Job, calibrated: Path) -> None:
    lite = shared(config_of(job, calibration=str(calibrated)), job, adapters=str(MODEL / "lynx_lite"))
    with pytest.raises(
        ConfigError, match=r"calibration: must be of this model, \w{12}, but is of other weights, \w{12};"
    ):
        check_model(lite)
    with pytest.raises(ConfigError, match="needs a calibration of this model"):
        check_model(shared(config_of(job), job, adapters=str(MODEL / "lynx_lite")))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sha256": "0" * 64}, "must be as `lynx-batch models calibrate` wrote it"),
        ({"points": [[0.5, 1.0]]}, "noise levels"),
        ({"points": [[0.5, 1.0], [0.6, -1.0]]}, "magnitudes above 0"),
        ({"points": 3}, "must be a file of `lynx-batch models calibrate`"),
        ({"model": None}, "must be a file of `lynx-batch models calibrate`"),
        ({"surplus": 1}, "must be a file of `lynx-batch models calibrate`"),
    ],
    ids=str,
)
def test_a_calibration_that_was_changed_is_refused(
    job: Job, calibrated: Path, tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    file = tmp_path / "changed.json"
    file.write_text(json.dumps(json.loads(calibrated.read_text()) | change))
    with pytest.raises(ConfigError, match=r"engine\.step_cache\.calibration=.*changed\.json.*" + reason):
        check_model(config_of(job, calibration=str(file)))


def test_a_calibration_that_is_not_there_is_named(job: Job, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"engine\.step_cache\.calibration: .*nowhere\.json"):
        check_model(config_of(job, calibration=str(tmp_path / "nowhere.json")))


def test_a_submitted_job_brings_the_calibration(
    job: Job, calibrated: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "package").mkdir()
    here = shared(config_of(job), job)
    package = pack(here, Selection(), tmp_path / "package")
    expected = check_model(here)
    monkeypatch.setenv("LYNX_BATCH_MODELS", str(tmp_path / "cluster"))
    there = check_model(load_run_config(package.folder / "run.yaml", {}))
    assert (there.engine, there.identity) == (expected.engine, expected.identity)


def test_a_named_calibration_travels_though_only_the_cluster_has_the_weights(
    job: Job, calibrated: Path, tmp_path: Path
) -> None:
    (tmp_path / "package").mkdir()
    absent = shared(config_of(job, calibration=str(calibrated)), job, base=str(MODEL / "on the cluster"))
    package = pack(absent, Selection(), tmp_path / "package")
    packed = load_run_config(package.folder / "run.yaml", {})
    assert packed.engine.step_cache is not None
    assert packed.engine.step_cache.calibration == CalibrationConfig.model_validate_json(calibrated.read_bytes())


@pytest.mark.usefixtures("calibrated")
def test_workers_get_the_magnitudes(job: Job) -> None:
    config = config_of(job)
    model = check_model(config)
    cache = worker_settings(config, model).engine.step_cache
    assert cache is not None
    assert (cache.threshold, cache.max_skip, cache.keep_first) == (0.5, 2, 0.2)
    assert cache.magnitudes is not None
    assert cache.magnitudes.sha256 in model.identity.precision


@pytest.mark.parametrize(
    ("cache", "fault"),
    [
        ({"threshold": -1}, "engine: step_cache.threshold=-1.0: must be a number of at least 0"),
        ({"max_skip": 1.5}, "engine.step_cache.max_skip: must be a whole number"),
        ({"keep_first": 2}, "engine: step_cache.keep_first=2.0: must be from 0 to 1"),
        ({"kind": "teacache"}, "engine.step_cache.kind: must be 'magcache'"),
        ({"treshold": 1}, "engine.step_cache.treshold: unknown; the nearest known key is engine.step_cache.threshold"),
        ({"calibration": "ftp://host/file"}, "engine.step_cache.calibration: must be a path or a URI"),
        ({"calibration": {"model": "a"}}, "engine.step_cache.calibration.points: required"),
        ({"calibration": 3}, "engine.step_cache.calibration: must be text or a mapping of keys"),
    ],
    ids=str,
)
def test_a_setting_that_breaks_a_rule_is_named(face_pack: Path, cache: dict[str, object], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_run_config(tiny_run(face_pack, engine={"step_cache": cache}), source="run.yaml")
    assert fault in str(caught.value)


def test_the_calibration_of_a_model_depends_on_its_weights_alone(job: Job, calibrated: Path) -> None:
    identity = check_model(config_of(job)).identity
    assert calibration_file(calibrated.parents[1], fingerprint_model(identity)) == calibrated
    for change in ({"precision": "fp8"}, {"face_pack": "x"}, {"is_parity": True}):
        assert fingerprint_model(replace(identity, **change)) == calibrated.stem
    for part in ("base", "id_adapter", "ref_adapter", "loras"):
        assert fingerprint_model(replace(identity, **{part: "other"})) != calibrated.stem


@pytest.mark.usefixtures("calibrated")
def test_a_run_without_a_row_to_calibrate_with_says_so(job: Job) -> None:
    result = invoke("models", "calibrate", job.folder / "run.yaml", "--where", "prompt == 'nothing'")
    assert result.exit_code == 2


def test_a_models_folder_that_cannot_be_written_to_is_named_before_anything_is_loaded(job: Job, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = invoke("models", "calibrate", job.folder / "run.yaml", "--root", tmp_path / "file")
    assert result.exit_code == 2
    assert "must be a folder that can be written to" in " ".join(result.output.split())
    assert "loading" not in result.output
