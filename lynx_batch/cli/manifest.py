"""The commands `manifest build` and `manifest show`. `manifest check` is in `manifest_check.py`."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from lynx_batch.cli import options
from lynx_batch.cli.console import add_row, make_console, say
from lynx_batch.cli.manifest_check import check
from lynx_batch.cli.targets import is_manifest, refuse_other_kind
from lynx_batch.errors import ConfigError
from lynx_batch.places import WRITABLE, explain_place
from lynx_batch.printable import counted
from lynx_batch.storage import redact

# pyarrow takes a while to load, so intake is imported by the commands that need it.
if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

manifest_app = typer.Typer(help="Build, check and look at manifests.", no_args_is_help=True)


@manifest_app.command()
def build(
    out: Annotated[str, typer.Option(help="Where to write the manifest: a path or a URI.")],
    photos: Annotated[
        str | None,
        typer.Option(
            help="A folder of photos, one person each; with --from: the folder that the table's photos are in."
        ),
    ] = None,
    rows: Annotated[
        str | None, typer.Option("--from", metavar="TABLE", help="A table of people: .xlsx, .csv, .tsv or .jsonl.")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="Prompts for everybody, with fields such as {{first_name}}: a text file, one a line, or a table."
        ),
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUES", help="A grid: such as guidance_scale=4,5,6 or ip_scale=0.6:1.0:0.2. Repeatable."
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="Such as 1,2,3 or 1-8. Without it, each clip gets a seed derived from what it asks for."),
    ] = None,
    size: Annotated[
        list[str] | None, typer.Option(help="Named sizes: 16:9, 9:16, 1:1 or 4:5, each -480p or -720p. Repeatable.")
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Also take photos from sub-folders.")] = False,
    person_folders: Annotated[
        bool, typer.Option("--person-folders", help="Each sub-folder of --photos has several photos of one person.")
    ] = False,
    consent_ref: Annotated[str | None, typer.Option(help="The consent_ref of every row that gives none.")] = None,
    keep: Annotated[
        str | None,
        typer.Option(metavar="COLUMNS", help="With --from: columns that become tags, such as a,b; '*': all others."),
    ] = None,
    ignore: Annotated[
        str | None, typer.Option(metavar="COLUMNS", help="With --from: columns to leave out; '*': all others.")
    ] = None,
    renamed: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="COLUMN=NAME", help="With --from: such as Foto=subject_uri. Repeatable."),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="With --from: the column that says which language of --prompts a person gets."
        ),
    ] = None,
    sheet: Annotated[str | None, typer.Option(help="With --from: the sheet of an .xlsx file.")] = None,
    prompts_sheet: Annotated[str | None, typer.Option(help="With --prompts: the sheet of an .xlsx file.")] = None,
    encoding: Annotated[str | None, typer.Option(help="The encoding of text files, if it is detected wrongly.")] = None,
) -> None:
    """Build a manifest: each photo, or each row of a table, with each prompt and each combination of a grid."""
    from lynx_batch.intake.build import build_from_folder, build_from_table, place_photos
    from lynx_batch.intake.grid import make_axes
    from lynx_batch.intake.headers import name_column, parse_map
    from lynx_batch.intake.manifest import write_manifest
    from lynx_batch.intake.people import ColumnUse
    from lynx_batch.intake.tables import ReadOptions, read_source
    from lynx_batch.intake.templates import read_templates

    options.refuse_blank({"--photos": photos, "--prompts": prompts, "--from": rows, "--consent-ref": consent_ref})
    if rule := explain_place(out, WRITABLE):
        raise ConfigError(f"--out {redact(out)}: {rule}")
    refuse_other_kind("--out", out, "a manifest", is_manifest)
    axes = make_axes(vary or (), size or (), seeds)
    if rows is not None:
        _refuse_given(
            {"--recursive": recursive, "--person-folders": person_folders},
            "must not be given together with --from, whose rows name their photos",
        )
        for option, value in (("--language", language), ("--prompts-sheet", prompts_sheet)):
            if value and prompts is None:
                raise ConfigError(f"{option} {value!r}: needs --prompts")
        source = read_source(rows, ReadOptions(sheet=sheet, encoding=encoding, renamed=parse_map(renamed or ())))
        for note in source.notes:
            say(f"{source.source}: {note}")
        use = ColumnUse(
            keep=_parse_columns(keep),
            ignore=_parse_columns(ignore),
            language=name_column(language) if language else None,
        )
        templates = None if prompts is None else read_templates(prompts, encoding, prompts_sheet)
        table = build_from_table(source, templates, axes, use=use, photos=photos, consent_ref=consent_ref)
    elif photos is not None and prompts is not None:
        _refuse_given(
            {"--keep": keep, "--ignore": ignore, "--map": renamed, "--language": language, "--sheet": sheet},
            "needs --from",
        )
        if recursive and person_folders:
            raise ConfigError(
                "--recursive: must not be given together with --person-folders, which takes sub-folders for persons"
            )
        templates = read_templates(prompts, encoding, prompts_sheet)
        table = build_from_folder(
            photos,
            templates,
            axes,
            consent_ref=consent_ref,
            is_recursive=recursive,
            has_person_folders=person_folders,
        )
    else:
        raise ConfigError(
            "manifest build: takes --photos and --prompts, or --from, perhaps with --photos and --prompts"
        )
    write_manifest(place_photos(table, out), out)
    say(f"{redact(out)}: {counted(table.num_rows, 'row')}")


manifest_app.command()(check)


@manifest_app.command()
def show(
    manifest: options.ManifestToRead,
    limit: Annotated[int, typer.Option(min=0, help="At most this many rows.")] = 20,
    where: options.Where = None,
) -> None:
    """Show rows of a manifest. Leaves out columns without values."""
    from lynx_batch.intake.manifest import read_manifest

    chosen = read_manifest(manifest, where)
    make_console().print(_as_table(chosen.slice(0, limit)))
    say(f"{min(limit, chosen.num_rows)} of {counted(chosen.num_rows, 'row')}")


def _parse_columns(text: str | None) -> tuple[str, ...]:
    """The normalised names in a list with commas; `*` stays."""
    from lynx_batch.intake.headers import name_column
    from lynx_batch.intake.people import ALL

    names = (name.strip() for name in (text or "").split(","))
    return tuple(name if name == ALL else name_column(name) for name in names if name)


def _refuse_given(options: "Mapping[str, object]", rule: str) -> None:
    """Raises ConfigError with the rule for the first option that has a value."""
    for option, value in options.items():
        if value:
            raise ConfigError(f"{option}: {rule}")


def _as_table(rows: "pa.Table") -> Table:
    names = [name for name in rows.column_names if rows[name].null_count < rows.num_rows or name == "row"]
    table = Table(*names)
    for cells in rows.select(names).to_pylist():
        add_row(table, *(_as_text(name, cell) for name, cell in cells.items()))
    return table


def _as_text(name: str, cell: object) -> str:
    if cell is None:
        return ""
    if name == "subject_uris" and isinstance(cell, list):
        return "\n".join(map(redact, cell))
    return redact(str(cell)) if name == "subject_uri" else str(cell)
