"""A group of ranks renders what one rank renders: real processes, joined by gloo."""

import multiprocessing
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from lynx_model import parallel
from lynx_model.errors import InvalidParams
from lynx_model.spec import ParallelPlan, RenderParams
from tests.models import load_tiny
from tests.unit.test_pipeline import make_subject

EVEN = RenderParams(prompt="a person waves", width=64, height=64, num_frames=9, num_inference_steps=3)
UNEVEN = RenderParams(prompt="a person waves", width=48, height=80, num_frames=9, num_inference_steps=3)  # 45 tokens


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def denoise_on_rank(rank: int, num_ranks: int, port: int, variant: str, params: RenderParams, out: str) -> None:
    torch.set_num_threads(1)
    parallel.connect(
        rank=rank, num_ranks=num_ranks, init_method=f"tcp://127.0.0.1:{port}", backend="gloo", timeout_s=60
    )
    pipe = load_tiny(variant, plan=ParallelPlan(ulysses=num_ranks))
    np.save(f"{out}-{rank}.npy", pipe.denoise(make_subject(), params).numpy())
    parallel.disconnect()


@pytest.mark.parametrize(
    ("variant", "num_ranks", "params"),
    [("full", 2, EVEN), ("full", 2, UNEVEN), ("lite", 2, UNEVEN), ("lite", 4, UNEVEN)],
    ids=["full-2", "full-2-uneven", "lite-2-uneven", "lite-4-uneven"],
)
def test_ranks_that_share_the_tokens_agree_with_one(
    tmp_path: Path, variant: str, num_ranks: int, params: RenderParams
) -> None:
    context, port, out = multiprocessing.get_context("spawn"), free_port(), str(tmp_path / "latents")
    ranks = [
        context.Process(target=denoise_on_rank, args=(rank, num_ranks, port, variant, params, out))
        for rank in range(num_ranks)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0] * num_ranks

    alone = load_tiny(variant).denoise(make_subject(), params).numpy()
    for rank in range(num_ranks):
        assert np.abs(np.load(f"{out}-{rank}.npy") - alone).max() < 1e-5


def test_a_plan_that_does_not_divide_the_heads_is_refused() -> None:
    with pytest.raises(InvalidParams, match="4 attention heads"):
        load_tiny("lite", plan=ParallelPlan(ulysses=3))


def test_a_plan_without_its_ranks_is_refused() -> None:
    with pytest.raises(InvalidParams, match="needs 2 ranks"):
        load_tiny("lite", plan=ParallelPlan(ulysses=2))
