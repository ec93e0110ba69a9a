"""`export`: committed clips under readable names, as files or as a webdataset, and a table of what became of each row."""

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from lynx_batch import exits, storage
from lynx_batch.cli import options
from lynx_batch.cli.answers import ExportAnswer
from lynx_batch.cli.console import say, say_answer, say_some, silence
from lynx_batch.cli.outputs import Output
from lynx_batch.cli.tables import TableKind, check_num_lines, write_table
from lynx_batch.errors import ConfigError
from lynx_batch.places import WRITABLE, explain_place
from lynx_batch.printable import counted

if TYPE_CHECKING:
    from lynx_batch.ledger.commits import CommitRecord
    from lynx_batch.ledger.export import NamedClips
    from lynx_batch.ledger.export_table import ExportTable
    from lynx_batch.ledger.manifest_lines import ManifestLine

MAX_WITHHELD_SHOWN = 50

TABLE_NAME = "clips"
SUFFIX = ".mp4"

LONGEST_LINK = "7d"
"""S3 and Google sign for no longer."""

Links = Mapping[str, storage.SignedLink | str]


class Format(StrEnum):
    """What an export makes of the clips."""

    FILES = "files"
    WEBDATASET = "webdataset"


@dataclass(frozen=True, slots=True, kw_only=True)
class _ExportRequest:
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
            return storage.join(_absolute(self.destination), name)
        return storage.join(_absolute(self.output), commit.clip_uri)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """Which clips to export.

    `listed` are those that a person approved, `only` all that the options leave; None is all. `lines` are the rows of the table, None if
    nothing needs them.
    """

    listed: Set[str] | None
    only: Set[str] | None
    lines: "Sequence[ManifestLine] | None"


