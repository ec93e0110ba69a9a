"""`retry --redo`: committed clips are rendered again with another seed, and stay in force until the new edition is committed."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lynx_batch.clip import ClipSpec
from lynx_batch.config import QualityConfig
from lynx_batch.ledger.commits import CommitRecord, Withdrawal, commit, withdraw
from lynx_batch.ledger.editions import Editions, list_editions
from lynx_batch.ledger.export import name_clips
from lynx_batch.ledger.metadata import Outcome, read_metadata
from lynx_batch.ledger.numbering import first_number, first_numbers
from lynx_batch.ledger.redo import RedoRequest, plan_redo, request_redo
from lynx_batch.ledger.summary import summarise
from lynx_batch.planning.verdict import NOT_GOOD_ENOUGH, UNSAFE_CONTENT, Reject, Render
from lynx_batch.rendering.tasks import Judged, Rendered, RenderTask
from tests.builders import NOW, begin, ended, record, recorded_try, small_clip, start_run, write_metadata
from tests.jobs import invoke

RULES = QualityConfig.model_validate({"likeness": {"min_p10": 0.3}, "technical": False, "max_reseeds": 1})
LOW, HIGH = {"likeness_p10": 0.2}, {"likeness_p10": 0.8}


def made(clip_id: str = "ab12", *, edition: int = 1, number: int = 0, **scores: float) -> CommitRecord:
    attempt = f"run-{edition}"
    return record(clip_id, attempt).model_copy(update={"edition": edition, "try_number": number, "scores": scores})


def seedless(clip_id: str = "ab12", row: int = 0) -> ClipSpec:
    spec = small_clip(clip_id, row)
    return replace(spec, request=replace(spec.request, is_seed_given=False))


def ask(output: str, clip_id: str = "ab12", edition: int = 2) -> None:
    request_redo(output, RedoRequest(clip_id=clip_id, edition=edition, asked_at=NOW, command="test"))


def repair(output: str, edition: int) -> None:
    why = {"reason": "gone", "withdrawn_at": NOW, "command": "test"}
    withdraw(output, Withdrawal(clip_id="ab12", edition=edition, **why))


@pytest.fixture
def output(tmp_path: Path) -> str:
    """Two committed clips: the likeness of ab12 is low."""
    output = str(tmp_path / "out")
    start_run(output, "run", run_yaml="quality: {likeness: {min_p10: 0.3}}", seed=[None, None])
    rows = []
    for row, (clip_id, scores) in enumerate({"ab12": LOW, "cd34": HIGH}.items()):
        committed = commit(output, made(clip_id, **scores))
        rows.append(replace(ended(Outcome.RENDERED, seedless(clip_id, row)), commit=committed))
    write_metadata(output, "run", rows)
    return output


def test_a_redo_starts_after_every_seed_that_any_edition_had(output: str) -> None:
    spec = seedless()
    assert first_number(output, spec, 1, RULES) == 0
    ask(output, edition=2)
    assert first_number(output, spec, 2, None) == 1, "a commit without a try counts as number 0"
    for number in (0, 1, 2):
        recorded_try(output, number)
    recorded_try(output, 9, edition=2)
    assert first_number(output, spec, 2, RULES) == 3, "its own tries do not move it"
    ask(output, edition=3)
    assert first_number(output, spec, 3, RULES) == 10


def test_after_a_repair_an_edition_starts_with_the_seed_of_the_withdrawn_commit(output: str) -> None:
    spec = seedless()
    ask(output, edition=2)
    commit(output, made(edition=2, number=4))
    recorded_try(output, 5, edition=2)
    repair(output, 2)
    editions = list_editions(output)
    assert first_numbers(output, [spec, seedless("cd34")], editions, RULES) == {"ab12": 4}
    ask(output, edition=4)
    assert first_number(output, spec, 4, RULES) == 6


def test_a_row_that_gives_its_seed_keeps_it_unless_the_rules_allow_others(output: str) -> None:
    ask(output)
    assert first_number(output, small_clip(), 2, RULES) == 0
    assert first_number(output, small_clip(), 2, RULES.model_copy(update={"reseed_given": True})) == 1
    fixed = begin(output, "fixed", [small_clip(), small_clip("cd34", 1)], quality=RULES)
    assert fixed.open_clips == [], "the commit in force counts"
    assert fixed.counts == {Outcome.RENDERED: 2}


@pytest.mark.parametrize("quality", [RULES, None], ids=["judged", "not judged"])
def test_a_redo_that_is_committed_takes_over(output: str, quality: QualityConfig | None) -> None:
    ask(output)
    run = begin(output, "redo", [seedless(), seedless("cd34", 1)], quality=quality)
    assert [(c.clip_id, run.editions.wanted(c.clip_id)) for c in run.open_clips] == [("ab12", 2)]
    assert run.first_numbers == {"ab12": 1}
    task = RenderTask(clip=seedless(), edition=2, number=1, attempt="run-2")
    run.rendered(task, "g", Rendered(commit=commit(output, made(edition=2, number=1)), spans=()), attempts=1)
    run.close("")
    rows = {row["clip_id"]: row for row in read_metadata(output).to_pylist() if row["run"] == "redo"}
    assert [rows[c]["outcome"] for c in ("ab12", "cd34")] == ["rendered"] * 2
    assert (rows["ab12"]["edition"], rows["ab12"]["try_number"]) == (2, 1)
    assert list_editions(output).in_force == {"ab12": 2, "cd34": 1}
    assert begin(output, "next", [seedless(), seedless("cd34", 1)], quality=quality).open_clips == []


def test_a_redo_that_is_rejected_is_the_rows_outcome_and_the_old_edition_is_exported(output: str) -> None:
    ask(output)
    run = begin(output, "redo", [seedless(), seedless("cd34", 1)], quality=RULES)
    for number in (1, 2):
        recorded_try(output, number, edition=2)
    task = RenderTask(clip=seedless(), edition=2, number=2, attempt="run-22")
    run.judged(task, "g", Judged(verdict=Reject("none passed (quality.likeness.min_p10)")), attempts=1)
    assert run.close("") == ""

    assert run.counts == {Outcome.RENDERED: 1, Outcome.REJECTED: 1}
    assert list_editions(output).in_force["ab12"] == 1
    exported = name_clips(output, "{clip_id}.mp4", datetime.now(UTC)).clips
    assert exported["ab12.mp4"].attempt == "run-1"
    assert run.num_still_in_force == 1
    summary = summarise(output)
    assert (summary.num_redo, summary.redo_given_up) == (0, {Outcome.REJECTED: 1})
    assert summary.judged is not None
    assert (summary.judged.num_rejected, summary.judged.rejected_by) == (0, {}), "the edition in force counts"
    told = invoke("status", output, "--clips").stdout
    assert "2 clips committed\n`retry --redo`: 1 rejected; the older edition of each such clip stays in force\n" in told
    told = "".join(told.split())
    assert "clips/ab/ab12/run-1.mp4(edition1,whichstaysinforce);redo:nonepassed" in told.replace("│", "")
    again = begin(output, "again", [seedless()], quality=RULES)
    assert (again.open_clips, again.counts) == ([], {Outcome.REJECTED: 1})
    more = begin(output, "more", [seedless()], quality=RULES.model_copy(update={"max_reseeds": 2}))
    assert more.first_numbers == {"ab12": 1}, "more tries are allowed"
    lower = RULES.model_copy(update={"likeness": RULES.likeness.model_copy(update={"min_p10": 0.0})})
    assert [c.clip_id for c in begin(output, "lower", [seedless()], quality=lower).open_clips] == ["ab12"]


def test_a_redo_that_a_stopped_run_left_is_abandoned_and_taken_up_by_the_next(output: str) -> None:
    ask(output)
    run = begin(output, "redo", [seedless()], quality=RULES)
    task = RenderTask(clip=seedless(), edition=2, number=1, attempt="run-21")
    run.judged(task, "g", Judged(verdict=Render(2)), attempts=0)
    run.close("interrupted")
    assert run.counts == {Outcome.ABANDONED: 1}
    assert [c.clip_id for c in begin(output, "next", [seedless()], quality=RULES).open_clips] == ["ab12"]


def test_what_is_asked_for_depends_on_what_became_of_the_last_redo() -> None:
    clips = ["new", "open", "failed", "poor", "unsafe", "done"]
    editions = Editions(
        in_force=dict.fromkeys(clips, 1) | {"done": 3},
        withdrawn={},
        redo=dict.fromkeys(["open", "failed", "poor", "unsafe"], 2),
    )
    given_up = {"failed": "OutOfMemory", "poor": NOT_GOOD_ENOUGH, "unsafe": UNSAFE_CONTENT}
    plan = plan_redo(clips, editions, given_up)
    assert plan.editions == {"new": 2, "poor": 3, "done": 4}
    assert plan.waiting == frozenset({"open", "failed"})
    assert plan.unsafe == frozenset({"unsafe"})


def test_the_command_asks_once_for_the_clips_with_low_scores(output: str) -> None:
    first = invoke("retry", output, "--redo", "--where", "likeness_p10 < 0.4")
    assert (first.exit_code, "1 committed clip will be rendered with another seed" in first.stdout) == (0, True)
    assert list_editions(output).redo == {"ab12": 2}
    second = invoke("retry", output, "--redo", "--where", "likeness_p10 < 0.4")
    assert "0 committed clips will be rendered" in second.stdout
    assert "1 clip already waiting for an earlier --redo: nothing changed" in second.stdout
    assert list_editions(output).redo == {"ab12": 2}
    assert (
        "2 clips committed\n`retry --redo`: 1 waiting for the next `render`; the older edition of each such clip stays in force\n"
        in invoke("status", output).stdout
    )


def test_a_redo_takes_the_clips_that_a_list_rejects(output: str, tmp_path: Path) -> None:
    chosen = tmp_path / "decisions.csv"
    chosen.write_text("clip_id,decision\nab12,reject\n99,reject\ncd34,approve\n")
    asked = invoke("retry", output, "--redo", "--list", chosen)
    assert (asked.exit_code, list_editions(output).redo) == (0, {"ab12": 2}), asked.output
    assert "1 clip of the list left out: not committed" in asked.stdout


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (("--redo",), "--redo: needs --list, or --where"),
        (("--redo", "--reason", "x"), "--reason 'x': must not be given together with --redo"),
        (("--redo", "--where", "likeness_p10 < 0.1"), "must match a row, but matches none of 2"),
        (("--redo", "--where", "likeness < 0.1"), "column 'likeness': unknown"),
        (("--run", "x.yaml"), "--run x.yaml: must be given together with --redo"),
    ],
)
def test_a_redo_that_chooses_nothing_is_refused(output: str, options: tuple[str, ...], rule: str) -> None:
    refused = invoke("retry", output, *options)
    assert (refused.exit_code, rule in refused.stderr) == (2, True), refused.output


@pytest.mark.parametrize("run_yaml", ["", "defaults: {seed: 7}"], ids=["row", "defaults"])
def test_rows_that_give_their_seed_are_refused_before_anything_is_asked_for(tmp_path: Path, run_yaml: str) -> None:
    output = str(tmp_path)
    start_run(output, "run", run_yaml=run_yaml, seed=[None if run_yaml else 1, None])
    write_metadata(
        output, "run", [ended(Outcome.RENDERED, small_clip()), ended(Outcome.RENDERED, small_clip("cd34", 1))]
    )
    for clip_id in ("ab12", "cd34"):
        commit(output, record(clip_id))

    refused = invoke("retry", output, "--redo", "--where", "width == 64")

    assert refused.exit_code == 2
    assert "row 0 of run run: seed=1: is given, so no other seed may be rendered" in refused.stderr
    assert ("row 1 of run run" in refused.stderr) == bool(run_yaml)
    assert "quality.reseed_given" in refused.stderr
    assert list_editions(output).redo == {}
    start_run(output, "later", minutes=1, run_yaml="quality: {reseed_given: true}")
    assert invoke("retry", output, "--redo", "--where", "width == 64").exit_code == 0
    assert list_editions(output).redo == {"ab12": 2, "cd34": 2}


def test_a_repair_after_a_rejected_redo_renders_the_seed_that_was_good_once_more(output: str) -> None:
    ask(output)
    run = begin(output, "redo", [seedless()], quality=RULES)
    for number in (1, 2):
        recorded_try(output, number, edition=2)
    task = RenderTask(clip=seedless(), edition=2, number=2, attempt="run-22")
    run.judged(task, "g", Judged(verdict=Reject("none passed")), attempts=1)
    run.close("")

    assert invoke("verify", output, "--repair").exit_code == 3, "the builder's commits have no videos"

    editions = list_editions(output)
    assert (editions.in_force, editions.wanted("ab12")) == ({}, 3)
    repaired = begin(output, "next", [seedless()], quality=RULES)
    assert repaired.first_numbers == {"ab12": 0}
