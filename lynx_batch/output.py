"""Every folder and file name of an output location.

    clips/<kk>/<clip_id>/<attempt>.mp4, .jpg            one attempt's video and its poster; <kk> is the start of the id
    clips/<kk>/<clip_id>/<attempt>.gif or .webp         its preview, if the run asks for one
    commits/<kk>/<clip_id>.json                         edition 1 of a clip is committed
    commits/<kk>/<clip_id>.e<n>.json                    edition n is committed
    commits/<kk>/<clip_id>.e<n>.withdrawn.json          edition n is withdrawn
    commits/<kk>/<clip_id>.e<n>.redo.json               edition n, with another seed, is to replace the one in force
    events/run=<run_id>/<time>-<clip_id>-<attempt>.json
    events/retries/<time>-<random>.json
    metadata/run=<run_id>/part-<number>.parquet
    report/run=<run_id>/{trace.json, index.html, clips-<number>.html, photos/<sha256>.jpg}
    resume/<clip_id>-e<n>-t<k>-<steps done>.safetensors  the saved state of try k; older ones lack e<n>-t<k> and are e1-t0
    tries/<kk>/<clip_id>/e<n>-t<k>.json                 try k of edition n was rendered and judged
    judged/<kk>/<clip_id>.e<n>.json                     edition n, committed without a quality gate, was judged later
    runs/<run_id>/{run.yaml, manifest.parquet, clips.parquet, environment.json, run.json, spent.json, heartbeat.json, end.json}
    runs/<run_id>/logs/<process>-<number>.jsonl.gz      what a process of the run logged: `driver`, or g<n>-r<rank> for a worker
    runs/<run_id>/logs/<process>-last.jsonl.gz          the last lines of a worker that died
    tombstones/<kind>-<digest>.json                     a person, consent or photo is revoked
    revocations/<time>-<random>.json                    what one call of `revoke` removed
    approvals/<time>-<random>.json                      who approved which templates and settings

Functions that end in `_uri` take the URI of the output location and give that of a file or folder below it.
"""

import re
import secrets
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from lynx_batch.storage import join

CLIPS, COMMITS, EVENTS, JUDGED, METADATA, REPORT, RESUME, RUNS, TRIES = (
    "clips",
    "commits",
    "events",
    "judged",
    "metadata",
    "report",
    "resume",
    "runs",
    "tries",
)

DELIVERY_FOLDERS = (CLIPS, COMMITS)
"""The folders that a worker writes to for each clip; with a quality gate, `TRIES`, too."""

FOLDERS = ("", *DELIVERY_FOLDERS, EVENTS, METADATA, REPORT, RESUME, RUNS)
"""All folders that a run without a quality gate writes to, the output's own included."""

RUN_FILE, RUN_MANIFEST, RUN_ENVIRONMENT = "run.yaml", "manifest.parquet", "environment.json"
RUN_RECORD, RUN_HEARTBEAT, RUN_END = "run.json", "heartbeat.json", "end.json"
RUN_SPENT = "spent.json"
RUN_CLIPS = "clips.parquet"

LOGS, LOG_OF_DRIVER = "logs", "driver"

APPROVALS, REVOCATIONS, TOMBSTONES = "approvals", "revocations", "tombstones"

TIME = "%Y%m%dT%H%M%S.%fZ"

_COMMIT = re.compile(
    r"(?P<folder>[0-9a-f]{2})/(?P<clip>(?P=folder)[0-9a-f]*)(\.e(?P<edition>[1-9]\d*)(\.(?P<kind>withdrawn|redo))?)?\.json"
)
_EVENT = re.compile(r"[^-/]+-(?P<clip>[0-9a-f]+)-[^/]+\.json")
_JUDGEMENT = re.compile(r"(^|/)(?P<clip>[0-9a-f]+)\.e(?P<edition>[1-9]\d*)\.json$")
_LOG_PART = re.compile(rf"/{RUNS}/(?P<run>[^/]+)/{LOGS}/(?P<process>[^/]+)-(?P<number>\d+|last)\.jsonl\.gz$")
_PART = re.compile(r"run=(?P<run>[^/]+)/part-\d+\.parquet")
_REPORT_FILE = re.compile(r"index\.html|clips-\d+\.html|photos/[0-9a-f]{64}\.jpg")
_REPORT_PHOTO = re.compile(rf"/{REPORT}/run=[^/]+/photos/(?P<sha256>[0-9a-f]{{64}})\.jpg$")
_SAVED = re.compile(
    r"(?P<clip>[0-9a-f]+)(-e(?P<edition>[1-9]\d*)-t(?P<number>\d+))?-(?P<num_steps_done>\d+)\.safetensors"
)
_ATTEMPT = re.compile(rf"(^|/){CLIPS}/[0-9a-f]{{2}}/[0-9a-f]+/(?P<run>[^/]+)-[0-9a-f]+\.\w+$")
_TOMBSTONE = re.compile(r"(?P<kind>[a-z0-9_]+)-(?P<digest>[0-9a-f]{64})\.json")
_TRY = re.compile(r"(^|/)(?P<clip>[0-9a-f]+)/e(?P<edition>[1-9]\d*)-t(?P<number>\d+)\.json$")
_VIDEO = re.compile(rf"{CLIPS}/[0-9a-f]{{2}}/(?P<clip>[0-9a-f]+)/(?P<run>[^/]+)-[0-9a-f]+\.(mp4|jpg|gif|webp)")


