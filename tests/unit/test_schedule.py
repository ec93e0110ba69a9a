"""The life of a clip in a run, as a state machine over values."""

import time
from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lynx_batch.clip import ClipSpec
from lynx_batch.config import QualityConfig
from lynx_batch.errors import Fault
from lynx_batch.planning.order import PlannedClip
from lynx_batch.planning.schedule import (
    MAX_DEATHS,
    MAX_HELD_AGAINST,
    MIN_ENDED,
    ClipState,
    RetryPolicy,
    Schedule,
    has_used_attempt,
)
from lynx_batch.planning.verdict import Accept, JudgedTry, Numbers, Render, Verdict, decide
from tests.builders import clip, planned

SIZES = (1, 2, 4)


def schedule_of(*clips: ClipSpec | PlannedClip, groups: dict[str, int] | None = None, **policy: float) -> Schedule:
    """A schedule with groups that joined it: by default one, "g", of one GPU."""
    schedule = Schedule(RetryPolicy(**policy))
    schedule.plan((c if isinstance(c, PlannedClip) else planned(c) for c in clips), SIZES)
    for name, size in ({"g": 1} if groups is None else groups).items():
        schedule.join(name, size)
    return schedule


def taken(schedule: Schedule, group: str = "g") -> str:
    chosen = schedule.take(group)
    assert chosen is not None
    return chosen.clip.clip_id


def fail(schedule: Schedule, group: str, fault: Fault = Fault.CLIP) -> ClipState:
    return schedule.failed(taken(schedule, group), fault)


def break_group(schedule: Schedule, group: str, aboard: Iterable[str]) -> None:
    """The group ends with the clips that are aboard."""
    fault = schedule.fault_of_break(group)
    for clip_id in aboard:
        schedule.failed(clip_id, fault)
    schedule.leave(group)


def render_beside_killers(schedule: Schedule, killers: set[str], num_groups: int = 1) -> list[tuple[str, ...]]:
    """Drives groups that hold up to three clips each until all has ended; gives the clips aboard at each death."""
    aboard: dict[str, list[str]] = {}
    deaths: list[tuple[str, ...]] = []
    num_formed = 0
    while not schedule.is_finished:
        while len(aboard) < num_groups and (size := schedule.wanted_size(1)):
            schedule.join(f"g{num_formed}", size)
            aboard[f"g{num_formed}"] = []
            num_formed += 1
        for group, clips in list(aboard.items()):
            if len(clips) < 3 and (chosen := schedule.take(group)):
                clips.append(chosen.clip.clip_id)
            elif killers.intersection(clips):
                break_group(schedule, group, clips)
                deaths.append(tuple(aboard.pop(group)))
            elif clips:
                schedule.rendered(clips.pop(0))
            elif schedule.is_useless(group):
                schedule.leave(group)
                del aboard[group]
    return deaths


def test_runs_that_share_their_clips_take_them_in_different_orders() -> None:
    clips = [clip(f"{n}", row=n, subject=f"{n % 5}", prompt=f"{n % 3}") for n in range(60)]
    orders = []
    for salt in ("", "run-1", "run-2"):
        schedule = Schedule(RetryPolicy(), order_salt=salt)
        schedule.plan(map(planned, [*clips, clip("urgent", row=60, priority=1)]), SIZES)
        schedule.join("g", 1)
        orders.append([taken(schedule) for _ in range(61)])
    assert [order[0] for order in orders] == ["urgent"] * 3
    assert all(len(set(order)) == 61 for order in orders)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert sum(a == b for a, b in zip(orders[one], orders[other], strict=True)) < 10
    assert all(int(a) % 5 == int(b) % 5 for a, b in zip(orders[2][1:12], orders[2][2:13], strict=True)), "one subject"


def test_clips_are_taken_by_priority_then_the_longest_first() -> None:
    clips = [clip("short", num_inference_steps=4), clip("long"), clip("urgent", num_inference_steps=4, priority=5)]
    schedule = schedule_of(*clips)
    assert [taken(schedule) for _ in clips] == ["urgent", "long", "short"]
    assert schedule.take("g") is None


