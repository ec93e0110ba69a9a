"""Signals that end a command: the first winds it up as Ctrl-C does, the second ends it at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lynx_batch import exits

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _State:
    """Signals belong to the whole process, and so does this: how many came, and whether the first one is held back."""

    num_told = 0
    is_held = False


def end_politely() -> None:
    """From now on Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt, once; the next one ends the process, as a kill would.

    What a parent has told to ignore, as `nohup` does, is ignored. Only the main thread hears of signals.
    """
    _State.num_told = 0
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _end)


@contextmanager
def held() -> Iterator[None]:
    """Lets what ends a command anyway come to its end: here the first signal raises nothing."""
    before, _State.is_held = _State.is_held, True
    try:
        yield
    finally:
        _State.is_held = before


def _end(number: int, frame: object) -> None:
    _State.num_told += 1
    if _State.num_told > 1:
        os._exit(exits.STOPPED)
    if not _State.is_held:
        raise KeyboardInterrupt
