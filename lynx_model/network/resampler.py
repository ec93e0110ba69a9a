"""Identity embedding -> identity tokens: a Perceiver that reads one face embedding with learned queries.

Source: bytedance/lynx modules/common/resampler.py at 3a6a91a, which follows Flamingo's Perceiver resampler (arXiv 2204.14198).
Shapes: B batch, N embeddings, Q queries, E embedding size (512), W width, D token size.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

HEAD_DIM = 64


class PerceiverAttention(nn.Module):
    """Queries attend to the embeddings and to themselves."""

    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        self.num_heads = inner_width // HEAD_DIM
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner_width, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner_width, bias=False)
        self.to_out = nn.Linear(inner_width, width, bias=False)

    def forward(self, embeddings_BNW: Tensor, queries_BQW: Tensor) -> Tensor:
        queries_BQW = self.norm2(queries_BQW)
        context = torch.cat([self.norm1(embeddings_BNW), queries_BQW], dim=1)
        key, value = (self._heads(t) for t in self.to_kv(context).chunk(2, dim=-1))
        attended = scaled_dot_product_attention(self._heads(self.to_q(queries_BQW)), key, value)
        return self.to_out(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _heads(self, x_BTW: Tensor) -> Tensor:
        x_BTHW: Tensor = x_BTW.unflatten(2, (self.num_heads, -1))
        return x_BTHW.transpose(1, 2)


class ResamplerLayer(nn.ModuleList):
    """Attention and a feed-forward network, each with a residual connection; a list, because checkpoints number the two."""

    def __init__(self, width: int, inner_width: int, ff_width: int) -> None:
        widen, narrow = nn.Linear(width, ff_width, bias=False), nn.Linear(ff_width, width, bias=False)
        feed_forward = nn.Sequential(nn.LayerNorm(width), widen, nn.GELU(), narrow)
        super().__init__([PerceiverAttention(width, inner_width), feed_forward])

    def forward(self, embeddings_BNW: Tensor, queries_BQW: Tensor) -> Tensor:
        attention, feed_forward = self
        queries_BQW = queries_BQW + attention(embeddings_BNW, queries_BQW)
        return queries_BQW + feed_forward(queries_BQW)  # type: ignore[no-any-return]


class Resampler(nn.Module):
    """Turns N identity embeddings of one face into Q tokens that the ID-adapter attends to."""

    def __init__(
        self,
        *,
        depth: int,
        width: int,
        inner_width: int,
        ff_width: int,
        num_queries: int,
        embedding_size: int,
        token_size: int,
    ) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.empty(1, num_queries, width))
        self.proj_in = nn.Linear(embedding_size, width)
        self.proj_out = nn.Linear(width, token_size)
        self.norm_out = nn.LayerNorm(token_size)
        self.layers = nn.ModuleList(ResamplerLayer(width, inner_width, ff_width) for _ in range(depth))

    def forward(self, embeddings_BNE: Tensor) -> Tensor:
        """(B, N, E) -> (B, Q, D)."""
        embeddings_BNW = self.proj_in(embeddings_BNE)
        queries_BQW = self.latents.expand(len(embeddings_BNE), -1, -1)
        for layer in self.layers:
            queries_BQW = layer(embeddings_BNW, queries_BQW)
        return self.norm_out(self.proj_out(queries_BQW))  # type: ignore[no-any-return]
