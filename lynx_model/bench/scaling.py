"""Measures how a step scales over the GPUs of one host, for every parallel plan and several sizes.

Cells that the results file already has are not measured again, so a table can be made in parts.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from torch.multiprocessing.spawn import spawn

from lynx_model.bench.case import BenchCase, forward_of, random_inputs, random_transformer
from lynx_model.bench.forward import peak_gib
from lynx_model.bench.timing import time_ms
from lynx_model.engine import parallel
from lynx_model.errors import InvalidParams
from lynx_model.spec import EngineOptions, ParallelPlan

LOCALHOST = "127.0.0.1"
TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell of the table: all guidance branches of one step of `case`, shared according to `plan`."""

    case: BenchCase
    plan: ParallelPlan

    @property
    def name(self) -> str:
        case, plan = self.case, self.plan
        variant = "lite" if case.is_lite else "full"
        variant += "" if case.num_blocks == BenchCase().num_blocks else f" of {case.num_blocks} blocks"
        shape = f"{case.width}x{case.height}x{case.num_frames}"
        return f"{variant} {shape}, {plan.branches} branches x {plan.ulysses} ulysses"


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """`step_ms` is the median time of one step with all its guidance branches."""

    name: str
    num_gpus: int
    num_branches: int
    step_ms: float
    peak_gib: float


def plan_cells(cases: Iterable[BenchCase], numbers_of_gpus: Iterable[int]) -> Iterator[Cell]:
    """The cells for one GPU, then for every plan of more: parallel branches, shared tokens, or both."""
    numbers = sorted({1, *numbers_of_gpus})
    for case in cases:
        for number in numbers:
            for branches in range(1, min(number, case.num_branches) + 1):
                ulysses, rest = divmod(number, branches)
                if not rest and case.num_heads % ulysses == 0:
                    yield Cell(case=case, plan=ParallelPlan(branches=branches, ulysses=ulysses))


def bench_scaling(cells: Iterable[Cell], file: Path, num_runs: int) -> list[CellResult]:
    """Measures the cells that `file` does not have yet and adds each to it; returns all results in it."""
    for cell in cells:
        if cell.name not in {result.name for result in read_results(file)}:
            rendezvous = parallel.open_rendezvous(LOCALHOST)
            arguments = (cell, file, num_runs, rendezvous.port)
            spawn(_measure_on_rank, arguments, nprocs=cell.plan.num_ranks)
    return read_results(file)


def read_results(file: Path) -> list[CellResult]:
    """The results in `file`; empty if it does not exist. Raises InvalidParams if it is not a results file."""
    try:
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        return [CellResult(**result) for result in json.loads(text or "[]")]
    except (OSError, ValueError, TypeError) as error:
        raise InvalidParams("json", str(file), f"must be a file of earlier results: {error}") from error


def efficiency(result: CellResult, results: Iterable[CellResult]) -> float | None:
    """One GPU's time for the same step, divided by the summed time of all GPUs; None if one GPU was not measured."""
    step = result.name.partition(",")[0]
    alone = [r.step_ms for r in results if r.num_gpus == 1 and r.name.startswith(f"{step},")]
    return alone[0] / (result.num_gpus * result.step_ms) if alone else None


def _measure_on_rank(rank: int, cell: Cell, file: Path, num_runs: int, port: int) -> None:
    is_cuda = torch.cuda.is_available()
    device = torch.device("cuda", rank) if is_cuda else torch.device("cpu")
    if is_cuda:
        torch.cuda.set_device(device)
    if cell.plan.num_ranks > 1:
        parallel.connect(
            rank=rank,
            num_ranks=cell.plan.num_ranks,
            host=LOCALHOST,
            port=port,
            backend="nccl" if is_cuda else "gloo",
            timeout_s=TIMEOUT_S,
        )
    result = _measure(cell, device, num_runs)
    if rank == 0:
        results = [*map(asdict, read_results(file)), asdict(result)]
        file.write_text(json.dumps(results, indent=1), encoding="utf-8")
    parallel.disconnect()


@torch.inference_mode()
def _measure(cell: Cell, device: torch.device, num_runs: int) -> CellResult:
    torch.manual_seed(0)
    model = random_transformer(cell.case, device)
    inputs = random_inputs(cell.case, model, device)
    model.set_up(plan=cell.plan, engine=EngineOptions(compile=True))
    step = forward_of(model, inputs, cell.case.num_branches)
    step()
    return CellResult(
        name=cell.name,
        num_gpus=cell.plan.num_ranks,
        num_branches=cell.case.num_branches,
        step_ms=median(time_ms(step, device) for _ in range(num_runs)),
        peak_gib=peak_gib(device),
    )
