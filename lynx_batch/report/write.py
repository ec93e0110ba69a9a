"""Writes the report of a run to `report/run=<run_id>/` of its output location: pages, and small copies of the photos."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import structlog

from lynx_batch import storage
from lynx_batch.ledger.pace import read_costs
from lynx_batch.ledger.runs import Run
from lynx_batch.output import is_part_of_report, report_index_uri, report_photo, report_uri
from lynx_batch.report.figures import sum_up
from lynx_batch.report.gather import MAX_SHOWN, RunFileFacts, RunRows, find_run, read_run_file
from lynx_batch.report.pages import RunFacts, build_pages
from lynx_batch.report.photos import MAX_PHOTOS, shrink_photos
from lynx_batch.report.rows import ReportRow

log = structlog.get_logger()

NUM_WRITERS = 8


def write_report(
    output: str,
    run_id: str | None = None,
    *,
    has_photos: bool | None = None,
    usd_per_gpu_hour: float | None = None,
) -> str:
    """Writes the report of a run, in place of an earlier one; returns the URI of its index.

    Args:
        output: The output location.
        run_id: None is the newest run.
        has_photos: Whether to show the photos. None does what the run file says, unless there are more than `MAX_PHOTOS`.
        usd_per_gpu_hour: The price of a GPU-hour; None takes that of the run file.

    Raises:
        ConfigError: If there is no such run.
        StoreRefused, StoreUnavailable: If the store does not let us read the run or write the report.
    """
    run = find_run(output, run_id)
    now, run_file = datetime.now(UTC), read_run_file(output, run.run_id)
    all_rows = RunRows(output, run.run_id, now)
    rows = all_rows.shown(MAX_SHOWN)
    note = _explain_no_photos(rows, run_file, has_photos)
    photos = [] if note else _write_photos(output, run.run_id, rows, run_file)
    shown = _with_photos(rows, photos)
    cost = read_costs(output).get(run.run_id)
    figures = sum_up(all_rows.all(), cost and cost.at(usd_per_gpu_hour))
    names = [
        _write_page(output, run.run_id, *page) for page in build_pages(_facts(run, run_file, note), figures, shown)
    ]
    _remove_others(output, run.run_id, {*names, *photos})
    return report_index_uri(output, run.run_id)


def _facts(run: Run, run_file: RunFileFacts, photo_note: str) -> RunFacts:
    return RunFacts(
        run_id=run.run_id,
        manifest=run.record.manifest or "",
        started_at=run.record.started_at,
        ended_at=run.end.ended_at if run.end else None,
        stopped_by=run.end.stopped_by if run.end else "",
        likeness_limit=run_file.least_mean_likeness,
        photo_note=photo_note,
    )


def _explain_no_photos(rows: Iterable[ReportRow], run_file: RunFileFacts, has_photos: bool | None) -> str:
    """Why no photos are shown; empty if they are."""
    if has_photos is None and run_file.report.photos:
        num_photos = len({row.photo_sha256 for row in rows if row.may_show_photo})
        if num_photos > MAX_PHOTOS:
            return f"The photos are left out, because there are {num_photos:,} of them: `lynx-batch report OUT --photos` adds them."
        return ""
    return "" if has_photos else "The photos are left out: `lynx-batch report OUT --photos` shows them."


def _write_photos(output: str, run_id: str, rows: Iterable[ReportRow], run_file: RunFileFacts) -> list[str]:
    """Puts the small photos that are not there yet; returns the names of all that are there then."""
    folder = report_uri(output, run_id)
    wanted = {row.photo_sha256: row.photo_uri for row in rows if row.may_show_photo}
    there = {
        file.uri.rpartition("/")[2].removesuffix(".jpg") for file in storage.list_files(storage.join(folder, "photos"))
    }
    missing = [(uri, sha256) for sha256, uri in wanted.items() if sha256 not in there]
    written = set()
    with ThreadPoolExecutor(NUM_WRITERS, thread_name_prefix="photos") as pool:
        puts = {
            sha256: pool.submit(storage.write_bytes, storage.join(folder, report_photo(sha256)), jpeg)
            for sha256, jpeg in shrink_photos(missing, run_file.inputs)
        }
        for sha256, put in puts.items():
            put.result()
            written.add(sha256)
    if num_unread := len(missing) - len(written):
        log.warning("photos_left_out", num_photos=num_unread, reason="not readable now, or changed since the run")
    return [report_photo(sha256) for sha256 in wanted if sha256 in there | written]


def _with_photos(rows: Iterable[ReportRow], photos: Iterable[str]) -> list[ReportRow]:
    known = set(photos)
    return [
        replace(row, photo=name) if row.may_show_photo and (name := report_photo(row.photo_sha256)) in known else row
        for row in rows
    ]


def _write_page(output: str, run_id: str, name: str, html: str) -> str:
    storage.write_bytes(storage.join(report_uri(output, run_id), name), html.encode("utf-8"))
    return name


def _remove_others(output: str, run_id: str, names: set[str]) -> None:
    """Removes what an earlier report wrote and this one does not have, above all photos that are to be left out now."""
    folder = report_uri(output, run_id)
    for file in storage.list_files(folder):
        path = file.uri.removeprefix(folder).strip("/")
        if is_part_of_report(path) and path not in names:
            storage.delete(file.uri)
