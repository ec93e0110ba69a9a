"""Problems with the rows of a manifest, as they are shown to the user."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lynx_batch.clip import ClipRequest
from lynx_batch.printable import counted
from lynx_batch.redaction import hide_secrets
from lynx_batch.storage import redact

MAX_SHOWN = 60
MAX_FAULTS_SHOWN = 50
MAX_PLACES_SHOWN = 5


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
    """`value` on one line without the secrets of its links, cut if it is too long to read."""
    text = repr(value)
    text = hide_secrets(text) if "://" in text else text
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def list_faults(source: str, faults: Sequence[str]) -> str:
    """One message with the first faults of a file, in the order of their lines, and the number of the others."""
    shown = sorted(faults, key=_line_of)[:MAX_FAULTS_SHOWN]
    more = [f"... and {len(faults) - len(shown)} more"] if len(faults) > len(shown) else []
    return "\n  ".join([f"{source}: {counted(len(faults), 'fault')}", *shown, *more])


def join_equal_faults(found: Iterable[tuple[str, str]]) -> list[str]:
    """One fault for each rule that is broken in several places, from (place, rule) pairs: the first place, and then the others."""
    places: dict[str, list[str]] = {}
    for place, rule in found:
        places.setdefault(rule, []).append(place)
    return [f"{first}: {rule}{_also_in(others)}" for rule, (first, *others) in places.items()]


def _also_in(places: Sequence[str]) -> str:
    if not places:
        return ""
    more = f" and {len(places) - MAX_PLACES_SHOWN:,} more" if len(places) > MAX_PLACES_SHOWN else ""
    return f" (also {', '.join(places[:MAX_PLACES_SHOWN])}{more})"


def _line_of(fault: str) -> int:
    """The number at the beginning of a fault such as "line 7: ..."; 0 for any other fault."""
    number = fault.removeprefix("line ").partition(":")[0]
    return int(number) if number.isdecimal() else 0
