"""The quality gate beside other runs and revocations, without a renderer: recorded tries, real commits, real files."""

from dataclasses import replace
from pathlib import Path

import pytest

from lynx_batch import storage
from lynx_batch.clip import ClipSpec
from lynx_batch.config import QualityConfig
from lynx_batch.ledger.commits import CommitRecord, commit
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.owners import owners_of, write_owners
from lynx_batch.ledger.remains import withdraw_revoked
from lynx_batch.ledger.tombstones import Tombstone, put_tombstone
from lynx_batch.planning.revocation import Kind, key_of
from lynx_batch.rendering import gate
from lynx_batch.rendering.gate import Gate, TryScores
from lynx_batch.rendering.tasks import Judged, RenderTask
from tests.builders import NOW, record, recorded_try, small_clip, start_run
from tests.jobs import invoke


def rules(min_p10: float) -> QualityConfig:
    return QualityConfig.model_validate({"likeness": {"min_p10": min_p10}, "technical": False, "max_reseeds": 1})


def gate_of(output: str, quality: QualityConfig) -> Gate:
    """It judges nothing itself."""
    return Gate(output, quality, None, is_store_safe=True)


def of_a_person(subject_id: str, consent_ref: str) -> ClipSpec:
    clip = small_clip()
    request = replace(clip.request, subject_id=subject_id, consent_ref=consent_ref, is_seed_given=False)
    return replace(clip, request=request)


def begin_run(output: str, run_id: str, clip: ClipSpec, *, minutes: int = 0) -> None:
    start_run(output, run_id, minutes=minutes)
    write_owners(output, run_id, owners_of(run_id, [clip]))


def upload(output: str, made: CommitRecord) -> None:
    for uri in made.files:
        storage.write_bytes(storage.join(output, uri), b"x")


def revoke(output: str, kind: Kind, value: str) -> None:
    key = key_of(kind, value)
    put_tombstone(output, Tombstone(kind=key.kind, digest=key.digest, revoked_at=NOW, revoked_by="me"))


def in_force(output: str) -> dict[str, int]:
    return dict(list_editions(output).in_force)


def test_a_stricter_run_deletes_no_try_that_another_run_has_committed(tmp_path: Path) -> None:
    output, clip = str(tmp_path), of_a_person("ada", "A")
    for minutes, run_id in enumerate(("strict", "lenient")):
        begin_run(output, run_id, clip, minutes=minutes)
    strict, lenient = gate_of(output, rules(0.6)), gate_of(output, rules(0.3))

    def settle(number: int, p10: float) -> CommitRecord | Judged:
        made = record(attempt=f"strict-0000000{number}", run_id="strict").model_copy(update={"try_number": number})
        upload(output, made)
        task = RenderTask(clip=clip, number=number, attempt=made.attempt)
        return strict.settle(task, TryScores({"likeness_p10": p10}, {}, is_unsafe=False), made)

    assert isinstance(settle(0, 0.5), Judged)
    committed = lenient.find(RenderTask(clip=clip, attempt="lenient-00000009"))
    assert isinstance(committed, CommitRecord)
    assert settle(1, 0.4) == committed, "not rejected: the other run has committed the first try"
    assert all(storage.stat(storage.join(output, uri)) for uri in committed.files)


def test_a_run_that_ends_spares_what_another_run_made_on_another_consent(tmp_path: Path) -> None:
    output, first, second = str(tmp_path), of_a_person("ada", "A"), of_a_person("ada", "B")
    begin_run(output, "run-b", second)
    made = commit(output, record(attempt="run-b-00000001", run_id="run-b"))
    upload(output, made)
    begin_run(output, "run-a", first, minutes=1)
    revoke(output, Kind.CONSENT_REF, "A")
    withdraw_revoked(output, owners_of("run-a", [first]))
    assert in_force(output) == {"ab12": 1}
    assert storage.stat(storage.join(output, made.clip_uri)) is not None
    revoke(output, Kind.SUBJECT_ID, "ada")
    withdraw_revoked(output, owners_of("run-a", [first]))
    assert in_force(output) == {}, "a person is revoked whatever the consent"


def test_a_try_of_an_earlier_run_that_is_committed_during_a_revocation_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, clip = str(tmp_path), of_a_person("ada", "A")
    for minutes, run_id in enumerate(("run", "now")):
        begin_run(output, run_id, clip, minutes=minutes)
    kept = recorded_try(output, 0, scores={"likeness_p10": 0.5}, keep_rejected="clip")
    upload(output, kept.commit)

    def commit_late(*arguments: object, **options: object) -> object:
        assert invoke("revoke", output, "--subject", "ada", "--yes").exit_code == 0
        return commit(*arguments, **options)

    monkeypatch.setattr(gate, "commit", commit_late)  # nothing else makes the revocation come in between
    assert isinstance(gate_of(output, rules(0.3)).find(RenderTask(clip=clip, attempt="now-00000001")), CommitRecord)
    withdraw_revoked(output, owners_of("now", [clip]))
    assert in_force(output) == {}
