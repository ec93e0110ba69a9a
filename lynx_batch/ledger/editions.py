"""Editions: which commit of each clip is in force, and which one is to be rendered, from a listing of `commits/` alone.

Commits, withdrawals and redo requests are created once and never change. The commit in force is the highest edition, unless that is
withdrawn.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field, replace

from lynx_batch import storage
from lynx_batch.ledger.records import warn_left_out
from lynx_batch.output import COMMITS, CommitName, RecordKind, parse_commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Editions:
    """The edition in force of each finished clip, the last edition of each withdrawn clip, and the editions that `retry --redo` asked for.

    A redo request counts until its edition is committed or withdrawn.
    """

    in_force: Mapping[str, int]
    withdrawn: Mapping[str, int]
    redo: Mapping[str, int] = field(default_factory=dict)

    def wanted(self, clip_id: str) -> int:
        """The edition that finishes the clip: the one in force, or the one that is to be rendered next."""
        return self.redo.get(clip_id) or self.in_force.get(clip_id) or self.withdrawn.get(clip_id, 0) + 1

    def is_finished(self, clip_id: str, edition: int) -> bool:
        """Whether `edition` of the clip, or a later one, is in force."""
        return self.in_force.get(clip_id, 0) >= edition

    @property
    def finished(self) -> Set[str]:
        """The clips whose wanted edition is in force."""
        return self.in_force.keys() - self.redo.keys()

    def without_redo(self, clip_ids: Set[str]) -> "Editions":
        """The same, but nobody has asked for another seed of these clips."""
        return replace(self, redo={clip_id: n for clip_id, n in self.redo.items() if clip_id not in clip_ids})


def list_editions(output: str) -> Editions:
    """The editions at an output location. Foreign files are named in a warning and ignored."""
    last: dict[RecordKind, dict[str, int]] = defaultdict(dict)
    for clip_id, edition, kind in _listed(output):
        last[kind][clip_id] = max(edition, last[kind].get(clip_id, 0))
    committed, withdrawn, redo = last[RecordKind.COMMITTED], last[RecordKind.WITHDRAWN], last[RecordKind.REDO]
    return Editions(
        in_force={clip_id: n for clip_id, n in committed.items() if n > withdrawn.get(clip_id, 0)},
        withdrawn={clip_id: n for clip_id, n in withdrawn.items() if n >= committed.get(clip_id, 0)},
        redo={
            clip_id: n for clip_id, n in redo.items() if n > max(committed.get(clip_id, 0), withdrawn.get(clip_id, 0))
        },
    )


def _listed(output: str) -> Iterator[CommitName]:
    """The names of all records."""
    folder = storage.join(output, COMMITS)
    for file in storage.list_files(folder):
        name = parse_commit(file.uri.removeprefix(folder).strip("/"))
        if name is None:
            warn_left_out(f"{storage.redact(file.uri)}: not the name of a commit, a withdrawal or a redo request")
        else:
            yield name
