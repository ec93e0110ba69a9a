"""Checks the rows of a manifest: each becomes a request for a clip, or a list of problems. Reads no files."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lynx_batch.clip import (
    CELLS,
    ON_WHICH_DISKS,
    ClipRequest,
    ClipSpec,
    Rejection,
    broken_rule,
    explain_file_name,
    file_key,
    photo_inputs,
)
from lynx_batch.config import DefaultsConfig, InputsConfig
from lynx_batch.intake.consent import explain_names
from lynx_batch.intake.guidance import BRANCHES, BrokenRule, explain_guidance, settle_guidance
from lynx_batch.intake.problems import RowProblem, name_photos
from lynx_batch.intake.schema import MAX_PHOTOS, REQUIRED, ROW
from lynx_batch.photo_places import explain_photo
from lynx_batch.printable import counted
from lynx_batch.storage import redact, resolve
from lynx_model.errors import InvalidParams
from lynx_model.parameters import PARAMETERS
from lynx_model.ranges import choose_blocks, explain_step_ranges
from lynx_model.spec import RenderParams

NUM_ROWS_AT_ONCE = 10_000
NUM_SHARED = 10_000
SETTINGS = (*(name for name in PARAMETERS if name not in ("prompt", "seed")), BRANCHES)
"""The columns that determine all parameters of a clip but its prompt and its seed."""

NO_TAGS: dict[str, str] = {}
"""One object for all rows without tags. It must not be changed."""

INVALID_ROW = "InvalidRow"

RequestKey = tuple[ClipRequest, Hashable]
"""A request, and a key that is equal for requests of the same clip."""


def check_rows(
    table: pa.Table, defaults: DefaultsConfig, inputs: InputsConfig, base: str
) -> tuple[list[ClipRequest], list[RowProblem]]:
    """The requests of all valid rows, and every problem of the other rows, both in the rows' order.

    Args:
        table: From `read_manifest`.
        defaults: Values for null cells.
        inputs: Which places photos may come from.
        base: The folder at which relative photo paths start: `folder_of` the manifest.
    """
    requests, problems = [], []
    shared = _Shared(defaults, inputs, base)
    for cells in _rows(table):
        faults = [
            *explain_cells(cells),
            *shared.explain_photos(cells),
            *explain_guidance(cells, defaults),
            *_explain_steps(cells, defaults),
        ]
        problems += [RowProblem(row=cells[ROW], column=c, value=value, rule=rule) for c, value, rule in faults]
        if not faults:
            requests.append(shared.request(cells))
    return requests, problems


class _Shared:
    """Makes requests of valid rows. What many rows share, a photo or all parameters but the prompt, is made once and kept."""

    def __init__(self, defaults: DefaultsConfig, inputs: InputsConfig, base: str) -> None:
        self._defaults = defaults
        self._explain = lru_cache(NUM_SHARED)(lambda uri: _explain_uri(uri, inputs, base))
        self._resolve = lru_cache(NUM_SHARED)(lambda written: _resolve_all(written, base))
        self._settings = lru_cache(NUM_SHARED)(self._make_settings)

    def explain_photos(self, cells: Mapping[str, Any]) -> Iterator[BrokenRule]:
        column, uris = _named_photos(_written(cells))
        for uri in uris:
            if (rule := self._explain(uri)) is not None:
                yield column, redact(uri), rule

    def request(self, cells: Mapping[str, Any]) -> ClipRequest:
        own = {name: cells[name] for name in ("prompt", "seed") if name in cells}
        attributes = {name: cells[name] for name in CELLS if name in cells}
        written = _written(cells)
        return ClipRequest(
            row=cells[ROW],
            subject_uris=self._resolve(written),
            written=written,
            params=self._settings(*map(cells.get, SETTINGS)).changed(**own),
            is_seed_given="seed" in own or self._defaults.seed is not None,
            tags=dict(cells["tags"]) if "tags" in cells else NO_TAGS,
            **attributes,
        )

    def _make_settings(self, *values: Any) -> RenderParams:
        """The parameters of a row with these cells; None is a null. The prompt is a placeholder, and so is the seed without a default."""
        cells = {name: value for name, value in zip(SETTINGS, values, strict=True) if value is not None}
        inputs = _inputs(cells, self._defaults, "") | {"prompt": "any"}
        return RenderParams(**{name: inputs[name] for name in PARAMETERS if name != "seed" or inputs[name] is not None})


def check_blocks(requests: Iterable[ClipRequest], num_blocks: int) -> tuple[list[ClipRequest], list[RowProblem]]:
    """The requests that a model with `num_blocks` blocks can render, and the problems of the others."""
    kept, problems = [], []
    for request in requests:
        faults = list(_explain_blocks(request, num_blocks))
        problems += [RowProblem(row=request.row, column=c, value=value, rule=rule) for c, value, rule in faults]
        if not faults:
            kept.append(request)
    return kept, problems


def keys_of_requests(requests: Iterable[ClipRequest], photos: Mapping[str, str] | None = None) -> list[RequestKey]:
    """A key for each request from its row alone, without the model. `photos` maps the URIs of photos that were read to their sha256."""
    known = photos or {}
    return [
        (r, (frozenset(known.get(uri, uri) for uri in r.subject_uris), r.face_index, r.is_seed_given, r.params))
        for r in requests
    ]


def keys_of_clips(clips: Iterable[ClipSpec]) -> list[RequestKey]:
    """The ClipId is the key."""
    return [(clip.request, clip.clip_id) for clip in clips]


def find_duplicates(keys: Iterable[RequestKey]) -> list[RowProblem]:
    """A problem for each row that asks for the same clip as an earlier row."""
    first: dict[Hashable, ClipRequest] = {}
    return [
        RowProblem(
            row=request.row,
            column=request.photo_column,
            value=name_photos(request),
            rule=f"must not ask for the same clip as row {earlier.row}, whose photo is {name_photos(earlier)}; "
            f"remove one of them, or render the clip once with --allow-duplicates",
        )
        for request, key in keys
        if (earlier := first.setdefault(key, request)) is not request
    ]


def find_shared_names(keys: Iterable[RequestKey]) -> list[RowProblem]:
    """A problem for each row whose `clip_name` already belongs to another clip of the same `subject_id`.

    An export could not tell the two apart, and names that differ in upper and lower case alone are one file on some disks.
    """
    first: dict[tuple[str | None, str], RequestKey] = {}
    problems = []
    for named in keys:
        request, key = named
        if (name := request.clip_name) is None:
            continue
        subject = request.subject_id
        earlier, first_key = first.setdefault((subject and file_key(subject), file_key(name)), named)
        if key != first_key:
            is_equal = (earlier.subject_id, earlier.clip_name) == (subject, name)
            where = "" if is_equal else f" {ON_WHICH_DISKS}"
            rule = f"must not also be the name of row {earlier.row}{where}, which asks for another clip"
            problems.append(RowProblem(row=request.row, column="clip_name", value=name, rule=rule))
    return problems


def reject_invalid(
    problems: Iterable[RowProblem], table: pa.Table, defaults: DefaultsConfig, base: str
) -> list[Rejection]:
    """One rejection for each row in `problems`, with the row's cells. The other arguments are those of `check_rows`."""
    faults: dict[int, list[str]] = {}
    for problem in problems:
        faults.setdefault(problem.row, []).append(problem.fault)
    rows = _rows(table.filter(pc.is_in(table[ROW], pa.array(faults, table[ROW].type))))
    return [
        Rejection(
            row=cells[ROW],
            error_type=INVALID_ROW,
            error="; ".join(faults[cells[ROW]]),
            inputs=_inputs(cells, defaults, base),
        )
        for cells in rows
    ]


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The cells of each row that are not null."""
    for batch in table.to_batches(max_chunksize=NUM_ROWS_AT_ONCE):
        columns = [_values(column) for column in batch.columns]
        for cells in zip(*columns, strict=True):
            yield {name: cell for name, cell in zip(table.column_names, cells, strict=True) if cell is not None}


def _values(column: pa.Array) -> list[Any]:
    """The column's cells. Equal texts are one object, because most rows share most texts."""
    if not pa.types.is_string(column.type):
        return list(column.to_pylist())
    coded = column.dictionary_encode()
    distinct = coded.dictionary.to_pylist()
    return [None if code is None else distinct[code] for code in coded.indices.to_pylist()]