def test_each_group_stays_with_a_subject_and_goes_through_its_prompts() -> None:
    clips = [clip(f"{s}{p}{n}", subject=s, prompt=p) for n in range(2) for p in "yx" for s in "ab"]
    schedule = schedule_of(*clips, groups={"g0": 1, "g1": 1})
    order = [(taken(schedule, "g0")[:2], taken(schedule, "g1")[:2]) for _ in range(4)]
    assert order == [("ax", "bx"), ("ax", "bx"), ("ay", "by"), ("ay", "by")]


def test_a_group_without_a_batch_of_its_own_helps_with_anothers() -> None:
    schedule = schedule_of(*[clip(str(n)) for n in range(4)], groups={"g0": 1, "g1": 1})
    assert {taken(schedule, "g0"), taken(schedule, "g1"), taken(schedule, "g1"), taken(schedule, "g0")} == set("0123")


def test_a_clip_goes_to_groups_of_its_size_or_wider() -> None:
    schedule = schedule_of(planned(clip("wide"), 2), clip("narrow"), groups={"one": 1, "two": 2})
    assert taken(schedule, "two") == "wide"
    assert taken(schedule, "one") == "narrow"


def test_a_clip_out_of_attempts_has_failed() -> None:
    schedule = schedule_of(clip("a"), groups={"g0": 1, "g1": 1}, max_attempts=2)
    assert fail(schedule, "g0") is ClipState.WAITING
    assert fail(schedule, "g1") is ClipState.FAILED
    assert schedule.attempts("a") == 2
    assert schedule.is_finished


def test_a_clip_that_failed_on_a_group_never_returns_to_it() -> None:
    schedule = schedule_of(clip("a"), clip("b"), groups={"g0": 1, "g1": 1})
    fail(schedule, "g0")
    assert taken(schedule, "g0") == "b"
    assert taken(schedule, "g1") == "a"


def test_if_no_other_group_can_retry_a_failed_clip_a_new_one_is_formed() -> None:
    schedule = schedule_of(clip("a"))
    fail(schedule, "g")
    assert schedule.take("g") is None
    assert schedule.is_useless("g")
    schedule.leave("g")
    assert schedule.wanted_size(1) == 1


def test_a_clip_with_bad_input_is_rejected_at_once() -> None:
    assert fail(schedule_of(clip("a")), "g", Fault.INPUT) is ClipState.REJECTED


def test_a_fault_of_the_machine_uses_up_no_attempt() -> None:
    schedule = schedule_of(clip("a"), max_attempts=1)
    for _ in range(10):
        fail(schedule, "g", Fault.MACHINE)
    assert schedule.attempts("a") == 0
    schedule.rendered(taken(schedule))
    assert schedule.state("a") is ClipState.RENDERED


def test_the_third_group_that_breaks_with_a_clip_alone_aboard_fails_it() -> None:
    schedule = schedule_of(clip("a"), groups={f"g{n}": 1 for n in range(MAX_DEATHS)})
    for number in range(MAX_DEATHS):
        assert schedule.deaths("a") == number
        assert schedule.state("a") is ClipState.WAITING
        break_group(schedule, f"g{number}", [taken(schedule, f"g{number}")])
    assert schedule.state("a") is ClipState.FAILED
    assert schedule.attempts("a") == 1


def test_none_of_several_clips_aboard_is_blamed_when_their_group_breaks() -> None:
    schedule = schedule_of(clip("a"), clip("b"), groups={f"g{n}": 1 for n in range(9)})
    break_group(schedule, "g0", [taken(schedule, "g0"), taken(schedule, "g0")])
    assert (schedule.deaths("a"), schedule.deaths("b")) == (0, 0)