class RecordKind(StrEnum):
    """What a record in `commits` says of an edition."""

    COMMITTED = "committed"
    WITHDRAWN = "withdrawn"
    REDO = "redo"


class CommitName(NamedTuple):
    """What the name of a record in `commits` says."""

    clip_id: str
    edition: int
    kind: RecordKind


class VideoName(NamedTuple):
    """What the name of an attempt's video, poster or preview says."""

    clip_id: str
    run_id: str


class TryName(NamedTuple):
    """Which try of which edition of a clip."""

    clip_id: str
    edition: int
    number: int


class LogPartName(NamedTuple):
    """What the name of a part of the logs says. `number` is None for the last lines of a worker that died."""

    run_id: str
    process: str
    number: int | None


class SavedName(NamedTuple):
    """What the name of a saved clip says."""

    of: TryName
    num_steps_done: int


def new_attempt(run_id: str) -> str:
    """A name for an attempt of that run, which nobody else has."""
    return f"{run_id}-{secrets.token_hex(4)}"


def video_path(clip_id: str, attempt: str) -> str:
    """Relative to the output location, so that the location can be moved as a whole."""
    return f"{CLIPS}/{clip_id[:2]}/{clip_id}/{attempt}.mp4"


def poster_path(clip_id: str, attempt: str) -> str:
    """As `video_path`."""
    return f"{CLIPS}/{clip_id[:2]}/{clip_id}/{attempt}.jpg"


def preview_path(clip_id: str, attempt: str, kind: str) -> str:
    """As `video_path`. `kind` is gif or webp."""
    return f"{CLIPS}/{clip_id[:2]}/{clip_id}/{attempt}.{kind}"


def parse_video(output: str, uri: str) -> VideoName | None:
    """What the name of a file in `clips` says. None for one that no attempt has written."""
    match = _VIDEO.fullmatch(uri.removeprefix(output).strip("/"))
    return match and VideoName(match["clip"], match["run"])


def attempts_uri(output: str, clip_id: str) -> str:
    """The folder with the files of all attempts at a clip."""
    return join(output, CLIPS, clip_id[:2], clip_id)


def parse_attempt(uri: str) -> str | None:
    """The run that wrote a file of an attempt, whatever kind of file it is; None if the name does not say."""
    match = _ATTEMPT.search(uri)
    return match and match["run"]


def commit_uri(output: str, clip_id: str, edition: int) -> str:
    name = clip_id if edition == 1 else f"{clip_id}.e{edition}"
    return join(output, COMMITS, clip_id[:2], f"{name}.json")


def withdrawal_uri(output: str, clip_id: str, edition: int) -> str:
    return join(output, COMMITS, clip_id[:2], f"{clip_id}.e{edition}.withdrawn.json")


def redo_uri(output: str, clip_id: str, edition: int) -> str:
    return join(output, COMMITS, clip_id[:2], f"{clip_id}.e{edition}.redo.json")


def parse_commit(path: str) -> CommitName | None:
    """`path` is relative to `commits`. None for a file that is none of its records."""
    match = _COMMIT.fullmatch(path)
    if match is None:
        return None
    edition, kind = int(match["edition"] or 1), RecordKind(match["kind"] or RecordKind.COMMITTED)
    is_odd = match["edition"] == "1" and kind is not RecordKind.WITHDRAWN
    return None if is_odd else CommitName(match["clip"], edition, kind)


def tries_uri(output: str, clip_id: str) -> str:
    return join(output, TRIES, clip_id[:2], clip_id)


def try_uri(output: str, name: TryName) -> str:
    return join(tries_uri(output, name.clip_id), f"e{name.edition}-t{name.number}.json")


def parse_try(uri: str) -> TryName | None:
    """What the name of a file in `tries` says; None if it is no try's."""
    match = _TRY.search(uri)
    return match and TryName(match["clip"], int(match["edition"]), int(match["number"]))


def judgements_uri(output: str) -> str:
    return join(output, JUDGED)


def judgement_uri(output: str, clip_id: str, edition: int) -> str:
    return join(judgements_uri(output), clip_id[:2], f"{clip_id}.e{edition}.json")


def parse_judgement(uri: str) -> tuple[str, int] | None:
    """The clip and the edition in the name of a file in `judged`; None for any other file."""
    match = _JUDGEMENT.search(uri)
    return match and (match["clip"], int(match["edition"]))


def events_uri(output: str, run_id: str) -> str:
    return join(output, EVENTS, f"run={run_id}")


