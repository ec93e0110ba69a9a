"""`doctor` says what is there, what fits and what is amiss, before anything loads."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lynx_batch import storage
from lynx_batch.cli import app
from lynx_batch.cli.findings import Level, _fit, examine_run, find_lacks, fit_published, fit_run
from lynx_batch.config import FacesConfig, RunConfig, parse_run_config
from lynx_batch.preparation.model import locate_model
from lynx_model.checkpoints.fingerprint import fingerprint_folder
from lynx_model.engine.machine import Gpu, Machine
from lynx_model.engine.memory import GIB, PUBLISHED_FULL, ClipSize, ModelSize
from lynx_model.engine.precision import missing_fp8_need
from lynx_model.fp8_attention import Fp8Attention
from lynx_model.spec import EngineOptions
from tests.builders import tiny_run, write_run
from tests.models import BASE, MODEL
from tests.stores import put, refusing_store

ENGINES = [{}, {"attention": "fa3"}, {"precision": "fp8"}, {"attention": "fa3", "precision": "fp8"}]
DEFAULTS = {"width": 160, "height": 96, "num_frames": 17}


def machine(free_gib: float) -> Machine:
    gpu = Gpu(name="a GPU", free_bytes=int(free_gib * GIB), total_bytes=141 * GIB, missing_needs={"sdpa": None})
    return Machine(torch_version="2.13.0", cuda="13.0", driver="580.65.06", gpus=(gpu,))


@pytest.fixture
def run_file(tmp_path: Path, face_pack: Path) -> str:
    """One that can run."""
    (tmp_path / "manifest.parquet").touch()
    return str(write_run(tmp_path, face_pack, engine={"precision": "float32"}, defaults=DEFAULTS))


def test_a_run_that_can_begin_is_told_so(run_file: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", run_file])
    assert result.exit_code == 0, result.output
    told = " ".join(result.output.replace("│", "").split())
    assert "accepts everything that a run writes, including create-only puts" in told, (
        "wherever a long path makes the line break"
    )
    assert "complete, and its parts fit each other; face pack free-yunet-sface" in result.output
    assert "this run, 17 frames of 160x96, float32" in result.output
    assert not list((tmp_path / "out").rglob("_probe-*"))


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("manifest", "nowhere.parquet", "does not exist"),
        ("faces.pack", "nowhere", "face pack 'nowhere'"),
        ("model.base", "nowhere", "no such file"),
        ("model.loras", "[nowhere.safetensors]", "nowhere.safetensors: no such file"),
        ("provenance", "{marking: try, watermark: nowhere.jit}", "does not exist"),
        ("notify", "[{url: 'nosuch://x'}]", "notify.0.url: nosuch://*** is no address"),
        ("cluster.usd_per_gpu_hour", "{H300: 1}", "'H300' is no known type of GPU"),
        ("limits", "{max_usd: 5}", "limits.max_usd=5: needs cluster.usd_per_gpu_hour"),
        ("provenance.revoked", "[nowhere.csv]", "does not exist"),
        ("cluster", "{address: auto, node_types: [{gpu: H300, gpus: 8, max: 1}]}", "'H300' is no known type of GPU"),
        ("cluster.node_types", "[{gpu: H100, gpus: 8, max: 1}]", "nothing adds nodes to the Ray"),
        ("faces.identity", str(BASE / "model_index.json"), "declares 'sface-512'"),
    ],
)
def test_what_a_run_names_and_is_not_there_is_a_fault(run_file: str, key: str, value: str, fault: str) -> None:
    result = CliRunner().invoke(app, ["doctor", run_file, "--set", f"{key}={value}"])
    assert result.exit_code == 2
    assert fault in " ".join(result.output.replace("│", "").split()), "wherever a long path makes the line break"
    assert result.output.count("fault") == 1


def test_a_missing_approval_is_a_note(run_file: str) -> None:
    result = CliRunner().invoke(app, ["doctor", run_file, "--set", "approval.required=true", "--json"])
    assert result.exit_code == 0, result.output
    (found,) = [each for each in json.loads(result.output)["findings"] if each["subject"] == "approval"]
    assert found["level"] == "note"
    assert found["text"].startswith("approval.required: nobody has approved anything yet, so `render` and `submit`")


def test_quiet_prints_only_what_is_wrong(run_file: str) -> None:
    assert CliRunner().invoke(app, ["doctor", run_file, "--quiet"]).output == ""
    result = CliRunner().invoke(app, ["doctor", run_file, "--quiet", "--set", "manifest=nowhere.parquet", "--json"])
    assert result.exit_code == 2
    assert [finding["subject"] for finding in json.loads(result.output)["findings"]] == ["manifest"]


def test_a_model_in_a_store_is_looked_at_there(
    run_file: str, tmp_path: Path, face_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fingerprint_folder(face_pack)
    places = {"model.base": BASE, "model.adapters": MODEL / "lynx_full", "faces.pack": face_pack}
    with refusing_store(monkeypatch):
        stored = {key: put(folder, "s3://bucket/models") for key, folder in places.items()}
        settings = [part for key, uri in stored.items() for part in ("--set", f"{key}={uri}")]
        result = CliRunner().invoke(app, ["doctor", run_file, *settings])
        assert result.exit_code == 0, result.output
        storage.delete(storage.join(stored["model.base"], "tokenizer", "tokenizer.json"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
        result = CliRunner().invoke(app, ["doctor", run_file, *settings])
    assert result.exit_code == 2
    assert "tokenizer.json: expected" in result.output


def test_a_base_install_is_told_what_it_lacks() -> None:
    program = "import sys; sys.modules['torch'] = None; from lynx_batch.cli import app; app(['doctor'])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "lacks torch: pip install 'lynx-batch[render]'" in result.stdout


def full_run(**engine: object) -> RunConfig:
    run = tiny_run(Path("/faces"), manifest="/m.parquet", output="/out", engine={"precision": "float32"} | engine)
    return parse_run_config({**run, "defaults": DEFAULTS}, source="test")


@pytest.mark.parametrize(
    ("free_gib", "text"),
    [
        (139, "fits: takes 53.4 GiB of each GPU"),
        (48, "engine: {text_encoder: staged} takes 44.8 GiB of each GPU and 10.6 GiB of host memory a worker"),
        (24, "engine: {text_encoder: staged, offload: blocks} takes 11.9 GiB"),
        (8, "nor does any setting"),
    ],
)
def test_what_fits_is_told_and_what_to_change(free_gib: float, text: str) -> None:
    full, _ = fit_published(machine(free_gib))
    assert text in full.text
    assert full.level is Level.NOTE


def test_a_run_that_does_not_fit_is_a_fault() -> None:
    size = ModelSize.of(locate_model(full_run().model))
    assert fit_run(full_run(), size, machine(139)).level is Level.OK
    misfit = fit_run(full_run(), size, machine(1.6))
    assert misfit.level is Level.FAULT
    assert "does not fit" in misfit.text


def test_gpus_that_lack_what_the_engine_needs_are_faults(tmp_path: Path, face_pack: Path) -> None:
    needs = {"sdpa": None, "fa3": "a Hopper GPU", "fp8": missing_fp8_need((8, 0))}
    gpu = Gpu(name="A100", free_bytes=80 * GIB, total_bytes=80 * GIB, missing_needs=needs)
    a100 = replace(machine(80), gpus=(gpu,))
    texts = [[finding.text for finding in find_lacks(EngineOptions(**engine), a100)] for engine in ENGINES]
    fp8 = "fp8 needs a GPU of compute capability 8.9 (Ada, Hopper) or later, but this one has 8.0"
    assert texts == [[], ["fa3 needs a Hopper GPU"], [fp8], [f"fa3 needs a Hopper GPU; {fp8}"]]
    assert find_lacks(EngineOptions(attention="fa3"), replace(a100, gpus=())) == []
    needs["fa3_fp8"] = "a Hopper GPU"
    (finding,) = find_lacks(EngineOptions(fp8_attention=Fp8Attention(steps=(0.1, 0.9))), a100)
    assert finding.text == "fa3_fp8 needs a Hopper GPU"

    engine = {"precision": "bfloat16", "attention": "fa3"}
    faces = FacesConfig(pack=str(face_pack), identity="pack")
    config = full_run(**engine).model_copy(
        update={"manifest": str(tmp_path / "none"), "output": str(tmp_path), "faces": faces}
    )
    faults = [finding.subject for finding in examine_run(config, a100) if finding.level is Level.FAULT]
    assert faults == ["manifest", "this run, GPU 0"]


def test_gpus_that_take_a_branch_each_save_no_memory_and_those_that_share_tokens_do() -> None:
    long = ClipSize(width=1280, height=720, num_frames=961)
    levels = [_fit("it", PUBLISHED_FULL, long, EngineOptions(), number, machine(139)).level for number in (1, 2, 4)]
    assert levels == [Level.FAULT, Level.FAULT, Level.OK]
