"""How long to bear with machines that fail: growing pauses, and an end."""

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
MAX_FAILED_LOADS = 3
"""So many times may groups break before the first is ready: what never worked is no passing trouble."""


class FaultBudget:
    """Faults of the machine since the last progress. The first one costs no time: most are a single lost worker."""

    def __init__(self) -> None:
        self.has_loaded = False
        self._num_failed_loads, self._load_failed_s = 0, float("-inf")
        self.progress()

    def progress(self) -> None:
        """A clip ended: whatever was wrong has passed."""
        self._num_faults, self._since_s = 0, 0.0
        self._pause_s, self._resume_s = 0.0, float("-inf")

    def loaded(self) -> None:
        self.has_loaded = True

    def fault(self, now_s: float) -> None:
        """Faults within a pause come from what was started before it, and do not prolong it."""
        self._num_faults += 1
        if self._num_faults == 1:
            self._since_s = now_s
        elif not self.is_paused(now_s):
            self._pause_s = min(max(FIRST_PAUSE_S, 2 * self._pause_s), LONGEST_PAUSE_S)
            self._resume_s = now_s + self._pause_s

    def load_failed(self, now_s: float, *, formed_s: float) -> None:
        """A group broke while it was loading; of those that were formed before the last one broke nothing new is learnt.

        All groups of a node that is lost break at once, some time before the node is known to be gone.
        """
        if formed_s >= self._load_failed_s:
            self._num_failed_loads += 1
            self._load_failed_s = now_s

    def waited_in_vain(self) -> None:
        """A group did not become ready in its time: if none was before, nobody waits so long for another."""
        self._num_failed_loads += MAX_FAILED_LOADS

    def is_paused(self, now_s: float) -> bool:
        return now_s < self._resume_s

    def reason_to_stop(self, now_s: float, *, give_up_after_s: float) -> str | None:
        if not self.has_loaded and self._num_failed_loads >= MAX_FAILED_LOADS:
            return "groups broke and none was ever ready"
        waited_s = now_s - self._since_s
        if self._num_faults > 1 and waited_s >= give_up_after_s:
            return f"{self._num_faults} faults of machines in {waited_s:.0f} s, and no clip ended"
        return None
