"""The messages between driver and workers."""

import pickle

from lynx_batch.errors import Fault, ImplausibleResult, LynxError, StoreUnavailable, UnfitState
from lynx_batch.ledger.tries import BestTry
from lynx_batch.planning.verdict import Reject
from lynx_batch.rendering.tasks import Failed, Judged, Rendered
from lynx_batch.stages import Span, Stage
from lynx_model.errors import OutOfMemory
from tests.builders import record


def test_what_a_worker_returns_is_under_four_kilobytes() -> None:
    commit = record(clip_id="0" * 32, attempt="20261121T080000Z-abcdef-01234567")
    spans = tuple(Span(stage=stage, start_s=1.8e9, seconds=0.1) for stage in Stage)
    scores = {f"technical_longest_constant_s_{index}": 0.123456789 for index in range(30)}
    commit = commit.model_copy(update={"scores": scores, "thresholds": scores})
    assert len(pickle.dumps(Rendered(commit=commit, spans=spans))) < 4000
    best = BestTry(number=2, seed=2**63 - 1, scores=scores, num_tries=3)
    judged = Judged(verdict=Reject("x" * 1000), best=best, spans=spans)
    assert len(pickle.dumps(judged)) < 4000


def test_a_clip_restarts_only_if_its_saved_state_may_be_the_cause() -> None:
    def must_restart(error: LynxError, fault: Fault) -> bool:
        return Failed(error_type=type(error).__name__, error="", fault=fault).must_restart

    assert must_restart(UnfitState(), Fault.MACHINE)
    assert must_restart(ImplausibleResult(), Fault.CLIP)
    assert not must_restart(StoreUnavailable(), Fault.MACHINE)
    assert not must_restart(OutOfMemory(), Fault.MEMORY)
