"""Saves the last lines of workers that died, from the file on their node in which Ray keeps their stderr."""

import json
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import ray
import structlog
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lynx_batch.errors import STORE_FAULTS
from lynx_batch.execution.group import Group
from lynx_batch.execution.worker import process_name
from lynx_batch.ledger.logs import MAX_LAST_LINES, as_records, parse_record, write_last_lines
from lynx_batch.printable import printable
from lynx_batch.redaction import hide_secrets

log = structlog.get_logger()

READ_WITHIN_S = 30.0
"""How long a node may take to start a process that reads the files. A node that is gone fails earlier."""

MAX_BYTES = 1_000_000
MAX_LINE_LENGTH = 2000

NUM_READERS = 4


class LastLines:
    """Reads and uploads in the background, so that the main loop never waits for it. What cannot be had is logged."""

    def __init__(self, output: str, run_id: str) -> None:
        self._output, self._run_id = output, run_id
        self._readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="last-lines")
        self._pending: list[Future[None]] = []

    def save(self, group: Group) -> None:
        """Saves the last lines of all workers of a lost group."""
        self._pending = [future for future in self._pending if not future.done()]
        self._pending.append(self._readers.submit(self._save, group.name, group.actor_ids))

    def wait(self) -> None:
        """Waits for what is under way, until Ray may be shut down."""
        wait(self._pending, timeout=READ_WITHIN_S)

    def forget(self) -> None:
        """Waits for nothing: with the head gone, nothing will come."""
        self._pending.clear()

    def _save(self, group: str, actor_ids: list[str]) -> None:
        for rank, actor_id in enumerate(actor_ids):
            try:
                self._save_worker(group, rank, actor_id)
            except (ray.exceptions.RayError, *STORE_FAULTS, OSError) as error:
                log.warning("last_lines_lost", group=group, rank=rank, error=str(error))

    def _save_worker(self, group: str, rank: int, actor_id: str) -> None:
        actor = ray._private.state.actors(actor_id)
        node_id, process_id = actor.get("Address", {}).get("NodeID"), actor.get("Pid")
        if not process_id:  # it never started
            return
        there = NodeAffinitySchedulingStrategy(node_id, soft=False)
        lines = ray.get(read_last_lines.options(scheduling_strategy=there).remote(process_id), timeout=READ_WITHIN_S)
        fields = {"run": self._run_id, "group": group, "rank": rank}
        records = [json.dumps(record, ensure_ascii=False) for record in as_records(lines, fields)]
        write_last_lines(self._output, self._run_id, process_name(group, rank), records)


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def read_last_lines(process_id: int) -> list[str]:
    """What a worker on this node wrote last to stderr. Runs on the node of the worker."""
    folder = Path(ray._private.worker._global_node.get_logs_dir_path())
    files = sorted(folder.glob(f"worker-*-{process_id}.err"), key=lambda file: file.stat().st_mtime)
    return last_lines_of(files[-1]) if files else []


def last_lines_of(file: Path) -> list[str]:
    """The last lines of a file, without Ray's own marks."""
    with file.open("rb") as content:
        content.seek(max(0, file.stat().st_size - MAX_BYTES))
        text = content.read().decode("utf-8", "replace")
    lines = [
        line for line in text.split("\n") if line and not line.startswith((":job_id:", ":actor_name:", ":task_name:"))
    ]
    return [_safe(line) for line in lines[-MAX_LAST_LINES:]]


def _safe(line: str) -> str:
    """An event of ours as it is; a library's line without secrets, and cut if it is long."""
    return line if parse_record(line) else hide_secrets(printable(line))[:MAX_LINE_LENGTH]
