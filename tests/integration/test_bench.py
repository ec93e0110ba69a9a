"""The benchmarks, on a model small enough for a CPU."""

from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from typer.testing import CliRunner

from lynx_batch.cli import app
from lynx_batch.cli.bench import _clip_table, _encode, _scaling_table, _stage_table, _subject_reader, _table
from lynx_model.bench.baselines import baselines, forward_like
from lynx_model.bench.case import BenchCase, forward_of, random_inputs, random_transformer
from lynx_model.bench.clip import time_clip
from lynx_model.bench.forward import BenchReport, bench_forward
from lynx_model.bench.scaling import Cell, bench_scaling, plan_cells
from lynx_model.bench.stages import StageTime, bench_stages, own_stages
from lynx_model.canonical import ModelTraits
from lynx_model.spec import EngineOptions, ParallelPlan, RenderParams
from lynx_model.step_cache import Magnitudes, StepCache
from lynx_model.step_plan import plan_steps
from tests.builders import HOPPER
from tests.models import ROOT

CPU = torch.device("cpu")
SIZES = {"num_blocks": 2, "num_heads": 2, "head_dim": 16, "ff_width": 32, "text_size": 8, "width": 32, "height": 32}
TEXT = {"num_text_blocks": 1, "num_text_heads": 1, "text_ff_width": 8, "vocabulary_size": 16}
TINY = BenchCase(**SIZES, **TEXT, vae_channels=8, num_frames=5)


@pytest.fixture(scope="module")
def report() -> BenchReport:
    return bench_forward(TINY, device=CPU, num_runs=2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_row_is_measured_and_renders_the_same(report: BenchReport) -> None:
    names = ["original-like, torch", "diffusers, eager, torch", "eager, bfloat16", "compiled, bfloat16"]
    assert [m.name for m in report.measurements] == [*names, "compiled, fp8 linears"]
    assert all(m.ms > 0 and m.error < 0.05 for m in report.measurements)
    assert report.floor_ms > 0
    assert _table(report, usd_per_hour=3.0).row_count == 6


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_stage_of_a_clip_is_measured(report: BenchReport, face_pack: Path) -> None:
    read_subject = _subject_reader(HOPPER, str(face_pack))
    stages = bench_stages(report, device=CPU, num_runs=1, read_subject=read_subject, encode=_encode)
    assert [stage.stage for stage in own_stages(stages)] == ["subject", "text", "denoise", "decode", "encode"]
    assert [stage.baseline for stage in stages if stage.stage == "text"] == ["resident", "staged"]
    assert [stage.baseline for stage in stages if stage.stage == "decode"] == [
        "compiled, bfloat16",
        "diffusers, bfloat16",
    ]
    assert all(stage.seconds > 0 for stage in stages)
    assert not _stage_table(stages).caption


def test_a_stage_that_was_not_measured_is_named_with_what_it_lacks() -> None:
    caption = _stage_table([StageTime(stage="denoise", baseline="m", seconds=1.0, peak_gib=0.0)]).caption
    assert "subject is left out: it needs a --photo" in str(caption)
    assert "encode is left out: it needs the package av" in str(caption)


@pytest.mark.parametrize("is_lite", [False, True], ids=["full", "lite"])
@torch.inference_mode()
def test_baselines_compute_what_the_engine_computes(is_lite: bool) -> None:
    case = BenchCase(**SIZES, num_frames=5, is_lite=is_lite)
    model = random_transformer(case, CPU)
    inputs = random_inputs(case, model, CPU)
    expected = forward_of(model, inputs)().float()
    for baseline in baselines(CPU):
        found = forward_like(baseline, model, inputs)().float()
        assert (found - expected).norm() / expected.norm() < 0.02


def test_a_timed_clip_runs_the_blocks_in_its_full_steps_alone() -> None:
    magnitudes = Magnitudes(points=tuple((level / 10, 10.0) for level in range(1, 11)))
    engine = EngineOptions(step_cache=StepCache(threshold=1.0, max_skip=2, keep_first=0.0, magnitudes=magnitudes))
    params = RenderParams(prompt="any", num_inference_steps=6, guidance_scale_image=None)
    traits = ModelTraits(num_blocks=2, id_stride=1, has_ref=True, has_image_guidance=True, flow_shift=3.0)
    steps = plan_steps(params, traits, engine)
    blocks: list[WanTransformerBlock] = []

    def note(module: nn.Module, *_: object) -> None:
        if isinstance(module, WanTransformerBlock):
            blocks.append(module)

    hook = register_module_forward_hook(note)
    time = time_clip("any", TINY, params, steps, engine, device=CPU)
    hook.remove()
    assert time.steps == tuple(2 if step.is_full else 0 for step in steps)
    assert 0 < time.steps.count(0) < len(steps)
    assert len(blocks) == 2 * (1 + time.num_forwards), "one forward to compile, then the clip's"
    assert _clip_table([time]).row_count == 1


@pytest.mark.parametrize(
    ("presets", "fault"), [("exact,nope", "must be one of exact, fast"), ("exact,fast", "lynx-batch models calibrate")]
)
def test_presets_are_checked_before_a_gpu_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, face_pack: Path, tmp_path: Path, presets: str, fault: str
) -> None:
    monkeypatch.setenv("LYNX_BATCH_MODELS", str(tmp_path))
    run_file = ROOT / "jobs" / "demo" / "run.yaml"
    refused = CliRunner().invoke(app, ["bench", "clip", str(run_file), "--presets", presets])
    assert (refused.exit_code, fault in refused.stderr) == (2, True), refused.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scaling_goes_on_where_it_stopped(tmp_path: Path) -> None:
    cells, file = list(plan_cells([TINY], [2])), tmp_path / "scaling.json"
    assert [(c.plan.branches, c.plan.ulysses) for c in cells] == [(1, 1), (1, 2), (2, 1)]
    first = bench_scaling(cells[:1], file, num_runs=1)
    both = bench_scaling(cells[:2], file, num_runs=1)
    assert both[:1] == first
    assert _scaling_table(both).row_count == 2


def test_cells_of_a_smaller_model_are_not_taken_for_the_true_ones() -> None:
    names = {Cell(case=BenchCase(num_blocks=number), plan=ParallelPlan()).name for number in (4, 40)}
    assert names == {
        "full of 4 blocks 832x480x81, 1 branches x 1 ulysses",
        "full 832x480x81, 1 branches x 1 ulysses",
    }


def test_a_file_that_cannot_take_the_results_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not results")
    for file, rule in ((tmp_path / "notes.txt", "must be a file of earlier results"), (tmp_path, "can be written")):
        refused = CliRunner().invoke(app, ["bench", "scaling", "--gpus", "2", "--json", str(file)])
        assert (refused.exit_code, rule in refused.stderr) == (2, True), refused.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "command",
    [["engine"], ["scaling", "--gpus", "2"], ["clip", str(ROOT / "jobs" / "demo" / "run.yaml"), "--presets", "exact"]],
    ids=lambda command: command[0],
)
def test_a_machine_without_a_gpu_is_told_before_a_model_is_built(
    face_pack: Path, tmp_path: Path, command: list[str]
) -> None:
    out = tmp_path / "report.json"
    refused = CliRunner().invoke(app, ["bench", *command, "--json", str(out)])
    assert (refused.exit_code, "torch finds none here" in refused.stderr) == (2, True), refused.stderr
    assert not out.exists()
