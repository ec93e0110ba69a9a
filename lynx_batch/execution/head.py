"""Checks that the head of a Ray cluster answers; nothing works without it."""

import socket
import time

from lynx_batch.errors import HeadLost

CHECK_EVERY_S = 2.0

MAX_SILENCE_S = 20.0
"""Well below 60 s, after which Ray kills a process that has lost the head, before it can write or print anything."""

LOCAL_MAX_SILENCE_S = 3.0
"""A head on this machine that does not answer has died, and nothing restarts it."""


def check_reachable(address: str, timeout_s: float) -> None:
    """Raises OSError unless something listens at `host:port`."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.rpartition("/")[2], int(port)), timeout=timeout_s).close()


class Head:
    """The head of the connected cluster: all `addresses` must answer. It is lost once one was silent for `max_silence_s`."""

    def __init__(self, *addresses: str, max_silence_s: float) -> None:
        self._addresses, self._max_silence_s = addresses, max_silence_s
        self._answered_s = time.monotonic()

    def check(self) -> None:
        """Checks the head every `CHECK_EVERY_S`; if it does not answer, blocks until it does.

        Raises:
            HeadLost: If it does not answer within `max_silence_s`.
        """
        while time.monotonic() - self._answered_s > CHECK_EVERY_S:
            try:
                for address in self._addresses:
                    check_reachable(address, timeout_s=CHECK_EVERY_S)
                self._answered_s = time.monotonic()
            except OSError as error:
                if time.monotonic() - self._answered_s > self._max_silence_s:
                    raise HeadLost(f"the head of the Ray cluster, {address}, is gone: {error}") from error
                time.sleep(CHECK_EVERY_S)
