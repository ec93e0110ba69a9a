"""Signals that end a command: the first shuts it down cleanly, like Ctrl-C; the second ends it immediately."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lynx_batch import exits

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _State:
    """State of the whole process, as signals are: how many arrived, and whether the first is held back."""

    num_received = 0
    is_held = False


def end_politely() -> None:
    """From now on the first Ctrl-C, SIGTERM or SIGHUP raises KeyboardInterrupt, and the next ends the process immediately.

    A signal that the parent process ignores (`nohup`) stays ignored. Does nothing outside the main thread, which alone receives signals.
    """
    _State.num_received = 0
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _end)


@contextmanager
def held() -> Iterator[None]:
    """Protects the end of a command: inside the block the first signal raises nothing."""
    before, _State.is_held = _State.is_held, True
    try:
        yield
    finally:
        _State.is_held = before


@contextmanager
def postponed() -> Iterator[None]:
    """A first signal inside the block raises KeyboardInterrupt only at the end of the block."""
    num_before = _State.num_received
    with held():
        yield
    if _State.num_received > num_before and not _State.is_held:
        raise KeyboardInterrupt


def _end(number: int, frame: object) -> None:
    _State.num_received += 1
    if _State.num_received > 1:
        os._exit(exits.STOPPED)
    if not _State.is_held:
        raise KeyboardInterrupt
