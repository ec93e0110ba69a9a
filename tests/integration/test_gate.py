"""A clip is judged before it counts: a renderer in this process, with real tries, records and videos. Only the judge is scripted."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lynx_batch import storage
from lynx_batch.clip import seed_of_try
from lynx_batch.config import QualityConfig, load_run_config
from lynx_batch.delivery.video import decode_mp4
from lynx_batch.errors import Fault, UnsafeStore
from lynx_batch.ledger.commits import Withdrawal, read_commit, withdraw
from lynx_batch.ledger.redo import RedoRequest, request_redo
from lynx_batch.ledger.tries import read_tries
from lynx_batch.output import TryName, try_uri
from lynx_batch.planning.verdict import Reject, Render
from lynx_batch.preparation.prepare import prepare
from lynx_batch.preparation.selection import Selection
from lynx_batch.rendering.renderer import Renderer
from lynx_batch.rendering.resume import find_saved
from lynx_batch.rendering.tasks import Failed, FramesReady, Judged, Rendered, RenderTask, Result
from lynx_model.faces.reader import FaceReader
from lynx_model.pipeline import LynxPipeline
from lynx_model.scoring.judge import ClipJudge
from lynx_model.scoring.scores import ClipScores, NsfwScores, PhotoScores
from lynx_model.spec import RenderParams, Subject
from tests.builders import HOPPER, row
from tests.jobs import Job, worker_settings

QUALITY = {"likeness": {"min_p10": 0.3}, "safety": {"max_score": 0.8}, "max_reseeds": 2, "num_frames": 3}


class ScriptedJudge:
    """The real judge, whose likeness and safety are overwritten: what to say for each seed is part of the script.

    A mock, because the tiny model's noise looks like nobody whatever its seed.
    """

    def __init__(self, judge: ClipJudge, likeness: Callable[[int], float], unsafe: Callable[[int], float]) -> None:
        self._judge, self._likeness, self._unsafe = judge, likeness, unsafe
        self.seeds: list[int] = []
        self.photo_score = 0.1

    def score_photo(self, photo_rgb: np.ndarray) -> PhotoScores:
        return PhotoScores(nsfw=(_nsfw(self.photo_score),))

    def score(self, mp4: bytes, subject: Subject, params: RenderParams) -> ClipScores:
        self.seeds.append(params.seed)
        scores, value = self._judge.score(mp4, subject, params), self._unsafe(params.seed)
        technical = replace(scores.technical, black_area=0.0, num_cuts=0)
        likeness = replace(scores.likeness, p10=self._likeness(params.seed))
        return replace(scores, likeness=likeness, technical=technical, nsfw=(_nsfw(value),))


def _nsfw(value: float) -> NsfwScores:
    return NsfwScores(scorer="scripted", maximum=value, mean=value, probabilities=(value,))


class Gated:
    """A renderer with a gate on one clip, and a driver's part: it renders what the verdict asks for."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.output = str(job.folder / "out")
        self.rendered: list[int] = []
        self.likeness: dict[int, float] = {}
        self.unsafe: dict[int, float] = {}

    def start(self, **changes: object) -> "Gated":
        """A new process, as after a kill; with `changes` of the rules."""
        config = load_run_config(self._job.folder / "run.yaml", {})
        quality = QualityConfig.model_validate(QUALITY | changes)
        prepared = prepare(config, Selection(), datetime.now(UTC))
        (self.clip,) = prepared.clips
        settings = replace(worker_settings(config, prepared.model), quality=quality)
        self.renderer = Renderer(settings, rank=0, device="cpu")
        judge = ScriptedJudge(
            self.renderer._gate._judge, self._by_seed(self.likeness, 0.6), self._by_seed(self.unsafe, 0.1)
        )
        self.renderer._gate._judge = judge
        return self

    def start_ungated(self) -> None:
        self.start()
        self.renderer._gate = None

    def pause_after_two(self, step: int, num_steps: int) -> None:
        if step == 2:
            self.renderer.pause()

    def _by_seed(self, values: dict[int, float], default: float) -> Callable[[int], float]:
        """Values that are given by try number, as values by seed."""
        return lambda seed: {seed_of_try(self.clip, number): value for number, value in values.items()}.get(
            seed, default
        )

    def attempt(self, number: int, *, edition: int = 1, name: str = "") -> Result | FramesReady:
        """One attempt as a driver orders it."""
        task = self.task(number, edition=edition, name=name)
        found = self.renderer.render(task, lambda step, num_steps: None)
        if not isinstance(found, FramesReady):
            return found
        self.rendered.append(number)
        return self.renderer.deliver(task)

    def task(self, number: int, *, edition: int = 1, name: str = "", num_steps_saved: int = 0) -> RenderTask:
        attempt = name or f"run-{len(self.rendered):08x}"
        return RenderTask(
            clip=self.clip, edition=edition, number=number, attempt=attempt, num_steps_saved=num_steps_saved
        )

    def frames(self, number: int, *, edition: int = 1, num_steps_saved: int = 0) -> NDArray[np.uint8]:
        """The frames of a try, which is not delivered."""
        task = self.task(number, edition=edition, name="run-0000ffff", num_steps_saved=num_steps_saved)
        assert isinstance(self.renderer.render(task, lambda step, num_steps: None), FramesReady)
        return self.renderer._undelivered.pop(task.attempt).frames

    def finish(self, *, edition: int = 1) -> Result:
        """All tries that the verdicts ask for."""
        result = self.attempt(0, edition=edition)
        while isinstance(result, Judged) and isinstance(result.verdict, Render):
            result = self.attempt(result.verdict.number, edition=edition)
        assert not isinstance(result, FramesReady)
        return result

    def videos(self) -> int:
        return sum(file.uri.endswith(".mp4") for file in storage.list_files(storage.join(self.output, "clips")))


