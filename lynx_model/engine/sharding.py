"""Splits one sequence of tokens over several ranks: each rank has a share of the tokens, and of the heads during attention.

Only base self-attention looks at other tokens; everything else in a block is local to a token. So ranks exchange tokens for heads
around self-attention (Ulysses, arXiv 2309.14509). Ranks of a ring gather each other's keys and values instead, which also works
for more ranks than heads.

Shapes: B batch, P ranks of the Ulysses group, t tokens of this rank, T tokens of the group, S tokens of the whole sequence,
H heads, h heads of this rank, D head size, X features.
"""

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from lynx_model.engine.attention import Attend


class TokenSharding(Protocol):
    """How one sequence of tokens is split over ranks."""

    def shard(self, tokens_BSX: Tensor) -> Tensor:
        """This rank's share of all tokens (dimension 1)."""

    def all_to_all(self, x_BtHD: Tensor) -> Tensor:
        """Trades all heads of this rank's tokens for this rank's heads of the group's tokens, (B, T, h, D)."""

    def attend(self, query_BThD: Tensor, key_BThD: Tensor, value_BThD: Tensor) -> Tensor:
        """Attention of the results of `all_to_all` over the keys of all ranks, traded back to (B, t, H, D)."""

    def gather(self, tokens_BtX: Tensor) -> Tensor:
        """All ranks' tokens, on every rank."""

    def attending_with(self, attend: Attend) -> "TokenSharding":
        """The same split, with another kernel in `attend`."""


class WholeSequence:
    """The whole sequence on one rank."""

    def __init__(self, attend: Attend) -> None:
        self._attend = attend

    def shard(self, tokens_BSX: Tensor) -> Tensor:
        return tokens_BSX

    def all_to_all(self, x_BSHD: Tensor) -> Tensor:
        return x_BSHD

    def attend(self, query_BSHD: Tensor, key_BSHD: Tensor, value_BSHD: Tensor) -> Tensor:
        return self._attend(query_BSHD, key_BSHD, value_BSHD)

    def gather(self, tokens_BSX: Tensor) -> Tensor:
        return tokens_BSX

    def attending_with(self, attend: Attend) -> "WholeSequence":
        return WholeSequence(attend)


class SharedSequence:
    """`num_tokens` tokens in equal shares. The last share is padded; no query attends to padding.

    `tokens` is the group of all ranks that share the sequence. It consists of one `ulysses` group per rank of `ring`, which is None
    for a single one.
    """

    def __init__(
        self,
        tokens: dist.ProcessGroup,
        ulysses: dist.ProcessGroup,
        ring: dist.ProcessGroup | None,
        num_tokens: int,
        attend: Attend,
    ) -> None:
        self._tokens, self._ulysses, self._ring = tokens, ulysses, ring
        self._num_tokens, self._attend = num_tokens, attend
        self._share = -(-num_tokens // tokens.size())

    def attending_with(self, attend: Attend) -> "SharedSequence":
        return SharedSequence(self._tokens, self._ulysses, self._ring, self._num_tokens, attend)

    def shard(self, tokens_BSX: Tensor) -> Tensor:
        start = self._tokens.rank() * self._share
        tokens = tokens_BSX[:, start : start + self._share]
        padding = self._share - tokens.shape[1]
        if not padding:
            return tokens.contiguous()
        return torch.cat([tokens, tokens.new_zeros(tokens.shape[0], padding, *tokens.shape[2:])], dim=1)

    def all_to_all(self, x_BtHD: Tensor) -> Tensor:
        received_PBthD = self._exchange(x_BtHD.unflatten(2, (self._ulysses.size(), -1)).movedim(2, 0))
        return received_PBthD.movedim(0, 1).flatten(1, 2)

    def attend(self, query_BThD: Tensor, key_BThD: Tensor, value_BThD: Tensor) -> Tensor:
        key_BShD, value_BShD = self._of_all_tokens(key_BThD), self._of_all_tokens(value_BThD)
        attended_BThD = self._attend(query_BThD, key_BShD, value_BShD)
        back_PBthD = self._exchange(attended_BThD.unflatten(1, (self._ulysses.size(), -1)).movedim(1, 0))
        return back_PBthD.movedim(0, 2).flatten(2, 3)

    def gather(self, tokens_BtX: Tensor) -> Tensor:
        return all_gather(tokens_BtX, self._tokens)[:, : self._num_tokens]

    def _of_all_tokens(self, x_BThD: Tensor) -> Tensor:
        x_BShD = x_BThD if self._ring is None else all_gather(x_BThD, self._ring)
        return x_BShD[:, : self._num_tokens]

    def _exchange(self, x_P: Tensor) -> Tensor:
        """Sends part p of `x_P` to rank p; part p of the result is what rank p sent."""
        received = torch.empty_like(x_P, memory_format=torch.contiguous_format)
        dist.all_to_all_single(received, x_P.contiguous(), group=self._ulysses)
        return received


def all_gather(x_Bt: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The `x_Bt` of all ranks, concatenated along dimension 1."""
    parts = [torch.empty_like(x_Bt, memory_format=torch.contiguous_format) for _ in range(group.size())]
    dist.all_gather(parts, x_Bt.contiguous(), group=group)
    return torch.cat(parts, dim=1)
