"""Whether that part of a Ray cluster answers without which nothing works."""

import socket
import time

from lynx_batch.errors import HeadLost

CHECK_EVERY_S = 2.0

MAX_SILENCE_S = 20.0
"""Well below the 60 s after which Ray ends a process that has lost the head, without a chance to write or say anything."""

LOCAL_MAX_SILENCE_S = 3.0
"""What was on this machine and does not answer has died; nobody starts it again."""


def check_reachable(address: str, timeout_s: float) -> None:
    """Raises OSError unless somebody listens at `host:port`."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.rpartition("/")[2], int(port)), timeout=timeout_s).close()


class Head:
    """The head of the cluster that this process is connected to: the `addresses` that must answer.

    Silence for `max_silence_s` is taken for a loss.
    """

    def __init__(self, *addresses: str, max_silence_s: float) -> None:
        self._addresses, self._max_silence_s = addresses, max_silence_s
        self._answered_s = time.monotonic()

    def check(self) -> None:
        """Asks every now and then whether the head is there, and waits while it is not: nothing works without it.

        Raises:
            HeadLost: If it does not come back.
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
