"""One manifest row as the report shows it, made from its row of the metadata."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from lynx_batch.ledger.metadata import PHOTO_COLUMNS, SCORE_COLUMNS, Outcome, photos_in
from lynx_batch.planning.revocation import Key, explain_revoked, keys_of, keys_of_photos
from lynx_batch.stages import CLIP_STAGES

MARKS = "marks"
COLUMNS = (
    *("row", "clip_id", "edition", "outcome", "rendered_by_run", "attempts", "error_type", "error"),
    *(*PHOTO_COLUMNS, "subject_id", "clip_name", "consent_ref", "consent_expires_at", "tags", "prompt"),
    *("width", "height", "num_frames", "fps", "seed", "clip_uri", "poster_uri", "num_bytes", "group_size", "device"),
    *("try_number", *SCORE_COLUMNS, *(stage.column for stage in CLIP_STAGES)),
    MARKS,
)
"""The columns of the metadata that the report needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRow:
    """What the report says about a row. Texts are empty, and numbers None, where nothing is known.

    `name` is never empty. `subject` is the row's own name for the person, or else the photo's file name. Of several photos, the row
    shows the first. `clip_uri` and `poster_uri`
    are relative to the output location; `photo` is relative to the report's folder. `scores` has only scores that exist. `marks` says of
    each mark whether the video carries it.
    `is_rendered_here`: this run rendered it, not an earlier one. `num_tries` is None without a quality gate.
    """

    row: int
    name: str
    outcome: Outcome
    clip_id: str = ""
    edition: int = 1
    subject: str = ""
    prompt: str = ""
    error_type: str = ""
    error: str = ""
    photo_uri: str = ""
    photo_sha256: str = ""
    photo: str = ""
    clip_uri: str = ""
    poster_uri: str = ""
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    fps: int | None = None
    seed: int | None = None
    num_bytes: int | None = None
    attempts: int = 0
    num_tries: int | None = None
    try_number: int | None = None
    group_size: int | None = None
    device: str = ""
    is_rendered_here: bool = False
    is_consent_over: bool = False
    is_revoked: bool = False
    scores: Mapping[str, float] = field(default_factory=dict)
    stage_s: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    marks: Mapping[str, str] = field(default_factory=dict)

    @property
    def likeness(self) -> float | None:
        return self.scores.get("likeness_mean")

    @property
    def reason(self) -> str:
        """Why the row was not rendered."""
        return ": ".join(filter(None, (self.error_type, self.error)))


def read_row(
    cells: Mapping[str, Any],
    run_id: str,
    now: datetime,
    *,
    num_tries: Mapping[tuple[str, int], int],
    revoked: Set[Key] = frozenset(),
) -> ReportRow:
    """The report's row from a row of the metadata with `COLUMNS`.

    A consent that ends before `now` is over. `num_tries` counts the recorded tries of each edition of a clip. A row of which something is
    in `revoked` has no files any more.
    """
    expires_at = cells["consent_expires_at"]
    photos = photos_in(cells)
    photo_uri, photo_sha256 = photos[0]
    texts: dict[str, Any] = {name: cells[name] or "" for name in _TEXTS}
    keys = keys_of(cells["subject_id"], cells["consent_ref"])
    keys += keys_of_photos(sha256 for _, sha256 in photos if sha256 is not None)
    if is_revoked := explain_revoked(keys, revoked) is not None:
        texts |= {"clip_uri": "", "poster_uri": ""}
    is_rendered = cells["outcome"] == Outcome.RENDERED
    return ReportRow(
        row=cells["row"],
        name=cells["clip_name"] or _short(cells["clip_id"]) or f"row {cells['row']}",
        outcome=Outcome(cells["outcome"]),
        subject=cells["subject_id"] or PurePosixPath(photo_uri or "").name,
        photo_uri=photo_uri or "",
        photo_sha256=photo_sha256 or "",
        is_rendered_here=is_rendered and cells["rendered_by_run"] == run_id,
        is_revoked=is_revoked,
        is_consent_over=expires_at is not None and expires_at <= now,
        scores={name: cells[name] for name in SCORE_COLUMNS if cells[name] is not None},
        stage_s={
            str(stage): cells[stage.column] for stage in CLIP_STAGES if is_rendered and cells[stage.column] is not None
        },
        tags=dict(cells["tags"] or ()),
        marks=dict(cells.get(MARKS) or ()),
        edition=cells["edition"],
        num_tries=num_tries.get((cells["clip_id"], cells["edition"])),
        attempts=cells["attempts"] or 0,
        **texts,
        **{name: cells[name] for name in _NUMBERS},
    )


_TEXTS = ("clip_id", "prompt", "error_type", "error", "clip_uri", "poster_uri", "device")
_NUMBERS = ("width", "height", "num_frames", "fps", "seed", "num_bytes", "try_number", "group_size")


def _short(clip_id: str | None) -> str:
    """The start of a ClipId, enough to tell a run's clips apart."""
    return (clip_id or "")[:12]
