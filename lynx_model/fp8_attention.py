"""fp8 attention: in which blocks and at which steps base self-attention computes in fp8; free of torch.

Blocks and steps are chosen by their place in the whole, so one setting means the same for models and clips of any length.
"""

from dataclasses import dataclass

from lynx_model.errors import InvalidParams
from lynx_model.ranges import lies_within

EVERYWHERE = (0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8Attention:
    """The blocks and the steps with attention in fp8: two fractions each, such as 0.1 to 0.9 of all blocks.

    Block i of n, counted from 0, is among them if it lies there as a whole: from i / n to (i + 1) / n. So do steps. What is outside
    computes exactly, as do reference pictures.

    Raises:
        InvalidParams: If a range does not lie within 0 to 1, or ends before it starts.
    """

    blocks: tuple[float, float] = EVERYWHERE
    steps: tuple[float, float] = EVERYWHERE

    def __post_init__(self) -> None:
        for name in ("blocks", "steps"):
            value = getattr(self, name)
            if len(value) != 2 or not 0 <= value[0] <= value[1] <= 1:
                rule = "must be two fractions from 0 to 1, such as [0.1, 0.9], the lower one first"
                raise InvalidParams(f"fp8_attention.{name}", value, rule)

    @property
    def is_idle(self) -> bool:
        """Whether it can never hold a block and a step."""
        return self.blocks[0] == self.blocks[1] or self.steps[0] == self.steps[1]

    @property
    def name(self) -> str:
        """Everything about it that changes the picture."""
        ranges = (
            f"{kind} {float(start)} to {float(end)}"
            for kind, (start, end) in self._ranges
            if (start, end) != EVERYWHERE
        )
        return ", ".join(["fp8 attention", *ranges])

    @property
    def written(self) -> object:
        """As a run file has it, for messages."""
        return True if self == Fp8Attention() else {kind: [*ends] for kind, ends in self._ranges if ends != EVERYWHERE}

    @property
    def _ranges(self) -> tuple[tuple[str, tuple[float, float]], ...]:
        return ("blocks", self.blocks), ("steps", self.steps)

    def has_block(self, block: int, num_blocks: int) -> bool:
        return lies_within(block, num_blocks, *self.blocks)

    def has_step(self, step: int, num_steps: int) -> bool:
        return lies_within(step, num_steps, *self.steps)

    def share_of_blocks(self, num_blocks: int) -> float:
        """The share of a model's blocks that it holds."""
        return sum(self.has_block(block, num_blocks) for block in range(num_blocks)) / num_blocks