def explain_cells(cells: Mapping[str, Any]) -> Iterator[BrokenRule]:
    """The rules that the cells of a row break, each by itself, and that it has no photo, or too many."""
    yield from _explain_choice(cells)
    for name in REQUIRED:
        if name not in cells:
            yield name, None, "must not be null"
    for name, value in cells.items():
        if name in PARAMETERS:
            rule = broken_rule(name, value)
        else:
            rule = OTHER_RULES[name](value) if name in OTHER_RULES else None
        if rule is not None:
            yield name, value, rule


def _explain_choice(cells: Mapping[str, Any]) -> Iterator[BrokenRule]:
    """The rules for the columns that name photos, whatever the photos are."""
    uris = cells.get("subject_uris")
    if uris is None:
        if "subject_uri" not in cells:
            yield "subject_uri", None, "must not be null, unless subject_uris names the photos"
        return
    if "subject_uri" in cells:
        yield "subject_uris", counted(len(uris), "photo"), "must be null in a row with a subject_uri"
    if not uris or None in uris:
        yield "subject_uris", counted(len(uris), "photo"), "must name a photo, and must not hold null"
    num_photos = len({*uris})
    if num_photos > MAX_PHOTOS:
        yield "subject_uris", f"{num_photos} photos", f"must name at most {MAX_PHOTOS}"
    if num_photos > 1 and "face_index" in cells:
        yield (
            "face_index",
            cells["face_index"],
            "must be null in a row with several photos, which must each show one face",
        )


