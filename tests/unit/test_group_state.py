"""What a group does with its clips, as a state machine over values: workers' answers in, commands and reports out."""

from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lynx_batch.errors import Fault
from lynx_batch.execution.group_state import (
    Command,
    Deliver,
    GroupState,
    Pause,
    Phase,
    Prefetch,
    Render,
    Report,
    StopWaiting,
)
from lynx_batch.rendering.tasks import Ended, Failed, FramesReady, Loaded, Rendered, RenderTask
from lynx_batch.stages import Span, Stage
from tests.builders import clip, record

FRAMES = FramesReady(memory_gib=1.0)
FLAT = Failed(error_type="ImplausibleResult", error="flat", fault=Fault.CLIP)
BROKE = Failed(error_type="AcceleratorError", error="device lost", fault=Fault.UNCLEAR, breaks_group=True)
COMMITTED = Rendered(commit=record("a"), spans=())
LOADED = Loaded(device="cpu", span=Span(stage=Stage.LOAD, start_s=0.0, seconds=0.0))


def task(name: str = "a", *, deadline_s: float = 100.0, num_steps_saved: int = 0) -> RenderTask:
    return RenderTask(clip=clip(name), attempt=name, deadline_s=deadline_s, num_steps_saved=num_steps_saved)


def loading_group(num_ranks: int = 1, max_clips: int | None = None) -> GroupState:
    return GroupState(num_ranks=num_ranks, max_clips=max_clips, now_s=0.0)


def open_group(num_ranks: int = 1, max_clips: int | None = None) -> GroupState:
    group = loading_group(num_ranks, max_clips)
    for _ in range(num_ranks):
        group.rank_loaded(LOADED)
    return group


def render(group: GroupState, *answers: FramesReady | Failed) -> None:
    """One clip on all ranks, up to the end of its delivery."""
    group.accept(task(), 0.0)
    for answer in answers:
        group.rank_rendered(answer, 0.0)
    if group.delivering is not None:
        group.delivered(COMMITTED, 0.0)


def test_a_group_opens_once_all_ranks_have_loaded() -> None:
    group = loading_group(num_ranks=2)
    assert group.rank_loaded(LOADED) == []
    assert (group.is_ready, group.has_room) == (False, False)
    assert group.rank_loaded(LOADED) == [LOADED]
    assert (group.is_ready, group.has_room) == (True, True)


def test_a_clip_is_rendered_then_delivered_while_the_next_one_is_rendered() -> None:
    group, a, b, c = open_group(), task("a"), task("b"), task("c")
    assert group.accept(a, 0.0) == [Render(task=a)]
    assert group.accept(b, 0.0) == [Prefetch(task=b)]
    assert not group.has_room
    assert group.rank_rendered(FRAMES, 0.0) == [Deliver(task=a), Render(task=b)]
    assert group.accept(c, 0.0) == [Prefetch(task=c)]
    assert group.tasks == [a, b, c]
    assert group.rank_rendered(FRAMES, 0.0) == [], "b waits until a is delivered"
    assert group.delivered(COMMITTED, 0.0) == [Ended(task=a, result=COMMITTED), Deliver(task=b), Render(task=c)]


def test_a_clip_that_fails_on_one_rank_ends_once_all_have_answered() -> None:
    group, a = open_group(num_ranks=2), task("a")
    group.accept(a, 0.0)
    assert group.rank_rendered(FLAT, 0.0) == []
    assert group.rank_rendered(FRAMES, 0.0) == [Ended(task=a, result=FLAT)]
    assert group.is_idle
    assert group.has_room


def test_of_several_results_the_first_one_counts() -> None:
    group, a = open_group(num_ranks=2), task("a")
    group.accept(a, 0.0)
    group.rank_rendered(COMMITTED, 0.0)
    assert group.rank_rendered(FLAT, 0.0) == [Ended(task=a, result=COMMITTED)]


def test_a_failure_that_breaks_the_group_is_reported_at_once_and_the_delivery_goes_on() -> None:
    group, a, b, c = open_group(num_ranks=2), task("a"), task("b"), task("c")
    group.accept(a, 0.0)
    group.accept(b, 0.0)
    for _ in range(2):
        group.rank_rendered(FRAMES, 0.0)
    group.accept(c, 0.0)
    assert group.rank_rendered(BROKE, 0.0) == [StopWaiting(), Ended(task=b, result=BROKE)]
    assert group.broken_by == BROKE
    assert group.tasks == [a, c]
    assert group.delivered(COMMITTED, 0.0) == [Ended(task=a, result=COMMITTED)]
    assert group.is_spent
    assert group.tasks == [c], "it was never started"