def test_a_suspect_is_alone_on_its_group() -> None:
    schedule = schedule_of(*[clip(name) for name in "abcd"], groups={"g0": 1, "g1": 1, "g2": 1})
    break_group(schedule, "g0", [taken(schedule, "g0"), taken(schedule, "g0")])
    assert taken(schedule, "g1") == "c"
    assert taken(schedule, "g1") == "d"
    assert schedule.take("g1") is None, "it has clips aboard"
    assert taken(schedule, "g2") == "a"
    assert schedule.take("g2") is None, "it has a suspect aboard"
    schedule.rendered("a")
    assert taken(schedule, "g2") == "b"


def test_a_suspect_comes_last_within_its_priority() -> None:
    clips = [clip("a", priority=1), clip("b", priority=1), clip("c", priority=1), clip("d")]
    schedule = schedule_of(*clips, groups={"g0": 1, "g1": 1})
    break_group(schedule, "g0", [taken(schedule, "g0"), taken(schedule, "g0")])
    assert taken(schedule, "g1") == "c"
    assert schedule.take("g1") is None, "the next one must be alone"
    schedule.rendered("c")
    order = []
    while chosen := schedule.take("g1"):
        order.append(chosen.clip.clip_id)
        schedule.rendered(order[-1])
    assert order == ["a", "b", "d"]


def test_suspects_take_turns() -> None:
    schedule = schedule_of(clip("a"), clip("b"), groups={f"g{n}": 1 for n in range(9)})
    break_group(schedule, "g0", [taken(schedule, "g0"), taken(schedule, "g0")])
    for number, suspect in enumerate(["a", "b", "a", "b", "a", "b"], start=1):
        assert taken(schedule, f"g{number}") == suspect
        break_group(schedule, f"g{number}", [suspect])
    assert schedule.count(ClipState.FAILED) == 2


@pytest.mark.parametrize("num_groups", [1, 2, 5])
@pytest.mark.parametrize("killers", [{"1"}, {"0", "1"}, {"0", "3", "7"}, set("01234567")])
def test_a_clip_that_kills_its_workers_fails_after_three_deaths_alone_and_all_others_are_rendered(
    killers: set[str], num_groups: int
) -> None:
    schedule = schedule_of(*[clip(str(n), row=n) for n in range(8)], groups={}, max_failed_share=1.0)
    deaths = render_beside_killers(schedule, killers, num_groups)
    assert schedule.count(ClipState.RENDERED) == 8 - len(killers)
    assert {str(n) for n in range(8) if schedule.state(str(n)) is ClipState.FAILED} == killers
    assert Counter(clips for clips in deaths if len(clips) == 1) == {(name,): MAX_DEATHS for name in killers}


def test_an_urgent_clip_that_kills_its_workers_delays_the_others_by_its_deaths_alone() -> None:
    schedule = schedule_of(clip("urgent", priority=9), *[clip(str(n)) for n in range(5)], groups={})
    assert len(render_beside_killers(schedule, {"urgent"})) == 1 + MAX_DEATHS
    assert schedule.count(ClipState.RENDERED) == 5


def test_deaths_in_earlier_runs_count_and_make_a_clip_a_suspect_from_the_start() -> None:
    schedule = Schedule(RetryPolicy())
    schedule.plan(map(planned, [clip("a"), clip("b")]), SIZES, {"a": MAX_DEATHS - 1})
    schedule.join("g", 1)
    assert taken(schedule) == "b"
    assert schedule.take("g") is None
    schedule.rendered("b")
    break_group(schedule, "g", [taken(schedule)])
    assert schedule.state("a") is ClipState.FAILED


def test_a_run_gives_up_only_after_the_longest_clip_could_have_ended() -> None:
    longest = planned(clip("a"))
    schedule = schedule_of(longest, clip("b", num_inference_steps=4), give_up_after_s=100.0)
    assert schedule.give_up_after_s == 100.0 + longest.seconds


def test_a_clip_that_runs_out_of_memory_goes_to_a_wider_group_without_losing_an_attempt() -> None:
    schedule = schedule_of(clip("a"), max_attempts=1)
    assert fail(schedule, "g", Fault.MEMORY) is ClipState.WAITING
    assert schedule.take("g") is None
    assert schedule.is_useless("g")
    schedule.leave("g")
    assert schedule.wanted_size(1) is None
    assert schedule.wanted_size(8) == 2
    schedule.join("wide", 4)
    assert fail(schedule, "wide", Fault.MEMORY) is ClipState.FAILED, "nothing is wider than 4 here"


