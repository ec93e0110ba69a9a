"""Many runs on one output, with a gate and without, killed and finished, with redos between them: real ledger, schedule and gate.

Only the model and the scorers are missing: a worker's pixels are a few bytes, and its scores are drawn.
"""

import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lynx_batch import storage
from lynx_batch.clip import ClipSpec
from lynx_batch.config import QualityConfig
from lynx_batch.errors import Fault
from lynx_batch.execution.outcomes import RunRecorder
from lynx_batch.ledger.commits import CommitRecord, commit
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.history import given_up_before
from lynx_batch.ledger.metadata import Outcome, read_metadata
from lynx_batch.ledger.redo import RedoRequest, plan_redo, request_redo
from lynx_batch.output import TryName
from lynx_batch.planning.schedule import ClipState, RetryPolicy, Schedule
from lynx_batch.planning.verdict import NOT_GOOD_ENOUGH, UNSAFE_CONTENT, Render, is_unsafe
from lynx_batch.rendering.gate import Gate, TryScores
from lynx_batch.rendering.tasks import Failed, Judged, Rendered, RenderTask
from tests.builders import NOW, begin, planned, record, small_clip

RULES = QualityConfig.model_validate(
    {"likeness": {"min_p10": 0.3}, "technical": False, "safety": {"max_score": 0.8}, "keep_rejected": "clip"}
)
QUALITIES = st.one_of(
    st.none(),
    st.builds(
        lambda best_of, more: RULES.model_copy(update={"best_of": best_of, "max_reseeds": more}),
        st.integers(1, 2),
        st.integers(0, 2),
    ),
)
SCORES = st.builds(
    lambda p10, unsafe: {"likeness_p10": p10, "unsafe": unsafe}, *map(st.sampled_from, ((0.1, 0.5), (0, 0, 0, 0.9)))
)
FATES = st.sampled_from(("done", "done", "done", "drained", "lost", "answer lost", "driver killed"))


