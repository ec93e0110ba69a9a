"""A group of ranks renders what one rank renders: real processes, joined by gloo."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lynx_model.engine import parallel
from lynx_model.engine.attention_fp8 import SmoothAttention, emulate_fp8
from lynx_model.errors import InvalidParams
from lynx_model.spec import EngineOptions, ParallelPlan, RenderParams
from lynx_model.step_cache import Magnitudes, StepCache
from tests.builders import make_subject
from tests.models import load_tiny
from tests.processes import preloaded_context

LOCALHOST = "127.0.0.1"
EVEN = RenderParams(prompt="a person waves", width=64, height=64, num_frames=9, num_inference_steps=3)
UNEVEN = RenderParams(prompt="a person waves", width=48, height=80, num_frames=9, num_inference_steps=3)  # 45 tokens

LIMITED = replace(UNEVEN, ip_end=0.5, ref_blocks="1-2", guidance_until=0.5)

Case = tuple[str, ParallelPlan, RenderParams]
"""Variant, layout of the ranks, and what they render."""


def connect(rank: int, num_ranks: int, port: int) -> None:
    torch.set_num_threads(1)
    parallel.connect(rank=rank, num_ranks=num_ranks, host=LOCALHOST, port=port, backend="gloo", timeout_s=60)


def denoise_on_rank(rank: int, ports: Sequence[int], cases: Sequence[Case], out: str) -> None:
    """Each case in a process group of its own."""
    for number, (port, (variant, plan, params)) in enumerate(zip(ports, cases, strict=True)):
        connect(rank, plan.num_ranks, port)
        pipe = load_tiny(variant, plan=plan)
        np.save(f"{out}-{number}-{rank}.npy", pipe.denoise(make_subject(), params).numpy())
        parallel.disconnect()


def run_on_ranks(num_ranks: int, target: Callable[..., None], *arguments: object) -> None:
    context = preloaded_context()
    ranks = [context.Process(target=target, args=(rank, *arguments)) for rank in range(num_ranks)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0] * num_ranks


SHARED: tuple[Case, ...] = (
    ("full", ParallelPlan(ulysses=2), EVEN),
    ("full", ParallelPlan(ulysses=2), UNEVEN),
    ("full", ParallelPlan(branches=2), UNEVEN),
    ("full", ParallelPlan(branches=3), UNEVEN),
    ("full", ParallelPlan(branches=2), LIMITED),
    ("lite", ParallelPlan(ring=2), UNEVEN),
    ("lite", ParallelPlan(ulysses=4), UNEVEN),
    ("full", ParallelPlan(branches=2, ulysses=2), UNEVEN),
    ("full", ParallelPlan(ulysses=2, ring=2), UNEVEN),
)


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_ranks_that_share_a_clip_agree_with_one(tmp_path: Path, num_ranks: int) -> None:
    """Also where they do not divide: 45 tokens; three branches over two ranks, the third shared by both; steps with one."""
    cases = [case for case in SHARED if case[1].num_ranks == num_ranks]
    out, rendezvous = str(tmp_path / "latents"), [parallel.open_rendezvous(LOCALHOST) for _ in cases]
    run_on_ranks(num_ranks, denoise_on_rank, [store.port for store in rendezvous], cases, out)
    for number, case in enumerate(cases):
        variant, _, params = case
        alone = load_tiny(variant).denoise(make_subject(), params).numpy()
        for rank in range(num_ranks):
            assert np.abs(np.load(f"{out}-{number}-{rank}.npy") - alone).max() < 1e-5, case


def denoise_compiled_on_rank(rank: int, port: int, out: str) -> None:
    connect(rank, 2, port)
    pipe = load_tiny("full", plan=ParallelPlan(ulysses=2), engine=EngineOptions(compile=True))
    np.save(f"{out}-{rank}.npy", pipe.denoise(make_subject(), UNEVEN).numpy())
    parallel.disconnect()


@pytest.mark.slow
def test_compiled_ranks_whose_exchanges_overlap_with_other_work_agree_with_one(tmp_path: Path) -> None:
    out, rendezvous = str(tmp_path / "latents"), parallel.open_rendezvous(LOCALHOST)
    run_on_ranks(2, denoise_compiled_on_rank, rendezvous.port, out)
    alone = load_tiny("full").denoise(make_subject(), UNEVEN).numpy()
    for rank in range(2):
        assert np.abs(np.load(f"{out}-{rank}.npy") - alone).max() < 1e-4


SKIPPING = StepCache(threshold=1.0, max_skip=2, magnitudes=Magnitudes(points=((0.001, 1.0), (1.0, 1.05))))
LONG = replace(UNEVEN, num_inference_steps=8, guidance_until=0.6)
REUSING = replace(UNEVEN, num_inference_steps=8, guidance_until=0.8, image_guidance_every=4)


def skip_on_rank(rank: int, port: int, plan: ParallelPlan, out: str) -> None:
    connect(rank, plan.num_ranks, port)
    torch.save(skip(plan), f"{out}-{rank}.pt")
    parallel.disconnect()


def skip(plan: ParallelPlan | None = None) -> dict[str, Any]:
    """Two clips: the second one reuses image branches, too."""
    pipe = load_tiny("full", plan=plan, engine=EngineOptions(step_cache=SKIPPING))
    clips = [pipe.prepare(make_subject(), params) for params in (LONG, REUSING)]
    plans = [(clip.full_steps, clip.reuses_image, [len(step) for step in clip.steps]) for clip in clips]
    return {"full_steps": clips[0].full_steps, "plans": plans, "latents": torch.stack([*map(pipe.sample, clips)])}


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(ParallelPlan(ulysses=2), id="1x2"),
        pytest.param(ParallelPlan(branches=2), id="2x1"),
        pytest.param(ParallelPlan(branches=2, ulysses=2), id="2x2", marks=pytest.mark.slow),
    ],
)
def test_ranks_that_share_a_clip_skip_the_same_steps_as_one(tmp_path: Path, plan: ParallelPlan) -> None:
    """Each keeps the residuals of its own share: also of a branch that both share, and after the branches become fewer."""
    out = str(tmp_path / "skipped")
    rendezvous = parallel.open_rendezvous(LOCALHOST)
    run_on_ranks(plan.num_ranks, skip_on_rank, rendezvous.port, plan, out)
    alone = skip()
    assert 0 < sum(alone["full_steps"]) < 7
    assert sum(alone["plans"][1][1]) == 3
    for rank in range(plan.num_ranks):
        shared = torch.load(f"{out}-{rank}.pt")
        assert shared["full_steps"] == alone["full_steps"]
        assert shared["plans"] == alone["plans"]
        assert (shared["latents"] - alone["latents"]).abs().max() < 1e-5


NUM_UNEVEN_TOKENS = 45


ATTEND_IN_FP8 = SmoothAttention(emulate_fp8, head_dim=16, device=torch.device("cpu"))


def draw_heads() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(1, NUM_UNEVEN_TOKENS, 4, 16) + 2 * torch.randn(1, 1, 4, 16) for _ in range(3)]


def attend_in_fp8_on_rank(rank: int, port: int, plan: ParallelPlan, out: str) -> None:
    connect(rank, plan.num_ranks, port)
    context = parallel.ParallelContext(plan, num_heads=4, attend=ATTEND_IN_FP8)
    (turn,) = context.turns(1, NUM_UNEVEN_TOKENS)
    heads = (turn.sharding.all_to_all(turn.sharding.shard(x)) for x in draw_heads())
    torch.save(turn.sharding.gather(turn.sharding.attend(*heads).flatten(2)), f"{out}-{rank}.pt")
    parallel.disconnect()


def test_ranks_subtract_the_mean_over_the_tokens_of_all_and_not_over_padding(tmp_path: Path) -> None:
    """Another mean would round other numbers to fp8."""
    out = str(tmp_path / "attended")
    rendezvous = parallel.open_rendezvous(LOCALHOST)
    run_on_ranks(4, attend_in_fp8_on_rank, rendezvous.port, ParallelPlan(ulysses=4), out)
    alone = ATTEND_IN_FP8(*draw_heads()).flatten(2)
    for rank in range(4):
        assert (torch.load(f"{out}-{rank}.pt") - alone).abs().max() < 1e-5


def meet_and_part(rank: int, ports: list[int]) -> None:
    """Groups of several shapes in one process, as after failures."""
    expected = load_tiny("lite").denoise(make_subject(), UNEVEN)
    for turn, port in enumerate(ports):
        connect(rank, 2, port)
        plan = ParallelPlan(ulysses=2) if turn % 2 else ParallelPlan(branches=2)
        assert torch.allclose(load_tiny("lite", plan=plan).denoise(make_subject(), UNEVEN), expected, atol=1e-5)
        parallel.disconnect()


def test_ranks_meet_and_part_ten_times() -> None:
    rendezvous = [parallel.open_rendezvous(LOCALHOST) for _ in range(10)]
    run_on_ranks(2, meet_and_part, [store.port for store in rendezvous])


def test_a_plan_that_does_not_divide_the_heads_is_refused() -> None:
    with pytest.raises(InvalidParams, match="4 attention heads"):
        load_tiny("lite", plan=ParallelPlan(ulysses=3))


def test_a_plan_without_its_ranks_is_refused() -> None:
    with pytest.raises(InvalidParams, match="needs 2 ranks"):
        load_tiny("lite", plan=ParallelPlan(ulysses=2))