@pytest.fixture(scope="module", autouse=True)
def _networks_loaded_once() -> Iterator[None]:
    """Each start loads the same networks, and a clip does not depend on what they have computed before."""
    with pytest.MonkeyPatch.context() as patch:
        for of, name in ((FaceReader, "load"), (LynxPipeline, "load_source"), (ClipJudge, "load")):
            patch.setattr(of, name, once(getattr(of, name)))
        yield


def once(load: Callable[..., Any]) -> Callable[..., Any]:
    """What `load` gave for the same arguments."""
    loaded: dict[str, Any] = {}

    def recall(*arguments: object, **options: object) -> Any:
        key = repr((arguments, sorted(options.items())))
        if key not in loaded:
            loaded[key] = load(*arguments, **options)
        return loaded[key]

    return recall


@pytest.fixture
def gated(tmp_path: Path, face_pack: Path) -> Gated:
    photo = shutil.copy(HOPPER, tmp_path / "photo.jpg")
    cells = row(photo)
    return Gated(Job(folder=tmp_path, face_pack=face_pack, rows=[{**cells, "seed": None}], steps=1))


def test_a_good_clip_is_committed_with_its_scores(gated: Gated) -> None:
    result = gated.start().finish()

    assert isinstance(result, Rendered)
    assert (result.commit.try_number, result.commit.seed) == (0, gated.clip.params.seed)
    assert result.commit.scores["likeness_p10"] == 0.6
    assert {"technical_sharpness", "motion_mean", "likeness_face_share", "unsafe"} < result.commit.scores.keys()
    assert [span.stage for span in result.spans][-4:] == ["encode", "judge", "upload", "commit"]
    (record,) = read_tries(gated.output, gated.clip.clip_id, 1)
    assert result.commit == read_commit(gated.output, gated.clip.clip_id, 1)
    assert result.commit.num_tries == 1
    assert result.commit.thresholds["likeness_p10"] == 0.3
    decided = {"num_tries": None, "thresholds": {}, "committed_at": record.commit.committed_at}
    assert record.commit == result.commit.model_copy(update=decided)
    assert record.scorers


