"""`revoke` takes back everything that was made of a person or on a consent, `verify` and `audit` say what there is."""

import csv
import io
from codecs import BOM_UTF8
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from lynx_batch import storage
from lynx_batch.cli import app
from lynx_batch.clip import ClipSpec
from lynx_batch.errors import ConsentRevoked
from lynx_batch.ledger.commits import commit
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.erase import erase_rows
from lynx_batch.ledger.events import EventKind, write_event
from lynx_batch.ledger.heartbeat import beating
from lynx_batch.ledger.metadata import Outcome, read_metadata
from lynx_batch.ledger.owners import owners_of, read_owners, write_owners
from lynx_batch.ledger.redo import RedoRequest, request_redo
from lynx_batch.ledger.remains import find_remains
from lynx_batch.ledger.tombstones import Tombstone, put_tombstone, read_revoked, refuse_revoked
from lynx_batch.output import (
    TryName,
    attempts_uri,
    judgement_uri,
    report_photo,
    report_uri,
    saved_clip_uri,
    tombstones_uri,
)
from lynx_batch.planning.revocation import Kind, Owner, find_covered, key_of, rows_to_blank
from tests.builders import NOW, begin, ended, event, record, small_clip, start_run, write_metadata
from tests.jobs import invoke

EXTENSIONS = ("mp4", "jpg", "webp")


def spec(clip_id: str, subject_id: str, consent_ref: str, row: int = 0) -> ClipSpec:
    found = small_clip(clip_id, row)
    return replace(found, request=replace(found.request, subject_id=subject_id, consent_ref=consent_ref))


def make(output: str, run_id: str, clips: list[ClipSpec], *, has_metadata: bool = True) -> None:
    """A run that has rendered these clips, and was killed before it wrote metadata if it has none."""
    start_run(output, run_id)
    write_owners(output, run_id, owners_of(run_id, clips))
    for clip in clips:
        edition = list_editions(output).wanted(clip.clip_id)
        attempt = f"{run_id}-0000000{edition}"
        made = record(clip.clip_id, attempt, run_id)
        commit(output, made.model_copy(update={"edition": edition}))
        for extension in EXTENSIONS:
            storage.write_bytes(f"{attempts_uri(output, clip.clip_id)}/{attempt}.{extension}", b"x")
    if has_metadata:
        write_metadata(output, run_id, [ended(Outcome.RENDERED, clip) for clip in clips])


def test_a_clip_whose_redo_was_given_up_is_rendered_again_on_a_new_consent(tmp_path: Path) -> None:
    output, clip = str(tmp_path), spec("ab12", "ada", "A")
    make(output, "run", [clip])
    request_redo(output, RedoRequest(clip_id="ab12", edition=2, asked_at=NOW, command="retry --redo"))
    start_run(output, "redo", minutes=1)
    write_metadata(output, "redo", [replace(ended(Outcome.FAILED, clip, minutes=2), edition=2)])
    assert revoke(output, "--consent-ref", "A", "--yes").exit_code == 0
    assert [each.clip_id for each in begin(output, "next", [spec("ab12", "ada", "A2")]).open_clips] == ["ab12"]


def revoke(output: str, *options: str) -> Result:
    return invoke("revoke", output, *options)


def files_below(output: str, *folders: str) -> list[str]:
    return [file.uri for folder in folders for file in storage.list_files(storage.join(output, folder))]


@pytest.fixture
def output(tmp_path: Path) -> str:
    """Clips of ada (one by a killed run) and of bob."""
    place = str(tmp_path / "out")
    make(place, "run-1", [spec("aa11", "lovelace", "A"), spec("bb22", "bob", "B", row=1)])
    make(place, "run-2", [spec("aa33", "lovelace", "A")], has_metadata=False)
    storage.write_bytes(saved_clip_uri(place, TryName("aa11", 1, 0), 3), b"steps")
    return place