@dataclass(kw_only=True)
class World:
    """An output, and all that workers have rendered for it."""

    output: str
    data: st.DataObject
    clips: list[ClipSpec] = field(default_factory=list)
    judged: set[TryName] = field(default_factory=set)
    numbers: dict[str, dict[int, set[int]]] = field(default_factory=dict)

    def redo_some(self) -> None:
        editions, rows = (
            list_editions(self.output),
            given_up_before(self.output, list_editions(self.output)).to_pylist(),
        )
        chosen = self.data.draw(st.sets(st.sampled_from([c.clip_id for c in self.clips])))
        plan = plan_redo(chosen & editions.in_force.keys(), editions, {r["clip_id"]: r["error_type"] for r in rows})
        for clip_id, edition in plan.editions.items():
            request_redo(self.output, RedoRequest(clip_id=clip_id, edition=edition, asked_at=NOW, command="test"))

    def run(self, run_id: str, quality: QualityConfig | None, fates: st.SearchStrategy[str]) -> RunRecorder | None:
        """None if its driver was killed."""
        recorder = begin(self.output, run_id, self.clips, quality=quality)
        gate = quality and Gate(self.output, quality, None, is_store_safe=True)
        schedule, numbers = Schedule(RetryPolicy()), dict(recorder.first_numbers)
        if recorder.open_clips:
            schedule.plan(map(planned, recorder.open_clips), (1,))
            schedule.join("g", 1)
        attempts = 0
        while not schedule.is_finished:
            taken = schedule.take("g")
            assert taken is not None
            clip_id, attempts = taken.clip.clip_id, attempts + 1
            task = RenderTask(
                clip=taken.clip,
                edition=recorder.editions.wanted(clip_id),
                number=numbers.get(clip_id, 0),
                attempt=f"{run_id}-{attempts:x}",
            )
            fate = self.data.draw(fates)
            answer = None if fate in ("drained", "lost") else self.work(task, gate)
            if fate == "driver killed":
                return None
            if answer is None or fate == "answer lost":
                fault = Fault.DRAIN if fate == "drained" else Fault.MACHINE
                schedule.failed(clip_id, fault)
                failed = Failed(error_type=fate, error=fate, fault=fault)
                recorder.failed(task, "g", failed, ClipState.WAITING, attempts=0, deaths=0)
            elif isinstance(answer, Rendered):
                schedule.rendered(clip_id)
                recorder.rendered(task, "g", answer, attempts=1)
            else:
                has_next = isinstance(answer.verdict, Render)
                if isinstance(answer.verdict, Render):
                    numbers[clip_id] = answer.verdict.number
                schedule.judged(clip_id, has_next_try=has_next)
                recorder.judged(task, "g", answer, attempts=1)
        assert recorder.close("") == ""
        return recorder

    def work(self, task: RenderTask, gate: Gate | None) -> Rendered | Judged:
        """What a worker does with a task, without pixels."""
        made = record(task.clip.clip_id, task.attempt).model_copy(
            update={"edition": task.edition, "try_number": task.number}
        )
        if (found := self.committed(task)) is not None:
            return Rendered(commit=found, spans=())
        settled = gate and gate.find(task)
        if not settled:
            self.render(task, is_judged=gate is not None)
            settled = self.settle(task, made, gate)
        return Rendered(commit=settled, spans=()) if isinstance(settled, CommitRecord) else settled

    def committed(self, task: RenderTask) -> CommitRecord | None:
        editions = list_editions(self.output)
        if not editions.is_finished(task.clip.clip_id, task.edition):
            return None
        return commit(self.output, record(task.clip.clip_id).model_copy(update={"edition": task.edition}))

    def render(self, task: RenderTask, *, is_judged: bool) -> None:
        assert not is_judged or task.name not in self.judged, "a recorded try is never rendered again"
        earlier = self.numbers.setdefault(task.clip.clip_id, {})
        known = {number for edition, some in earlier.items() if edition < task.edition for number in some}
        assert task.number not in known, "a redo repeats no picture"
        earlier.setdefault(task.edition, set()).add(task.number)
        if is_judged:
            self.judged.add(task.name)

    def settle(self, task: RenderTask, made: CommitRecord, gate: Gate | None) -> CommitRecord | Judged:
        if gate is None:
            return commit(self.output, made)
        scores = self.data.draw(SCORES)
        is_forbidden = is_unsafe(scores, RULES)
        if not is_forbidden:
            storage.write_bytes(storage.join(self.output, made.clip_uri), b"pixels")
        return gate.settle(task, TryScores(scores, {}, is_forbidden), made.model_copy(update={"scores": scores}))


def check_rows(world: World, run_id: str, recorder: RunRecorder) -> None:
    rows = [row for row in read_metadata(world.output).to_pylist() if row["run"] == run_id]
    assert sorted(row["row"] for row in rows) == list(range(len(world.clips))), "every row has one outcome"
    assert Counter(row["outcome"] for row in rows) == +recorder.counts
    editions = list_editions(world.output)
    for row in rows:
        is_finished = editions.is_finished(row["clip_id"], editions.wanted(row["clip_id"]))
        assert (row["outcome"] == Outcome.RENDERED) == is_finished, row
        assert is_finished or row["error_type"] in (NOT_GOOD_ENOUGH, UNSAFE_CONTENT)


@settings(max_examples=15, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_is_killed_or_redone_every_row_of_every_run_ends_once_and_nothing_is_rendered_twice(
    data: st.DataObject,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clips = [small_clip(f"{row}a", row) for row in range(data.draw(st.integers(1, 3)))]
        clips = [replace(c, request=replace(c.request, is_seed_given=False)) for c in clips]
        world = World(output=folder, data=data, clips=clips)
        for number in range(data.draw(st.integers(1, 3))):
            recorder = world.run(f"run-{number}", data.draw(QUALITIES), FATES)
            if recorder is not None:
                check_rows(world, f"run-{number}", recorder)
            world.redo_some()
        last = world.run("last", data.draw(QUALITIES), st.just("done"))
        assert last is not None
        check_rows(world, "last", last)
