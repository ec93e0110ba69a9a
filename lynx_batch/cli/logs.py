"""`logs`: what the processes of a run logged, from the bucket; or what a submitted job printed, from its cluster."""

import json
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lynx_batch import storage
from lynx_batch.cli.console import say
from lynx_batch.cli.jobs import DASHBOARD, Address, connect, follow
from lynx_batch.cli.outputs import await_run, check_output
from lynx_batch.errors import ConfigError

if TYPE_CHECKING:
    from lynx_batch.ledger.logs import LogRecord

FOLLOW_EVERY_S = 5.0

HEAD = ("timestamp", "level", "run", "group", "rank", "node", "event")
"""Fields that begin a line of text, or that every line of a process has."""


def logs(
    target: Annotated[str, typer.Argument(metavar="OUT|JOB", help="An output location, or the id of a submitted job.")],
    run_id: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Default: the newest run.")] = None,
    clip: Annotated[
        str | None, typer.Option(metavar="CLIP_ID", help="Only lines about this clip. The beginning of its id will do.")
    ] = None,
    is_followed: Annotated[bool, typer.Option("--follow", help="Go on until the run or the job has ended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, as it was logged.")] = False,
    address: Address = DASHBOARD,
) -> None:
    """Show what driver and workers of a run logged, in the order of time. Needs no cluster, also after a worker was killed.

    Each process uploads its log once a minute. A name without a slash that is no folder here is the id of a job; of that, its own output
    is shown.
    """
    if _is_job(target):
        if run_id or clip or as_json:
            raise ConfigError(f"--run, --clip, --json: need an output location, but {target!r} is the id of a job")
        if is_followed:
            follow(target, address)
        say(connect(address).output_of(target), ends_line=False)
        return
    if is_followed:
        await_run(target)
    run_id = _find_run(check_output(target), run_id)
    num_shown = 0
    for record in _read(target, run_id, is_followed=is_followed):
        if clip is None or str(record.get("clip_id", "")).startswith(clip):
            say(json.dumps(record, ensure_ascii=False) if as_json else _as_text(record))
            num_shown += 1
    if not num_shown:
        say(f"run {run_id}: its log has no {'such ' if clip else ''}line", is_error=True)


def _is_job(target: str) -> bool:
    return "/" not in target and not Path(target).exists()


def _find_run(output: str, run_id: str | None) -> str:
    from lynx_batch.ledger.runs import list_runs, read_runs

    if run_id is None:
        runs = read_runs(output)
        if not runs:
            raise ConfigError(f"OUT {storage.redact(output)}: has no run that wrote its record; --run names another")
        return runs[-1].run_id
    if run_id not in list_runs(output):
        raise ConfigError(f"--run {run_id!r}: must be a run of {storage.redact(output)}; `lynx-batch runs` lists them")
    return run_id


def _read(output: str, run_id: str, *, is_followed: bool) -> "Iterator[LogRecord]":
    """All lines; with `is_followed`, also those that come until the run is not alive any more."""
    from lynx_batch.ledger.heartbeat import living_runs
    from lynx_batch.ledger.logs import list_log_parts, read_log_parts

    seen = list[str]()
    while True:
        is_alive = is_followed and run_id in living_runs(output, datetime.now(UTC))
        there = list_log_parts(output, run_id)
        yield from read_log_parts(_without(there, seen))
        seen = there
        if not is_alive:
            return
        time.sleep(FOLLOW_EVERY_S)


def _without(uris: Iterable[str], seen: Iterable[str]) -> list[str]:
    known = frozenset(seen)
    return [uri for uri in uris if uri not in known]


def _as_text(record: "LogRecord") -> str:
    """One line: time, process, what happened, and about what. What it names is on the same line; a traceback follows it."""
    process = f"{record['group']}-r{record['rank']}" if "rank" in record else "driver"
    level = "" if record.get("level") == "info" else f"{record.get('level')}: "
    fields = [f"{name}={value}" for name, value in record.items() if name not in (*HEAD, "exception")]
    fields += [f"group={record['group']}"] if "rank" not in record and "group" in record else []
    line = f"{str(record['timestamp'])[:23]} {process} {level}{record['event']} {' '.join(fields)}".rstrip()
    return f"{line}\n{record['exception']}" if "exception" in record else line