def test_the_first_seed_that_passes_is_committed(gated: Gated) -> None:
    gated.likeness = {0: 0.1, 1: 0.2, 2: 0.5}
    result = gated.start().finish()

    assert isinstance(result, Rendered)
    assert gated.rendered == [0, 1, 2]
    assert (result.commit.try_number, result.commit.seed) == (2, seed_of_try(gated.clip, 2))
    frames = [
        decode_mp4(storage.read_bytes(storage.join(gated.output, record.commit.clip_uri)))
        for record in read_tries(gated.output, gated.clip.clip_id, 1)
    ]
    assert not (frames[0] == frames[1]).all()


def test_a_clip_that_never_passes_is_rejected_and_a_later_run_renders_nothing(gated: Gated) -> None:
    gated.likeness = dict.fromkeys(range(9), 0.1)
    result = gated.start().finish()

    assert isinstance(result, Judged)
    assert isinstance(result.verdict, Reject)
    assert "likeness_p10=0.10: must be at least 0.3" in result.verdict.reason
    assert result.best is not None
    assert (result.best.number, result.best.seed, result.best.num_tries) == (0, gated.clip.params.seed, 3)
    assert result.best.scores["likeness_p10"] == 0.1
    assert (gated.rendered, gated.videos()) == ([0, 1, 2], 0)
    assert gated.start().finish() == replace(result, spans=())
    assert gated.rendered == [0, 1, 2]


def test_more_reseeds_go_on_and_lower_limits_commit_a_kept_try_without_rendering(gated: Gated) -> None:
    gated.likeness = {0: 0.1, 1: 0.2, 2: 0.15, 3: 0.25}
    gated.start(keep_rejected="clip").finish()
    more = gated.start(keep_rejected="clip", max_reseeds=3).finish()
    assert isinstance(more, Judged)
    assert gated.rendered == [0, 1, 2, 3]

    lower = gated.start(likeness={"min_p10": 0.18}).finish()

    assert isinstance(lower, Rendered)
    assert (lower.commit.try_number, gated.rendered) == (3, [0, 1, 2, 3])
    assert lower.commit.committed_at > max(
        record.judged_at for record in read_tries(gated.output, gated.clip.clip_id, 1)
    )


def test_a_try_whose_video_was_dropped_is_rendered_again_if_it_passes_now(gated: Gated) -> None:
    gated.likeness = {0: 0.2, 1: 0.1, 2: 0.1}
    gated.start(keep_rejected="nothing").finish()
    lower = gated.start(likeness={"min_p10": 0.18}).finish()

    assert isinstance(lower, Rendered)
    assert gated.rendered == [0, 1, 2, 0]
    assert storage.stat(storage.join(gated.output, lower.commit.clip_uri)) is not None


def test_unsafe_pixels_are_never_uploaded_and_end_the_clip(gated: Gated) -> None:
    gated.unsafe = {0: 0.9}
    result = gated.start().finish()

    assert isinstance(result, Judged)
    assert result.verdict == Reject(
        "try_number=0: unsafe=0.90: must be below 0.8 (quality.safety.max_score)", is_unsafe=True
    )
    assert [*storage.list_files(storage.join(gated.output, "clips"))] == []
    again = gated.start(max_reseeds=9, safety=None).finish()
    assert isinstance(again, Judged)
    assert again.verdict == Reject("try_number=0: was found unsafe", is_unsafe=True)
    assert gated.rendered == [0]