def export(
    output: Output,
    destination: Annotated[str, typer.Argument(metavar="DEST", help="A folder: a path or a URI.")],
    name: Annotated[
        str | None,
        typer.Option(
            help="The name of each clip, with metadata columns in braces. Default: {subject_id}/{clip_name}.mp4, where the photo's file "
            "name and the prompt's first words stand for what is missing."
        ),
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="Only clips whose metadata match, such as: likeness_p10 > 0.4.")
    ] = None,
    run_id: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Only the rows of this run.")] = None,
    manifest: Annotated[
        str | None, typer.Option(metavar="FILE", help="Exactly the rows of this manifest, by its names.")
    ] = None,
    clip_list: Annotated[
        str | None, typer.Option("--list", metavar="FILE", help="Only the clips approved in this CSV of a report.")
    ] = None,
    table: Annotated[
        TableKind | None, typer.Option(help="Also write DEST/clips.csv (.xlsx, .parquet): a line for each row.")
    ] = None,
    sign: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Links in the table with which anybody can see the clips for so long, at most 7d."
        ),
    ] = None,
    no_copy: Annotated[
        bool, typer.Option("--no-copy", help="Write only the table; its links lead to the clips in OUT.")
    ] = False,
    kind: Annotated[
        Format,
        typer.Option(
            "--format", help="files, or webdataset: tar files for training, with an MP4 and a JSON for each clip."
        ),
    ] = Format.FILES,
    shard_mb: Annotated[int, typer.Option(min=1, help="The largest size of a webdataset's tar file, in MB.")] = 1000,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Also replace files in DEST that no export of OUT wrote.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Copy rendered clips to readable names. Replaces only files that an earlier export made, and lists what it wrote in DEST/export.json.

    Withholds clips whose newest row has an expired or withdrawn consent, and clips that their manifest no longer asks for.
    Exit codes: 0 DEST holds every clip that may be handed out, and every approved one of a list that may; 3 some clips are listed,
    because their video or commit is missing or damaged.
    """
    from lynx_batch.ledger.export import name_clips
    from lynx_batch.ledger.export_names import DEFAULT_NAME

    silence(as_json)
    _check_destination(output, destination)
    _check_together(kind, name, table, sign, no_copy=no_copy)
    request = _ExportRequest(
        output=output,
        destination=destination,
        table=table,
        sign_s=None if sign is None else _parse_sign(sign),
        copies=not no_copy,
        overwrites=overwrite,
    )
    _check_links(request)
    now = datetime.now(UTC)
    needs_lines = table is not None or kind is Format.WEBDATASET
    chosen = _choose(output, where, run_id, manifest, clip_list, needs_lines=needs_lines)
    named = DEFAULT_NAME if name is None else name
    template = "{clip_id}" if kind is Format.WEBDATASET else named
    is_by_lines = run_id is not None or manifest is not None
    naming = name_clips(
        output,
        template,
        now,
        chosen.only,
        chosen.lines if is_by_lines else None,
        is_manifest_given=manifest is not None,
    )
    if kind is Format.WEBDATASET:
        answer = _export_shards(request, naming, chosen, now, shard_mb * 10**6)
    else:
        answer = _export_files(request, naming, chosen, now, template)
    _finish(output, naming, chosen, answer)


def _check_destination(output: str, destination: str) -> None:
    if rule := explain_place(destination, WRITABLE):
        raise ConfigError(f"DEST {storage.redact(destination)}: {rule}")
    if storage.is_within(destination, output):
        raise ConfigError(
            f"DEST {storage.redact(destination)}: must not be inside OUT, whose folders belong to the runs"
        )


def _check_together(
    kind: Format, name: str | None, table: TableKind | None, sign: str | None, *, no_copy: bool
) -> None:
    if name is not None and not name.endswith(SUFFIX):
        raise ConfigError(f"--name {name!r}: must end in {SUFFIX}")
    given = {"--name": name is not None, "--table": table is not None, "--sign": sign is not None, "--no-copy": no_copy}
    for option, is_given in given.items():
        if is_given and kind is Format.WEBDATASET:
            raise ConfigError(f"{option}: must not be given together with --format webdataset, whose files are shards")
        if is_given and table is None and option in ("--sign", "--no-copy"):
            raise ConfigError(f"{option}: needs --table, in which the links are")


def _parse_sign(sign: str) -> int:
    seconds = options.parse_duration("--sign", sign)
    if seconds > options.parse_duration("--sign", LONGEST_LINK):
        raise ConfigError(f"--sign {sign!r}: must be at most {LONGEST_LINK}: stores sign for no longer")
    return max(1, int(seconds))


def _check_links(request: _ExportRequest) -> None:
    """Raises ConfigError if the links that were asked for would lead to local files."""
    if request.sign_s is None or request.has_signed_copies or not storage.is_local(request.output):
        return
    raise ConfigError(
        "--sign: needs clips in a bucket (s3://, gs://, az://), but "
        + ("OUT and DEST are local" if request.copies else "OUT, where the links lead with --no-copy, is local")
    )


def _choose(
    output: str,
    where: str | None,
    run_id: str | None,
    manifest: str | None,
    clip_list: str | None,
    *,
    needs_lines: bool,
) -> _Chosen:
    from lynx_batch.ledger.clip_list import Decision, read_clip_list

    listed = None if clip_list is None else read_clip_list(clip_list, Decision.APPROVE)
    is_part = not (where is None and run_id is None and manifest is None)
    if not is_part and not needs_lines:
        return _Chosen(listed=listed, only=listed, lines=None)
    lines = _read_lines(output, run_id, manifest)
    if where is not None:
        lines = _matching(lines, where)
    if listed is not None:
        lines = [line for line in lines if line.row["clip_id"] in listed]
    asked = {line.row["clip_id"] for line in lines} - {None}
    return _Chosen(listed=listed, only=asked if is_part else listed, lines=lines)


def _read_lines(output: str, run_id: str | None, manifest: str | None) -> "list[ManifestLine]":
    from lynx_batch.intake.manifest import read_manifest
    from lynx_batch.ledger.manifest_lines import read_all_lines, read_manifest_lines, read_run_lines

    if manifest is not None:
        return read_manifest_lines(output, read_manifest(manifest), _absolute(manifest), run_id)
    return read_all_lines(output) if run_id is None else read_run_lines(output, run_id)


def _matching(lines: "Sequence[ManifestLine]", where: str) -> "list[ManifestLine]":
    import pyarrow as pa

    from lynx_batch.intake.expression import choose_rows
    from lynx_batch.ledger.metadata import FILTER_COLUMNS, READ_SCHEMA

    table = pa.Table.from_pylist([line.row for line in lines], READ_SCHEMA)
    numbered = table.append_column("number", pa.array(range(table.num_rows), pa.int64()))
    return [lines[number] for number in sorted(choose_rows(numbered, where, FILTER_COLUMNS)["number"].to_pylist())]


def _export_files(
    request: _ExportRequest, naming: "NamedClips", chosen: _Chosen, now: datetime, template: str
) -> ExportAnswer:
    """Copies the clips, then writes the list, and last the table."""
    from lynx_batch.ledger.copies import copy_clips, refuse_file
    from lynx_batch.ledger.export_list import describe_file, list_of_clips, open_list, refuse_foreign, write_list

    destination, table_name = request.destination, request.table_name
    refuse_file(destination)
    listed = open_list(request.output, destination, now, overwrites=request.overwrites)
    if request.table is not None and table_name is not None:
        check_num_lines(request.table, len(chosen.lines or ()))
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
        table = _make_table(chosen.lines or (), template, naming, links, left_out, are_copied=request.copies)
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


def _make_links(request: _ExportRequest, exported: "Mapping[str, CommitRecord]") -> Links:
    """The link of each name; nothing if no table needs them."""
    if request.table is None:
        return {}
    places = {name: request.place_of(name, commit) for name, commit in exported.items()}
    if request.sign_s is None:
        return {name: storage.redact(place) for name, place in places.items()}
    return {name: storage.sign(place, request.sign_s) for name, place in places.items()}


def _make_table(
    lines: "Sequence[ManifestLine]",
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


def _export_shards(
    request: _ExportRequest, naming: "NamedClips", chosen: _Chosen, now: datetime, max_bytes: int
) -> ExportAnswer:
    from lynx_batch.ledger.copies import refuse_file
    from lynx_batch.ledger.export_list import open_list
    from lynx_batch.ledger.shards import write_shards

    refuse_file(request.destination)
    shards = write_shards(
        request.output,
        naming.clips.values(),
        {line.row["clip_id"]: line.row for line in chosen.lines or ()},
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
    request: _ExportRequest,
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


def _finish(output: str, naming: "NamedClips", chosen: _Chosen, answer: ExportAnswer) -> None:
    """Says what is missing and why, and ends the command."""
    from lynx_batch.ledger.editions import list_editions

    editions = list_editions(output)
    exported = {commit.clip_id for name, commit in naming.clips.items() if name not in answer.left_out}
    if num_older := len(exported & editions.redo.keys()):
        say(f"{num_older} of them in an older edition: `retry --redo` asked for another, which is not committed")
    if naming.withheld:
        say(f"{len(naming.withheld)} withheld (existing copies from an earlier export are not deleted):")
        say_some([f"clip {clip_id}: {why}" for clip_id, why in sorted(naming.withheld.items())], MAX_WITHHELD_SHOWN)
    accounted_for = naming.withheld.keys() | {commit.clip_id for commit in naming.clips.values()}
    committed, has_damaged = {*editions.in_force}, bool(answer.left_out)
    unknown = (chosen.listed or frozenset()) - committed
    why = "it is in the list, but not committed; `accept` commits what the quality gate rejected"
    left_out = answer.left_out | {f"clip {clip_id}": why for clip_id in unknown}
    committed = committed if chosen.only is None else committed & chosen.only
    if num_nameless := len(committed - accounted_for):
        say(
            f"{counted(num_nameless, 'more clip')} committed, but not exported: a newer clip has the name, or the metadata lacks the clip "
            f"because its run has not ended or was killed"
        )
    say_answer(answer.model_copy(update={"left_out": left_out, "num_nameless": num_nameless}))
    if left_out:
        say(f"{counted(len(left_out), 'clip')} left out:")
        for clip_name, why in sorted(left_out.items()):
            say(f"  {clip_name}: {why}")
        if has_damaged:
            say("`verify --repair` and then `render` make damaged or missing clips again")
        raise typer.Exit(exits.INCOMPLETE)


def _absolute(uri: str) -> str:
    path = storage.path_of(uri)
    return uri if path is None else os.path.abspath(path)
