"""What `export` writes: copies or shards of clips, and the table with their links."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING

from lynx_batch import storage
from lynx_batch.cli.answers import ExportAnswer
from lynx_batch.cli.console import say
from lynx_batch.cli.tables import TableKind, check_num_lines, write_table
from lynx_batch.printable import counted

if TYPE_CHECKING:
    from lynx_batch.ledger.commits import CommitRecord
    from lynx_batch.ledger.export import NamedClips
    from lynx_batch.ledger.export_table import ExportTable
    from lynx_batch.ledger.manifest_lines import ManifestLine

TABLE_NAME = "clips"

Links = Mapping[str, storage.SignedLink | str]
Lines = Sequence["ManifestLine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """The options that decide what is written."""

    output: str
    destination: str
    table: TableKind | None
    sign_s: int | None
    copies: bool
    overwrites: bool

    @property
    def table_name(self) -> str | None:
        return None if self.table is None else f"{TABLE_NAME}.{self.table}"

    @property
    def has_signed_copies(self) -> bool:
        return self.copies and not storage.is_local(self.destination)

    def place_of(self, name: str, commit: "CommitRecord") -> str:
        """What the link of a clip leads to: its copy, unless there is none, or none that can be signed."""
        if self.copies and (self.sign_s is None or self.has_signed_copies):
            return storage.join(storage.absolute(self.destination), name)
        return storage.join(storage.absolute(self.output), commit.clip_uri)


def export_files(
    request: ExportRequest, naming: "NamedClips", lines: Lines, now: datetime, template: str
) -> ExportAnswer:
    """Copies the clips, then writes the list, and last the table."""
    from lynx_batch.ledger.copies import copy_clips, refuse_file
    from lynx_batch.ledger.export_list import describe_file, list_of_clips, open_list, refuse_foreign, write_list

    destination, table_name = request.destination, request.table_name
    refuse_file(destination)
    listed = open_list(request.output, destination, now, overwrites=request.overwrites)
    if request.table is not None and table_name is not None:
        check_num_lines(request.table, len(lines))
        refuse_foreign(destination, table_name, listed, overwrites=request.overwrites)
    _make_links(
        request, dict(islice(naming.clips.items(), 1))
    )  # a trial: credentials that cannot sign are an error now
    left_out = dict(naming.lost)
    if request.copies:
        left_out |= copy_clips(request.output, naming.clips, destination, overwrites=request.overwrites)
    exported = {name: commit for name, commit in naming.clips.items() if name not in left_out}
    listed = listed.with_files(list_of_clips(exported) if request.copies else {})
    links, content = _make_links(request, exported), b""
    if request.table is not None and table_name is not None:
        table = _make_table(lines, template, naming, links, left_out, are_copied=request.copies)
        content = write_table(request.table, table.columns, table.lines)
        listed = listed.with_pending(table_name, describe_file(content))
    if listed.files:
        write_list(destination, listed)
    if table_name is not None:
        storage.write_bytes(storage.join(destination, table_name), content)
    what = "" if request.copies else " in the table, none copied"
    say(f"{storage.redact(destination)}: {counted(len(exported), 'clip')}{what}")
    ends_at = _say_links(links.values())
    return _answer(
        request, naming, left_out, num_clips=len(exported), is_listed=bool(listed.files), links_end_at=ends_at
    )


def _make_links(request: ExportRequest, exported: "Mapping[str, CommitRecord]") -> Links:
    """The link of each name; nothing if no table needs them."""
    if request.table is None:
        return {}
    places = {name: request.place_of(name, commit) for name, commit in exported.items()}
    if request.sign_s is None:
        return {name: storage.redact(place) for name, place in places.items()}
    return {name: storage.sign(place, request.sign_s) for name, place in places.items()}


def _make_table(
    lines: Lines,
    template: str,
    naming: "NamedClips",
    links: Links,
    left_out: Mapping[str, str],
    *,
    are_copied: bool,
) -> "ExportTable":
    from lynx_batch.ledger.export import names_of_lines
    from lynx_batch.ledger.export_table import make_table

    names = names_of_lines(lines, template, naming.clips)
    table = make_table(lines, names, naming, links, left_out, are_copied=are_copied)
    say(f"table: {counted(len(table.lines), 'line')}")
    return table


def _say_links(links: Iterable[storage.SignedLink | str]) -> datetime | None:
    """Says when the links end, and returns it."""
    signed = [link for link in links if isinstance(link, storage.SignedLink)]
    if not signed:
        return None
    first = min(link.ends_at for link in signed)
    say(f"links: they end at {first.isoformat(timespec='seconds')}")
    if any(link.ends_at < link.asked_until for link in signed):
        say("that is earlier than --sign asked for: the credentials that signed them are temporary and end then")
    if any(link.may_end_earlier for link in signed):
        say(
            "or earlier: the credentials that signed them are temporary, and the links end with them; the environment does not say when "
            "(AWS_CREDENTIAL_EXPIRATION)"
        )
    return first


def export_shards(
    request: ExportRequest, naming: "NamedClips", lines: Lines, now: datetime, max_bytes: int
) -> ExportAnswer:
    from lynx_batch.ledger.copies import refuse_file
    from lynx_batch.ledger.export_list import open_list
    from lynx_batch.ledger.shards import write_shards

    refuse_file(request.destination)
    shards = write_shards(
        request.output,
        naming.clips.values(),
        {line.row["clip_id"]: line.row for line in lines},
        request.destination,
        open_list(request.output, request.destination, now, overwrites=request.overwrites),
        max_bytes=max_bytes,
        overwrites=request.overwrites,
        announce=say,
    )
    for shard, clip_ids in shards.find_clips(naming.withheld.keys()).items():
        say(
            f"{shard} of an earlier export holds {counted(len(clip_ids), 'clip')} to be withheld now: delete it, and export again"
        )
    left_out = {**naming.lost, **shards.left_out}
    num_clips = len(naming.clips.keys() - left_out.keys())
    say(
        f"{storage.redact(request.destination)}: {counted(num_clips, 'clip')}, {counted(shards.num_written, 'shard')} written"
    )
    return _answer(
        request, naming, left_out, num_clips=num_clips, is_listed=bool(num_clips), num_shards=shards.num_written
    )


def _answer(
    request: ExportRequest,
    naming: "NamedClips",
    left_out: Mapping[str, str],
    *,
    num_clips: int,
    is_listed: bool,
    num_shards: int = 0,
    links_end_at: datetime | None = None,
) -> ExportAnswer:
    from lynx_batch.ledger.export_list import LIST_NAME

    destination, table_name = request.destination, request.table_name
    return ExportAnswer(
        destination=storage.redact(destination),
        num_clips=num_clips,
        num_shards=num_shards,
        export_list=storage.redact(storage.join(destination, LIST_NAME)) if is_listed else None,
        table=None if table_name is None else storage.redact(storage.join(destination, table_name)),
        links_end_at=links_end_at,
        withheld=dict(naming.withheld),
        left_out=dict(left_out),
        num_nameless=0,
    )
