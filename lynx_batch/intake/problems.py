"""Problems with the rows of a manifest, as they are shown to the user."""

from dataclasses import dataclass

from lynx_batch.clip import ClipRequest
from lynx_batch.storage import redact

MAX_SHOWN = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class RowProblem:
    """A cell that breaks a rule. `row` is the row's 0-based position in the manifest. `value` must not contain secrets."""

    row: int
    column: str
    value: object
    rule: str

    @property
    def fault(self) -> str:
        return f"{self.column}={shorten(self.value)}: {self.rule}"

    def __str__(self) -> str:
        return f"row {self.row}: {self.fault}"


def name_photos(request: ClipRequest) -> str:
    """The photo of a request, or the first one and how many more there are."""
    first, *others = request.subject_uris
    return redact(first) + (f" and {len(others)} more" if others else "")


def shorten(value: object) -> str:
    """`value` on one line, cut if it is too long to read."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
