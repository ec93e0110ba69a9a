"""One manifest row as the report shows it, made from its row of the metadata."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

from lynx_batch.ledger.history import CHECKED_EACH_RUN, GIVEN_UP
from lynx_batch.ledger.metadata import PHOTO_COLUMNS, SCORE_COLUMNS, Outcome, photos_in
from lynx_batch.planning.revocation import Key, explain_revoked, keys_of, keys_of_photos
from lynx_batch.planning.verdict import NOT_GOOD_ENOUGH, UNSAFE_ERRORS
from lynx_batch.report.varied import value_of
from lynx_batch.stages import CLIP_STAGES

MARKS = "marks"
COLUMNS = (
    *("row", "clip_id", "edition", "outcome", "rendered_by_run", "attempts", "error_type", "error"),
    *(*PHOTO_COLUMNS, "subject_id", "clip_name", "consent_ref", "consent_expires_at", "tags", "prompt"),
    *("width", "height", "num_frames", "fps", "seed", "clip_uri", "poster_uri", "num_bytes", "group_size", "device"),
    *("try_number", "num_tries", *SCORE_COLUMNS, *(stage.column for stage in CLIP_STAGES)),
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
    `varied` has the row's value of each axis (see `varied.py`).
    `is_rendered_here`: this run rendered it, not an earlier one. `num_tries` is None without a quality gate; `num_earlier_tries` of them
    were rendered by earlier runs that ended without the clip. `in_force` is the clip's edition in force where that is not what the row was rendered as: an older one that a redo did not replace, or one that was committed since.
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
    num_earlier_tries: int = 0
    try_number: int | None = None
    group_size: int | None = None
    device: str = ""
    is_rendered_here: bool = False
    in_force: int | None = None
    is_consent_over: bool = False
    is_revoked: bool = False
    scores: Mapping[str, float] = field(default_factory=dict)
    stage_s: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    marks: Mapping[str, str] = field(default_factory=dict)
    varied: Mapping[str, str] = field(default_factory=dict)

    @property
    def likeness(self) -> float | None:
        return self.scores.get("likeness_mean")

    @property
    def reason(self) -> str:
        """Why the row was not rendered."""
        return ": ".join(filter(None, (self.error_type, self.error)))

    @property
    def is_retryable(self) -> bool:
        """Whether `retry` makes the next run try the clip again. The quality gate's verdicts stay, and some errors need no request."""
        is_settled = self.error_type in {NOT_GOOD_ENOUGH, *UNSAFE_ERRORS, *CHECKED_EACH_RUN}
        return self.outcome in GIVEN_UP and not is_settled and not self.is_revoked

    @property
    def num_extra_tries(self) -> int:
        """Tries of this run beyond the first one of a clip that it finished. Those of clips that it found finished are an earlier run's."""
        is_finished_here = self.is_rendered_here or (self.outcome is not Outcome.RENDERED and self.attempts > 0)
        return max((self.num_tries or 0) - max(self.num_earlier_tries, 1), 0) if is_finished_here else 0

    @property
    def is_still_in_force(self) -> bool:
        """Whether an older edition of the clip is in force, because a redo was given up or has not ended."""
        return self.in_force is not None and self.in_force < self.edition

    @property
    def may_show_photo(self) -> bool:
        """Not of a person whose consent is over or revoked. Without a hash, nobody can tell whether the photo is still the same."""
        return bool(self.photo_sha256) and not self.is_consent_over and not self.is_revoked


def read_row(
    cells: Mapping[str, Any],
    run_id: str,
    now: datetime,
    *,
    num_tries: Mapping[tuple[str, int], int],
    num_earlier_tries: Mapping[tuple[str, int], int] = MappingProxyType({}),
    in_force: Mapping[str, int] = MappingProxyType({}),
    revoked: Set[Key] = frozenset(),
    axes: Iterable[str] = (),
) -> ReportRow:
    """The report's row from a row of the metadata with `COLUMNS`.

    A consent that ends before `now` is over. `num_tries` counts the recorded tries of each edition of a clip, for rows whose metadata do not
    say how many there were, and `num_earlier_tries` those of earlier runs; `in_force` has the editions in force. A row of which something is in `revoked` has no files any more. `axes` are from `find_axes`.
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
    edition = cells["clip_id"], cells["edition"]
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
        varied={axis: value for axis in axes if (value := value_of(cells, axis)) is not None},
        edition=cells["edition"],
        num_tries=cells.get("num_tries") or num_tries.get(edition),
        num_earlier_tries=num_earlier_tries.get(edition, 0),
        in_force=None if is_rendered else in_force.get(cells["clip_id"]),
        attempts=cells["attempts"] or 0,
        **texts,
        **{name: cells[name] for name in _NUMBERS},
    )


_TEXTS = ("clip_id", "prompt", "error_type", "error", "clip_uri", "poster_uri", "device")
_NUMBERS = ("width", "height", "num_frames", "fps", "seed", "num_bytes", "try_number", "group_size")


def _short(clip_id: str | None) -> str:
    """The start of a ClipId, enough to tell a run's clips apart."""
    return (clip_id or "")[:12]
