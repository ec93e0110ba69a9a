"""`revoke`: takes back everything that was made of a person, on a consent or of a photo."""

import getpass
import os
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from lynx_batch import exits, storage
from lynx_batch.cli.console import say, say_some
from lynx_batch.cli.outputs import Output
from lynx_batch.errors import ConfigError, StoreRefused
from lynx_batch.planning.revocation import SHA256, Key, Kind, find_covered, key_of, rows_to_blank
from lynx_batch.printable import counted

# pyarrow takes a while to load, so the ledger is imported by the command.
if TYPE_CHECKING:
    from lynx_batch.ledger.erase import Erased
    from lynx_batch.ledger.remains import Remains
    from lynx_batch.ledger.tombstones import Revocation
    from lynx_batch.planning.revocation import Owner

MAX_FILES_SHOWN = 50


def revoke(
    output: Output,
    subject: Annotated[str | None, typer.Option(metavar="ID", help="Everything of this subject_id.")] = None,
    consent_ref: Annotated[str | None, typer.Option(metavar="REF", help="Everything made on this consent.")] = None,
    photo_sha256: Annotated[
        str | None, typer.Option(metavar="HASH", help="Everything made of the photo with this SHA-256.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
    erase: Annotated[
        bool, typer.Option("--erase", help="Also blank the rows in metadata and manifests. No run may be alive.")
    ] = False,
) -> None:
    """Withdraw and delete what was made of a person, and never make it again. Lists everything first, and asks.

    Deletes videos, posters, previews, kept tries, scores and saved steps of all runs, with their old versions in a versioned bucket, and
    the copies of photos in reports. Runs that are alive stop making such clips at once. Copies that `export` made are not deleted. If it is interrupted, run it again.
    Exit codes: 0 nothing is left; 2 bad arguments, or --erase while a run is alive; 3 the store does not permit a part of it, or a
    damaged file may hold data of the person, which is named; 4 not confirmed, or the store does not answer.
    """
    from lynx_batch.ledger.owners import read_owners
    from lynx_batch.ledger.remains import find_remains

    kind, value = _parse_choice(subject, consent_ref, photo_sha256)
    if erase:
        _refuse_living_runs(output)
    key = key_of(kind, value.strip())
    owners = read_owners(output)
    remains = find_remains(output, find_covered(owners, {key}))
    _show(output, kind, owners, key, remains, erase=erase)
    if not yes and not _is_confirmed():
        say("nothing was revoked")
        raise typer.Exit(exits.STOPPED)
    raise typer.Exit(_carry_out(output, key, "" if kind is Kind.SUBJECT_ID else value, erase=erase))


def _is_confirmed() -> bool:
    """Asks. Ctrl-C, and input that has ended, are a no."""
    try:
        return typer.confirm("This cannot be undone. Go on?")
    except typer.Abort:
        say("")
        return False


def _parse_choice(subject: str | None, consent_ref: str | None, photo_sha256: str | None) -> tuple[Kind, str]:
    given = {Kind.SUBJECT_ID: subject, Kind.CONSENT_REF: consent_ref, Kind.PHOTO_SHA256: photo_sha256}
    chosen = [(kind, value) for kind, value in given.items() if value is not None]
    if len(chosen) != 1:
        raise ConfigError("revoke: takes exactly one of --subject, --consent-ref and --photo-sha256")
    ((kind, value),) = chosen
    if not value.strip():
        raise ConfigError(f"revoke: {kind} must not be empty")
    if kind is Kind.PHOTO_SHA256 and not SHA256.fullmatch(value := value.lower()):
        raise ConfigError(f"--photo-sha256 {value!r}: must be 64 hexadecimal digits, as in the metadata's photo_sha256")
    return kind, value


def _refuse_living_runs(output: str) -> None:
    from lynx_batch.ledger.heartbeat import living_runs

    if living := sorted(living_runs(output, storage.clock(output))):
        raise ConfigError(
            f"--erase: run {', '.join(living)} is alive, or was two minutes ago, and would go on writing; revoke without --erase "
            f"now, which its workers obey at once, and with it when the run has ended"
        )


def _show(output: str, kind: Kind, owners: "list[Owner]", key: Key, remains: "Remains", *, erase: bool) -> None:
    found = f"{counted(len(remains.commits), 'committed clip')} and {counted(len(remains.files), 'file')}"
    say(f"{storage.redact(output)}: {found} of this {kind}")
    if not any(key in owner.keys for owner in owners):
        say(f"warning: no run here has a clip with this {kind}; is it spelled right?")
    say_some([storage.redact(uri) for uri in sorted(remains.files)], MAX_FILES_SHOWN)
    if erase:
        rows = rows_to_blank(owners, {key}, find_covered(owners, {key}))
        blanked = f"{counted(sum(map(len, rows.values())), 'row')} of {counted(len(rows), 'run')}"
        say(f"{blanked} would be blanked, and all reports deleted")


def _carry_out(output: str, key: Key, reference: str, *, erase: bool) -> int:
    """Puts the tombstone, removes what it covers, and notes what was done. Returns the exit code."""
    from lynx_batch.ledger.erase import remove_erased_versions
    from lynx_batch.ledger.owners import read_owners
    from lynx_batch.ledger.remains import find_remains, remove, remove_old_versions
    from lynx_batch.ledger.tombstones import Revocation, Tombstone, put_tombstone, write_revocation

    now, who = datetime.now(UTC), f"{_user()}@{socket.gethostname()}"
    put_tombstone(output, Tombstone(kind=key.kind, digest=key.digest, revoked_at=now, revoked_by=who))
    owners = read_owners(output)  # again: a run may have begun since
    covered = find_covered(owners, {key})
    remains, num_versions, num_rows, left = find_remains(output, covered), 0, 0, list[str]()
    try:
        remove(output, remains, now, command="revoke")
        num_versions = remove_old_versions(output, covered.clip_ids)
        if erase:
            erased = _erase(output, key, owners)
            num_rows, left = erased.num_rows, list(map(_explain_unreadable, erased.unreadable))
            num_versions += remove_erased_versions(output)
    except StoreRefused as refusal:
        left.append(str(refusal))
    revocation = Revocation(
        **key._asdict(),
        reference=reference,
        revoked_at=now,
        revoked_by=who,
        num_clips=len(covered.clip_ids),
        num_commits=len(remains.commits),
        num_files=len(remains.files),
        num_versions=num_versions,
        refusal="; ".join(left),
        is_erased=erase and not left,
        num_rows_blanked=num_rows,
    )
    write_revocation(output, revocation)
    say(_describe(revocation))
    return exits.INCOMPLETE if left else exits.DONE


def _user() -> str:
    """The user's name, or their number where a container has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # KeyError before Python 3.13
        return str(os.getuid())


def _erase(output: str, key: Key, owners: "list[Owner]") -> "Erased":
    from lynx_batch.ledger.erase import erase_events, erase_logs, erase_reports, erase_rows

    covered = find_covered(owners, {key})
    erase_events(output, covered.clip_ids)
    erase_reports(output)
    erase_logs(output)
    return erase_rows(output, {key}, rows_to_blank(owners, {key}, covered))


def _explain_unreadable(uri: str) -> str:
    return f"{uri}: must be restored or deleted, because it is damaged and may hold data of the person"


def _describe(revocation: "Revocation") -> str:
    done = (
        f"revoked: {counted(revocation.num_commits, 'commit')} withdrawn, {counted(revocation.num_files, 'file')} and "
        f"{counted(revocation.num_versions, 'old version')} deleted"
    )
    if revocation.is_erased:
        done += f", {counted(revocation.num_rows_blanked, 'row')} blanked"
    done += "; later runs here never render it again"
    if revocation.refusal:
        done += f"\nnot everything is gone: {revocation.refusal}. Get that permitted, or done by somebody else, then run this again"
    return done
