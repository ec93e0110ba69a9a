"""Which rows of a manifest a run takes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The rows of the manifest that a run takes, and how strict it is about bad ones.

    Args:
        where: Takes only the rows for which this expression holds, such as "priority > 3".
        limit: Takes at most this many rows.
        allow_invalid: Rejects bad rows instead of stopping.
        allow_duplicates: Renders rows that ask for the same clip once.
        allow_missing_consent: Renders rows without a consent, whatever the run file says.
    """

    where: str | None = None
    limit: int | None = None
    allow_invalid: bool = False
    allow_duplicates: bool = False
    allow_missing_consent: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether the run takes every row."""
        return self.where is None and self.limit is None