def event_uri(output: str, run_id: str, at: datetime, clip_id: str, attempt: str) -> str:
    return join(events_uri(output, run_id), f"{at:{TIME}}-{clip_id}-{attempt}.json")


def parse_event(name: str) -> str | None:
    """The ClipId in the file name of an event; None for any other file."""
    match = _EVENT.fullmatch(name)
    return match and match["clip"]


def retries_uri(output: str) -> str:
    return join(output, EVENTS, "retries")


def new_retry_uri(output: str, at: datetime) -> str:
    return join(retries_uri(output), f"{at:{TIME}}-{secrets.token_hex(4)}.json")


def metadata_part_uri(output: str, run_id: str, number: int) -> str:
    return join(output, METADATA, f"run={run_id}", f"part-{number:05}.parquet")


def parse_metadata_part(path: str) -> str | None:
    """The run of a part; `path` is relative to `metadata`. None for any other file."""
    match = _PART.fullmatch(path)
    return match and match["run"]


def report_uri(output: str, run_id: str) -> str:
    """The folder of a run's report and trace."""
    return join(output, REPORT, f"run={run_id}")


def report_index_uri(output: str, run_id: str) -> str:
    """The page with which a run's report begins."""
    return join(report_uri(output, run_id), "index.html")


def trace_uri(output: str, run_id: str) -> str:
    return join(report_uri(output, run_id), "trace.json")


def is_part_of_report(path: str) -> bool:
    """Whether a report wrote the file; `path` is relative to the folder of the run's report."""
    return _REPORT_FILE.fullmatch(path) is not None


def report_photo(sha256: str) -> str:
    """A report's copy of a photo, relative to the folder of the run's report."""
    return f"photos/{sha256}.jpg"


def parse_report_photo(uri: str) -> str | None:
    """The hash of the photo if the file is a report's copy of one; None for any other file."""
    match = _REPORT_PHOTO.search(uri)
    return match and match["sha256"]


def saved_clip_uri(output: str, of: TryName, num_steps_done: int) -> str:
    return join(output, RESUME, f"{of.clip_id}-e{of.edition}-t{of.number}-{num_steps_done:04}.safetensors")


def saved_clip_uris(output: str, of: TryName, num_steps_done: int) -> tuple[str, ...]:
    """All names that the state may have: the present one, and for a clip's first try the one that it had before clips had tries."""
    present = saved_clip_uri(output, of, num_steps_done)
    if (of.edition, of.number) != (1, 0):
        return (present,)
    return present, join(output, RESUME, f"{of.clip_id}-{num_steps_done:04}.safetensors")


def parse_saved_clip(uri: str) -> SavedName | None:
    """What the name of a file in `resume` says; None if it is no saved clip's."""
    match = _SAVED.fullmatch(uri.rpartition("/")[2])
    if match is None:
        return None
    of = TryName(match["clip"], int(match["edition"] or 1), int(match["number"] or 0))
    return SavedName(of, int(match["num_steps_done"]))


def runs_uri(output: str) -> str:
    return join(output, RUNS)


def run_file_uri(output: str, run_id: str, name: str) -> str:
    """`name` is one of this module's constants that begin with `RUN_`."""
    return join(output, RUNS, run_id, name)


def parse_run_file(uri: str) -> tuple[str, str]:
    """The run and the file name of a file that a listing of `runs` gave; that of a part of the logs begins with the folder."""
    if part := parse_log_part(uri):
        return part.run_id, f"{LOGS}/{uri.rpartition('/')[2]}"
    _, run_id, name = uri.rsplit("/", 2)
    return run_id, name


def logs_uri(output: str, run_id: str) -> str:
    return join(output, RUNS, run_id, LOGS)


def log_part_uri(output: str, name: LogPartName) -> str:
    number = "last" if name.number is None else f"{name.number:05}"
    return join(logs_uri(output, name.run_id), f"{name.process}-{number}.jsonl.gz")


def parse_log_part(uri: str) -> LogPartName | None:
    """What the name of a part of the logs says; None for any other file."""
    match = _LOG_PART.search(uri)
    return match and LogPartName(
        match["run"], match["process"], None if match["number"] == "last" else int(match["number"])
    )


def tombstones_uri(output: str) -> str:
    return join(output, TOMBSTONES)


def tombstone_uri(output: str, kind: str, digest: str) -> str:
    return join(tombstones_uri(output), f"{kind}-{digest}.json")


def parse_tombstone(uri: str) -> tuple[str, str] | None:
    """Kind and digest of what a tombstone revokes; None for any other file."""
    match = _TOMBSTONE.fullmatch(uri.rpartition("/")[2])
    return match and (match["kind"], match["digest"])


def new_revocation_uri(output: str, at: datetime) -> str:
    return join(output, REVOCATIONS, f"{at:{TIME}}-{secrets.token_hex(4)}.json")


def approvals_uri(output: str) -> str:
    return join(output, APPROVALS)


def new_approval_uri(output: str, at: datetime) -> str:
    return join(approvals_uri(output), f"{at:{TIME}}-{secrets.token_hex(4)}.json")
