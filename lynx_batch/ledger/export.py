"""Readable names for rendered clips: names from the metadata, videos from the commits in force."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from string import Formatter
from typing import NamedTuple

from lynx_batch import storage
from lynx_batch.clip import explain_file_name
from lynx_batch.columns import column_of, tag_key
from lynx_batch.errors import ConfigError
from lynx_batch.ledger.commits import CommitRecord
from lynx_batch.ledger.editions import Editions, list_editions
from lynx_batch.ledger.history import known_commits
from lynx_batch.ledger.manifest_lines import ManifestLine
from lynx_batch.ledger.metadata import FILTER_COLUMNS, Outcome, results_of
from lynx_batch.ledger.owners import read_owners
from lynx_batch.ledger.requested import Row, describe, explain_end, find_requested, has_ended
from lynx_batch.ledger.tombstones import read_revoked
from lynx_batch.output import commit_uri
from lynx_batch.planning.revocation import Covered, find_covered
from lynx_batch.spelling import nearest

MAX_PROBLEMS_SHOWN = 20

NAMES = [name for name in FILTER_COLUMNS if name != "tags"]
"""The columns that a name may have, besides single tags."""

DEFAULT_NAME = "{subject_id}/{clip_name}.mp4"

STAND_INS = {"subject_id": ("subject_uri", "subject_uris"), "clip_name": ("prompt",)}
"""Where one of these columns is null, a readable name is made from the first other column that is not."""

MAX_WORDS_LENGTH = 40
CLIP_ID_SHOWN = 8
"""How much of the prompt and of the ClipId stands for a missing name."""

TOO_WIDE = re.compile(r"[0-9]{4}")
"""A width or precision that is too large for a file name, and perhaps for memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedClips:
    """`clips` are those to export, by their names below the destination.

    Reasons for the others: `withheld` by clip; `lost` by name, for clips that were rendered but no longer have a commit.
    """

    clips: Mapping[str, CommitRecord]
    withheld: Mapping[str, str]
    lost: Mapping[str, str]


class _Tags:
    """A row's tags for `{tags.city}` and `{tags[any key]}`."""

    def __init__(self, tags: Iterable[tuple[str, str]]) -> None:
        self._tags = dict(tags)

    def __getitem__(self, key: str | int) -> str:
        """Raises ValueError with the broken rule if the row lacks the tag. A key of digits arrives as a number."""
        if str(key) not in self._tags:
            raise ValueError(f"tags.{key} must not be null")
        return self._tags[str(key)]

    def __getattr__(self, key: str) -> str:
        return self[key]


class Claim(NamedTuple):
    """A row claims a name for its clip. A withheld clip is not exported, but no older clip gets its name."""

    name: str
    row: Row
    is_withheld: bool


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
    columns = _columns_of(template)
    needed = [*columns, *(source for name in columns for source in STAND_INS.get(name, ()))]
    requested, editions = find_requested(output, needed, now), list_editions(output)
    commits = {commit.clip_id: commit for commit in known_commits(output, editions.in_force)}
    asking = requested.rows if lines is None else [_asking(line) for line in lines]
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
    claims, problems = _claim(rows, template, columns, withheld.keys())
    owners, conflicts = _settle(claims, only)
    problems += [*conflicts, *_explain_folders(owners)]
    if problems:
        raise ConfigError(_describe(problems, template))
    owners = {name: row for name, row in owners.items() if only is None or row["clip_id"] in only}
    return NamedClips(
        clips={name: commits[row["clip_id"]] for name, row in owners.items() if row["clip_id"] in commits},
        withheld={
            clip_id: why
            for clip_id, why in withheld.items()
            if clip_id in editions.in_force and (only is None or clip_id in only)
        },
        lost={
            name: _explain_lost(output, row["clip_id"], editions)
            for name, row in owners.items()
            if row["clip_id"] not in commits
        },
    )


def names_of_lines(lines: Iterable[ManifestLine], template: str, clips: Mapping[str, CommitRecord]) -> list[str | None]:
    """The name under which the clip of each line is exported: its own, or else one that another row gave the same clip."""
    columns, names = _columns_of(template), dict[str, str]()
    for name, commit in clips.items():
        names.setdefault(commit.clip_id, name)
    return [_name_of_line(line.row, template, columns, clips) or names.get(line.row["clip_id"]) for line in lines]


def _name_of_line(row: Row, template: str, columns: Iterable[str], clips: Mapping[str, CommitRecord]) -> str | None:
    try:
        name = _name(row, template, columns)
    except (ValueError, OverflowError):
        return None
    return name if name in clips and clips[name].clip_id == row["clip_id"] else None


def _asking(line: ManifestLine) -> Row:
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


