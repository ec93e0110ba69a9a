"""The life of a clip in a run, as a state machine over values."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lynx_batch.clip import ClipRequest, ClipSpec
from lynx_batch.planning.schedule import ClipState, Fault, Schedule
from lynx_model.spec import RenderParams


def clip(name: str, *, row: int = 0, priority: int = 0) -> ClipSpec:
    request = ClipRequest(
        row=row, subject_uri="a.jpg", params=RenderParams(prompt="p"), is_seed_given=True, priority=priority
    )
    return ClipSpec(clip_id=name, photo_sha256="0", request=request)


def taken(schedule: Schedule) -> str:
    clip = schedule.take()
    assert clip is not None
    return clip.clip_id


def test_clips_come_by_priority_then_in_the_manifests_order() -> None:
    clips = [clip("c", row=2), clip("a", row=0), clip("urgent", row=3, priority=5), clip("b", row=1)]
    schedule = Schedule(clips, max_attempts=3)
    assert [taken(schedule) for _ in clips] == ["urgent", "a", "b", "c"]
    assert schedule.take() is None


def test_a_clip_out_of_attempts_has_failed() -> None:
    schedule = Schedule([clip("a")], max_attempts=2)
    taken(schedule)
    assert schedule.failed("a", Fault.CLIP) is ClipState.WAITING
    taken(schedule)
    assert schedule.failed("a", Fault.CLIP) is ClipState.FAILED
    assert schedule.attempts("a") == 2
    assert schedule.is_finished


def test_a_clip_that_cannot_succeed_is_rejected_at_once() -> None:
    schedule = Schedule([clip("a")], max_attempts=3)
    taken(schedule)
    assert schedule.failed("a", Fault.INPUT) is ClipState.REJECTED


def test_a_fault_of_the_machine_uses_up_no_attempt() -> None:
    schedule = Schedule([clip("a")], max_attempts=1)
    for _ in range(10):
        schedule.failed(taken(schedule), Fault.MACHINE)
    assert schedule.attempts("a") == 0
    schedule.rendered(taken(schedule))
    assert schedule.state("a") is ClipState.RENDERED


class ClipsOfARun(RuleBasedStateMachine):
    """Any order of successes, failures and lost machines."""

    @initialize(num_clips=st.integers(1, 12), max_attempts=st.integers(1, 4))
    def start(self, num_clips: int, max_attempts: int) -> None:
        self.num_clips, self.max_attempts = num_clips, max_attempts
        clips = [clip(f"c{row}", row=row, priority=row % 3) for row in range(num_clips)]
        self.schedule, self.running = Schedule(clips, max_attempts=max_attempts), set()

    @rule()
    def take(self) -> None:
        if clip := self.schedule.take():
            assert clip.clip_id not in self.running
            self.running.add(clip.clip_id)

    @rule(data=st.data(), fault=st.sampled_from([None, *Fault]))
    def end(self, data: st.DataObject, fault: Fault | None) -> None:
        if not self.running:
            return
        clip_id = data.draw(st.sampled_from(sorted(self.running)))
        self.running.remove(clip_id)
        if fault is None:
            self.schedule.rendered(clip_id)
        else:
            self.schedule.failed(clip_id, fault)

    @invariant()
    def every_clip_is_in_one_state(self) -> None:
        assert sum(self.schedule.count(state) for state in ClipState) == self.num_clips
        assert self.schedule.count(ClipState.RUNNING) == len(self.running)

    @invariant()
    def no_clip_has_more_attempts_than_allowed(self) -> None:
        assert all(self.schedule.attempts(f"c{row}") <= self.max_attempts for row in range(self.num_clips))

    def teardown(self) -> None:
        """Whatever happened, the run can be brought to its end."""
        if not hasattr(self, "schedule"):
            return
        for clip_id in self.running:
            self.schedule.rendered(clip_id)
        while clip := self.schedule.take():
            self.schedule.rendered(clip.clip_id)
        assert self.schedule.is_finished


TestClipsOfARun = ClipsOfARun.TestCase
TestClipsOfARun.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
