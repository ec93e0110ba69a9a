"""Records what a run has spent while it runs, and reads what other runs spend of the same budget, without delaying the run."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime

import structlog

from lynx_batch.errors import STORE_FAULTS
from lynx_batch.ledger.spending import SpentRecord, SpentRecords, write_spent
from lynx_batch.outage import retry_while_unavailable
from lynx_batch.planning.budget import Amount, Budget, Prices
from lynx_batch.preparation.budget import total_spent

log = structlog.get_logger()

RECORD_EVERY_S = 30.0


class SpendingLog:
    """Writes the record of a run every 30 seconds, at once when its first group holds GPUs, and at the end. Errors of the store are logged."""

    def __init__(self, output: str, run_id: str, budget: Budget, prices: Prices, others: SpentRecords) -> None:
        self._output, self._run_id, self._budget, self._prices, self._others = output, run_id, budget, prices, others
        self._due_s = float("-inf")
        self._under_way: Future[Amount | None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spending")

    def update(self) -> None:
        """Starts to write and read if that is due, and takes over what was read last. Call this regularly; it does not block."""
        now_s = time.monotonic()
        if self._under_way is not None and self._under_way.done():
            self._budget.before = self._under_way.result() or self._budget.before
            self._under_way = None
        if self._under_way is None and now_s >= self._due_s and self._budget.gpu_s(now_s):
            self._due_s = now_s + RECORD_EVERY_S
            self._under_way = self._thread.submit(self._exchange, self._record())

    def close(self) -> None:
        """Writes the last record; waits for that."""
        self._thread.shutdown()
        if not self._budget.gpu_s(time.monotonic()):
            return
        record = self._record()
        try:
            retry_while_unavailable(lambda: write_spent(self._output, self._run_id, record))
        except STORE_FAULTS as error:
            log.warning("spending_unrecorded", error=str(error))

    def _exchange(self, record: SpentRecord) -> Amount | None:
        try:
            write_spent(self._output, self._run_id, record)
            return None if record.limit is None else total_spent(self._others.read(record.limit), self._prices)
        except STORE_FAULTS as error:
            log.warning("spending_unrecorded", error=str(error))
            return None

    def _record(self) -> SpentRecord:
        now_s, limits = time.monotonic(), self._budget.limits
        return SpentRecord(
            at=datetime.now(UTC),
            limit=None if limits is None else limits.name,
            gpu_s={name: round(seconds, 3) for name, seconds in self._budget.gpu_s(now_s).items()},
            usd=self._budget.spent(now_s).usd,
        )
