"""What `status`, `retry`, `verify` and `prune` know of clips that a quality gate judged."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from lynx_batch import storage
from lynx_batch.config import QualityConfig
from lynx_batch.ledger.commits import commit
from lynx_batch.ledger.metadata import Outcome
from lynx_batch.ledger.redo import RedoRequest, request_redo
from lynx_batch.ledger.tries import TryRecord, drop_rejected
from lynx_batch.output import TryName, saved_clip_uri, try_uri
from lynx_batch.planning.verdict import NOT_GOOD_ENOUGH, UNSAFE_CONTENT
from tests.builders import (
    NOW,
    begin,
    deliver,
    ended,
    files_below,
    given_up,
    make_older,
    record,
    recorded_try,
    small_clip,
    start_run,
    write_metadata,
    write_run,
)
from tests.jobs import invoke

RULES = "quality: {likeness: {min_p10: 0.4}, technical: false, keep_rejected: %s}"
POOR = "none of 3 tries passed; the best one, try_number=1: likeness_p10=0.10: must be at least 0.4 (quality.likeness.min_p10)"
UNSAFE = "try_number=0: unsafe=0.90: must be below 0.8 (quality.safety.max_score)"


def rejected(clip_id: str, row: int, error_type: str, error: str):  # type: ignore[no-untyped-def]
    return replace(ended(Outcome.REJECTED, small_clip(clip_id, row)), error_type=error_type, error=error)


@pytest.fixture
def output(tmp_path: Path) -> str:
    """Three committed clips, of high, low and unknown likeness; one that was rejected, one that is unsafe, one that failed."""
    output = str(tmp_path / "out")
    start_run(output, "run", run_yaml=RULES % "clip")
    rows = [
        rejected("dd", 3, NOT_GOOD_ENOUGH, POOR),
        rejected("ee", 4, UNSAFE_CONTENT, UNSAFE),
        ended(Outcome.FAILED, small_clip("ff", 5)),
    ]
    for row, (clip_id, scores) in enumerate(
        {"aa": {"likeness_p10": 0.8}, "bb": {"likeness_p10": 0.3}, "cc": {}}.items()
    ):
        facts = {"scores": scores, "num_tries": len(scores) or None}
        made = commit(output, record(clip_id).model_copy(update=facts))
        rows.append(replace(ended(Outcome.RENDERED, small_clip(clip_id, row)), commit=made))
    write_metadata(output, "run", rows)
    for clip_id, numbers in {"aa": (0, 1), "bb": (0,), "dd": (0, 1, 2), "ee": (0,)}.items():
        for number in numbers:
            recorded_try(output, number, clip_id=clip_id, is_unsafe=clip_id == "ee")
    return output


def test_status_says_how_the_clips_were_judged(output: str) -> None:
    text = invoke("status", output).stdout
    for line in (
        "quality: 2 of 4 judged clips passed (50%), 1 rejected, 1 unsafe; 3 reseeds in all runs",
        "rejected by quality.likeness.min_p10 (1), quality.safety.max_score (1)",
        "1 committed clip unjudged: rendered without a quality gate",
        "1 committed clip below the limits of run run: no run renders such a clip again",
        "1 rejected: NotGoodEnough: quality.likeness.min_p10",
    ):
        assert line in text
    known = json.loads(invoke("status", output, "--json").stdout)
    assert (known["num_committed"], known["num_redo"], known["redo_given_up"]) == (3, 0, {})
    assert known["runs"][0]["outcomes"] == {"failed": 1, "rejected": 2, "rendered": 3}
    assert known["quality"] == {
        "num_passed": 2,
        "num_accepted": 0,
        "num_rejected": 1,
        "num_unsafe": 1,
        "num_unjudged": 1,
        "num_below": 1,
        "num_reseeds": 3,
        "rejected_by": {"quality.likeness.min_p10": 1, "quality.safety.max_score": 1},
        "pass_rate": 0.5,
        "limits_of": "run",
    }
    assert invoke("status", output, "--json", "--watch").exit_code == 2


def test_status_compares_with_the_rules_of_a_run_file(output: str, tmp_path: Path, face_pack: Path) -> None:
    rules = {"likeness": {"min_p10": 0.9}, "technical": False}
    run_file = write_run(tmp_path, face_pack, quality=rules)
    assert json.loads(invoke("status", output, "--json", "--run", run_file).stdout)["quality"]["num_below"] == 2
    write_run(tmp_path, face_pack)
    refused = invoke("status", output, "--run", run_file)
    assert (refused.exit_code, "must have a section `quality`" in refused.stderr) == (2, True)


def test_status_shows_unjudged_clips_whenever_a_run_of_the_output_had_a_gate(output: str, tmp_path: Path) -> None:
    start_run(output, "later", minutes=1)
    assert "1 committed clip unjudged" in invoke("status", output).stdout
    known = json.loads(invoke("status", output, "--json").stdout)["quality"]
    assert (known["num_below"], known["limits_of"]) == (1, "run")
    other = str(tmp_path / "other")
    start_run(other, "gated", run_yaml=RULES % "clip")
    start_run(other, "newest", minutes=1)
    commit(other, record("aa"))
    assert "1 committed clip unjudged" in invoke("status", other).stdout, "no try was ever recorded"


def test_status_is_silent_about_quality_where_nothing_was_judged(tmp_path: Path) -> None:
    start_run(str(tmp_path), "run")
    assert "quality" not in invoke("status", tmp_path).stdout
    assert json.loads(invoke("status", tmp_path, "--json").stdout)["quality"] is None


def test_retry_does_not_pretend_to_change_what_the_gate_decided(output: str) -> None:
    text = invoke("retry", output).stdout
    assert "1 clip will be tried again" in text
    assert "1 clip rejected by the quality gate: `retry` does not change that" in text
    assert "more max_reseeds, has lower limits, or is left out" in text
    assert "1 unsafe clip rejected for good" in text
    assert given_up(output) == {"dd": "rejected", "ee": "rejected"}


@pytest.mark.parametrize("content", [b"{", None], ids=["damaged", "of another try"])
def test_a_damaged_try_is_reported_and_set_aside_so_that_its_clip_can_go_on(output: str, content: bytes | None) -> None:
    first, second = (try_uri(output, TryName("ff", 1, number)) for number in (0, 1))
    recorded_try(output, 1, clip_id="ff")
    content = storage.read_bytes(second) if content is None else content
    storage.write_bytes(first, content)
    why = {"error_type": "UnreadableRecord", "error": first}
    write_metadata(output, "run-2", [replace(ended(Outcome.FAILED, small_clip("ff", 5), minutes=1), **why)])
    assert "ff" in given_up(output)

    found = invoke("verify", output)
    assert (found.exit_code, first in found.stdout) == (3, True)
    assert storage.read_bytes(first) == content
    repaired = invoke("verify", output, "--repair")

    assert "1 damaged try set aside; the next `lynx-batch render` may render such a seed again" in repaired.stdout
    assert storage.stat(first) is None
    assert storage.read_bytes(f"{first}.damaged") == content
    assert "ff" not in given_up(output), "the next run tries it again"
    assert first not in invoke("verify", output).stdout


@pytest.mark.parametrize(
    ("keep", "kept"),
    [("clip", {"jpg", "mp4"}), ("poster", {"jpg"}), ("nothing", set())],
    ids=["clip", "poster", "nothing"],
)
def test_prune_keeps_the_files_of_open_tries_and_of_rejected_ones_as_the_rules_say(
    output: str, keep: str, kept: set[str]
) -> None:
    start_run(output, "later", minutes=1, run_yaml=RULES % keep)
    recorded_try(output, 0, clip_id="ff")
    for clip_id, attempt in (
        ("dd", "run-10"),
        ("ee", "run-10"),
        ("ff", "run-10"),
        ("ff", "run-77"),
        ("aa", "run-1"),
        ("aa", "run-11"),
    ):
        upload(output, clip_id, attempt)
    make_older(output, hours=25)
    assert invoke("prune", output).exit_code == 0
    left = {
        *(f"clips/aa/aa/run-1.{end}" for end in ("mp4", "jpg")),
        *(f"clips/ff/ff/run-10.{end}" for end in ("mp4", "jpg")),
        *(f"clips/dd/dd/run-10.{end}" for end in kept),
    }
    assert files_below(output, "clips") == left


@pytest.mark.parametrize(
    ("own", "newest", "kept"),
    [
        ("clip", "nothing", {"jpg", "mp4"}),
        ("poster", "nothing", {"jpg"}),
        ("nothing", "poster", {"jpg"}),
        ("nothing", "nothing", set()),
    ],
)
def test_a_newer_run_deletes_nothing_that_the_run_of_a_rejected_try_keeps(
    output: str, own: str, newest: str, kept: set[str]
) -> None:
    clip = small_clip("99", 6)
    tries = [recorded_try(output, number, clip_id="99", keep_rejected=own) for number in (0, 1)]
    for made in tries:
        upload(output, "99", made.commit.attempt)
    write_metadata(output, "run", [rejected("99", 6, NOT_GOOD_ENOUGH, POOR)])
    start_run(output, "later", minutes=1, run_yaml=RULES % newest)
    rules = QualityConfig.model_validate(yaml.safe_load(RULES % newest)["quality"])
    left = {f"clips/99/{clip.clip_id}/run-1{number}.{end}" for number in (0, 1) for end in kept}

    make_older(output, hours=25)
    assert invoke("prune", output).exit_code == 0
    assert files_below(output, "clips") == left
    drop_rejected(output, tries, rules)
    assert files_below(output, "clips") == left, "a run that rejects the clip again keeps them, too"


def test_prune_keeps_both_editions_of_a_clip_that_is_being_redone(output: str) -> None:
    request_redo(output, RedoRequest(clip_id="aa", edition=2, asked_at=NOW, command="test"))
    recorded_try(output, 2, clip_id="aa", edition=2)
    for attempt in ("run-1", "run-11", "run-22"):
        upload(output, "aa", attempt)
    states = [saved_clip_uri(output, TryName("aa", edition, 0), 4) for edition in (1, 2)]
    for uri in states:
        storage.write_bytes(uri, b"steps")
    make_older(output, hours=25)
    assert invoke("prune", output).exit_code == 0
    assert {Path(name).stem for name in files_below(output, "clips")} == {"run-1", "run-22"}
    assert [storage.stat(uri) is not None for uri in states] == [False, True]


def test_a_stricter_run_that_finds_a_kept_try_unsafe_deletes_it_and_says_unsafe(output: str) -> None:
    clip_id = "dd"
    for number in (0, 1, 2):
        upload(output, clip_id, f"run-1{number}")
    uri = try_uri(output, TryName(clip_id, 1, 1))
    read = TryRecord.model_validate_json(storage.read_bytes(uri))
    storage.write_bytes(
        uri, read.model_copy(update={"scores": read.scores | {"unsafe": 0.5}}).model_dump_json().encode()
    )
    rules = {"likeness": {"min_p10": 0.4}, "technical": False, "keep_rejected": "clip", "safety": {"max_score": 0.4}}

    run = begin(output, "strict", [small_clip(clip_id, 3)], quality=QualityConfig.model_validate(rules))
    run.close("")

    assert {Path(name).stem for name in files_below(output, f"clips/dd/{clip_id}")} == {"run-10", "run-12"}
    assert "1 rejected: UnsafeContent: try_number=1: unsafe=0.50" in invoke("status", output).stdout


def upload(output: str, clip_id: str, attempt: str) -> None:
    frames = np.zeros((5, 48, 64, 3), np.uint8)
    deliver(frames, output=output, clip_id=clip_id, attempt=attempt)
