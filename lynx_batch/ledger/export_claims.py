"""Which row owns which name of an export, and the conflicts between them. Pure: rows in, owners and conflicts out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import PurePosixPath
from typing import NamedTuple

from lynx_batch.clip import ON_WHICH_DISKS, file_key
from lynx_batch.ledger.export_names import name_row
from lynx_batch.ledger.requested import Row, describe
from lynx_batch.printable import counted


class Claim(NamedTuple):
    """A row claims a name for its clip. A withheld clip is not exported, but no older clip gets its name."""

    name: str
    row: Row
    is_withheld: bool


def claim_names(
    rows: Iterable[Row], template: str, columns: Iterable[str], withheld: Set[str], only: Set[str] | None
) -> tuple[list[Claim], list[str]]:
    """The names of all rows, and the problems of rows that need a name and have none. A problem of many rows is told of the first one.

    Withheld clips, and those that are not among `only`, need no name.
    """
    claims, unnamed = [], dict[str, list[Row]]()
    for row in rows:
        is_withheld = row["clip_id"] is None or row["clip_id"] in withheld
        try:
            name = name_row(row, template, columns)
        except (ValueError, OverflowError) as rule:  # OverflowError: the format asks for a number as a character
            if not is_withheld and _is_chosen(row, only):
                unnamed.setdefault(str(rule), []).append(row)
        else:
            claims.append(Claim(name, row, is_withheld))
    return claims, [f"{describe(rows[0])}: {rule}{_and_others(rows)}" for rule, rows in unnamed.items()]


def _and_others(rows: Sequence[Row]) -> str:
    return f" (and so in {counted(len(rows) - 1, 'more row')})" if len(rows) > 1 else ""


def settle(claims: Iterable[Claim], only: Set[str] | None) -> tuple[dict[str, Row], list[str]]:
    """The row that owns each name, without withheld ones, and the conflicts; `claims` has the newest run first.

    A conflict with a clip that is not among `only` is none: the clip that is has the name.
    """

    def is_chosen(claim: Claim) -> bool:
        return _is_chosen(claim.row, only)

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


def _is_chosen(row: Row, only: Set[str] | None) -> bool:
    return only is None or row["clip_id"] in only


def _is_same_clip(first: Claim, second: Claim) -> bool:
    return bool(first.row["clip_id"] == second.row["clip_id"])


def _are_of_two_manifests(first: Claim, second: Claim) -> bool:
    """False if the manifest of one is unknown."""
    manifests = {first.row["manifest"], second.row["manifest"]}
    return len(manifests) == 2 and None not in manifests


def explain_merged(owners: Mapping[str, Row]) -> Iterator[str]:
    """Conflicts between names: a file where a folder must be, or one file for two clips on a disk that ignores upper and lower case."""
    files: dict[str, str] = {}
    for name, row in owners.items():
        first = files.setdefault(file_key(name), name)
        if first != name and owners[first]["clip_id"] != row["clip_id"]:
            yield f"{describe(row)}: {name!r} must not be the same file as {first!r} of {describe(owners[first])} {ON_WHICH_DISKS}"
    for name in sorted(owners):
        for folder in PurePosixPath(name).parents:
            if (file := files.get(file_key(str(folder)))) is not None:
                yield f"{file!r} must not be both a clip and the folder of {name!r}"
