"""Whatever goes wrong, a job stays whole. `make chaos` injects every fault; without `--chaos` a few are, once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos import faults
from tests.chaos.arena import (
    Arena,
    Trial,
    assert_judged,
    assert_whole,
    built,
    num_doubled,
    num_lost,
    prepare_trial,
    retries,
)
from tests.chaos.conftest import TABLE

pytestmark = [pytest.mark.ray, pytest.mark.slow(s=300)]


@pytest.fixture(scope="module")
def arena(face_pack: Path) -> Iterator[Arena]:
    with built(face_pack) as whole:
        yield whole


@pytest.mark.parametrize(
    "inject",
    [
        pytest.param(fault, marks=() if fault in faults.SHORT else pytest.mark.only_chaos, id=fault.__name__)
        for fault in faults.FAULTS
    ],
)
def test_a_job_stays_whole(
    inject: Callable[[Trial], None], arena: Arena, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for number in range(request.config.getoption("--chaos") or 1):
        try_out(prepare_trial(arena, tmp_path, f"{inject.__name__}-{number}"), inject, request)


@pytest.mark.only_chaos
@pytest.mark.parametrize("inject", faults.JUDGED, ids=lambda fault: fault.__name__)
def test_a_job_with_a_quality_gate_stays_whole(
    inject: Callable[[Trial], None], arena: Arena, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for number in range(request.config.getoption("--chaos")):
        trial = prepare_trial(arena, tmp_path, f"judged-{inject.__name__}-{number}", is_judged=True)
        try_out(trial, inject, request, name=f"judged, {inject.__name__}")
        assert_judged(trial)


def try_out(trial: Trial, inject: Callable[[Trial], None], request: pytest.FixtureRequest, *, name: str = "") -> None:
    inject(trial)
    trial.carry_out()
    counts = num_lost(trial), num_doubled(trial), len(retries(trial)), trial.num_runs
    request.config.stash[TABLE].append((name or inject.__name__, *counts, trial.seconds))
    assert_whole(trial)
