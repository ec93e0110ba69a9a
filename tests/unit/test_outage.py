"""A store that is away for a while is waited for."""

import pytest

from lynx_batch import outage
from lynx_batch.errors import LynxError, MissingObject, StoreRefused, StoreUnavailable, StoreUnready
from lynx_batch.outage import retry_while_unavailable


class Store:
    """Takes what it is given from the third time on."""

    def __init__(self, trouble: type[LynxError] = StoreUnavailable) -> None:
        self.num_tries, self._trouble = 0, trouble

    def put(self) -> str:
        self.num_tries += 1
        if self.num_tries < 3:
            raise self._trouble("away")
        return "taken"


def test_what_a_store_takes_later_is_not_lost() -> None:
    assert retry_while_unavailable(Store().put) == "taken"


def test_a_store_that_stays_away_is_given_up() -> None:
    store = Store()
    with pytest.raises(StoreUnavailable, match="away"):
        retry_while_unavailable(store.put, longest_s=0.1)
    assert store.num_tries == 1


@pytest.mark.parametrize("kind", [MissingObject, StoreRefused])
def test_what_waiting_cannot_cure_is_not_waited_for(kind: type[LynxError]) -> None:
    num_tries = 0

    def look() -> None:
        nonlocal num_tries
        num_tries += 1
        raise kind("no")

    with pytest.raises(kind):
        retry_while_unavailable(look)
    assert num_tries == 1


def test_a_full_store_is_waited_for_as_long_as_others_may_take_to_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(StoreUnready)
    assert retry_while_unavailable(store.put) == "taken"
    monkeypatch.setattr(outage, "UNREADY_S", 0.1)
    with pytest.raises(StoreUnready):
        retry_while_unavailable(Store(StoreUnready).put)
