"""What travels between driver and workers."""

import pickle

from lynx_batch.execution.tasks import Rendered
from tests.unit.test_ledger import record


def test_what_a_worker_returns_is_under_four_kilobytes() -> None:
    assert (
        len(pickle.dumps(Rendered(commit=record(clip_id="0" * 32, attempt="20261121T080000Z-abcdef-01234567")))) < 4000
    )