@pytest.mark.parametrize("choice", [("--subject", "lovelace"), ("--consent-ref", "A")])
def test_what_was_made_of_a_person_is_withdrawn_and_deleted_and_the_rest_stays(
    output: str, choice: tuple[str, str]
) -> None:
    result = revoke(output, *choice, "--yes")

    assert result.exit_code == 0, result.output
    assert "2 committed clips and 7 files of this" in result.stdout
    assert "revoked: 2 commits withdrawn, 7 files and 0 old versions deleted" in result.stdout
    assert set(list_editions(output).in_force) == {"bb22"}
    assert {uri.rpartition("/")[0] for uri in files_below(output, "clips", "resume")} == {attempts_uri(output, "bb22")}
    again = revoke(output, *choice, "--yes")
    assert "0 committed clips and 0 files of this" in again.stdout
    assert again.exit_code == 0


def test_nothing_happens_before_it_is_confirmed(output: str) -> None:
    before = sorted(files_below(output, ""))
    unanswered = revoke(output, "--subject", "lovelace")
    assert (unanswered.exit_code, unanswered.stdout.splitlines()[-1]) == (4, "nothing was revoked")
    assert not read_revoked(output)
    assert sorted(files_below(output, "")) == before


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ((), "exactly one of --subject, --consent-ref and --photo-sha256"),
        (("--subject", "a", "--consent-ref", "b"), "exactly one of"),
        (("--subject", " "), "subject_id must not be empty"),
        (("--photo-sha256", "12"), "--photo-sha256 '12': must be 64 hexadecimal digits"),
    ],
)
def test_a_wrong_choice_is_refused(output: str, options: tuple[str, ...], fault: str) -> None:
    result = revoke(output, *options, "--yes")
    assert (result.exit_code, fault in result.stderr) == (2, True)
    assert not read_revoked(output)


def test_the_tombstone_comes_first_and_an_interrupted_revocation_is_finished_later(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = storage.delete

    def interrupt(uri: str) -> None:
        """Ctrl-C cannot be timed from outside to come between two deletions."""
        if uri.endswith("jpg"):
            raise KeyboardInterrupt
        delete(uri)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "delete", interrupt)
        assert revoke(output, "--subject", "lovelace", "--yes").exit_code == 4
    with pytest.raises(ConsentRevoked, match="subject_id: revoked"):
        refuse_revoked(output, [key_of(Kind.SUBJECT_ID, "lovelace")])
    left = invoke("verify", output)
    assert left.exit_code == 3
    assert "jpg: revoked, but still there" in left.stdout
    assert revoke(output, "--subject", "lovelace", "--yes").exit_code == 0
    assert {uri.rpartition("/")[0] for uri in files_below(output, "clips", "resume")} == {attempts_uri(output, "bb22")}
    assert "revoked, but" not in invoke("verify", output).stdout


def test_a_clip_that_was_made_again_on_a_new_consent_survives_the_old_ones_revocation(output: str) -> None:
    revoke(output, "--consent-ref", "A", "--yes")
    make(output, "run-3", [spec("aa11", "lovelace", "A2")])
    assert list_editions(output).in_force["aa11"] == 2
    result = revoke(output, "--consent-ref", "A", "--yes")
    assert "0 committed clips and 0 files of this" in result.stdout
    assert list_editions(output).in_force["aa11"] == 2
    assert "revoked, but" not in invoke("verify", output).stdout
    photo = revoke(output, "--photo-sha256", "1" * 64, "--yes")
    assert "2 committed clips and 6 files of this" in photo.stdout, "bob's clip is of the same photo here"
    assert not list_editions(output).in_force


def test_the_scores_of_a_clip_go_with_it_and_a_photo_that_somebody_else_shows_stays() -> None:
    output = "memory://revoked"
    rows = [
        Owner(run_id="run-1", row=0, clip_id="aa11", subject_id="ada", photo_sha256="1" * 64),
        Owner(run_id="run-1", row=1, clip_id="bb22", subject_id="ada", photo_sha256="2" * 64),
        Owner(run_id="run-1", row=2, clip_id="cc33", subject_id="bob", photo_sha256="2" * 64),
        Owner(run_id="run-2", row=0, clip_id=None, subject_id="ada", photo_sha256="3" * 64),
    ]
    covered = find_covered(rows, {key_of(Kind.SUBJECT_ID, "ada")})
    assert covered.photos == {"1" * 64, "3" * 64}
    photos = {digit: storage.join(report_uri(output, "run-1"), report_photo(digit * 64)) for digit in "123"}
    scores = {clip_id: judgement_uri(output, clip_id, 1) for clip_id in ("aa11", "cc33")}
    for uri in (*photos.values(), *scores.values()):
        storage.write_bytes(uri, b"x")
    assert {*find_remains(output, covered).files} == {photos["1"], photos["3"], scores["aa11"]}