def test_many_different_priorities_do_not_slow_the_schedule_down() -> None:
    schedule = schedule_of(*[clip(str(n), priority=n) for n in range(20_000)])
    started_s = time.process_time()
    order = []
    while chosen := schedule.take("g"):
        order.append(chosen.clip.request.priority)
        schedule.rendered(chosen.clip.clip_id)
        schedule.wanted_size(8)
    assert order == sorted(order, reverse=True)
    assert time.process_time() - started_s < 10


def test_of_clips_of_one_shape_only_the_first_runs_out_of_memory() -> None:
    schedule = schedule_of(*[clip(str(n), num_inference_steps=50 - n) for n in range(9)], clip("small", width=64))
    assert fail(schedule, "g", Fault.MEMORY) is ClipState.WAITING
    assert taken(schedule) == "small"
    assert schedule.take("g") is None
    schedule.join("two", 2)
    for _ in range(9):
        schedule.rendered(taken(schedule, "two"))
    assert schedule.num_unfinished == 1


def test_with_one_attempt_per_clip_failures_are_not_counted_against_a_group() -> None:
    schedule = schedule_of(*[clip(str(n)) for n in range(9)], max_attempts=1)
    for _ in range(9):
        assert fail(schedule, "g") is ClipState.FAILED
    assert schedule.is_finished


def test_a_group_that_fails_three_clips_that_others_render_gets_no_more() -> None:
    schedule = schedule_of(*[clip(str(n)) for n in range(9)], groups={"bad": 1, "good": 1})
    for _ in range(MAX_HELD_AGAINST):
        fail(schedule, "bad")
    assert schedule.take("bad") is None
    assert not schedule.is_useless("bad"), "it keeps its GPUs from others while they can do the work"
    while chosen := schedule.take("good"):
        schedule.rendered(chosen.clip.clip_id)
    assert schedule.is_finished


def test_a_clip_that_also_fails_elsewhere_no_longer_counts_against_a_group() -> None:
    schedule = schedule_of(*[clip(str(n)) for n in range(9)], groups={"g0": 1, "g1": 1})
    for _ in range(MAX_HELD_AGAINST):
        fail(schedule, "g0")
    fail(schedule, "g1")
    assert schedule.take("g0") is not None


def test_an_untrusted_group_is_replaced_if_no_other_can_do_its_work() -> None:
    schedule = schedule_of(*[clip(str(n)) for n in range(9)])
    for _ in range(MAX_HELD_AGAINST):
        fail(schedule, "g")
    assert schedule.is_useless("g")


def test_a_run_stops_if_too_large_a_share_of_its_clips_fails() -> None:
    clips = [clip(f"{n:03}") for n in range(100)]
    schedule = schedule_of(*clips, max_attempts=1, max_failed_share=0.25)
    for number in range(MIN_ENDED):
        assert schedule.reason_to_stop() is None
        schedule.leave("g" if not number else f"g{number}")
        schedule.join(f"g{number + 1}", 1)
        group = f"g{number + 1}"
        fail(schedule, group) if number % 3 == 0 else schedule.rendered(taken(schedule, group))
    assert schedule.reason_to_stop() == "7 of 20 clips failed, more than retry.max_failed_share=0.25 allows"


def test_groups_are_formed_for_waiting_clips_the_widest_first() -> None:
    schedule = schedule_of(planned(clip("wide"), 2), clip("a"), clip("b"), groups={"idle": 1})
    assert schedule.wanted_size(8) == 2
    assert schedule.wanted_size(1) == 1, "where there is no room for a wide one"
    schedule.join("two", 2)
    schedule.join("other", 1)
    assert schedule.wanted_size(8) is None


