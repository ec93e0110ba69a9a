"""Editions: which commit of each clip is in force, told by a listing of `commits/` alone.

    commits/<kk>/<clip_id>.json                     edition 1; <kk> is the start of the id
    commits/<kk>/<clip_id>.e<n>.json                edition n
    commits/<kk>/<clip_id>.e<n>.withdrawn.json      edition n is withdrawn

All are created once and never change. The commit in force is the highest edition, unless that is withdrawn.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lynx_batch import storage
from lynx_batch.ledger.records import warn_left_out

FOLDER = "commits"
NAME = re.compile(
    r"(?P<folder>[0-9a-f]{2})/(?P<clip>(?P=folder)[0-9a-f]*)(\.e(?P<edition>[1-9]\d*)(?P<withdrawn>\.withdrawn)?)?\.json"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Editions:
    """What a listing says: the edition in force of each finished clip, and the last edition of each withdrawn one."""

    in_force: Mapping[str, int]
    withdrawn: Mapping[str, int]

    def wanted(self, clip_id: str) -> int:
        """The edition that finishes the clip: the one in force, or the one that is to be rendered next."""
        return self.in_force.get(clip_id) or self.withdrawn.get(clip_id, 0) + 1

    def is_finished(self, clip_id: str, edition: int) -> bool:
        """Whether `edition` of the clip, or a later one, is in force."""
        return self.in_force.get(clip_id, 0) >= edition


def list_editions(output: str) -> Editions:
    """The editions at an output location. A foreign file is named in a warning and left out."""
    committed: dict[str, int] = {}
    withdrawn: dict[str, int] = {}
    for clip_id, edition, is_withdrawn in _listed(output):
        found = withdrawn if is_withdrawn else committed
        found[clip_id] = max(edition, found.get(clip_id, 0))
    return Editions(
        in_force={clip_id: n for clip_id, n in committed.items() if n > withdrawn.get(clip_id, 0)},
        withdrawn={clip_id: n for clip_id, n in withdrawn.items() if n >= committed.get(clip_id, 0)},
    )


def commit_uri(output: str, clip_id: str, edition: int) -> str:
    name = clip_id if edition == 1 else f"{clip_id}.e{edition}"
    return storage.join(output, FOLDER, clip_id[:2], f"{name}.json")


def withdrawal_uri(output: str, clip_id: str, edition: int) -> str:
    return storage.join(output, FOLDER, clip_id[:2], f"{clip_id}.e{edition}.withdrawn.json")


def _listed(output: str) -> Iterator[tuple[str, int, bool]]:
    """Clip, edition and whether it is withdrawn, of each name that is one of ours."""
    folder = storage.join(output, FOLDER)
    for file in storage.list_files(folder):
        name = file.uri.removeprefix(folder).strip("/")
        match = NAME.fullmatch(name)
        if match is None or (match["edition"] == "1" and not match["withdrawn"]):
            warn_left_out(f"{storage.redact(file.uri)}: not the name of a commit or of a withdrawal")
        else:
            yield match["clip"], int(match["edition"] or 1), match["withdrawn"] is not None