def test_erased_rows_say_nothing_about_the_person_and_all_others_stay(output: str, tmp_path: Path) -> None:
    write_event(output, event(EventKind.FAILED, minutes=1, clip_id="aa11", run_id="run-1"))
    write_event(output, event(EventKind.FAILED, minutes=1, clip_id="bb22", run_id="run-1"))

    result = revoke(output, "--subject", "lovelace", "--erase", "--yes")

    assert result.exit_code == 0, result.output
    rows = sorted(read_metadata(output).to_pylist(), key=lambda row: row["row"])
    assert [(row["outcome"], row["clip_id"], row["subject_id"]) for row in rows] == [
        ("rejected", None, None),
        ("rendered", "bb22", "bob"),
    ]
    assert [(owner.clip_id, owner.subject_id) for owner in read_owners(output) if owner.clip_id] == [("bb22", "bob")]
    uris = pq.read_table(Path(output) / "runs" / "run-1" / "manifest.parquet")["subject_uri"].to_pylist()
    assert uris == [None, "https://host/b.jpg"]
    assert ["bb22" in uri for uri in files_below(output, "events")] == [True]
    for file in Path(output).rglob("*"):
        assert not file.is_file() or b"lovelace" not in file.read_bytes(), file
    export = invoke("export", output, tmp_path / "handout", "--name", "{subject_id}.mp4")
    assert "handout: 0 clips" in export.stdout, "bob's is no video, but ada's has no name any more"
    assert revoke(output, "--subject", "lovelace", "--erase", "--yes").exit_code == 0


