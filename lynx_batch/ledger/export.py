"""Readable names for rendered clips: names from the metadata, videos from the commits in force."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime

from lynx_batch import storage
from lynx_batch.errors import ConfigError
from lynx_batch.ledger.commits import CommitRecord
from lynx_batch.ledger.editions import Editions, list_editions
from lynx_batch.ledger.export_claims import claim_names, explain_merged, settle
from lynx_batch.ledger.export_names import STAND_INS, columns_of, name_row, refuse_unknown_tags
from lynx_batch.ledger.history import known_commits
from lynx_batch.ledger.manifest_lines import ManifestLine
from lynx_batch.ledger.metadata import Outcome, results_of
from lynx_batch.ledger.owners import read_owners
from lynx_batch.ledger.requested import Row, explain_end, find_requested, has_ended
from lynx_batch.ledger.tombstones import read_revoked
from lynx_batch.output import commit_uri
from lynx_batch.planning.revocation import Covered, find_covered

MAX_PROBLEMS_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedClips:
    """`clips` are those to export, by their names below the destination.

    Reasons for the others: `withheld` by clip; `lost` by name, for clips that were rendered but no longer have a commit.
    """

    clips: Mapping[str, CommitRecord]
    withheld: Mapping[str, str]
    lost: Mapping[str, str]


def name_clips(
    output: str,
    template: str,
    now: datetime,
    only: Set[str] | None = None,
    lines: Sequence[ManifestLine] | None = None,
    *,
    is_manifest_given: bool = False,
) -> NamedClips:
    """The clip of each name. If clips of one manifest share a name, the newest run's clip has it.

    Args:
        output: The output location.
        template: A name with columns of the metadata in braces, for example `{subject_id}/{clip_name}.mp4`.
        now: The time at which consents must not have expired.
        only: The clips to export; None is all. The others keep their names.
        lines: The rows that name clips, instead of those that any manifest still has.
        is_manifest_given: The lines are of a manifest that the user chose. It decides which rows there are, whatever the runs' manifests
            had, and a consent that has expired in it withholds a clip, too.

    Raises:
        ConfigError: If the template names a column that does not exist, or rows have no name of their own; lists all rows and rules.
    """
    columns = columns_of(template)
    needed = [*columns, *(source for name in columns for source in STAND_INS.get(name, ()))]
    requested, editions = find_requested(output, needed, now), list_editions(output)
    commits = {commit.clip_id: commit for commit in known_commits(output, editions.in_force)}
    asking = requested.rows if lines is None else [_row_of_line(line) for line in lines]
    withheld = {
        **(_explain_own_end(asking, now) if is_manifest_given else requested.removed),
        **requested.ended,
        **_explain_revoked(output, commits),
    }
    rows = [
        row | (_results(commits[row["clip_id"]], columns) if row["clip_id"] in commits else {})
        for row in asking
        if row["clip_id"] is None or row["clip_id"] in withheld or _was_rendered(row, editions)
    ]
    refuse_unknown_tags(template, rows)
    claims, problems = claim_names(rows, template, columns, withheld.keys(), only)
    owners, conflicts = settle(claims, only)
    chosen = {name: row for name, row in owners.items() if only is None or row["clip_id"] in only}
    problems += [*conflicts, *explain_merged(chosen)]
    if problems:
        raise ConfigError(_describe(problems, template))
    return NamedClips(
        clips={name: commits[row["clip_id"]] for name, row in chosen.items() if row["clip_id"] in commits},
        withheld={
            clip_id: why
            for clip_id, why in withheld.items()
            if clip_id in editions.in_force and (only is None or clip_id in only)
        },
        lost={
            name: _explain_lost(output, row["clip_id"], editions)
            for name, row in chosen.items()
            if row["clip_id"] not in commits
        },
    )


def names_of_lines(lines: Iterable[ManifestLine], template: str, clips: Mapping[str, CommitRecord]) -> list[str | None]:
    """The name under which the clip of each line is exported: its own, or else one that another row gave the same clip."""
    columns, names = columns_of(template), dict[str, str]()
    for name, commit in clips.items():
        names.setdefault(commit.clip_id, name)
    return [_name_of_line(line.row, template, columns, clips) or names.get(line.row["clip_id"]) for line in lines]


def _name_of_line(row: Row, template: str, columns: Iterable[str], clips: Mapping[str, CommitRecord]) -> str | None:
    try:
        name = name_row(row, template, columns)
    except (ValueError, OverflowError):
        return None
    return name if name in clips and clips[name].clip_id == row["clip_id"] else None


def _row_of_line(line: ManifestLine) -> Row:
    """A row that claims a name. All lines count as rows of one run, so that two of them cannot share a name."""
    own = {"source": line.source, "run": line.source, "manifest": line.source}
    return line.row | own | {"consent_expires_at": line.given.get("consent_expires_at")}


def _explain_own_end(rows: Iterable[Row], now: datetime) -> dict[str, str]:
    """Clips whose consent has expired by the row itself that asks for them."""
    return {row["clip_id"]: explain_end(row) for row in rows if row["clip_id"] is not None and has_ended(row, now)}


def _explain_revoked(output: str, commits: Mapping[str, CommitRecord]) -> dict[str, str]:
    """Clips that a revocation covers, committed or not; a clip that was rendered again on another consent is not among them."""
    revoked = read_revoked(output)
    covered = find_covered(read_owners(output), revoked) if revoked else Covered(clip_ids=frozenset())
    made_by = {clip_id: commits[clip_id].run_id if clip_id in commits else None for clip_id in covered.clip_ids}
    return {clip_id: "revoked" for clip_id, run_id in made_by.items() if covered.holds(clip_id, run_id)}


def _was_rendered(row: Row, editions: Editions) -> bool:
    clip_id = row["clip_id"]
    return clip_id in editions.in_force or clip_id in editions.withdrawn or row["outcome"] == Outcome.RENDERED


def _results(commit: CommitRecord, columns: Iterable[str]) -> Row:
    """The values of a commit in force, for a row whose own values may be of an earlier edition or missing."""
    results = dict(results_of(commit))
    return {name: results[name] for name in columns if name in results}


def _describe(problems: list[str], template: str) -> str:
    hidden = len(problems) - MAX_PROBLEMS_SHOWN
    more = [f"... and {hidden} more"] if hidden > 0 else []
    return "\n  ".join([f"--name {template!r}: nothing was exported:", *problems[:MAX_PROBLEMS_SHOWN], *more])


def _explain_lost(output: str, clip_id: str, editions: Editions) -> str:
    if clip_id in editions.in_force:
        uri = storage.redact(commit_uri(output, clip_id, editions.in_force[clip_id]))
        return f"{uri}: cannot be read as a commit"
    return f"the commit of clip {clip_id} is {'withdrawn' if clip_id in editions.withdrawn else 'gone'}"
