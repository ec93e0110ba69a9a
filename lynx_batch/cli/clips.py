"""`verify` and `prune`: the rendered clips of an output location."""

import os
import random
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from lynx_batch import exits, storage
from lynx_batch.cli import options
from lynx_batch.cli.answers import VerifyAnswer
from lynx_batch.cli.console import say, say_answer, silence
from lynx_batch.cli.outputs import Output
from lynx_batch.errors import ConfigError, StoreRefused, UnreadableRecord
from lynx_batch.printable import counted

if TYPE_CHECKING:
    from lynx_batch.delivery.marker import Marker
    from lynx_batch.ledger.editions import Editions
    from lynx_batch.output import TryName

NUM_CLIPS_AT_ONCE = 1000

LEAST_AGE = timedelta(hours=1)
"""Store trouble can keep a live run silent, but not for this long."""


def verify(
    output: Output,
    sample: Annotated[int | None, typer.Option(min=1, help="Check only this many clips, chosen at random.")] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Withdraw faulty commits and set damaged tries aside: the next run renders them again."
        ),
    ] = False,
    watermark: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The network of `provenance.watermark`: read invisible watermarks, too."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Read every committed clip: does it exist, have its bytes changed, and does it decode to all its frames?

    Marks are read back, watermarks only with --watermark. The records of tries are read, too: a damaged one keeps its clip from going on. Also looks for clips and files that `revoke` should
    have removed. Exit codes: 0 all are as written and nothing revoked is left; 3 otherwise, with a list.
    """
    from lynx_batch.ledger.editions import list_editions

    silence(as_json)
    editions = list_editions(output)
    in_force = editions.in_force
    chosen = sorted(in_force) if sample is None else random.sample(sorted(in_force), min(sample, len(in_force)))
    faulty: dict[str, list[str]] = {}
    marker = None if watermark is None else _load_watermark(watermark)
    for clip_id, faults in _find_faults(output, {clip_id: in_force[clip_id] for clip_id in chosen}, marker):
        for fault in faults:
            say(f"clip {clip_id}: {fault}")
        if faults:
            faulty[clip_id] = faults
    say(f"{storage.redact(output)}: {len(chosen)} of {counted(len(in_force), 'clip')} read, {len(faulty)} faulty")
    damaged = _find_damaged_tries(output)
    for error in damaged.values():
        say(str(error))
    if repair:
        _withdraw_all(output, editions, {clip_id: "; ".join(faults) for clip_id, faults in faulty.items()})
        say(f"{counted(len(faulty), 'commit')} withdrawn; the next `lynx-batch render` renders such clips again")
    if repair and damaged:
        _set_aside(output, editions, damaged.keys())
        set_aside = counted(len(damaged), "damaged try", "damaged tries")
        say(f"{set_aside} set aside; the next `lynx-batch render` may render such a seed again")
    remains = _say_revoked(output)
    say_answer(
        VerifyAnswer(
            output=storage.redact(output),
            num_clips=len(in_force),
            num_read=len(chosen),
            faults=faulty,
            damaged_tries=[str(error) for error in damaged.values()],
            is_repaired=repair,
            remains=remains,
        )
    )
    raise typer.Exit(exits.INCOMPLETE if faulty or damaged or remains else exits.DONE)


def prune(
    output: Output,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    min_age: Annotated[
        str, typer.Option(help="Remove only files that are at least this old, by the store's clock.")
    ] = "24h",
    run_id: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Remove only this run's files, whatever their age.")
    ] = None,
    logs: Annotated[
        str | None, typer.Option(metavar="AGE", help="Also remove logs that are at least this old, such as 30d.")
    ] = None,
) -> None:
    """Remove what is of no use any more: videos that neither a commit nor an open try needs, and saved steps of finished clips.

    Of a clip that the quality gate rejected, what the run that rendered a try keeps (`quality.keep_rejected`) stays, and so does what the
    newest run keeps. Files of a run that has not ended stay until it has shown no sign of life for --min-age.
    """
    from lynx_batch.ledger.leftovers import find_leftovers, find_old_logs, of_run, unchanged_since

    if run_id is not None:
        _refuse_living(output, run_id)  # first, or it may commit what was a leftover, and end
    leftovers = find_leftovers(output)
    if run_id is None:
        before = storage.clock(output) - _parse_age("--min-age", min_age)
        chosen = list(unchanged_since(output, leftovers, before))
    else:
        chosen = list(of_run(output, leftovers, run_id))
    num_kept = len(leftovers) - len(chosen)
    if logs is not None:
        chosen += find_old_logs(output, storage.clock(output) - _parse_age("--logs", logs))
    for file in chosen:
        say(storage.redact(file.uri))
        if not dry_run:
            storage.delete(file.uri)
    megabytes = sum(file.num_bytes for file in chosen) / 1e6
    verb = "would be removed" if dry_run else "removed"
    say(f"{storage.redact(output)}: {counted(len(chosen), 'file')} of {megabytes:.1f} MB {verb}")
    if num_kept:
        kept = counted(num_kept, "more uncommitted file")
        say(f"{kept} kept: too new, or of another run or one that may be alive")


def _parse_age(option: str, text: str) -> timedelta:
    age = timedelta(seconds=options.parse_duration(option, text))
    if age < LEAST_AGE:
        raise ConfigError(
            f"{option} {text!r}: must be at least 1h; --run RUN removes what a killed run left at any age"
        )
    return age


def _refuse_living(output: str, run_id: str) -> None:
    """Raises ConfigError if the run is unknown or alive."""
    from lynx_batch.ledger.heartbeat import is_beating
    from lynx_batch.ledger.leftovers import has_ended
    from lynx_batch.ledger.runs import list_runs

    if run_id not in list_runs(output):
        raise ConfigError(
            f"--run {run_id!r}: must be a run of {storage.redact(output)}; `lynx-batch status` lists them"
        )
    if not has_ended(output, run_id) and is_beating(output, run_id):
        raise ConfigError(f"--run {run_id!r}: must not be alive, but it is: its heartbeat has just changed")


def _withdraw_all(output: str, editions: "Editions", reasons: Mapping[str, str]) -> None:
    """Withdraws the edition in force of each clip. If a redo of the clip was given up, that goes, too: else nobody would render the clip."""
    from lynx_batch.ledger.history import given_up_redos

    redos = given_up_redos(output, editions, reasons.keys())
    for clip_id, reason in reasons.items():
        _withdraw(output, clip_id, editions.in_force[clip_id], reason)
        if clip_id in redos:
            _withdraw(output, clip_id, redos[clip_id], "it was given up, and the edition before it is withdrawn")


def _withdraw(output: str, clip_id: str, edition: int, reason: str) -> None:
    from lynx_batch.ledger.commits import Withdrawal, withdraw

    withdrawal = Withdrawal(
        clip_id=clip_id, edition=edition, reason=reason, withdrawn_at=datetime.now(UTC), command="verify --repair"
    )
    withdraw(output, withdrawal)


def _find_damaged_tries(output: str) -> "dict[TryName, UnreadableRecord]":
    from lynx_batch.ledger.numbering import list_tries
    from lynx_batch.ledger.tries import read_each
    from lynx_batch.output import TRIES

    found = read_each(output, list_tries(storage.join(output, TRIES)))
    return {name: record for name, record in found if isinstance(record, UnreadableRecord)}


def _set_aside(output: str, editions: "Editions", names: "Iterable[TryName]") -> None:
    """Renames the records, and lets clips that failed because of them be tried again."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from lynx_batch.ledger.history import given_up_before, request_retry
    from lynx_batch.ledger.tries import set_aside

    for name in names:
        set_aside(output, name)
    given_up = given_up_before(output, editions)
    is_of_these = pc.is_in(given_up["clip_id"], pa.array([name.clip_id for name in names], pa.string()))
    is_unreadable = pc.equal(given_up["error_type"], UnreadableRecord.__name__)
    request_retry(output, given_up.filter(pc.and_(is_of_these, is_unreadable)), datetime.now(UTC))


