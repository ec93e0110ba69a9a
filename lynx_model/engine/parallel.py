"""How the ranks of one group share a clip: guidance branches run in parallel, and several ranks share the tokens of a branch.

GPUs use xDiT's process groups, CPUs torch's own. Ranks that share tokens have consecutive numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from lynx_model.engine.attention import Attend
from lynx_model.engine.sharding import SharedSequence, TokenSharding, WholeSequence, all_gather
from lynx_model.errors import InvalidParams
from lynx_model.spec import ParallelPlan


@dataclass(frozen=True, slots=True)
class Groups:
    """The process groups that this rank is in: one for each kind of sharing, and one of all ranks."""

    ulysses: dist.ProcessGroup
    ring: dist.ProcessGroup
    tokens: dist.ProcessGroup
    branches: dist.ProcessGroup
    all: dist.ProcessGroup


@dataclass(frozen=True, slots=True)
class Turn:
    """One forward of this rank: the branch, and how its tokens are shared.

    The ranks of `group` compute `num_branches` branches in the same turn.
    """

    branch: int
    sharding: TokenSharding
    num_branches: int = 1
    group: dist.ProcessGroup | None = None

    def share(self, velocity_BCFHW: Tensor) -> list[Tensor]:
        """The velocity of each branch of the turn, on every rank."""
        if self.group is None:
            return [velocity_BCFHW]
        gathered = all_gather(velocity_BCFHW[:, None], self.group)
        return list(gathered.unbind(1))[: self.num_branches]


class ParallelContext:
    """Carries out a ParallelPlan on the connected ranks.

    Raises:
        InvalidParams: If `ulysses` does not divide the model's heads, or the plan needs another number of ranks.
    """

    def __init__(self, plan: ParallelPlan, *, num_heads: int, attend: Attend) -> None:
        if num_heads % plan.ulysses:
            raise InvalidParams("ulysses", plan.ulysses, f"must divide the model's {num_heads} attention heads")
        num_ranks = dist.get_world_size() if dist.is_initialized() else 1
        if plan.num_ranks not in (1, num_ranks):
            raise InvalidParams("plan", plan, f"needs {plan.num_ranks} ranks, but {num_ranks} are connected")
        self._plan, self._attend = plan, attend
        self._can_share_all = plan.ring == 1 and num_heads % plan.num_ranks == 0
        self._groups = _make_groups(plan) if plan.num_ranks > 1 else None

    def turns(self, num_branches: int, num_tokens: int) -> Iterator[Turn]:
        """This rank's forwards of one step, in branch order.

        Branches run in parallel in rounds of `plan.branches`. All ranks share the tokens of each branch that is left over. If the
        heads do not divide by the number of ranks, the leftovers form one more round, where ranks without a branch repeat the last.
        """
        if self._groups is None:
            yield from (Turn(branch, WholeSequence(self._attend)) for branch in range(num_branches))
            return
        width, branch_group, all_ranks = self._plan.branches, self._groups.branches, self._groups.all
        num_parallel = num_branches - num_branches % width if self._can_share_all else num_branches
        for first in range(0, num_parallel, width):
            branch = min(first + branch_group.rank(), num_branches - 1)
            yield Turn(branch, self._share_branch(num_tokens), min(width, num_branches - first), branch_group)
        for branch in range(num_parallel, num_branches):
            yield Turn(branch, SharedSequence(all_ranks, all_ranks, None, num_tokens, self._attend))

    def _share_branch(self, num_tokens: int) -> TokenSharding:
        """The split of tokens among the ranks that compute one branch."""
        groups = self._groups
        if groups is None or groups.tokens.size() == 1:
            return WholeSequence(self._attend)
        ring = groups.ring if self._plan.ring > 1 else None
        return SharedSequence(groups.tokens, groups.ulysses, ring, num_tokens, self._attend)


def open_rendezvous(host: str) -> TCPStore:
    """Where the ranks of a group find each other, for as long as the store is kept. It has a free port of `host`, and `connect` wants
    both. The port is taken from the start: one that is only looked up could be another process's by the time that the ranks connect.
    """
    return TCPStore(host, 0, is_master=True, wait_for_workers=False)


def connect(*, rank: int, num_ranks: int, host: str, port: int, backend: str, timeout_s: float) -> None:
    """Joins the process group through the rendezvous at `host` and `port`, which serves one group.

    Blocks until all ranks have joined or `timeout_s` has passed.
    """
    timeout = timedelta(seconds=timeout_s)
    store = TCPStore(host, port, is_master=False, timeout=timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=num_ranks, timeout=timeout)


def all_agree(is_ready: bool) -> bool:
    """Whether every connected rank is ready; blocks until all have answered."""
    if not dist.is_initialized():
        return is_ready
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    vote = torch.tensor(int(is_ready), device=device)
    dist.all_reduce(vote, dist.ReduceOp.MIN)
    return bool(vote.item())


def disconnect() -> None:
    """Leaves the process group, if there is one. Another can be joined afterwards."""
    if not dist.is_initialized():
        return
    if dist.get_backend() == "nccl":
        from xfuser.core.distributed import parallel_state as xdit

        xdit.destroy_model_parallel()
        xdit.destroy_distributed_environment()
    else:
        dist.destroy_process_group()


def _make_groups(plan: ParallelPlan) -> Groups:
    return _make_xdit_groups(plan) if dist.get_backend() == "nccl" else _make_torch_groups(plan)


def _make_xdit_groups(plan: ParallelPlan) -> Groups:
    from xfuser.core.distributed import parallel_state as xdit

    if xdit.model_parallel_is_initialized():
        xdit.destroy_model_parallel()
    xdit.init_distributed_environment(
        world_size=dist.get_world_size(),
        rank=dist.get_rank(),
        local_rank=torch.cuda.current_device(),
        backend="nccl",
    )
    xdit.initialize_model_parallel(
        classifier_free_guidance_degree=plan.branches,
        sequence_parallel_degree=plan.ulysses * plan.ring,
        ulysses_degree=plan.ulysses,
        ring_degree=plan.ring,
        backend="nccl",
    )
    tokens = xdit.get_sp_group()
    return Groups(
        ulysses=tokens.ulysses_group,
        ring=tokens.ring_group,
        tokens=tokens.device_group,
        branches=xdit.get_cfg_group().device_group,
        all=xdit.get_world_group().device_group,
    )


def _make_torch_groups(plan: ParallelPlan) -> Groups:
    """The same groups without xDiT, in its order of ranks."""
    ranks = np.arange(plan.num_ranks).reshape(plan.branches, plan.ring, plan.ulysses)

    def join(lists: NDArray[np.int_]) -> dist.ProcessGroup:
        group: dist.ProcessGroup
        group, _ = dist.new_subgroups_by_enumeration(lists.tolist())
        return group

    return Groups(
        ulysses=join(ranks.reshape(-1, plan.ulysses)),
        ring=join(ranks.swapaxes(1, 2).reshape(-1, plan.ring)),
        tokens=join(ranks.reshape(plan.branches, -1)),
        branches=join(ranks.reshape(plan.branches, -1).T),
        all=join(ranks.reshape(1, -1)),
    )
