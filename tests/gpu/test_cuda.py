"""The tiny model on real GPUs: the same numbers as on the CPU, and the same on several as on one."""

import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lynx_model.engine import parallel
from lynx_model.spec import EngineOptions, ParallelPlan, TextPlacement
from tests.builders import GPU_PARAMS, make_subject
from tests.models import forbid_tf32, load_tiny


@pytest.mark.gpu(1)
@pytest.mark.parametrize("variant", ["full", "lite"])
def test_float32_latents_on_a_gpu_are_those_of_the_cpu(variant: str) -> None:
    forbid_tf32()
    on_cpu = load_tiny(variant).denoise(make_subject(), GPU_PARAMS)
    on_gpu = load_tiny(variant, device="cuda").denoise(make_subject(), GPU_PARAMS).cpu()
    assert (on_gpu - on_cpu).abs().max() < 1e-4


@pytest.mark.gpu(1)
def test_the_same_clip_gives_identical_latents_twice_in_bfloat16() -> None:
    pipe = load_tiny("full", device="cuda", dtype="bfloat16")
    first, second = (pipe.denoise(make_subject(), GPU_PARAMS) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.isfinite(first).all()


@pytest.mark.gpu(1)
@pytest.mark.parametrize("placement", ["staged", "cpu"])
def test_the_place_of_the_text_encoder_changes_no_picture(placement: TextPlacement) -> None:
    forbid_tf32()
    resident = load_tiny("full", device="cuda").denoise(make_subject(), GPU_PARAMS)
    elsewhere = load_tiny("full", device="cuda", engine=EngineOptions(text_encoder=placement))
    assert (elsewhere.denoise(make_subject(), GPU_PARAMS) - resident).abs().max() < 1e-4


def denoise_on_gpu(rank: int, num_ranks: int, port: int, out: str) -> None:
    forbid_tf32()
    torch.cuda.set_device(rank)
    parallel.connect(rank=rank, num_ranks=num_ranks, host="127.0.0.1", port=port, backend="nccl", timeout_s=120)
    pipe = load_tiny("full", device=f"cuda:{rank}", plan=ParallelPlan(ulysses=num_ranks))
    np.save(f"{out}-{rank}.npy", pipe.denoise(make_subject(), replace(GPU_PARAMS, width=48)).cpu().numpy())
    parallel.disconnect()


@pytest.mark.gpu(2)
def test_two_gpus_that_share_the_tokens_agree_with_one(tmp_path: Path) -> None:
    forbid_tf32()
    context, out = multiprocessing.get_context("spawn"), str(tmp_path / "latents")
    rendezvous = parallel.open_rendezvous("127.0.0.1")
    ranks = [context.Process(target=denoise_on_gpu, args=(rank, 2, rendezvous.port, out)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(240)
    assert [process.exitcode for process in ranks] == [0, 0]

    alone = load_tiny("full", device="cuda").denoise(make_subject(), replace(GPU_PARAMS, width=48)).cpu().numpy()
    for rank in range(2):
        assert np.abs(np.load(f"{out}-{rank}.npy") - alone).max() < 1e-4
