"""What the blocks added to the tokens in the last full step of a clip, to be added again in steps that do not run them.

Shapes: B batch, T tokens of this rank, X features.
"""

from collections.abc import Callable

from torch import Tensor


class Residuals:
    """The residuals of one clip: one for each guidance branch that this rank computes, of its own share of the tokens.

    Between two full steps, ranks share the branches and tokens in the same way, because the branches are the same.
    """

    def __init__(self) -> None:
        self._is_full = True
        self._by_branch: dict[int, Tensor] = {}

    def begin_step(self, *, is_full: bool) -> None:
        """A full step drops all residuals first, so that they never take more memory than those of one step."""
        self._is_full = is_full
        if is_full:
            self._by_branch.clear()

    def apply(self, branch: int, tokens_BTX: Tensor, run_blocks: Callable[[Tensor], Tensor]) -> Tensor:
        """What the blocks make of the tokens. Only a full step runs them."""
        if not self._is_full:
            return tokens_BTX + self._by_branch[branch]
        output_BTX = run_blocks(tokens_BTX)
        self._by_branch[branch] = output_BTX - tokens_BTX
        return output_BTX

    def magnitudes(self) -> list[float]:
        """The mean length of each branch's residual, over its tokens."""
        return [residual.float().norm(dim=-1).mean().item() for _, residual in sorted(self._by_branch.items())]
