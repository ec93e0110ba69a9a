"""What is told about a run: a notice as JSON for webhooks, and as a title and a text for people."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum

from lynx_batch.planning.budget import Spending, amount
from lynx_batch.printable import counted

SCHEMA_VERSION = 1


class Event(StrEnum):
    """Why a notice is sent. A run ends with either `stop` (something stopped it early) or `end`."""

    START = "start"
    PROGRESS = "progress"
    STOP = "stop"
    END = "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """The state of a run `at` a time. Apart from errors in `stopped_by`, it names no clip, person or photo.

    `counts` are rows by outcome, earlier runs' included; the others of `num_rows` are left. `reasons` counts the rows that were not
    rendered by the type of their error. `report` is where the run's report is, or will be a moment after its end.
    """

    event: Event
    at: datetime
    run_id: str
    output: str
    num_rows: int
    counts: Mapping[str, int]
    reasons: Mapping[str, int]
    spending: Spending
    stopped_by: str
    report: str

    @property
    def num_left(self) -> int:
        return self.num_rows - sum(self.counts.values())

    def as_json(self) -> bytes:
        content = asdict(self) | {
            "schema_version": SCHEMA_VERSION,
            "at": self.at.isoformat(),
            "num_left": self.num_left,
        }
        return json.dumps(content | {"text": self.text}, ensure_ascii=False).encode()

    @property
    def title(self) -> str:
        what = {Event.START: "started", Event.PROGRESS: "goes on", Event.STOP: "stopped", Event.END: "has ended"}
        return f"lynx-batch: run {self.run_id} {what[self.event]}"

    @property
    def text(self) -> str:
        counts = [f"{num} {outcome}" for outcome, num in self.counts.items() if num]
        lines = [f"{counted(self.num_rows, 'row')}: {', '.join([*counts, f'{self.num_left} left'])}"]
        if self.reasons:
            lines.append(f"reasons: {', '.join(f'{num} {reason}' for reason, num in self.reasons.items())}")
        lines.append(_describe_spending(self.spending))
        if self.stopped_by:
            lines.append(f"stopped: {self.stopped_by}")
        return "\n".join([*lines, f"report: {self.report}"])


def _describe_spending(spending: Spending) -> str:
    usd = "" if spending.usd is None else f", {amount(spending.usd)} USD"
    share = "" if spending.used_share is None else f"; {spending.used_share:.0%} of {spending.limit_name!r} is used"
    return f"spent: {amount(spending.gpu_hours)} GPU-hours{usd}{share}"
