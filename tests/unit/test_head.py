"""Whether the head of a cluster answers."""

import socket
from collections.abc import Iterator

import pytest

from lynx_batch.errors import HeadLost
from lynx_batch.execution import head
from lynx_batch.execution.head import Head

MAX_SILENCE_S = 0.1


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CHECK_EVERY_S", 0.01)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def address(listener: socket.socket) -> str:
    host, port = listener.getsockname()
    return f"{host}:{port}"


def test_a_head_that_answers_is_not_lost(listener: socket.socket) -> None:
    checked = Head(address(listener), address(listener), max_silence_s=MAX_SILENCE_S)
    listener.settimeout(5)
    for _ in range(3):
        checked._answered_s -= 1
        checked.check()
        for _ in range(2):
            listener.accept()[0].close()


def test_a_head_is_lost_if_one_of_its_addresses_stays_silent(listener: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as dying:
        checked = Head(address(listener), address(dying), max_silence_s=MAX_SILENCE_S)
    checked._answered_s -= 1
    with pytest.raises(HeadLost, match="is gone"):
        checked.check()
