"""`export`: committed clips under readable names, as files or as a webdataset, and a table of what became of each row."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from lynx_batch import exits, storage
from lynx_batch.cli import options
from lynx_batch.cli.answers import ExportAnswer
from lynx_batch.cli.console import say, say_answer, say_some, silence
from lynx_batch.cli.export_writing import ExportRequest, export_files, export_shards
from lynx_batch.cli.outputs import Output
from lynx_batch.cli.tables import TableKind
from lynx_batch.errors import ConfigError
from lynx_batch.places import WRITABLE, explain_place
from lynx_batch.printable import counted

if TYPE_CHECKING:
    from lynx_batch.ledger.export import NamedClips
    from lynx_batch.ledger.manifest_lines import ManifestLine

MAX_WITHHELD_SHOWN = 50

SUFFIX = ".mp4"

LONGEST_LINK = "7d"
"""S3 and Google sign for no longer."""


class Format(StrEnum):
    """What an export makes of the clips."""

    FILES = "files"
    WEBDATASET = "webdataset"


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
    request = ExportRequest(
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
    lines = chosen.lines or ()
    if kind is Format.WEBDATASET:
        answer = export_shards(request, naming, lines, now, shard_mb * 10**6)
    else:
        answer = export_files(request, naming, lines, now, template)
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


def _check_links(request: ExportRequest) -> None:
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
        return read_manifest_lines(output, read_manifest(manifest), storage.absolute(manifest), run_id)
    return read_all_lines(output) if run_id is None else read_run_lines(output, run_id)


def _matching(lines: "Sequence[ManifestLine]", where: str) -> "list[ManifestLine]":
    import pyarrow as pa

    from lynx_batch.intake.expression import choose_rows
    from lynx_batch.ledger.metadata import FILTER_COLUMNS, READ_SCHEMA

    table = pa.Table.from_pylist([line.row for line in lines], READ_SCHEMA)
    numbered = table.append_column("number", pa.array(range(table.num_rows), pa.int64()))
    return [lines[number] for number in sorted(choose_rows(numbered, where, FILTER_COLUMNS)["number"].to_pylist())]


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
