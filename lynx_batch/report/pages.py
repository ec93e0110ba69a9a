"""The pages of a report, from plain values: one page for a small run, an index and several pages for a large one.

A page needs nothing but itself, the photos beside it, and the clips of the output location: no server, no network, no other file. All
text of others is escaped: Jinja escapes what it inserts, the script only ever sets text, and the page's policy runs no other script.
"""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from lynx_batch.ledger.metadata import Outcome
from lynx_batch.planning.budget import amount
from lynx_batch.printable import counted
from lynx_batch.report.figures import Figures
from lynx_batch.report.rows import ReportRow

TEMPLATES = Path(__file__).parent / "templates"
INDEX = "index.html"
MAX_ROWS_A_PAGE = 2_000

SCORE_LABELS = {
    "likeness_mean": "Likeness",
    "likeness_p10": "Likeness, lowest tenth",
    "likeness_minimum": "Likeness, lowest frame",
    "likeness_face_share": "Frames with a face",
    "likeness_drift": "Likeness lost over time",
    "motion_mean": "Motion",
    "unsafe": "Unsafe",
}
"""What the report calls scores. A score that is missing here is shown under its own name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What the report says about the run as a whole. Empty texts and None mean unknown or not applicable.

    `likeness_limit` is the least mean likeness that the run's quality gate asked for. `photo_note` says why photos are left out.
    """

    run_id: str
    manifest: str
    started_at: datetime
    ended_at: datetime | None
    stopped_by: str = ""
    likeness_limit: float | None = None
    photo_note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageLink:
    """A page of a large run, as its index lists it."""

    file: str
    title: str
    num_rows: int
    num_rendered: int
    likeness: float | None


def build_pages(run: RunFacts, figures: Figures, rows: Sequence[ReportRow]) -> Iterator[tuple[str, str]]:
    """The name and the HTML of each page. The index comes last, so that whoever finds it finds all pages."""
    if len(rows) <= MAX_ROWS_A_PAGE:
        yield INDEX, _render(run, figures=figures, rows=rows)
        return
    links = []
    for number, some in enumerate(split(rows), 1):
        link = _link(f"clips-{number:03}.html", some)
        links.append(link)
        yield link.file, _render(run, rows=some, page=link)
    yield INDEX, _render(run, figures=figures, links=links)


def split(rows: Sequence[ReportRow]) -> Iterator[list[ReportRow]]:
    """Pages of at most `MAX_ROWS_A_PAGE` rows, by subject, then by prompt. Only a subject that needs more than a page is divided."""
    ordered = sorted(rows, key=lambda row: (row.subject, row.prompt, row.row))
    page: list[ReportRow] = []
    for _, group in groupby(ordered, key=lambda row: row.subject):
        own = list(group)
        if page and len(page) + len(own) > MAX_ROWS_A_PAGE:
            yield page
            page = []
        page += own
        while len(page) > MAX_ROWS_A_PAGE:
            yield page[:MAX_ROWS_A_PAGE]
            page = page[MAX_ROWS_A_PAGE:]
    if page:
        yield page


def _link(file: str, rows: Sequence[ReportRow]) -> PageLink:
    rendered = [row for row in rows if row.outcome is Outcome.RENDERED]
    means = [row.likeness for row in rendered if row.likeness is not None]
    return PageLink(
        file=file,
        title=_title(rows[0], rows[-1]),
        num_rows=len(rows),
        num_rendered=len(rendered),
        likeness=sum(means) / len(means) if means else None,
    )


def _title(first: ReportRow, last: ReportRow) -> str:
    """From the first to the last subject of a page; if that is one, from its first to its last prompt."""
    if first.subject != last.subject:
        return f"{first.subject or 'no name'} – {last.subject}"
    prompts = dict.fromkeys((first.prompt[:60] or "no prompt", last.prompt[:60]))
    return f"{first.subject or 'no name'}: {' – '.join(prompts)}"


def _render(run: RunFacts, *, rows: Sequence[ReportRow] | None = None, **parts: Any) -> str:
    """One page: the overview if it gets `figures`, the list of pages if it gets `links`, the clips if it gets `rows`."""
    known = {"figures": None, "links": None, "page": None, **parts}
    data = None if rows is None else {"run": run.run_id, "scores": _scores_of(rows), "clips": [*map(_as_data, rows)]}
    return _template().render(
        run=run, data=data, style=_read("page.css"), script=_read("page.js"), policy=_policy(), **known
    )


def _scores_of(rows: Sequence[ReportRow]) -> list[tuple[str, str]]:
    """The scores that at least one row has, with their labels."""
    found = dict.fromkeys(name for row in rows for name in row.scores)
    known = [name for name in SCORE_LABELS if name in found]
    return [(name, SCORE_LABELS.get(name, name)) for name in [*known, *(found.keys() - SCORE_LABELS.keys())]]


def _as_data(row: ReportRow) -> dict[str, Any]:
    """What the page's script reads of a row, without what is unknown."""
    known = {
        "row": row.row,
        "id": row.clip_id,
        "name": row.name,
        "outcome": row.outcome.value,
        "subject": row.subject,
        "prompt": row.prompt,
        "reason": row.reason,
        "photo": row.photo,
        "poster": row.poster_uri,
        "video": row.clip_uri,
        "size": f"{row.width}x{row.height}" if row.width and row.height else "",
        "frames": row.num_frames,
        "fps": row.fps,
        "seed": None if row.seed is None else str(row.seed),  # JavaScript's numbers would round it
        "bytes": row.num_bytes,
        "tries": row.num_tries,
        "try": row.try_number,
        "attempts": row.attempts,
        "gpus": row.group_size,
        "device": row.device,
        "seconds": round(sum(row.stage_s.values()), 2),
        "earlier": row.outcome is Outcome.RENDERED and not row.is_rendered_here,
        "again": row.is_retryable,
        "inForce": row.in_force,
        "isOlder": row.is_still_in_force,
        "consent": "revoked" if row.is_revoked else "over" if row.is_consent_over else "",
        "scores": {name: round(value, 4) for name, value in row.scores.items()},
        "tags": dict(row.tags),
        "marks": dict(row.marks),
    }
    return {name: value for name, value in known.items() if value or (value == 0 and value is not False)}


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"amount": amount, "counted": counted}
    return environment.get_template("page.html")


@cache
def _policy() -> str:
    """The page may run and apply only its own script and style, and show only files."""
    script, style = (_digest(name) for name in ("page.js", "page.css"))
    return f"default-src 'none'; script-src {script}; style-src {style}; img-src 'self' file: data:; media-src 'self' file:"


def _digest(name: str) -> str:
    """The hash of an inline script or style, as a policy names it."""
    return f"'sha256-{b64encode(sha256(_read(name).encode()).digest()).decode()}'"


@cache
def _read(name: str) -> Markup:
    """A script or style of ours, which is inserted as it is."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))