def _columns_of(template: str) -> list[str]:
    """The columns that a template names; `tags` for each tag."""
    try:
        fields = [(name, spec) for _, name, spec, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ConfigError(f"--name {template!r}: {error}") from None
    for name, spec in fields:
        if name not in NAMES and tag_key(name) is None:
            raise ConfigError(
                f"--name {template!r}: {name!r} must be a column of the metadata (the nearest is "
                f"{nearest(name, NAMES)!r}) or tags.KEY: {', '.join(NAMES)}"
            )
        if spec and "{" in spec:
            raise ConfigError(f"--name {template!r}: the format of {name!r} must not contain braces")
        if spec and TOO_WIDE.search(spec):
            raise ConfigError(f"--name {template!r}: the format of {name!r} must not contain a number above 999")
    return [column_of(name) for name, _ in fields]


def _was_rendered(row: Row, editions: Editions) -> bool:
    clip_id = row["clip_id"]
    return clip_id in editions.in_force or clip_id in editions.withdrawn or row["outcome"] == Outcome.RENDERED


def _results(commit: CommitRecord, columns: Iterable[str]) -> Row:
    """The values of a commit in force, for a row whose own values may be of an earlier edition or missing."""
    results = dict(results_of(commit))
    return {name: results[name] for name in columns if name in results}


def _claim(
    rows: Iterable[Row], template: str, columns: Iterable[str], withheld: Set[str]
) -> tuple[list[Claim], list[str]]:
    """The names of all rows, and the problems of rows that need a name and have none."""
    claims, problems = [], []
    for row in rows:
        is_withheld = row["clip_id"] is None or row["clip_id"] in withheld
        try:
            name = _name(row, template, columns)
        except (ValueError, OverflowError) as rule:  # OverflowError: the format asks for a number as a character
            problems += [] if is_withheld else [f"{describe(row)}: {rule}"]
        else:
            claims.append(Claim(name, row, is_withheld))
    return claims, problems


def _name(row: Row, template: str, columns: Iterable[str]) -> str:
    """The name of one row. Raises ValueError with the broken rule: a name must stay below the destination on every store."""
    row = row | {column: _stand_in(row, column) for column in columns if row[column] is None}
    for column in columns:
        if row[column] is None:
            raise ValueError(f"{column} must not be null")
    name = template.format_map(row | ({"tags": _Tags(row["tags"])} if "tags" in columns else {}))
    if rule := explain_file_name(name):
        raise ValueError(f"{name!r} {rule}")
    return name


def _stand_in(row: Row, column: str) -> str | None:
    """For the person: the photo's file name. For the clip: the beginnings of its prompt and of its ClipId. None for any other column."""
    source = next(filter(None, map(row.get, STAND_INS.get(column, ()))), None)
    if source is None:
        return None
    if column == "subject_id":
        return PurePosixPath(source if isinstance(source, str) else source[0]).stem or None
    return "-".join(filter(None, (_first_words(source), (row["clip_id"] or "")[:CLIP_ID_SHOWN]))) or None


def _first_words(text: str) -> str:
    """As many whole words as fit, with hyphens between; of a long first word, its beginning."""
    joined = "-".join(re.findall(r"\w+", text.lower()))
    if len(joined) <= MAX_WORDS_LENGTH:
        return joined
    return joined[: MAX_WORDS_LENGTH + 1].rpartition("-")[0] or joined[:MAX_WORDS_LENGTH]


def _settle(claims: Iterable[Claim], only: Set[str] | None) -> tuple[dict[str, Row], list[str]]:
    """The row that owns each name, without withheld ones, and the conflicts; `claims` has the newest run first.

    A conflict with a clip that is not among `only` is none: the clip that is has the name.
    """

    def is_chosen(claim: Claim) -> bool:
        return only is None or claim.row["clip_id"] in only

    newest: dict[tuple[str | None, str], Claim] = {}
    problems = []
    for claim in claims:
        key = claim.row["manifest"], claim.name
        first = newest.setdefault(key, claim)
        if first.row["run"] == claim.row["run"] and not claim.is_withheld:
            if first.is_withheld or (is_chosen(claim) and not is_chosen(first)):
                newest[key] = claim
            elif is_chosen(claim) and not _is_same_clip(first, claim):
                rule = f"{claim.name!r} must not also be the name of row {first.row['row']}"
                problems.append(f"{describe(claim.row)}: {rule}")
    owners: dict[str, Claim] = {}
    for claim in newest.values():
        first = owners.setdefault(claim.name, claim)
        if not _are_of_two_manifests(first, claim) or _is_same_clip(first, claim):
            continue  # the newer one has the name
        if first.is_withheld or (is_chosen(claim) and not is_chosen(first)):
            owners[claim.name] = claim
        elif is_chosen(claim) and not claim.is_withheld:
            rule = f"{claim.name!r} must not also be the name of {describe(first.row)}, which is of another manifest"
            problems.append(
                f"{describe(claim.row)}: {rule}; add a column that tells them apart, for example {{rendered_by_run}}"
            )
    return {name: claim.row for name, claim in owners.items() if not claim.is_withheld}, problems


def _is_same_clip(first: Claim, second: Claim) -> bool:
    return bool(first.row["clip_id"] == second.row["clip_id"])


def _are_of_two_manifests(first: Claim, second: Claim) -> bool:
    """False if the manifest of one is unknown."""
    manifests = {first.row["manifest"], second.row["manifest"]}
    return len(manifests) == 2 and None not in manifests


def _explain_folders(names: Iterable[str]) -> Iterator[str]:
    files = set(names)
    for name in sorted(files):
        for folder in PurePosixPath(name).parents:
            if str(folder) in files:
                yield f"{str(folder)!r} must not be both a clip and the folder of {name!r}"


def _describe(problems: list[str], template: str) -> str:
    hidden = len(problems) - MAX_PROBLEMS_SHOWN
    more = [f"... and {hidden} more"] if hidden > 0 else []
    return "\n  ".join([f"--name {template!r}: nothing was exported:", *problems[:MAX_PROBLEMS_SHOWN], *more])


def _explain_lost(output: str, clip_id: str, editions: Editions) -> str:
    if clip_id in editions.in_force:
        uri = storage.redact(commit_uri(output, clip_id, editions.in_force[clip_id]))
        return f"{uri}: cannot be read as a commit"
    return f"the commit of clip {clip_id} is {'withdrawn' if clip_id in editions.withdrawn else 'gone'}"