def test_an_erasure_that_was_interrupted_after_any_file_is_finished_later(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = storage.write_bytes, 0

    def stop_after_one(uri: str, data: bytes) -> None:
        """A kill cannot be timed from outside to come between two writes."""
        nonlocal written
        if written:
            raise KeyboardInterrupt
        written += 1
        write(uri, data)

    put_tombstone(output, Tombstone(kind=Kind.PHOTO_SHA256, digest="0" * 64, revoked_at=NOW, revoked_by="me"))
    revoked = {key_of(Kind.PHOTO_SHA256, "1" * 64)}
    num_stops = 0
    while True:
        owners = read_owners(output)
        rows = rows_to_blank(owners, revoked, find_covered(owners, revoked))
        with monkeypatch.context() as patch:
            written = 0
            patch.setattr(storage, "write_bytes", stop_after_one)
            try:
                erase_rows(output, revoked, rows)
                break
            except KeyboardInterrupt:
                num_stops += 1
    assert num_stops == 4, "two manifests, a part, two files of clips: each but the last is a place to stop at"
    assert {owner.clip_id for owner in read_owners(output)} == {None}
    for run_id in ("run-1", "run-2"):
        manifest = pq.read_table(Path(output) / "runs" / run_id / "manifest.parquet")
        assert manifest["subject_uri"].to_pylist()[0] is None


@pytest.mark.parametrize("name", ["runs/run-1/manifest.parquet", "runs/run-2/clips.parquet", "metadata/run=run-1/*"])
def test_a_damaged_file_is_named_and_the_others_are_erased(output: str, name: str) -> None:
    (damaged,) = Path(output).glob(name)
    intact, content = damaged.read_bytes(), b"PAR1" + b"lovelace" * 9
    damaged.write_bytes(content)
    for _ in range(2):
        result = revoke(output, "--subject", "lovelace", "--erase", "--yes")
        assert (
            result.exit_code,
            f"not everything is gone: {damaged}: must be restored or deleted" in result.stdout,
        ) == (3, True), result.output
    assert damaged.read_bytes() == content
    for file in Path(output).rglob("*"):
        assert file == damaged or not file.is_file() or b"lovelace" not in file.read_bytes(), file
    damaged.write_bytes(intact)
    assert revoke(output, "--subject", "lovelace", "--erase", "--yes").exit_code == 0
    assert b"lovelace" not in damaged.read_bytes()


def test_nothing_is_erased_while_a_run_lives(output: str) -> None:
    with beating(output, "run-1"):
        result = revoke(output, "--subject", "lovelace", "--erase", "--yes")
    assert result.exit_code == 2
    assert "--erase: run run-1 is alive" in result.stderr
    assert not read_revoked(output)


def test_who_revoked_stays_without_the_persons_name(output: str) -> None:
    revoke(output, "--subject", "lovelace", "--yes")
    revoke(output, "--consent-ref", "B", "--yes")
    person, consent = sorted(storage.read_bytes(uri).decode() for uri in files_below(output, "revocations"))[::-1]
    assert '"num_commits":2' in person
    assert '"reference":""' in person
    assert "lovelace" not in person
    assert '"reference":"B"' in consent
    assert '"revoked_by":"' in consent
    assert len(list(storage.list_files(tombstones_uri(output)))) == 2


def test_a_revoked_clip_is_withheld_from_export(output: str, tmp_path: Path) -> None:
    key = key_of(Kind.SUBJECT_ID, "lovelace")
    put_tombstone(output, Tombstone(kind=key.kind, digest=key.digest, revoked_at=NOW, revoked_by="me"))
    result = invoke("export", output, tmp_path / "handout")
    assert "  clip aa11: revoked\n  clip aa33: revoked\n" in result.stdout
    revoke(output, "--subject", "lovelace", "--yes")
    after = invoke("export", output, tmp_path / "handout", "--name", "{subject_id}.mp4")
    assert "lovelace.mp4" not in after.stdout, "nothing is lost: it is gone on purpose"


def test_an_audit_says_what_was_made_of_whom(output: str, tmp_path: Path) -> None:
    revoke(output, "--consent-ref", "B", "--yes")
    file = tmp_path / "audit.csv"
    for _ in range(2):
        result = invoke("audit", output, "--csv", file)
        assert result.exit_code == 0, result.output
    lines = {line["clip_id"]: line for line in csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig")))}
    assert {name: (line["subject_id"], line["consent_ref"], line["state"]) for name, line in lines.items()} == {
        "aa11": ("lovelace", "A", "in force"),
        "bb22": ("bob", "B", "withdrawn"),
        "aa33": ("lovelace", "A", "in force"),
    }
    content = file.read_bytes()
    assert content.startswith(BOM_UTF8), "without it, Excel takes the text for another encoding"
    file.write_bytes(content.removeprefix(BOM_UTF8))
    assert invoke("audit", output, "--csv", file).exit_code == 0, "an early version wrote none"
    assert file.read_bytes() == content
    assert lines["aa33"]["model"] == "base=f; is_parity=False"
    assert lines["aa11"]["allows_missing_consent"] == "True"
    (tmp_path / "mine.csv").write_text("a,b\n")
    assert invoke("audit", output, "--csv", tmp_path / "mine.csv").exit_code == 2


def test_a_spreadsheet_takes_no_cell_of_an_audit_for_a_formula(tmp_path: Path) -> None:
    output, file = str(tmp_path / "out"), tmp_path / "audit.csv"
    names = ("=1+1", "+49", "-x", "@x", "a=1")
    make(output, "run", [spec(f"aa{row}", name, "A", row) for row, name in enumerate(names)])
    assert invoke("audit", output, "--csv", file).exit_code == 0
    cells = {line["subject_id"] for line in csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig")))}
    assert cells == {"'=1+1", "'+49", "'-x", "'@x", "a=1"}


def test_an_unknown_person_is_barred_but_doubted_and_a_no_is_confirmed(output: str) -> None:
    told = CliRunner().invoke(app, ["revoke", output, "--subject", "Lovelace"], input="n\n")
    assert told.exit_code == 4
    assert "no run here has a clip with this subject_id; is it spelled right?" in told.stdout
    assert told.stdout.endswith("nothing was revoked\n")
    done = revoke(output, "--subject", "Lovelace", "--yes")
    assert "later runs here never render it again" in done.stdout
    assert "spelled" not in revoke(output, "--subject", "lovelace", "--yes").stdout


def test_clocks_do_not_matter_to_tombstones(output: str) -> None:
    key = key_of(Kind.SUBJECT_ID, "lovelace")
    for at in (datetime.now(UTC), NOW):
        put_tombstone(output, Tombstone(kind=key.kind, digest=key.digest, revoked_at=at, revoked_by="me"))
    assert read_revoked(output) == {key}