def test_a_group_closes_with_its_last_clip() -> None:
    group, b = open_group(max_clips=2), task("b")
    group.accept(task("a"), 0.0)
    assert group.has_room
    group.accept(b, 0.0)
    assert group.is_closing
    group.rank_rendered(FRAMES, 0.0)
    assert group.rendering == b, "it finishes what it has"


def test_a_group_that_is_closed_gives_back_the_clip_that_it_has_not_started() -> None:
    group, a, b = open_group(), task("a"), task("b")
    group.accept(a, 0.0)
    group.accept(b, 0.0)
    assert group.close() == b
    assert group.close() is None
    assert group.tasks == [a]


def test_a_group_that_is_closed_while_it_loads_never_opens() -> None:
    group = loading_group()
    group.close()
    assert group.rank_loaded(LOADED) == [LOADED]
    assert group.is_closing


def test_the_clip_being_rendered_is_paused_once() -> None:
    group = open_group()
    group.accept(task("a"), 0.0)
    group.close()
    assert group.pause() == [Pause()]
    assert group.pause() == []


def test_a_clip_in_delivery_needs_no_pause() -> None:
    group = open_group()
    group.accept(task("a"), 0.0)
    group.rank_rendered(FRAMES, 0.0)
    group.close()
    assert group.pause() == []


def test_a_group_that_still_accepts_clips_cannot_be_paused() -> None:
    with pytest.raises(AssertionError):
        open_group().pause()


def test_a_clip_without_frames_says_nothing_about_a_groups_memory() -> None:
    group = open_group(num_ranks=2)
    for number in range(8):
        assert not group.is_closing
        render(group, FramesReady(memory_gib=50.0), FLAT)
        render(group, FramesReady(memory_gib=50.0 + 0.1 * number), FramesReady(memory_gib=50.0))
    assert not group.is_closing


def test_a_group_whose_memory_rises_clip_after_clip_closes() -> None:
    group = open_group()
    for number in range(8):
        assert not group.is_closing
        render(group, FramesReady(memory_gib=10.0 * number))
    assert group.is_closing


def test_the_pace_of_a_resumed_clip_counts_only_its_new_steps() -> None:
    group = open_group()
    group.accept(task(num_steps_saved=40), 100.0)
    group.step = (42, 50)
    assert group.step_s(110.0) == 5.0


def test_a_group_that_loads_has_the_time_that_the_run_allows() -> None:
    group = loading_group()
    assert group.exceeded_limit_s(60.0, ready_within_s=60.0) is None
    assert group.exceeded_limit_s(61.0, ready_within_s=60.0) == 60.0
    group.rank_loaded(LOADED)
    assert group.exceeded_limit_s(1e9, ready_within_s=60.0) is None, "an idle group waits for ever"


def test_a_group_with_clips_has_the_longest_of_their_deadlines_from_the_last_move() -> None:
    group = open_group()
    group.accept(task("a", deadline_s=10.0), 0.0)
    assert group.exceeded_limit_s(11.0, ready_within_s=60.0) == 10.0
    group.accept(task("b", deadline_s=20.0), 5.0)
    assert group.exceeded_limit_s(11.0, ready_within_s=60.0) is None
    group.rank_rendered(FRAMES, 15.0)
    assert group.exceeded_limit_s(35.0, ready_within_s=60.0) is None
    assert group.exceeded_limit_s(36.0, ready_within_s=60.0) == 20.0


def test_progress_shows_the_clips_being_rendered_and_delivered() -> None:
    group, a, b = open_group(), task("a"), task("b")
    num_steps = a.clip.params.num_inference_steps
    group.accept(a, 0.0)
    group.accept(b, 0.0)
    group.rank_rendered(FRAMES, 0.0)
    group.step = (1, num_steps)
    assert list(group.running()) == [(b.clip.name, 1, num_steps), (a.clip.name, num_steps, num_steps)]


