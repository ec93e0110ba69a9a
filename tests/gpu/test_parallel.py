"""Blocks of the true width on several GPUs give what one gives, in every way of sharing a step."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.multiprocessing.spawn import spawn

from lynx_model.bench.case import BenchCase, forward_of, random_inputs, random_transformer
from lynx_model.engine import parallel
from lynx_model.spec import EngineOptions, ParallelPlan
from tests.models import relative_error

CASE = BenchCase(num_blocks=2, num_frames=9)
NUM_BRANCHES = 3


@torch.inference_mode()
def compare_on_rank(rank: int, plan: ParallelPlan, is_compiled: bool, port: int, out: str) -> None:
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    parallel.connect(rank=rank, num_ranks=plan.num_ranks, host="127.0.0.1", port=port, backend="nccl", timeout_s=120)
    torch.manual_seed(0)
    model = random_transformer(CASE, device)
    step = forward_of(model, random_inputs(CASE, model, device), NUM_BRANCHES)
    alone = step()
    model.set_up(plan=plan, engine=EngineOptions(attention="sdpa", compile=is_compiled))
    np.save(f"{out}-{rank}.npy", relative_error(step(), alone))
    parallel.disconnect()


def compare(plan: ParallelPlan, is_compiled: bool, folder: Path) -> float:
    """The largest relative difference from one GPU that any rank finds."""
    out = str(folder / "error")
    rendezvous = parallel.open_rendezvous("127.0.0.1")
    spawn(compare_on_rank, (plan, is_compiled, rendezvous.port, out), nprocs=plan.num_ranks)
    return max(float(np.load(f"{out}-{rank}.npy")) for rank in range(plan.num_ranks))


@pytest.mark.gpu(2)
@pytest.mark.parametrize("is_compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("plan", [ParallelPlan(ulysses=2), ParallelPlan(branches=2)], ids=["ulysses", "branches"])
def test_two_gpus_give_what_one_gives(tmp_path: Path, plan: ParallelPlan, is_compiled: bool) -> None:
    assert compare(plan, is_compiled, tmp_path) < (0.03 if is_compiled else 0.01)


@pytest.mark.gpu(4)
@pytest.mark.parametrize(
    "plan",
    [ParallelPlan(ulysses=4), ParallelPlan(branches=2, ulysses=2), ParallelPlan(ulysses=2, ring=2)],
    ids=["ulysses", "both", "ring"],
)
def test_four_gpus_give_what_one_gives(tmp_path: Path, plan: ParallelPlan) -> None:
    assert compare(plan, False, tmp_path) < 0.01
