"""The model as large as it was published, with random weights on disk (48 GiB), as a user has it: how busy it keeps a GPU, and
what it takes of its memory.
"""

import gc
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lynx_model.bench.case import BenchCase, adapters_of, draw_weights, empty_transformer
from lynx_model.bench.stages import random_text_encoder, random_vae
from lynx_model.checkpoints.adapter_spec import DECLARATION_FILE, ID_FILE, RESAMPLER_FILE
from lynx_model.network.adapters import adapter_layers
from lynx_model.network.resampler import Resampler
from lynx_model.pipeline import LynxPipeline
from lynx_model.spec import REF_FILE, EngineOptions, RenderParams
from tests.builders import make_subject, row
from tests.jobs import Job, decode
from tests.models import BASE, MODEL

pytestmark = pytest.mark.gpu(1)

VARIANTS = {"lynx_full": BenchCase(), "lynx_lite": BenchCase(is_lite=True)}
FASTEST = {"precision": "fp8", "attention": "fa3_fp8", "compile": True}
"""What lies between two denoisings weighs most beside the shortest ones."""

CUDA_CONTEXT_GIB = 1.5
"""What CUDA takes beside the tensors."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, VARIANTS, torch.device("cuda"))
    gc.collect()
    torch.cuda.empty_cache()  # workers are other processes, which need the memory
    yield folder
    shutil.rmtree(folder)


def write_model(folder: Path, variants: dict[str, BenchCase], device: torch.device) -> None:
    """A base and its adapters of the sizes given, in the published layout, below `folder`; drawn on `device`."""
    case, *_ = variants.values()
    base = folder / "base"
    shutil.copytree(BASE / "tokenizer", base / "tokenizer")
    shutil.copytree(BASE / "scheduler", base / "scheduler")
    random_vae(case, device).save_pretrained(base / "vae")
    random_text_encoder(case, device).save_pretrained(base / "text_encoder")
    transformer = empty_transformer(case)
    draw_weights(transformer, device, in_float32=transformer._keep_in_fp32_modules)
    transformer.save_pretrained(base / "transformer")
    for name, variant in variants.items():
        spec = adapters_of(variant)
        with torch.device("meta"):
            id_layers, ref_layers = adapter_layers(spec)
            resampler = Resampler(**spec.resampler)
        parts = {ID_FILE: id_layers, REF_FILE: ref_layers, RESAMPLER_FILE: resampler}
        (folder / name).mkdir()
        shutil.copy(MODEL / name / DECLARATION_FILE, folder / name)
        for file, module in parts.items():
            if module is not None:
                draw_weights(module, device)
                save_file(module.state_dict(), folder / name / file)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("num_clips", "parameters", "engine", "least_share"),
    [
        pytest.param(
            6, {"num_inference_steps": 4, "guidance_scale": 1.0}, {"compile": True}, 0.85, id="4 steps, 1 branch"
        ),
        pytest.param(2, {"num_inference_steps": 20}, FASTEST, 0.98, id="20 steps, 3 branches"),
    ],
)
def test_a_gpu_denoises_nearly_all_the_time(
    num_clips: int,
    parameters: dict[str, Any],
    engine: dict[str, Any],
    least_share: float,
    model: Path,
    tmp_path: Path,
    face_pack: Path,
) -> None:
    first_that_compiles = row(seed=0, priority=1, num_inference_steps=1)
    clips = [row(prompt=f"A person waves, {number}.", seed=number) for number in range(num_clips)]
    settings = {
        "model": {"base": str(model / "base"), "adapters": str(model / "lynx_full")},
        "engine": engine,
        "defaults": parameters,
    }
    job = Job(
        folder=tmp_path, face_pack=face_pack, rows=[first_that_compiles, *clips], settings=settings, deadline_s=1200
    )
    result = job.run()
    assert result.exit_code == 0, result.stderr

    (trace,) = (Path(job.output) / "report").rglob("trace.json")
    events = json.loads(trace.read_text())["traceEvents"]
    _, *denoising = sorted((event for event in events if event["name"] == "denoise"), key=lambda event: event["ts"])
    assert len(denoising) == num_clips
    together = denoising[-1]["ts"] + denoising[-1]["dur"] - denoising[0]["ts"]
    share = sum(event["dur"] for event in denoising) / together
    print(f"busy share {share:.1%}, clips of {[event['dur'] / 1e6 for event in denoising]} s")
    assert share >= least_share
    for commit in job.commits():
        assert decode(Path(job.output) / str(commit["clip_uri"])).shape == (81, 480, 832, 3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("adapters", "engine", "limit_gib"),
    [
        pytest.param("lynx_full", EngineOptions(text_encoder="staged", compile=True), 45, id="staged text encoder"),
        pytest.param("lynx_full", EngineOptions(text_encoder="staged", offload="blocks"), 24, id="full, offloaded"),
        pytest.param("lynx_lite", EngineOptions(text_encoder="staged", offload="blocks"), 16, id="lite, offloaded"),
    ],
)
def test_a_clip_fits_a_gpu_of_so_much_memory(adapters: str, engine: EngineOptions, limit_gib: int, model: Path) -> None:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    whole_gib = torch.cuda.get_device_properties(0).total_memory / 2**30
    torch.cuda.set_per_process_memory_fraction((limit_gib - CUDA_CONTEXT_GIB) / whole_gib)
    try:
        pipe = LynxPipeline.load(str(model / "base"), str(model / adapters), engine=engine)
        latents = pipe.denoise(make_subject(), RenderParams(prompt="A person waves.", num_inference_steps=2))
        assert pipe.decode(latents).shape == (81, 480, 832, 3)
        print(f"peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
