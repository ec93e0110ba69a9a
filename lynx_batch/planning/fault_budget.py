"""How many machine faults a run puts up with: it pauses between them and gives up if nothing else happens."""

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
MAX_FAILED_LOADS = 3
"""If this many groups fail to load and none ever has, the cause is not temporary."""


class FaultBudget:
    """The machine faults of a run since its last progress.

    - **Fault**: work stopped, and no clip is to blame: a group or node was lost, a store did not answer, or no node has room
      for a group.
    - **Progress**: an attempt ended because of its clip, with a success or a failure. It clears all faults.
    - **Pause**: after a fault, nothing is started for a while. The first fault causes no pause, because it is usually a single
      lost worker; later pauses double from `FIRST_PAUSE_S` to `LONGEST_PAUSE_S`.
    - **Giving up**: the run stops if several faults in a row span too long a time, or if `MAX_FAILED_LOADS` groups failed to load
      before any group was ready.
    """

    def __init__(self) -> None:
        self.has_loaded = False
        self._num_failed_loads, self._load_failed_s = 0, float("-inf")
        self.record_progress()

    def record_progress(self) -> None:
        self._num_faults, self._since_s = 0, 0.0
        self._pause_s, self._resume_s = 0.0, float("-inf")

    def record_loaded(self) -> None:
        """A group is ready, so the machines can load the model."""
        self.has_loaded = True

    def record_fault(self, now_s: float) -> None:
        """Counts a fault. One that comes during a pause is a result of work started before it, so it does not extend the pause."""
        self._num_faults += 1
        if self._num_faults == 1:
            self._since_s = now_s
        elif not self.is_paused(now_s):
            self._pause_s = min(max(FIRST_PAUSE_S, 2 * self._pause_s), LONGEST_PAUSE_S)
            self._resume_s = now_s + self._pause_s

    def record_failed_load(self, now_s: float, *, formed_s: float) -> None:
        """A group broke while it was loading, on a node that still exists. Groups formed before the last such break count with it.

        When a node is lost, all its groups break at once, some time before the cluster reports the node as gone.
        """
        if formed_s >= self._load_failed_s:
            self._num_failed_loads += 1
            self._load_failed_s = now_s

    def record_load_timeout(self) -> None:
        """A group was not ready in time. If none ever was, waiting as long for another is pointless."""
        self._num_failed_loads += MAX_FAILED_LOADS

    def is_paused(self, now_s: float) -> bool:
        """Whether to start nothing now: machines are failing, and failing faster helps nobody."""
        return now_s < self._resume_s

    def reason_to_stop(self, now_s: float, *, give_up_after_s: float) -> str | None:
        """Why the run should give up now, or None if it should go on."""
        if not self.has_loaded and self._num_failed_loads >= MAX_FAILED_LOADS:
            return "groups broke and none was ever ready"
        waited_s = now_s - self._since_s
        if self._num_faults > 1 and waited_s >= give_up_after_s:
            return f"{self._num_faults} faults of machines in {waited_s:.0f} s, and no clip ended"
        return None