def test_an_unsafe_photo_ends_its_row_before_anything_is_rendered(gated: Gated) -> None:
    judge = gated.start().renderer._gate._judge
    shown = f"subject_uri {gated.clip.request.subject_uris[0]}: "
    for score, expected in (
        (0.8, ("UnsafePhoto", "the photo has unsafe=0.80: must be below 0.8 (quality.safety.max_score)", Fault.INPUT)),
        (float("nan"), ("NotJudged", "not judged: no unsafe", Fault.CLIP)),
    ):
        judge.photo_score = score
        gated.renderer.prefetch(RenderTask(clip=gated.clip, attempt="r1-00000000"))
        failed = gated.attempt(0)
        assert isinstance(failed, Failed)
        assert (failed.error_type, failed.error.removeprefix(shown), failed.fault) == expected
        assert [span.stage for span in failed.spans] == ["subject"]
    assert (gated.rendered, read_tries(gated.output, gated.clip.clip_id, 1), gated.videos()) == ([], [], 0)


def test_an_unsafe_record_of_another_worker_is_not_replaced_by_a_milder_judge(gated: Gated) -> None:
    gated.start()
    task = RenderTask(clip=gated.clip, attempt="run-00000000")
    assert isinstance(gated.renderer.render(task, lambda step, num_steps: None), FramesReady)
    other = Gated(gated._job)
    other.unsafe = {0: 0.9}
    other.start().finish()

    late = gated.renderer.deliver(task)

    assert isinstance(late, Judged)
    assert late.verdict == Reject(
        "try_number=0: unsafe=0.90: must be below 0.8 (quality.safety.max_score)", is_unsafe=True
    )
    assert gated.videos() == 0