def test_a_wide_group_helps_with_narrow_clips_unless_enough_wait_to_split_it() -> None:
    few = schedule_of(clip("a"), groups={"two": 2})
    assert not few.is_useless("two")
    assert taken(few, "two") == "a"
    many = schedule_of(*[clip(f"{n}") for n in range(30)], groups={"two": 2})
    assert many.take("two") is None
    assert many.is_useless("two")


def test_ten_thousand_clips_are_scheduled_at_more_than_two_hundred_a_second() -> None:
    groups = {f"g{n}": 1 for n in range(64)}
    schedule = schedule_of(*[clip(f"{n}", subject=str(n // 20)) for n in range(10_000)], groups=groups)
    started_s = time.process_time()
    while not schedule.is_finished:
        for group in groups:
            if chosen := schedule.take(group):
                schedule.rendered(chosen.clip.clip_id)
    assert time.process_time() - started_s < 10_000 / 200


def test_a_group_leaves_only_after_its_clips_have_ended() -> None:
    schedule = schedule_of(clip("a"))
    taken(schedule)
    with pytest.raises(AssertionError, match="left with a clip"):
        schedule.leave("g")


RULES = QualityConfig.model_validate(
    {"likeness": {"min_p10": 0.3}, "technical": False, "safety": {"max_score": 0.8}, "best_of": 2, "max_reseeds": 2}
)
SCORES = st.fixed_dictionaries(
    {"likeness_p10": st.sampled_from((0.1, 0.1, 0.5)), "unsafe": st.sampled_from((0, 0, 0.9))}
)


class ClipsOfARun(RuleBasedStateMachine):
    """Any order of verdicts, failures, lost machines, drains, and groups that come and go. Some clips are redone."""

    @initialize(sizes=st.lists(st.sampled_from(SIZES), min_size=1, max_size=12), max_attempts=st.integers(1, 4))
    def start(self, sizes: list[int], max_attempts: int) -> None:
        specs = [clip(f"c{row}", row=row, priority=row % 3, subject=str(row % 2)) for row in range(len(sizes))]
        clips = [planned(spec, size) for spec, size in zip(specs, sizes, strict=True)]
        self.max_attempts, self.num_clips = max_attempts, len(clips)
        self.schedule = schedule_of(*clips, groups={"g0": 4}, max_attempts=max_attempts, max_failed_share=1.0)
        self.sizes, self.num_formed = {"g0": 4}, 1
        self.running: dict[str, str] = {}
        self.suspects: set[str] = set()
        self.tried: dict[str, set[str]] = {}
        self.too_narrow = 0
        self.numbers = {
            spec.clip_id: Numbers.of(RULES, is_seed_given=False, first=row % 3) for row, spec in enumerate(specs)
        }
        self.tries: dict[str, list[JudgedTry]] = {clip_id: [] for clip_id in self.numbers}
        self.ended: Counter[str] = Counter()

    @rule(size=st.sampled_from(SIZES))
    def form(self, size: int) -> None:
        name = f"g{self.num_formed}"
        self.num_formed += 1
        self.sizes[name] = size
        self.schedule.join(name, size)

    @precondition(lambda self: self.sizes)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        group = data.draw(st.sampled_from(sorted(self.sizes)))
        chosen = self.schedule.take(group)
        if chosen is None:
            return
        clip_id = chosen.clip.clip_id
        assert clip_id not in self.running
        assert group not in self.tried.get(clip_id, set())
        assert self.sizes[group] >= chosen.group_size
        assert self.sizes[group] > self.too_narrow, "all clips have one shape"
        aboard = {other for other, its_group in self.running.items() if its_group == group}
        assert not aboard or not self.suspects & {*aboard, clip_id}, "a suspect is alone"
        self.running[clip_id] = group

    @precondition(lambda self: self.running)
    @rule(data=st.data(), fault=st.sampled_from(Fault))
    def fail(self, data: st.DataObject, fault: Fault) -> None:
        clip_id = data.draw(st.sampled_from(sorted(self.running)))
        self._end(clip_id, fault)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), scores=SCORES)
    def judge(self, data: st.DataObject, scores: dict[str, float]) -> None:
        clip_id = data.draw(st.sampled_from(sorted(self.running)))
        self._judge(clip_id, scores)

    @precondition(lambda self: self.sizes)
    @rule(data=st.data(), has_node=st.booleans())
    def lose(self, data: st.DataObject, has_node: bool) -> None:
        group = data.draw(st.sampled_from(sorted(self.sizes)))
        fault = self.schedule.fault_of_break(group) if has_node else Fault.MACHINE
        for clip_id in [clip_id for clip_id, other in self.running.items() if other == group]:
            self._end(clip_id, fault)
        self.schedule.leave(group)
        del self.sizes[group]

    def _judge(self, clip_id: str, scores: dict[str, float]) -> None:
        """The clip's next try is rendered, and all its tries decide."""
        self.running.pop(clip_id, None)
        attempts = self.schedule.attempts(clip_id)
        asked = self._verdict(clip_id)
        assert isinstance(asked, Render)
        assert asked.number not in {judged.number for judged in self.tries[clip_id]}, "it was rendered before"
        self.tries[clip_id].append(JudgedTry(number=asked.number, scores=scores))
        verdict = self._verdict(clip_id)
        if isinstance(verdict, Accept):
            self.schedule.rendered(clip_id)
        else:
            self.schedule.judged(clip_id, has_next_try=isinstance(verdict, Render))
        is_over = not isinstance(verdict, Render)
        self.ended[clip_id] += is_over
        assert self.schedule.attempts(clip_id) == attempts + is_over, "judging uses up no attempt"

    def _verdict(self, clip_id: str) -> Verdict:
        return decide(self.tries[clip_id], RULES, self.numbers[clip_id])

    def _end(self, clip_id: str, fault: Fault) -> None:
        group, attempts = self.running.pop(clip_id), self.schedule.attempts(clip_id)
        state = self.schedule.failed(clip_id, fault)
        self.ended[clip_id] += state is not ClipState.WAITING
        if fault is Fault.CLIP:
            self.tried.setdefault(clip_id, set()).add(group)
        if fault is Fault.MEMORY:
            self.too_narrow = max(self.too_narrow, self.sizes[group] if state is ClipState.WAITING else 0)
        if fault in (Fault.UNCLEAR, Fault.LETHAL):
            self.suspects.add(clip_id)
        if fault in (Fault.MACHINE, Fault.DRAIN, Fault.UNCLEAR):
            assert state is ClipState.WAITING
        assert self.schedule.attempts(clip_id) == attempts + has_used_attempt(fault, state)

    @invariant()
    def every_clip_is_in_one_state(self) -> None:
        assert sum(self.schedule.count(state) for state in ClipState) == self.num_clips
        assert self.schedule.count(ClipState.RUNNING) == len(self.running)

    @invariant()
    def no_clip_has_more_attempts_than_allowed(self) -> None:
        assert all(self.schedule.attempts(f"c{row}") <= self.max_attempts for row in range(self.num_clips))

    def teardown(self) -> None:
        """Whatever happened, who forms the groups that are asked for and ends the useless ones brings the run to its end."""
        if not hasattr(self, "schedule"):
            return
        for clip_id in list(self.running):
            self._judge(clip_id, {"likeness_p10": 0.1, "unsafe": 0})
        for _ in range(20 * self.num_clips + len(self.sizes)):
            for group in list(self.sizes):
                if self.schedule.is_useless(group):
                    self.schedule.leave(group)
                    del self.sizes[group]
                elif chosen := self.schedule.take(group):
                    self._judge(chosen.clip.clip_id, {"likeness_p10": 0.1, "unsafe": 0})
            if size := self.schedule.wanted_size(4):
                self.form(size)
        assert self.schedule.is_finished
        assert self.ended == dict.fromkeys(self.numbers, 1), "each clip has ended once"


TestClipsOfARun = ClipsOfARun.TestCase
TestClipsOfARun.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
