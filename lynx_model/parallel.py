"""How the ranks of one group share a clip's tokens.

Only base self-attention looks at other tokens; everything else in a block is local to a token, so a rank keeps an equal
share of the tokens and swaps tokens for heads around self-attention (Ulysses, arXiv 2309.14509).
"""

from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from lynx_model.attention import Attend
from lynx_model.errors import InvalidParams
from lynx_model.spec import ParallelPlan


class TokenSharding(Protocol):
    """One sequence of tokens, spread over ranks."""

    def shard(self, tokens_BTX: Tensor) -> Tensor:
        """This rank's share of all tokens (dimension 1)."""

    def attend(self, query_BTHD: Tensor, key_BTHD: Tensor, value_BTHD: Tensor) -> Tensor:
        """Attention of this rank's queries over the keys of all ranks."""

    def gather(self, tokens_BTX: Tensor) -> Tensor:
        """All tokens, on every rank, from each rank's share."""


class WholeSequence:
    """Every token is here."""

    def __init__(self, attend: Attend) -> None:
        self._attend = attend

    def shard(self, tokens_BTX: Tensor) -> Tensor:
        return tokens_BTX

    def attend(self, query_BTHD: Tensor, key_BTHD: Tensor, value_BTHD: Tensor) -> Tensor:
        return self._attend(query_BTHD, key_BTHD, value_BTHD)

    def gather(self, tokens_BTX: Tensor) -> Tensor:
        return tokens_BTX


class UlyssesSharding:
    """`num_tokens` tokens in equal shares; the last share is padded, and no query ever attends to padding."""

    def __init__(self, group: dist.ProcessGroup, num_tokens: int, attend: Attend) -> None:
        self.group, self.num_tokens, self._attend = group, num_tokens, attend
        self.rank, self.num_ranks = group.rank(), group.size()
        self.share = -(-num_tokens // self.num_ranks)

    def shard(self, tokens_BTX: Tensor) -> Tensor:
        tokens = tokens_BTX[:, self.rank * self.share : (self.rank + 1) * self.share]
        padding = self.share - tokens.shape[1]
        if not padding:
            return tokens.contiguous()
        return torch.cat([tokens, tokens.new_zeros(tokens.shape[0], padding, *tokens.shape[2:])], dim=1)

    def attend(self, query_BTHD: Tensor, key_BTHD: Tensor, value_BTHD: Tensor) -> Tensor:
        """Swaps tokens for heads in one exchange, attends, and swaps back in another."""
        sent = [x.unflatten(2, (self.num_ranks, -1)).movedim(2, 0) for x in (query_BTHD, key_BTHD, value_BTHD)]
        received_P3BthD = self._exchange(torch.stack(sent, dim=1))
        query, key, value = (x_PBthD.movedim(0, 1).flatten(1, 2) for x_PBthD in received_P3BthD.unbind(1))
        attended_BThD = self._attend(query, key[:, : self.num_tokens], value[:, : self.num_tokens])
        back_PBthD = self._exchange(attended_BThD.unflatten(1, (self.num_ranks, -1)).movedim(1, 0))
        return back_PBthD.movedim(0, 2).flatten(2, 3)

    def gather(self, tokens_BTX: Tensor) -> Tensor:
        shares = [torch.empty_like(tokens_BTX) for _ in range(self.num_ranks)]
        dist.all_gather(shares, tokens_BTX.contiguous(), group=self.group)
        return torch.cat(shares, dim=1)[:, : self.num_tokens]

    def _exchange(self, x_P: Tensor) -> Tensor:
        """Part p of every rank's `x_P` goes to rank p; what rank p sent becomes part p."""
        received = torch.empty_like(x_P, memory_format=torch.contiguous_format)
        dist.all_to_all_single(received, x_P.contiguous(), group=self.group)
        return received


class ParallelContext:
    """A ParallelPlan carried out: hands out the sharding of a sequence.

    Raises:
        InvalidParams: If the model's heads do not divide, or the plan wants other than the ranks that are there.
    """

    def __init__(self, plan: ParallelPlan, *, num_heads: int, attend: Attend) -> None:
        if num_heads % plan.ulysses:
            raise InvalidParams("ulysses", plan.ulysses, f"must divide the model's {num_heads} attention heads")
        num_ranks = dist.get_world_size() if dist.is_initialized() else 1
        if plan.num_ranks not in (1, num_ranks):
            raise InvalidParams("plan", plan, f"needs {plan.num_ranks} ranks, but {num_ranks} are connected")
        self.plan, self.attend = plan, attend

    def sharding(self, num_tokens: int) -> TokenSharding:
        if self.plan.num_ranks == 1 or dist.group.WORLD is None:
            return WholeSequence(self.attend)
        return UlyssesSharding(dist.group.WORLD, num_tokens, self.attend)


def connect(*, rank: int, num_ranks: int, init_method: str, backend: str, timeout_s: float) -> None:
    """Joins the group's other ranks; blocks until all are there or `timeout_s` has passed."""
    dist.init_process_group(
        backend, init_method=init_method, rank=rank, world_size=num_ranks, timeout=timedelta(seconds=timeout_s)
    )


def all_agree(is_ready: bool) -> bool:
    """Whether every connected rank is ready; blocks until all have said so."""
    if not dist.is_initialized():
        return is_ready
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    vote = torch.tensor(int(is_ready), device=device)
    dist.all_reduce(vote, dist.ReduceOp.MIN)
    return bool(vote.item())


def disconnect() -> None:
    """Leaves the group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
