"""Muon for matrices, AdamW for the rest, and running averages of the weights.

torch's own `torch.optim.Muon` takes two-dimensional weights one by one. This one also takes convolutions and fused projections, and
orthogonalises all matrices of one shape in one call, which matters for a model of many small matrices.
Source: Jordan et al., "Muon", 2024 (the iteration's coefficients); Moonshot AI, arXiv 2502.16982 (the scale of an update).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5
UPDATE_SCALE = 0.2
"""Times the square root of a matrix's longer side: gives Muon's updates the size of AdamW's."""

MOMENTUM = 0.95
ADAM_BETAS = (0.9, 0.98)
NOT_MATRICES = ("shared", "embed", "proj_out", "conv_out", "conv_in", "latents", "registers", "relative", "scale_shift")
"""Parts of the names of weights that AdamW takes whatever their shape: embeddings, inputs and outputs."""

MIN_SIDE = 16


class Optimiser:
    """Steps the parameters that need gradients; `share` of a step is the share of the full learning rate."""

    def __init__(self, parameters: Sequence[tuple[str, nn.Parameter]], *, learning_rate: float) -> None:
        self._learning_rate = learning_rate
        self._stacks: dict[torch.Size, list[Tensor]] = {}
        rest = []
        for name, parameter in parameters:
            if _is_matrix(name, parameter):
                self._stacks.setdefault(parameter.shape, []).append(parameter)
            else:
                rest.append(parameter)
        self._momenta = {shape: torch.zeros(len(ps), *shape, device=ps[0].device) for shape, ps in self._stacks.items()}
        self._adam = torch.optim.AdamW(
            rest, lr=learning_rate, betas=ADAM_BETAS, weight_decay=0.0, fused=rest[0].is_cuda
        )

    @torch.no_grad()
    def step(self, share: float) -> None:
        rate = self._learning_rate * share
        for shape, parameters in self._stacks.items():
            gradients = torch.stack([_gradient(p) for p in parameters])
            momentum = self._momenta[shape].lerp_(gradients, 1 - MOMENTUM)
            matrices = _as_matrices(gradients.lerp(momentum, MOMENTUM))
            scale = UPDATE_SCALE * max(matrices.shape[1:]) ** 0.5 * rate
            update = (orthogonalised(matrices) * scale).view(len(parameters), *shape)
            torch._foreach_sub_(parameters, list(update.unbind(0)))
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.step()
        for parameters in self._stacks.values():
            for parameter in parameters:
                parameter.grad = None
        self._adam.zero_grad()


def orthogonalised(matrices_NRC: Tensor) -> Tensor:
    """Each matrix with its singular values brought near 1, by Newton-Schulz iterations in bfloat16."""
    a, b, c = NEWTON_SCHULZ
    is_tall = matrices_NRC.shape[1] > matrices_NRC.shape[2]
    x = matrices_NRC.transpose(1, 2) if is_tall else matrices_NRC
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(NUM_ITERATIONS):
        square = x @ x.transpose(1, 2)
        x = a * x + (b * square + c * square @ square) @ x
    orthogonal: Tensor = x.transpose(1, 2) if is_tall else x
    return orthogonal.float()


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    if parameter.ndim < 2 or any(part in name for part in NOT_MATRICES):
        return False
    return min(_as_matrices(parameter[None]).shape[1:]) >= MIN_SIDE


def _as_matrices(weights: Tensor) -> Tensor:
    """(N, out, in, ...) -> (matrices, out, in x ...); a fused projection of query, key and value is three matrices."""
    matrices = weights.flatten(2)
    rows, columns = matrices.shape[1:]
    return matrices.reshape(-1, columns, columns) if rows == 3 * columns else matrices


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


class Averages:
    """Exponential moving averages of parameters, in float32."""

    def __init__(self, parameters: Sequence[nn.Parameter], *, decay: float) -> None:
        self.parameters: list[Tensor] = list(parameters)
        self._decay = decay
        self.values = [p.detach().float().clone() for p in self.parameters]
        self._num_updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Early on the average follows the parameters closely, so that the first random weights do not linger."""
        self._num_updates += 1
        decay = min(self._decay, self._num_updates / (self._num_updates + 10))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the parameters hold their averages."""
        own = [p.detach().clone() for p in self.parameters]
        self._fill(self.values)
        try:
            yield
        finally:
            self._fill(own)

    @torch.no_grad()
    def _fill(self, values: Sequence[Tensor]) -> None:
        torch._foreach_copy_(self.parameters, list(values))