def _written(cells: Mapping[str, Any]) -> str | tuple[str, ...]:
    """What the manifest says of the row's photos; empty if it says nothing."""
    if "subject_uri" in cells:
        return str(cells["subject_uri"])
    return tuple(uri for uri in cells.get("subject_uris", ()) if uri is not None)


def _named_photos(written: str | tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The column that names the photos, and the photos."""
    return ("subject_uri", (written,)) if isinstance(written, str) else ("subject_uris", written)


def _resolve_all(written: str | tuple[str, ...], base: str) -> tuple[str, ...]:
    """The absolute URIs of the photos, each once."""
    return tuple(dict.fromkeys(resolve(uri, base) for uri in _named_photos(written)[1] if uri))


def _explain_uri(uri: str, inputs: InputsConfig, base: str) -> str | None:
    return explain_photo(resolve(uri, base), inputs.allow) if uri.strip() else "must not be empty"


def _explain_steps(cells: Mapping[str, Any], defaults: DefaultsConfig) -> Iterator[BrokenRule]:
    return explain_step_ranges(lambda name: cells.get(name, getattr(defaults, name)))


def _explain_blocks(request: ClipRequest, num_blocks: int) -> Iterator[BrokenRule]:
    for name in ("ip_blocks", "ref_blocks"):
        try:
            choose_blocks(name, getattr(request.params, name), num_blocks)
        except InvalidParams as error:
            yield error.field, error.value, error.rule


def _explain_face_index(index: int) -> str | None:
    return None if index >= 0 else "must be at least 0"


def _explain_tags(tags: list[tuple[str, str | None]]) -> str | None:
    nulls = [name for name, value in tags if value is None]
    return f"tag {nulls[0]!r} must not be null" if nulls else None


OTHER_RULES: Mapping[str, Callable[[Any], str | None]] = {
    "clip_name": explain_file_name,  # `export` may use it as a file name
    "consent_scope": explain_names,
    "regions": explain_names,
    "face_index": _explain_face_index,
    "tags": _explain_tags,
}


def _inputs(cells: Mapping[str, Any], defaults: DefaultsConfig, base: str) -> dict[str, Any]:
    """The cells of a row, valid or not, with the run's defaults for null parameters and with the photos' absolute URIs."""
    params = {name: getattr(defaults, name) for name in PARAMETERS if name != "prompt"}
    written = _written(cells)
    return params | dict(cells) | photo_inputs(_resolve_all(written, base), written) | settle_guidance(cells)