def _say_revoked(output: str) -> list[str]:
    """Lists what is left of revoked people, consents and photos."""
    from lynx_batch.ledger.owners import read_owners
    from lynx_batch.ledger.remains import find_old_versions, find_remains
    from lynx_batch.ledger.tombstones import read_revoked
    from lynx_batch.planning.revocation import find_covered

    revoked = read_revoked(output)
    if not revoked:
        return []
    covered, versions = find_covered(read_owners(output), revoked), []
    remains = find_remains(output, covered)
    try:
        versions = find_old_versions(output, covered.clip_ids)
    except StoreRefused as refusal:
        say(f"old versions of revoked files were not looked for: {refusal}")
    lines = [f"clip {clip_id}: revoked, but still committed" for clip_id in sorted(remains.commits)]
    lines += [f"{storage.redact(uri)}: revoked, but still there" for uri in sorted(remains.files)]
    lines += [f"{storage.redact(version.uri)}: revoked, but an old version is still there" for version in versions]
    for line in lines:
        say(line)
    if lines:
        say("run the same `lynx-batch revoke` again to remove what is left")
    return lines


def _load_watermark(file: str) -> "Marker":
    from lynx_batch.config import ProvenanceConfig
    from lynx_batch.rendering.marking import load_marker

    return load_marker(ProvenanceConfig(marking="try", watermark=file))


def _find_faults(output: str, editions: Mapping[str, int], marker: "Marker | None") -> Iterator[tuple[str, list[str]]]:
    """Each clip with its faults. Reads several clips at once."""
    from lynx_batch.clip import StoredClip
    from lynx_batch.delivery.inspect import find_faults
    from lynx_batch.errors import MissingObject
    from lynx_batch.ledger.commits import read_commit

    promises = {field.name for field in fields(StoredClip)}

    def inspect(clip_id: str) -> tuple[str, list[str]]:
        try:
            commit = read_commit(output, clip_id, editions[clip_id])
        except (MissingObject, UnreadableRecord) as error:
            return clip_id, [str(error)]
        return clip_id, find_faults(output, clip_id, StoredClip(**commit.model_dump(include=promises)), marker)

    with ThreadPoolExecutor(2 * (os.cpu_count() or 1), thread_name_prefix="verify") as pool:
        clip_ids = iter(editions)
        while some := list(islice(clip_ids, NUM_CLIPS_AT_ONCE)):
            yield from pool.map(inspect, some)
