"""Which rendered clips may be exported: those that a manifest still requests, and whose consent has not ended.

Consent: the newest run that mentions a clip decides, whichever manifest it rendered. A row mentions a clip by its id. A row that
never became a clip mentions all clips with its photo, face and parameters, and with its seed if it gives one. A row that became
another clip, for example with another model, does the same for clips that its run does not name. Photos are compared by their
redacted URIs, so photos whose links differ only in the query count as one.

Removed rows: once a run has taken all rows of a manifest, an older row of the same manifest counts only if that run's copy of the
manifest still has it, whatever the outcome was.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache, lru_cache, partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lynx_batch import storage
from lynx_batch.columns import TIME
from lynx_batch.errors import CONSENT_ERRORS
from lynx_batch.ledger.metadata import read_metadata
from lynx_batch.ledger.order import RunOrder
from lynx_batch.ledger.runs import read_run_manifest
from lynx_model.parameters import PARAMETERS

SAME_STORES = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}

SETTINGS = ("face_index", *(name for name in PARAMETERS if name != "seed"))
PHOTOS = ("subject_uri", "subject_uris")
REQUEST = (*PHOTOS, *SETTINGS)
"""The columns that say which clip a row requests, besides the seed."""

PHOTO_HASHES = ("photo_sha256", "photo_sha256s")
ROW_COLUMNS = ("run", "row", "clip_id", "outcome", "error_type", "error", "consent_expires_at", *PHOTO_HASHES)
NOT_IN_PICTURE = frozenset(
    {
        "row",
        "clip_name",
        "subject_id",
        "priority",
        "consent_ref",
        "consent_scope",
        "regions",
        "consent_expires_at",
        "tags",
        "prompt_template",
        "source_line",
    }
)
"""Columns of a manifest that do not change the picture."""

Row = dict[str, Any]
RequestKey = frozenset[tuple[str, object]]
Hashes = frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """The rows that request clips, and why some clips must not be exported.

    `rows` has the newest run first. A row without a clip id lost its consent before it became a clip. Each row has a `manifest`, None
    if unknown. Reasons by clip: `removed`, because its manifest no longer has it; `ended`, because of its consent.
    """

    rows: list[Row]
    removed: Mapping[str, str]
    ended: Mapping[str, str]


def find_requested(output: str, columns: Iterable[str], now: datetime) -> Requested:
    """Reads all runs' metadata; each row also gets these `columns`."""
    wanted = [*dict.fromkeys([*ROW_COLUMNS, *columns])]
    clips = read_metadata(output, wanted, pc.field("clip_id").is_valid())
    speaks_for_others = pc.field("clip_id").is_null() | pc.field("error_type").isin([*CONSENT_ERRORS])
    speaks_for_others |= pc.field("consent_expires_at") <= pa.scalar(now, TIME)
    others = read_metadata(output, [*dict.fromkeys([*wanted, *REQUEST, "seed"])], speaks_for_others).to_pylist()
    order = RunOrder.of(output, {*pc.unique(clips["run"]).to_pylist(), *(row["run"] for row in others)})
    newest = _newest_of_each_manifest(order.sort_newest_first(clips), order)
    requesting = list(_still_requesting(output, newest, order))
    mentions = _group_by_clip(output, others)
    removed = _explain_removed(newest, {row["clip_id"] for row in requesting}, order)
    unnamed = (row | {"manifest": order.manifest_of(row["run"])} for row in others if row["clip_id"] is None)
    refused = [row for row in unnamed if has_ended(row, now)]
    return Requested(
        rows=sorted([*requesting, *refused], key=lambda row: (-order.ranks[row["run"]], row["row"])),
        removed=removed,
        ended=_explain_ended(newest, mentions, order, now),
    )


def describe(row: Row) -> str:
    """`row` is of a run, or, if it has a `source`, of that."""
    source = row.get("source") or f"run {row['run']}"
    return f"row {row['row']} of {source}"


def _newest_of_each_manifest(clips: pa.Table, order: RunOrder) -> list[Row]:
    """For each clip and manifest, the rows of the newest run that mentions the clip; `clips` has the newest run first."""
    manifests = [order.manifest_of(run_id) for run_id in clips["run"].to_pylist()]
    newest: dict[tuple[str | None, str], str] = {}
    mentions = zip(manifests, clips["clip_id"].to_pylist(), clips["run"].to_pylist(), strict=True)
    is_newest = [newest.setdefault((manifest, clip_id), run) == run for manifest, clip_id, run in mentions]
    rows = clips.append_column("manifest", pa.array(manifests, pa.string())).filter(pa.array(is_newest, pa.bool_()))
    return list(rows.to_pylist())


def _still_requesting(output: str, rows: list[Row], order: RunOrder) -> Iterator[Row]:
    """The rows that the newest run over their whole manifest still had."""
    current, whole = order.current_runs(), order.newest_whole_runs()
    keys_of, photos_of = cache(partial(_request_keys, output)), cache(partial(_photos_by_key, output))
    for row in rows:
        if row["run"] in current:
            yield row
        elif (key := keys_of(row["run"]).get(row["row"])) is not None:
            photos = photos_of(whole[row["manifest"]]).get(key, set())
            if None in photos or _hashes(row) in photos:
                yield row


