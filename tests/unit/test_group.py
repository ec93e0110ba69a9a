"""A group's bookkeeping, with workers that answer at once and without Ray."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray

from lynx_batch.config import ClusterConfig
from lynx_batch.errors import Fault
from lynx_batch.execution import group as group_module
from lynx_batch.execution.group import Group
from lynx_batch.execution.placement import Placement
from lynx_batch.rendering.tasks import Failed, FramesReady, Loaded, RenderTask, WorkerSettings
from lynx_batch.stages import Span, Stage
from tests.builders import clip

SPOILED = Failed(error_type="ImplausibleResult", error="flat", fault=Fault.CLIP)


class Answers:
    """What workers are asked, in order; a reference is its own answer, which a test may give later."""

    def __init__(self) -> None:
        self.drawn: list[FramesReady | Failed] = []
        self.step = (0, 0)

    def worker(self) -> Any:
        def method(answer: Callable[[], object]) -> SimpleNamespace:
            return SimpleNamespace(remote=lambda *_: answer())

        span = Span(stage=Stage.LOAD, start_s=0.0, seconds=0.0)
        return SimpleNamespace(
            address=method(lambda: "tcp://"),
            load=method(lambda: Loaded(device="cpu", span=span)),
            render=method(lambda: self.drawn.pop(0)),
            deliver=method(lambda: SPOILED),
            progress=method(lambda: self.step),
        )


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    monkeypatch.setattr(ray, "get", lambda ref: ref)
    monkeypatch.setattr(ray, "wait", lambda refs, timeout: (refs, []))
    return Answers()


def ready_group(answers: Answers, size: int = 1) -> Group:
    placement = SimpleNamespace(size=size, start_worker=lambda settings, rank: answers.worker())
    group = Group("g", cast(WorkerSettings, None), cast(Placement, placement), ClusterConfig())
    for ref in list(group.refs):
        group.receive(ref)
    assert group.is_ready
    return group


def render(group: Group, answers: Answers, *drawn: FramesReady | Failed) -> None:
    """One clip, as far as its delivery has ended."""
    answers.drawn = list(drawn)
    group.take(RenderTask(clip=clip("a"), attempt="a"))
    while group.refs:
        group.receive(group.refs[0])


def test_a_clip_without_frames_tells_nothing_of_a_groups_memory(answers: Answers) -> None:
    group = ready_group(answers, size=2)
    for number in range(8):
        assert not group.is_closing
        render(group, answers, FramesReady(memory_gib=50.0), SPOILED)
        render(group, answers, FramesReady(memory_gib=50.0 + 0.1 * number), FramesReady(memory_gib=50.0))
    assert not group.is_closing


def test_a_group_whose_memory_rises_clip_after_clip_takes_no_more(answers: Answers) -> None:
    group = ready_group(answers)
    for number in range(8):
        assert not group.is_closing
        render(group, answers, FramesReady(memory_gib=10.0 * number))
    assert group.is_closing


def test_the_pace_of_a_clip_that_goes_on_is_that_of_its_new_steps(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [100.0]
    monkeypatch.setattr(group_module.time, "monotonic", lambda: now_s[0])
    group = ready_group(answers)
    answers.drawn, answers.step = [FramesReady()], (42, 50)
    group.take(RenderTask(clip=clip("a"), attempt="a", num_steps_saved=40))
    now_s[0] = 110.0
    group.poll_step()
    assert group.step_s == 5.0
