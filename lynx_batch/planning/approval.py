"""What people have approved, and what a run asks for beyond that.

An approval is about a run's settings (weights, numerics, quality gate, marks) and about the values that its rows have: their templates and
their parameters. Texts of users are compared by digests, so that approvals can be kept without them.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import lru_cache
from typing import Any

from lynx_batch.clip import ClipRequest
from lynx_model.parameters import PARAMETERS

Setting = bool | int | float | str | None

TEMPLATE = "template"
ROW_PARAMETERS = tuple(name for name in PARAMETERS if name not in ("prompt", "seed"))
TEXTS = (TEMPLATE, "negative_prompt")
"""Values that are compared by their digests."""

FIELD = re.compile(r"\{\{[^{}]*\}\}")
FINGERPRINT = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")
MAX_ROWS_SHOWN = 5
MAX_VALUE_LENGTH = 80

RowValues = tuple[Setting, ...]
"""A row's template and its parameters, in the order of `NAMES`."""

NAMES = (TEMPLATE, *ROW_PARAMETERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Approved:
    """What one approval covers: a run with exactly these settings, and rows with some of these values under each name.

    A parameter that the approval does not name came later. Of it, the value that changes nothing is covered.
    """

    settings: Mapping[str, Setting]
    values: Mapping[str, Collection[Setting]]

    def allowed(self, name: str) -> Collection[Setting]:
        """The values under this name, as an approval keeps them."""
        if name in self.values or name == TEMPLATE:
            return self.values.get(name, ())
        neutral: Any = PARAMETERS[name].neutral
        return () if neutral is MISSING else (neutral,)

    def allows(self, name: str, value: Setting) -> bool:
        return stored(name, value) in self.allowed(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Something that was not approved. `rows` have it; without any, it concerns the whole run."""

    name: str
    value: Setting
    approved: Collection[Setting]
    rows: Sequence[int] = ()

    def __str__(self) -> str:
        where = f" ({_describe_rows(self.rows)})" if self.rows else ""
        if self.name in TEXTS:
            return f"{self.name} {_shorten(self.value)}: was not approved{where}"
        allowed = ", ".join(map(_shorten, self.approved)) or "nothing"
        return f"{self.name}={_shorten(self.value)}: approved is {allowed}{where}"


def template_of(request: ClipRequest) -> str:
    return choose_template(request.prompt_template, request.params.prompt)


def choose_template(template: str | None, prompt: str) -> str:
    """What people approve of a prompt: its template. A prompt that was written as it is, or that does not fit its template, is its own."""
    return template if template is not None and is_made_from(prompt, template) else prompt


def is_made_from(prompt: str, template: str) -> bool:
    """Whether the prompt has the fixed texts of the template in their order, and anything in place of fields such as `{{city|Berlin}}`."""
    first, *others = (_squeezed(part) for part in FIELD.split(template))
    text = _squeezed(prompt)
    if not others:
        return text == first
    *inner, last = others
    if not (text.startswith(first) and text.endswith(last)):
        return False
    start, end = len(first), len(text) - len(last)
    for part in inner:
        found = text.find(part, start, end)
        if found < 0:
            return False
        start = found + len(part)
    return start <= end


def values_of(request: ClipRequest) -> RowValues:
    return (template_of(request), *(getattr(request.params, name) for name in ROW_PARAMETERS))


def stored(name: str, value: Setting) -> Setting:
    """The value as an approval keeps it."""
    return _digest(str(value)) if name in TEXTS else value


def collect_values(rows: Iterable[RowValues]) -> dict[str, tuple[Setting, ...]]:
    """The values that rows have under each name, as an approval keeps them."""
    columns = zip(*{tuple(map(stored, NAMES, row)) for row in rows}, strict=True)
    return {name: tuple(sorted(set(column), key=_order)) for name, column in zip(NAMES, columns, strict=True)}


def find_differences(
    settings: Mapping[str, Setting], rows: Mapping[RowValues, Sequence[int]], approvals: Sequence[Approved]
) -> list[Difference]:
    """What a run asks for and nobody approved; nothing if each row is covered by an approval of the run's settings.

    Otherwise the rows that are not covered are compared with the approval that is closest to them, and of equal ones with the newest.

    Args:
        settings: Those of the run.
        rows: The numbers of the rows with the same values.
        approvals: At least one, the oldest first.
    """
    matching = [approved for approved in approvals if not any(_differences_of_run(settings, approved))]
    uncovered = {
        values: numbers
        for values, numbers in rows.items()
        if not any(all(map(approved.allows, NAMES, values)) for approved in matching)
    }
    if not uncovered:
        return []
    found = [
        [*_differences_of_run(settings, approved), *_differences_of_rows(uncovered, approved)]
        for approved in reversed(approvals)
    ]
    return min(found, key=len)


def differences_of_settings(settings: Mapping[str, Setting], approvals: Sequence[Approved]) -> list[Difference]:
    """What of a run's settings nobody approved, compared with the closest approval; nothing if one approves all of them."""
    return min(([*_differences_of_run(settings, approved)] for approved in reversed(approvals)), key=len, default=[])


def _differences_of_run(settings: Mapping[str, Setting], approved: Approved) -> Iterator[Difference]:
    for name in dict.fromkeys([*settings, *approved.settings]):
        value, known = settings.get(name), approved.settings.get(name)
        if value != known:
            yield Difference(name=name, value=value, approved=(known,))


def _differences_of_rows(rows: Mapping[RowValues, Sequence[int]], approved: Approved) -> Iterator[Difference]:
    found: dict[tuple[str, Setting], list[int]] = {}
    for values, numbers in rows.items():
        for name, value in zip(NAMES, values, strict=True):
            if not approved.allows(name, value):
                found.setdefault((name, value), []).extend(numbers)
    for (name, value), numbers in found.items():
        yield Difference(name=name, value=value, approved=approved.allowed(name), rows=sorted(numbers))


def _squeezed(text: str) -> str:
    """The text with single spaces, as prompts are made from templates."""
    return " ".join(text.split())


def _describe_rows(rows: Sequence[int]) -> str:
    shown = ", ".join(map(str, rows[:MAX_ROWS_SHOWN]))
    num_hidden = len(rows) - MAX_ROWS_SHOWN
    more = f" and {num_hidden:,} more" if num_hidden > 0 else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more}"


def _shorten(value: Setting) -> str:
    """As a run file would have it; of a fingerprint only the beginning."""
    text = "null" if value is None else FINGERPRINT.sub(r"\1...", repr(value))
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[:MAX_VALUE_LENGTH]}..."


def _order(value: Any) -> tuple[bool, Any]:
    return value is not None, value if value is not None else 0


@lru_cache(maxsize=10_000)
def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
