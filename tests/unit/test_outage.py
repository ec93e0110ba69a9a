"""A store that is away for a while is waited for."""

import pytest

from lynx_batch.errors import MissingObject, StoreUnavailable
from lynx_batch.outage import outlast


class Store:
    """Takes what it is given from the third time on."""

    def __init__(self) -> None:
        self.num_tries = 0

    def put(self) -> str:
        self.num_tries += 1
        if self.num_tries < 3:
            raise StoreUnavailable("away")
        return "taken"


def test_what_a_store_takes_later_is_not_lost() -> None:
    assert outlast(Store().put) == "taken"


def test_a_store_that_stays_away_is_given_up() -> None:
    store = Store()
    with pytest.raises(StoreUnavailable, match="away"):
        outlast(store.put, longest_s=0.1)
    assert store.num_tries == 1


def test_what_waiting_cannot_cure_is_not_waited_for() -> None:
    def look() -> None:
        raise MissingObject("nothing lies there")

    with pytest.raises(MissingObject):
        outlast(look)
