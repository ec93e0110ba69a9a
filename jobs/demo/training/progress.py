"""How far a stage has come, by the clock: its share of the time, its learning rate, and its log."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

WARM_UP_STEPS = 50
"""After each start, because the optimiser's moments are not saved."""

COOL_DOWN_FROM = 0.6
"""Share of the time from which the learning rate falls to 0."""

REPORT_EVERY_S = 10.0
SAVE_EVERY_S = 120.0
SMOOTHING = 0.95


class Progress:
    """The progress of one stage, which may be trained in several pieces.

    Args:
        name: The stage; its log is `logs/NAME.jsonl` in `folder`.
        folder: The folder of the training's state.
        total_s: Seconds of the whole stage.
        done_s: Seconds of earlier pieces.
        piece_s: Seconds of this piece at most; None goes on to the end of the stage.
    """

    def __init__(
        self, name: str, folder: Path, *, total_s: float, done_s: float = 0.0, piece_s: float | None = None
    ) -> None:
        self.name, self._total_s, self._done_s = name, total_s, done_s
        self._piece_s = total_s - done_s if piece_s is None else piece_s
        self._log = folder / "logs" / f"{name}.jsonl"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._start = self._reported = self._saved = time.monotonic()
        self._means: dict[str, Tensor | float] = {}
        self.num_steps = 0

    @property
    def seconds(self) -> float:
        """Seconds of the stage so far, earlier pieces included."""
        return self._done_s + self._piece_seconds

    @property
    def share(self) -> float:
        return min(self.seconds / self._total_s, 1.0)

    @property
    def is_over(self) -> bool:
        return self.share >= 1 or self._piece_seconds >= self._piece_s

    @property
    def rate_share(self) -> float:
        """The share of the full learning rate at this step."""
        warm = min(1.0, (self.num_steps + 1) / WARM_UP_STEPS)
        return warm * min(1.0, max(1 - self.share, 0.0) / (1 - COOL_DOWN_FROM))

    def step(self, losses: Mapping[str, Tensor]) -> None:
        """Counts a step; every ten seconds writes the smoothed losses to the log and the screen."""
        self.num_steps += 1
        for key, loss in losses.items():
            value = loss.detach()
            self._means[key] = (
                value if key not in self._means else self._means[key] * SMOOTHING + value * (1 - SMOOTHING)
            )
        if self.num_steps in (1, 2) or time.monotonic() - self._reported >= REPORT_EVERY_S:
            self._reported = time.monotonic()
            self.report({key: round(float(mean), 4) for key, mean in self._means.items()})

    def is_time_to_save(self) -> bool:
        """True once in two minutes."""
        if time.monotonic() - self._saved < SAVE_EVERY_S:
            return False
        self._saved = time.monotonic()
        return True

    def report(self, values: Mapping[str, object]) -> None:
        line = {"stage": self.name, "seconds": round(self.seconds, 1), "step": self.num_steps, **values}
        print(json.dumps(line), flush=True)
        with self._log.open("a") as log:
            log.write(json.dumps(line) + "\n")

    @property
    def _piece_seconds(self) -> float:
        return time.monotonic() - self._start
