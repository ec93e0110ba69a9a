"""When a notice about a run's progress is due: after every so many percent of the rows, and every so many hours."""

import math

HOUR_S = 3600.0


class Due:
    """Begins at a share of ended rows and a time, in seconds of any clock. `every_percent` and `every_hours` may be None."""

    def __init__(self, *, every_percent: float | None, every_hours: float | None, share: float, now_s: float) -> None:
        self._every_percent = every_percent
        self._every_s = None if every_hours is None else every_hours * HOUR_S
        self._num_parts, self._last_s = self._parts(share), now_s

    def is_due(self, share: float, now_s: float) -> bool:
        """Whether a notice is due now. Then the next one is due as much later."""
        num_parts = self._parts(share)
        is_further = num_parts > self._num_parts and share < 1  # the end has a notice of its own
        is_later = self._every_s is not None and now_s - self._last_s >= self._every_s
        self._num_parts = num_parts
        if is_later:
            self._last_s = now_s
        return is_further or is_later

    def _parts(self, share: float) -> int:
        return 0 if self._every_percent is None else math.floor(100 * share / self._every_percent + 1e-9)
