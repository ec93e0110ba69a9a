"""Which commit of a clip is in force, and what follows from it for a run."""

from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from lynx_batch import storage
from lynx_batch.ledger.commits import Withdrawal, commit, read_commit, withdraw
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.events import EventKind, write_event
from lynx_batch.ledger.history import given_up_before, known_commits
from lynx_batch.ledger.metadata import Outcome
from lynx_batch.ledger.records import warn_left_out
from lynx_batch.ledger.redo import RedoRequest, request_redo
from lynx_batch.output import commit_uri
from tests.builders import NOW, ended, event, record, small_clip, start_run, write_metadata


def edition(number: int, clip_id: str = "ab12"):  # type: ignore[no-untyped-def]
    return record(clip_id, attempt=f"run-{number}").model_copy(update={"edition": number})


def withdrawn(number: int, clip_id: str = "ab12") -> Withdrawal:
    return Withdrawal(clip_id=clip_id, edition=number, reason="damaged", withdrawn_at=NOW, command="verify --repair")


@pytest.fixture
def output(tmp_path: Path) -> str:
    warn_left_out.cache_clear()
    return str(tmp_path)


def test_names_of_editions_are_those_of_the_contract(output: str) -> None:
    for number in (1, 2):
        commit(output, edition(number))
    withdraw(output, withdrawn(1))
    assert {file.uri.removeprefix(output) for file in storage.list_files(output)} == {
        "/commits/ab/ab12.json",
        "/commits/ab/ab12.e2.json",
        "/commits/ab/ab12.e1.withdrawn.json",
    }


@pytest.mark.parametrize(
    ("committed", "withdrawn_", "in_force", "wanted"),
    [
        ([], [], None, 1),
        ([1], [], 1, 1),
        ([1, 2], [], 2, 2),
        ([1], [1], None, 2),
        ([1, 2], [1], 2, 2),
        ([1, 2], [2], None, 3),
        ([1, 9, 10], [9], 10, 10),
        ([1], [2], None, 3),
    ],
)
def test_the_highest_edition_is_in_force_unless_it_is_withdrawn(
    output: str, committed: list[int], withdrawn_: list[int], in_force: int | None, wanted: int
) -> None:
    for number in committed:
        commit(output, edition(number))
    for number in withdrawn_:
        withdraw(output, withdrawn(number))
    found = list_editions(output)
    assert (found.in_force.get("ab12"), found.wanted("ab12")) == (in_force, wanted)
    assert [found.is_finished("ab12", n) for n in (1, 2)] == [(in_force or 0) >= n for n in (1, 2)]


@pytest.mark.parametrize(
    ("committed", "withdrawn_", "redo", "in_force", "wanted"),
    [
        ([1], [], [2], 1, 2),
        ([1, 2], [], [2], 2, 2),
        ([1], [], [2, 3], 1, 3),
        ([1], [1], [2], None, 2),
        ([1], [1, 2], [2], None, 3),
        ([1, 2], [2], [2], None, 3),
    ],
)
def test_a_redo_is_wanted_until_it_is_committed_or_withdrawn_and_the_old_edition_stays_in_force(
    output: str, committed: list[int], withdrawn_: list[int], redo: list[int], in_force: int | None, wanted: int
) -> None:
    for number in committed:
        commit(output, edition(number))
    for number in withdrawn_:
        withdraw(output, withdrawn(number))
    for number in redo:
        request_redo(output, RedoRequest(clip_id="ab12", edition=number, asked_at=NOW, command="test"))
    found = list_editions(output)
    assert (found.in_force.get("ab12"), found.wanted("ab12")) == (in_force, wanted)
    assert ("ab12" in found.finished) == (in_force == wanted)
    untouched = found.without_redo({"ab12"})
    assert untouched.in_force == found.in_force
    assert not untouched.redo


def test_each_edition_has_one_commit_and_a_withdrawal_stays_the_first(output: str) -> None:
    assert commit(output, edition(2)) == edition(2)
    late = edition(2).model_copy(update={"attempt": "late"})
    assert commit(output, late) == edition(2)
    assert commit(output, edition(3)) == edition(3), "another edition is another commit"
    withdraw(output, withdrawn(3))
    withdraw(output, withdrawn(3).model_copy(update={"reason": "other"}))
    kept = Withdrawal.model_validate_json(storage.read_bytes(f"{output}/commits/ab/ab12.e3.withdrawn.json"))
    assert kept.reason == "damaged"


@pytest.mark.parametrize(
    "name",
    ["notes.json", "ab/notes.json", "ab/cd34.json", "ab/ab12.e1.json", "ab/ab12.e1.redo.json", "ab/ab12.e02.json", "ab/ab12.e2.txt", "x/ab/ab12.json"],
)  # fmt: skip
def test_a_foreign_file_among_the_commits_is_named_once_and_left_out(output: str, name: str) -> None:
    storage.write_bytes(f"{output}/commits/{name}", b"{}")
    commit(output, edition(1, "ef56"))
    with capture_logs() as logs:
        for _ in range(2):
            assert list_editions(output).in_force == {"ef56": 1}
    (told,) = logs
    assert name in told["error"]


def test_metadata_of_another_edition_does_not_overrule_the_commit_in_force(output: str) -> None:
    start_run(output, "run")
    write_metadata(output, "run", [ended(Outcome.RENDERED, small_clip())])
    commit(output, edition(2))
    assert [known.attempt for known in known_commits(output, list_editions(output).in_force)] == ["run-2"]


def test_a_damaged_commit_is_left_out_and_named(output: str) -> None:
    commit(output, edition(1, "ef56"))
    storage.write_bytes(commit_uri(output, "ab12", 1), b"")
    with capture_logs() as logs:
        assert [known.clip_id for known in known_commits(output, {"ab12": 1, "ef56": 1})] == ["ef56"]
    assert "ab12" in logs[0]["error"]


def test_a_failure_tells_nothing_of_a_later_edition(output: str) -> None:
    start_run(output, "run")
    write_event(output, event(EventKind.FAILED, minutes=0))
    assert given_up_before(output, list_editions(output)).num_rows == 1
    commit(output, edition(1))
    withdraw(output, withdrawn(1))
    assert given_up_before(output, list_editions(output)).num_rows == 0, "edition 2 was never tried"
    again = event(EventKind.FAILED, minutes=1).model_copy(update={"edition": 2, "at": NOW + timedelta(days=1)})
    write_event(output, again)
    assert given_up_before(output, list_editions(output))["edition"].to_pylist() == [2]


def test_a_commit_names_the_edition_that_it_is(output: str) -> None:
    commit(output, edition(2))
    assert read_commit(output, "ab12", 2).edition == 2
