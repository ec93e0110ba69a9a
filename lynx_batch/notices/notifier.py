"""Tells the targets of a run file about a run. A target that is slow or dead neither delays the run nor fails it."""

import queue
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from lynx_batch.config import NotifyConfig
from lynx_batch.notices.channels import NotSent, Send, open_channel
from lynx_batch.notices.due import Due
from lynx_batch.notices.notice import Event, Notice

log = structlog.get_logger()

LAST_EVENTS = (Event.STOP, Event.END)
MAX_WAITING = 16
PAUSES_S = (1.0, 4.0)
"""Between the tries of one notice."""

LAST_WORD_S = 10.0
"""How long the end of a run waits for the notices that are still under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Somebody to notify. `shown` is what may be shown of the address."""

    config: NotifyConfig
    shown: str
    send: Send


def open_targets(notify: Sequence[NotifyConfig]) -> list[Target]:
    """The targets of a run file, in its order. Raises as `open_channel`; sends nothing."""
    opened = [(each, open_channel(f"notify.{number}", each)) for number, each in enumerate(notify)]
    return [Target(config=config, shown=shown, send=send) for config, (shown, send) in opened]


class Notifier:
    """Notifies targets, each in a thread of its own. `describe` gives the state of the run for an event; it is called at once.

    Call `start`, any number of times `progress`, then `end`. `share` is that of the rows that have ended.
    """

    def __init__(self, targets: Sequence[Target], describe: Callable[[Event, str], Notice]) -> None:
        self._describe, self._mailboxes = describe, [_Mailbox(target) for target in targets]
        self._due: list[Due] = []

    def start(self, share: float) -> None:
        now_s = time.monotonic()
        for mailbox in self._mailboxes:
            every = mailbox.target.config
            self._due.append(
                Due(every_percent=every.every_percent, every_hours=every.every_hours, share=share, now_s=now_s)
            )
        self._notify(Event.START)

    def progress(self, share: float) -> None:
        now_s = time.monotonic()
        for mailbox, due in zip(self._mailboxes, self._due, strict=False):
            if due.is_due(share, now_s):
                mailbox.put(self._describe(Event.PROGRESS, ""))

    def end(self, stopped_by: str) -> None:
        """Tells how the run ended, and waits at most `LAST_WORD_S` until everything is delivered."""
        self._notify(Event.STOP if stopped_by else Event.END, stopped_by)
        ends_s = time.monotonic() + LAST_WORD_S
        for mailbox in self._mailboxes:
            mailbox.close(ends_s)

    def _notify(self, event: Event, stopped_by: str = "") -> None:
        for mailbox in self._mailboxes:
            if event in mailbox.target.config.events:
                mailbox.put(self._describe(event, stopped_by))


class _Mailbox:
    """The notices that wait for one target, and the thread that delivers them.

    Once a try has failed, notices that are not the run's last one give way to it.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self._waiting: queue.Queue[Notice | None] = queue.Queue()
        self._has_last, self._error = False, ""
        self._thread = threading.Thread(target=self._deliver, name="notify", daemon=True)
        self._thread.start()

    def put(self, notice: Notice) -> None:
        self._has_last |= notice.event in LAST_EVENTS
        if self._waiting.qsize() < MAX_WAITING or notice.event is not Event.PROGRESS:
            self._waiting.put(notice)

    def close(self, ends_s: float) -> None:
        self._waiting.put(None)
        self._thread.join(max(0.0, ends_s - time.monotonic()))
        if self._thread.is_alive():
            log.warning("notices_unsent", target=self.target.shown, error="not delivered in time")

    def _deliver(self) -> None:
        while (notice := self._waiting.get()) is not None:
            self._send(notice, f"msg_{secrets.token_hex(12)}")

    def _send(self, notice: Notice, notice_id: str) -> None:
        """Tries a few times; then the notice is given up."""
        for pause_s in (0.0, *PAUSES_S):
            if self._error and self._has_last and notice.event not in LAST_EVENTS:
                break
            time.sleep(pause_s)
            try:
                self.target.send(notice_id, notice)
            except NotSent as problem:
                self._error = str(problem)
            else:
                self._error = ""
                return
        log.warning("notice_unsent", target=self.target.shown, notice=notice.event, error=self._error)
