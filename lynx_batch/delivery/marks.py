"""The marks that say that a video was made by AI: their names, and which ones a clip got."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum

import structlog

from lynx_batch.errors import NotMarked
from lynx_batch.redaction import hide_secrets

log = structlog.get_logger()

MAX_REASON_LENGTH = 300


class Mark(StrEnum):
    """What a commit names if its video carries it. `tags` are those of `video.tags`; the others are those of `provenance`."""

    TAGS = "tags"
    LABEL = "label"
    WATERMARK = "watermark"
    AIGC = "aigc"
    C2PA = "c2pa"


class MarkLog:
    """The marks of one clip: `applied`, and `failed` with the reasons."""

    def __init__(self, *, is_required: bool) -> None:
        self._is_required = is_required
        self._tried: list[Mark] = []
        self.failed: dict[Mark, str] = {}

    @property
    def applied(self) -> tuple[Mark, ...]:
        return tuple(mark for mark in self._tried if mark not in self.failed)

    @contextmanager
    def trying(self, mark: Mark) -> Iterator[None]:
        """Notes whether the body, which applies `mark` or reads it back, succeeds. Raises NotMarked if it must but does not."""
        self._tried += [] if mark in self._tried else [mark]
        try:
            yield
        except Exception as error:  # whatever the libraries raise
            reason = hide_secrets(" ".join(str(error).split()))[:MAX_REASON_LENGTH] or type(error).__name__
            if self._is_required:
                raise NotMarked(f"{mark}: {reason}") from error
            log.warning("mark_failed", mark=str(mark), reason=reason)
            self.failed[mark] = reason

    def expect(self, mark: Mark, faults: Iterable[str]) -> None:
        """Notes what was found when `mark` was read back."""
        with self.trying(mark):
            if found := "; ".join(faults):
                raise ValueError(found)