def _request_keys(output: str, run_id: str) -> dict[int, RequestKey]:
    """The request of each row of a run's manifest."""
    return {row["row"]: request_key(row) for row in read_run_manifest(output, run_id).to_pylist()}


def request_key(row: Row) -> RequestKey:
    """What a row of a manifest asks for. Rows of two runs with the same key ask for the same clip, unless the runs' settings differ."""
    settings = {name: cell for name, cell in row.items() if cell is not None and name not in NOT_IN_PICTURE}
    photos = {name: settings.pop(name, None) for name in PHOTOS}
    return frozenset([*settings.items(), ("photos", _uris(photos))])


def _photos_by_key(output: str, run_id: str) -> dict[RequestKey, set[Hashes | None]]:
    """The photo hashes of the rows with each request; None stands for photos that the run did not read."""
    rows = read_metadata(output, ["row", *PHOTO_HASHES], pc.field("run") == run_id)
    hashes = {row["row"]: _hashes(row) for row in rows.to_pylist()}
    photos: dict[RequestKey, set[Hashes | None]] = defaultdict(set)
    for row, key in _request_keys(output, run_id).items():
        photos[key].add(hashes.get(row))
    return photos


def _explain_removed(rows: list[Row], requested: set[str], order: RunOrder) -> dict[str, str]:
    whole = order.newest_whole_runs()
    return {
        row["clip_id"]: f"{describe(row)}: its manifest no longer had it in run {whole[row['manifest']]}"
        for row in rows
        if row["clip_id"] not in requested
    }


def _group_by_clip(output: str, others: list[Row]) -> dict[str, list[Row]]:
    """For each clip, the rows of `others` that request the same. A row with a clip id matches any seed: it may not have given one."""
    if not others:
        return {}
    wanted = {photo for row in others for photo in map(_photo, _uris(row))}
    known = pc.unique(read_metadata(output, ["subject_uri"], pc.field("clip_id").is_valid())["subject_uri"]).to_pylist()
    photos = pa.array([uri for uri in known if _photo(uri) in wanted], pa.string())
    is_of_photo = pc.field("subject_uri").isin(photos) | pc.field("subject_uris").is_valid()
    is_of_photo &= pc.field("clip_id").is_valid()
    clips = read_metadata(output, ["clip_id", "seed", "try_number", *REQUEST], is_of_photo)
    seeds: dict[tuple[object, ...], set[tuple[str, int | None]]] = defaultdict(set)
    for row in clips.to_pylist():
        asked_for = None if row["try_number"] else row["seed"]  # a later try has another seed than the row asked for
        seeds[_request(row)].add((row["clip_id"], asked_for))
    mentions: dict[str, list[Row]] = defaultdict(list)
    for row in others:
        for clip_id, seed in seeds.get(_request(row), ()):
            if row["clip_id"] is not None or seed is None or row["seed"] in (None, seed):
                mentions[clip_id].append(row)
    return mentions


def _request(row: Row) -> tuple[object, ...]:
    return (frozenset(map(_photo, _uris(row))), *(row[name] for name in SETTINGS))


def _uris(row: Row) -> frozenset[str | None]:
    """The photos of a row of the metadata or of a manifest."""
    return frozenset(row.get("subject_uris") or [row.get("subject_uri")])


def _hashes(row: Row) -> Hashes | None:
    """The hashes of a row's photos; None if they were not read."""
    return frozenset(filter(None, row["photo_sha256s"] or [row["photo_sha256"]])) or None


@lru_cache(maxsize=100_000)
def _photo(uri: str | None) -> str | None:
    """The same text for every spelling of a photo's URI: with or without `file://`, through a link, or by another scheme of its store."""
    if uri is None:
        return None
    if (path := storage.path_of(uri)) is not None:
        return os.path.realpath(path)
    scheme, _, rest = uri.partition("://")
    return f"{SAME_STORES.get(scheme, scheme)}://{rest}"


def _explain_ended(
    rows: list[Row], mentions: Mapping[str, list[Row]], order: RunOrder, now: datetime
) -> dict[str, str]:
    """Why the consent of each withheld clip has ended. In the newest run that mentions a clip, one row without consent is enough."""
    own_rows: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        own_rows[row["clip_id"]].append(row)
    ended = {}
    for clip_id, own in own_rows.items():
        named_by = max((row["run"] for row in own), key=order.ranks.__getitem__)
        others = (row for row in mentions.get(clip_id, ()) if row["clip_id"] is None or row["run"] != named_by)
        candidates = [*own, *others]
        newest = max((row["run"] for row in candidates), key=order.ranks.__getitem__)
        if faults := [explain_end(row) for row in candidates if row["run"] == newest and has_ended(row, now)]:
            ended[clip_id] = faults[0]
    return ended


def has_ended(row: Row, now: datetime) -> bool:
    """Whether the row was rejected for its consent, or the consent has expired since."""
    expires_at = row["consent_expires_at"]
    return row["error_type"] in CONSENT_ERRORS or (expires_at is not None and expires_at <= now)


def explain_end(row: Row) -> str:
    if row["error_type"] in CONSENT_ERRORS:
        return f"{describe(row)}: {row['error_type']}: {row['error']}"
    return f"{describe(row)}: consent_expires_at={row['consent_expires_at'].isoformat()}: must be in the future"