def test_a_store_without_create_only_puts_is_judged_for_too(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(uri: str, data: bytes) -> bool:
        raise UnsafeStore(uri)

    gated.start()
    gated.renderer._settings = replace(gated.renderer._settings, is_store_safe=False)
    gated.renderer._gate._is_store_safe = False
    monkeypatch.setattr(storage, "create_only", refuse)

    assert isinstance(gated.finish(), Rendered)
    assert len(read_tries(gated.output, gated.clip.clip_id, 1)) == 1


@pytest.mark.parametrize("content", [b"{", None], ids=["damaged", "of another try"])
def test_a_try_that_cannot_be_read_fails_the_clip_before_anything_is_rendered(
    gated: Gated, content: bytes | None
) -> None:
    gated.likeness = dict.fromkeys(range(9), 0.1)
    gated.start(max_reseeds=1).finish()
    first, second = (try_uri(gated.output, TryName(gated.clip.clip_id, 1, number)) for number in (0, 1))
    storage.write_bytes(first, storage.read_bytes(second) if content is None else content)

    failed = gated.start(max_reseeds=5).attempt(0)

    assert isinstance(failed, Failed)
    assert (failed.error_type, failed.fault) == ("UnreadableRecord", Fault.CLIP)
    assert first in failed.error
    assert gated.rendered == [0, 1]


def test_best_of_three_commits_the_best(gated: Gated) -> None:
    gated.likeness = {0: 0.5, 1: 0.9, 2: 0.7}
    result = gated.start(best_of=3).finish()

    assert isinstance(result, Rendered)
    assert (gated.rendered, result.commit.try_number) == ([0, 1, 2], 1)


@pytest.mark.slow
def test_a_recorded_try_is_not_rendered_again_whoever_was_killed(gated: Gated) -> None:
    gated.likeness = {0: 0.1, 1: 0.1, 2: 0.6}
    gated.start().attempt(0)
    gated.start().attempt(0)  # the answer was lost: the next worker is asked for the same try
    assert gated.rendered == [0]
    gated.start().attempt(1)
    result = gated.start().finish()

    assert isinstance(result, Rendered)
    assert gated.rendered == [0, 1, 2]


def test_what_cannot_be_judged_fails_the_attempt_and_is_never_a_silent_pass(gated: Gated) -> None:
    def break_down(seed: int) -> float:
        raise RuntimeError("scorer broke")

    gated.start()
    gated.renderer._gate._judge._likeness = break_down
    failed = gated.attempt(0)
    assert isinstance(failed, Failed)
    assert (failed.error_type, failed.fault) == ("NotJudged", Fault.CLIP)
    assert "RuntimeError: scorer broke" in failed.error
    gated.renderer._gate._judge._likeness = lambda seed: float("nan")
    failed = gated.attempt(0)
    assert isinstance(failed, Failed)
    assert failed.error == "not judged: no likeness_p10"
    assert (read_tries(gated.output, gated.clip.clip_id, 1), gated.videos()) == ([], 0)


def test_after_a_repair_the_new_edition_starts_with_the_seed_that_was_good(gated: Gated) -> None:
    gated.likeness = {0: 0.1, 1: 0.6}
    gated.start().finish()
    gone = Withdrawal(
        clip_id=gated.clip.clip_id, edition=1, reason="gone", withdrawn_at=datetime.now(UTC), command="test"
    )
    withdraw(gated.output, gone)
    again = gated.start().finish(edition=2)

    assert isinstance(again, Rendered)
    assert (again.commit.edition, again.commit.try_number) == (2, 1)
    assert gated.rendered == [0, 1, 1]


@pytest.mark.slow
def test_a_stricter_run_deletes_a_kept_video_that_it_finds_unsafe(gated: Gated) -> None:
    gated.likeness, gated.unsafe = {0: 0.1, 1: 0.1}, {1: 0.5}
    gated.start(keep_rejected="clip", max_reseeds=1).finish()
    assert gated.videos() == 2

    strict = gated.start(keep_rejected="clip", safety={"max_score": 0.4}).finish()

    assert isinstance(strict, Judged)
    reason = "try_number=1: unsafe=0.50: must be below 0.4 (quality.safety.max_score)"
    assert strict.verdict == Reject(reason, is_unsafe=True, number=1)
    assert gated.videos() == 1


@pytest.mark.slow
def test_a_redo_renders_seeds_that_no_earlier_edition_had(gated: Gated) -> None:
    gated.likeness = {0: 0.1, 1: 0.6, 2: 0.1, 3: 0.7}
    first = gated.start().finish()
    assert isinstance(first, Rendered)
    ask = RedoRequest(clip_id=gated.clip.clip_id, edition=2, asked_at=datetime.now(UTC), command="test")
    request_redo(gated.output, ask)

    redone = gated.start().finish(edition=2)

    assert isinstance(redone, Rendered)
    assert (redone.commit.edition, redone.commit.try_number, redone.commit.seed) == (2, 3, seed_of_try(gated.clip, 3))
    assert gated.rendered == [0, 1, 2, 3]
    assert [record.number for record in read_tries(gated.output, gated.clip.clip_id, 2)] == [2, 3]
    assert read_commit(gated.output, gated.clip.clip_id, 1) == first.commit


@pytest.mark.slow
def test_two_drained_tries_of_one_clip_each_go_on_from_their_own_latents(gated: Gated) -> None:
    """Two seeds, as of `best_of`, and a redo with the number of one of them."""
    gated._job.steps = 3
    gated._job.__post_init__()
    tries = [(1, 0), (1, 1), (2, 1)]
    gated.start_ungated()  # a gate asks for one of these tries after the other
    undisturbed = [gated.frames(number, edition=edition) for edition, number in tries]
    for edition, number in tries:
        drained = gated.renderer.render(gated.task(number, edition=edition), gated.pause_after_two)
        assert isinstance(drained, Failed)
        assert (drained.fault, drained.num_steps_saved) == (Fault.DRAIN, 2)
        gated.renderer._pausing.clear()  # in place of another process

    assert find_saved(gated.output) == {TryName(gated.clip.clip_id, edition, number): 2 for edition, number in tries}
    gated.start_ungated()
    for (edition, number), frames in zip(tries, undisturbed, strict=True):
        assert (gated.frames(number, edition=edition, num_steps_saved=2) == frames).all()
    assert not (undisturbed[0] == undisturbed[1]).all()
