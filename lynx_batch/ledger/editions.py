"""Editions: which commit of each clip is in force, from a listing of `commits/` alone.

Commits and withdrawals are created once and never change. The commit in force is the highest edition, unless that is withdrawn.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lynx_batch import storage
from lynx_batch.ledger.records import warn_left_out
from lynx_batch.output import COMMITS, CommitName, parse_commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Editions:
    """The edition in force of each finished clip, and the last edition of each withdrawn clip."""

    in_force: Mapping[str, int]
    withdrawn: Mapping[str, int]

    def wanted(self, clip_id: str) -> int:
        """The edition that finishes the clip: the one in force, or the one that is to be rendered next."""
        return self.in_force.get(clip_id) or self.withdrawn.get(clip_id, 0) + 1

    def is_finished(self, clip_id: str, edition: int) -> bool:
        """Whether `edition` of the clip, or a later one, is in force."""
        return self.in_force.get(clip_id, 0) >= edition


def list_editions(output: str) -> Editions:
    """The editions at an output location. Foreign files are named in a warning and ignored."""
    committed: dict[str, int] = {}
    withdrawn: dict[str, int] = {}
    for clip_id, edition, is_withdrawal in _listed(output):
        found = withdrawn if is_withdrawal else committed
        found[clip_id] = max(edition, found.get(clip_id, 0))
    return Editions(
        in_force={clip_id: n for clip_id, n in committed.items() if n > withdrawn.get(clip_id, 0)},
        withdrawn={clip_id: n for clip_id, n in withdrawn.items() if n >= committed.get(clip_id, 0)},
    )


def _listed(output: str) -> Iterator[CommitName]:
    """The names of all commits and withdrawals."""
    folder = storage.join(output, COMMITS)
    for file in storage.list_files(folder):
        name = parse_commit(file.uri.removeprefix(folder).strip("/"))
        if name is None:
            warn_left_out(f"{storage.redact(file.uri)}: not the name of a commit or of a withdrawal")
        else:
            yield name
