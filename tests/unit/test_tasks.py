"""What travels between driver and workers."""

import pickle

from lynx_batch.execution.tasks import Rendered
from lynx_batch.ledger.trace import LANE_OF, Span
from tests.unit.test_ledger import record


def test_what_a_worker_returns_is_under_four_kilobytes() -> None:
    commit = record(clip_id="0" * 32, attempt="20261121T080000Z-abcdef-01234567")
    spans = tuple(Span(stage=stage, start_s=1.8e9, seconds=0.1) for stage in LANE_OF)
    assert len(pickle.dumps(Rendered(commit=commit, spans=spans))) < 4000