class ClipsOfAGroup(RuleBasedStateMachine):
    """Any order of clips, answers, closing, pausing and breaking. The machine plays the workers and counts what they owe."""

    @initialize(num_ranks=st.integers(1, 3), max_clips=st.none() | st.integers(1, 5))
    def start(self, num_ranks: int, max_clips: int | None) -> None:
        self.num_ranks, self.max_clips = num_ranks, max_clips
        self.group = loading_group(num_ranks, max_clips)
        self.num_loading, self.num_rendering, self.is_delivering = num_ranks, 0, False
        self.result: Rendered | Failed | None = None
        self.accepted: list[str] = []
        self.rendered: list[str] = []
        self.delivered: list[str] = []
        self.ended: list[str] = []
        self.returned: list[str] = []
        self.num_pauses = 0
        self.is_shut = False

    def execute(self, commands: Iterable[Command | Report]) -> None:
        for command in commands:
            match command:
                case Render(task=task):
                    assert not self.num_rendering
                    assert not self.num_pauses, "paused workers cannot render"
                    self.rendered.append(task.attempt)
                    self.num_rendering, self.result = self.num_ranks, None
                case Deliver(task=task):
                    assert not self.is_delivering
                    assert not self.num_rendering
                    assert self.result is None, "every rank has its share of the frames"
                    assert task.attempt == self.rendered[-1]
                    self.delivered.append(task.attempt)
                    self.is_delivering = True
                case Ended(task=task, result=result):
                    if task.attempt not in self.delivered:
                        assert result is self.result, "the first result of its ranks, not that of another clip"
                    self.ended.append(task.attempt)
                case Prefetch(task=task):
                    assert task == self.group.next
                case Pause():
                    self.num_pauses += 1
                case StopWaiting():
                    self.num_rendering = 0
                case Loaded():
                    assert not self.num_loading

    @precondition(lambda self: self.num_loading)
    @rule()
    def load(self) -> None:
        self.num_loading -= 1
        self.execute(self.group.rank_loaded(LOADED))

    @precondition(lambda self: self.group.has_room)
    @rule()
    def accept(self) -> None:
        assert not self.is_shut, "nothing is accepted after closing or breaking"
        name = f"c{len(self.accepted)}"
        self.accepted.append(name)
        self.execute(self.group.accept(task(name), 0.0))

    @precondition(lambda self: self.num_rendering)
    @rule(answer=st.sampled_from([FRAMES, FRAMES, FRAMES, FLAT, COMMITTED]))
    def answer_render(self, answer: FramesReady | Rendered | Failed) -> None:
        self.num_rendering -= 1
        if self.result is None and not isinstance(answer, FramesReady):
            self.result = answer
        self.execute(self.group.rank_rendered(answer, 0.0))

    @precondition(lambda self: self.num_rendering and len(self.accepted) > 2)
    @rule()
    def break_group(self) -> None:
        self.answer_render(BROKE)

    @precondition(lambda self: self.is_delivering)
    @rule(answer=st.sampled_from([COMMITTED, FLAT]))
    def answer_deliver(self, answer: Rendered | Failed) -> None:
        self.is_delivering = False
        delivering = self.delivered[-1]
        self.execute(self.group.delivered(answer, 0.0))
        assert delivering in self.ended, "a delivery ends, whatever else happened meanwhile"

    @precondition(lambda self: self.num_loading or len(self.accepted) > 2 or self.is_shut)
    @rule(is_to_pause=st.booleans())
    def close(self, is_to_pause: bool) -> None:
        if (returned := self.group.close()) is not None:
            self.returned.append(returned.attempt)
        if is_to_pause:
            self.execute(self.group.pause())

    @invariant()
    def every_accepted_clip_is_aboard_or_ended_or_returned_exactly_once(self) -> None:
        aboard = [task.attempt for task in self.group.tasks]
        assert sorted(self.ended + self.returned + aboard) == sorted(self.accepted)

    @invariant()
    def clips_are_started_in_order_and_once(self) -> None:
        assert self.rendered == [name for name in self.accepted if name in self.rendered]
        assert len(set(self.rendered)) == len(self.rendered)
        assert len(set(self.delivered)) == len(self.delivered)

    @invariant()
    def a_group_that_stops_accepting_never_accepts_again(self) -> None:
        self.is_shut |= self.group.phase in (Phase.CLOSING, Phase.PAUSING, Phase.BROKEN)
        assert not (self.is_shut and self.group.has_room)
        assert self.max_clips is None or len(self.accepted) <= self.max_clips

    @invariant()
    def a_pause_is_asked_for_once(self) -> None:
        assert self.num_pauses <= 1

    @invariant()
    def a_whole_group_with_clips_awaits_an_answer_and_a_broken_one_only_that_of_its_delivery(self) -> None:
        if self.group.phase is Phase.BROKEN:
            assert not self.num_rendering
            assert self.group.is_spent is not self.is_delivering
        elif self.group.tasks:
            assert self.num_rendering or self.is_delivering

    def teardown(self) -> None:
        """Whatever happened, once the workers have answered, every clip has ended unless the group broke before it started it."""
        if not hasattr(self, "group"):
            return
        while self.num_loading:
            self.load()
        while self.num_rendering or self.is_delivering:
            if self.is_delivering:
                self.answer_deliver(COMMITTED)
            else:
                self.answer_render(FRAMES)
        is_broken = self.group.phase is Phase.BROKEN
        assert self.group.is_spent if is_broken else self.group.is_idle
        assert self.group.tasks == ([] if self.group.next is None else [self.group.next])


TestClipsOfAGroup = ClipsOfAGroup.TestCase
TestClipsOfAGroup.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
