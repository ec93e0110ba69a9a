"""The logs of a run: every process uploads what it logged, part by part, and all parts together are read in the order of time."""

import gzip
import heapq
import json
import threading
import zlib
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import structlog

from lynx_batch import storage
from lynx_batch.errors import LynxError, MissingObject
from lynx_batch.ledger.records import warn_left_out
from lynx_batch.output import LogPartName, log_part_uri, logs_uri, parse_log_part
from lynx_batch.telemetry import copy_to, stop_copying_to

log = structlog.get_logger()

FIRST_UPLOAD_S, UPLOAD_EVERY_S = 1.0, 60.0
"""The first part follows after a second, so that a process that is killed early leaves one; each pause is twice the one before, up to a minute."""

CLOSE_WITHIN_S = 10.0

MAX_LINES = 50_000
MAX_CHARS = 16_000_000
"""What a process keeps while the store takes no parts, before it drops the oldest lines: minutes of the busiest driver."""

MAX_LAST_LINES = 200
"""So many lines are saved of a worker that died. They repeat the end of what it has uploaded itself."""

NUM_READERS = 32

LogRecord = dict[str, Any]
"""One line: `timestamp`, `level`, `event`, the run, the process, and what the event is about."""


class LogUploader:
    """Collects the lines of one process and uploads them as numbered parts. A store in trouble costs at most the oldest lines.

    A part that the store did not take is put again, unchanged and under the same name. Nobody else has that name.
    """

    def __init__(self, output: str, run_id: str, process: str) -> None:
        self._output, self._run_id, self._process = output, run_id, process
        self._lock = threading.Lock()
        self._lines: deque[str] = deque()
        self._num_chars = self._num_dropped = self._num_parts = 0
        self._unwritten: tuple[str, bytes] | None = None

    def add(self, line: str) -> None:
        with self._lock:
            self._lines.append(line)
            self._num_chars += len(line)
            while len(self._lines) > MAX_LINES or self._num_chars > MAX_CHARS:
                self._num_chars -= len(self._lines.popleft())
                self._num_dropped += 1

    def upload(self) -> None:
        """Uploads the lines so far, if there are any. Raises what the store raises; the lines are kept then."""
        while self._unwritten or self._lines:
            if self._unwritten is None:
                name = LogPartName(self._run_id, self._process, self._num_parts)
                self._unwritten = log_part_uri(self._output, name), _pack(self._take())
                self._num_parts += 1
            storage.write_bytes(*self._unwritten)
            self._unwritten = None

    def _take(self) -> list[str]:
        with self._lock:
            lines, num_dropped = [*self._lines], self._num_dropped
            self._lines.clear()
            self._num_chars = self._num_dropped = 0
        return [*([_describe_dropped(num_dropped)] if num_dropped else []), *lines]


class UploadedLogs:
    """Uploads what this process logs, in a thread of its own, and once more at the end. The store's errors reach nobody."""

    def __init__(self, output: str, run_id: str, process: str) -> None:
        self._uploader, self._is_over = LogUploader(output, run_id, process), threading.Event()
        copy_to(self._uploader.add)
        self._thread = threading.Thread(target=self._upload_regularly, name="logs", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Uploads the rest. Waits for the store no longer than CLOSE_WITHIN_S."""
        stop_copying_to(self._uploader.add)
        self._is_over.set()
        self._thread.join(CLOSE_WITHIN_S)

    def _upload_regularly(self) -> None:
        pause_s = FIRST_UPLOAD_S
        while not self._is_over.wait(pause_s):
            self._try_to_upload()
            pause_s = min(2 * pause_s, UPLOAD_EVERY_S)
        self._try_to_upload()

    def _try_to_upload(self) -> None:
        try:
            self._uploader.upload()
        except LynxError as error:
            log.warning("logs_put_off", error=str(error))


@contextmanager
def uploading(output: str, run_id: str, process: str) -> Iterator[None]:
    """Uploads what this process logs in the block."""
    logs = UploadedLogs(output, run_id, process)
    try:
        yield
    finally:
        logs.close()


def write_last_lines(output: str, run_id: str, process: str, lines: Iterable[str]) -> None:
    """Saves the last lines of a process that died."""
    storage.write_bytes(log_part_uri(output, LogPartName(run_id, process, None)), _pack(lines))


def as_records(lines: Iterable[str], fields: LogRecord) -> Iterator[LogRecord]:
    """What a worker wrote to stderr: its events, and as events of their own the lines that others wrote, such as a crash handler.

    The latter get `fields`, and the time, clip and attempt of the event before them.
    """
    place: LogRecord = {"timestamp": _now()}
    for line in lines:
        record = parse_record(line)
        if record is not None:
            place = {name: record[name] for name in ("timestamp", "clip_id", "attempt") if name in record}
        yield record or {"level": "info", "event": line, "source": "stderr", **fields, **place}


def list_log_parts(output: str, run_id: str) -> list[str]:
    """The URIs of all parts, those of each process in order."""
    parts = [
        (name, file.uri) for file in storage.list_files(logs_uri(output, run_id)) if (name := parse_log_part(file.uri))
    ]
    return [uri for _, uri in sorted(parts, key=lambda part: (part[0].process, part[0].number is None, part[0].number))]


def read_log_parts(uris: Sequence[str]) -> Iterator[LogRecord]:
    """The lines of these parts, which `list_log_parts` gave, in the order of time. A line that two parts hold comes once.

    Holds all parts, but compressed.
    """
    with ThreadPoolExecutor(NUM_READERS, thread_name_prefix="logs") as pool:
        packed = zip(uris, pool.map(_read, uris), strict=True)
        of_process: defaultdict[str, list[tuple[str, bytes]]] = defaultdict(list)
        for uri, content in packed:
            if (name := parse_log_part(uri)) and content:
                of_process[name.process].append((uri, content))
    yield from heapq.merge(*map(_lines_of_process, of_process.values()), key=lambda record: str(record["timestamp"]))


def _lines_of_process(parts: Iterable[tuple[str, bytes]]) -> Iterator[LogRecord]:
    recent: deque[str] = deque(maxlen=MAX_LAST_LINES)
    for uri, content in parts:
        known = frozenset(recent)
        for line in _unpack(uri, content):
            if line not in known and (record := parse_record(line)):
                recent.append(line)
                yield record


def _read(uri: str) -> bytes:
    try:
        return storage.read_bytes(uri)
    except MissingObject:  # removed since it was listed
        return b""


def _pack(lines: Iterable[str]) -> bytes:
    return gzip.compress("".join(f"{line}\n" for line in lines).encode("utf-8", "replace"), mtime=0)


def _unpack(uri: str, content: bytes) -> list[str]:
    try:
        return gzip.decompress(content).decode("utf-8").split("\n")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        warn_left_out(f"{storage.redact(uri)}: not a part of the logs: {error}")
        return []


def parse_record(line: str) -> LogRecord | None:
    """The event in a line of JSON; None for any other line."""
    if not line.startswith("{"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and {"timestamp", "event"} <= record.keys() else None


def _describe_dropped(num_lines: int) -> str:
    return json.dumps({"timestamp": _now(), "level": "warning", "event": "log_lines_dropped", "num_lines": num_lines})


def _now() -> str:
    """As structlog writes it."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
