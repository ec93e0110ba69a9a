"""How fast the clips of a setting were rendered."""

from collections.abc import Mapping, Sequence
from statistics import median

from lynx_batch.ledger.commits import CommitRecord
from lynx_batch.ledger.events import read_events


def timed_rows(output: str, commits: Mapping[int, CommitRecord]) -> set[int]:
    """The rows whose clips were rendered in one go, and were not the first of their size in their group, which may wait for the compiler.

    `commits` are by row.
    """
    runs = {commit.run_id for commit in commits.values()}
    groups = {event.attempt: event.group for run_id in runs for event in read_events(output, run_id)}
    timed, seen = set[int](), set[tuple[object, ...]]()
    for row, commit in sorted(commits.items(), key=lambda found: found[1].committed_at):
        kind = commit.run_id, groups.get(commit.attempt), commit.width, commit.height, commit.num_frames
        if kind in seen and not commit.num_steps_resumed:
            timed.add(row)
        seen.add(kind)
    return timed


def speed(own: Sequence[CommitRecord], reference: Sequence[CommitRecord]) -> tuple[float, float]:
    """Medians over the same clips of two settings: of the GPU-seconds of `own`, and of how many times as many `reference` needs."""
    taken, before = ([commit.group_size * commit.busy_s for commit in commits] for commits in (own, reference))
    return median(taken), median(then / now for then, now in zip(before, taken, strict=True))
