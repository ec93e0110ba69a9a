"""The command `manifest check`."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from lynx_batch import exits
from lynx_batch.cli import options
from lynx_batch.cli.answers import ManifestCheckAnswer, ProblemAnswer, RejectionAnswer
from lynx_batch.cli.console import add_row, make_console, say, say_answer, silence
from lynx_batch.cli.photos import show_photos
from lynx_batch.cli.render import load
from lynx_batch.cli.targets import has_json_keys, is_photo_sheet, refuse_other_file
from lynx_batch.config import DefaultsConfig, FacesConfig, InputsConfig, RunConfig
from lynx_batch.errors import ConfigError, LynxError
from lynx_batch.printable import counted
from lynx_batch.storage import redact

# pyarrow takes a while to load, so intake is imported by the commands that need it.
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from lynx_batch.clip import ClipRequest, Rejection
    from lynx_batch.intake.check import RequestKey
    from lynx_batch.intake.faces import Finding, PhotoFace, PhotoReport
    from lynx_batch.intake.photos import Photo
    from lynx_batch.intake.problems import RowProblem
    from lynx_batch.intake.texts import Readings, UnknownText

MAX_PROBLEMS_SHOWN = 50
MAX_TEXTS_SHOWN = 10
MAX_NAMED = 3
"""Rows, or pieces of text, that one line names."""


def check(
    manifest: options.ManifestToRead,
    run: Annotated[
        Path | None, typer.Option(help="Check against this run file's defaults, inputs, face pack and model.")
    ] = None,
    preset: options.Preset = None,
    overrides: options.Overrides = None,
    photos: Annotated[
        bool, typer.Option("--photos", help="Also read every photo, find its face and judge its quality, on CPUs.")
    ] = False,
    allow_duplicates: Annotated[
        bool, typer.Option("--allow-duplicates", help="Let several rows ask for the same clip.")
    ] = False,
    problems_file: Annotated[
        Path | None, typer.Option("--problems", help="Write every problem to this file, one JSON object per line.")
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="With --photos: write a web page to this file that shows each photo, its face and its verdict."
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Check every row of a manifest and show every problem. Exit code 2 if there is one.

    With --run and --photos, finds everything that `render` would refuse before it starts, except a missing approval, of which `plan` warns.
    With --run, warns of texts that the model's tokenizer hardly knows. With --photos, says how good a likeness each photo promises.
    Warnings and verdicts are no problems.
    """
    silence(as_json)
    if problems_file:
        has_keys = has_json_keys("row", "column", "value", "rule")
        refuse_other_file("--problems", problems_file, "a list of problems", has_keys)
    if sheet:
        _check_sheet(sheet, problems_file, has_photos=photos)
    if (overrides or preset) and not run:
        raise ConfigError(f"{'--set' if overrides else '--preset'}: changes a run file, so it needs --run")
    config = load(run, {"preset": preset}, overrides) if run else None
    num_rows, problems, unconsented = _find_problems(
        manifest, config, has_photos=photos, allow_duplicates=allow_duplicates, sheet=sheet
    )
    if problems_file:
        _write_problems(problems, problems_file)
    _print_unconsented(unconsented)
    say_answer(
        ManifestCheckAnswer(
            manifest=redact(manifest),
            num_rows=num_rows,
            problems=[ProblemAnswer(**_as_json(problem)) for problem in problems],
            unconsented=[RejectionAnswer(row=rejection.row, error=rejection.error) for rejection in unconsented],
        )
    )
    _conclude(manifest, num_rows, problems)


def _check_sheet(sheet: Path, problems_file: Path | None, *, has_photos: bool) -> None:
    if not has_photos:
        raise ConfigError("--sheet: shows photos, so it needs --photos")
    if problems_file and sheet.resolve() == problems_file.resolve():
        raise ConfigError(f"--sheet {sheet}: must be another file than --problems")
    refuse_other_file("--sheet", sheet, "a photo sheet", is_photo_sheet)


def _find_problems(
    manifest: str,
    config: RunConfig | None,
    *,
    has_photos: bool,
    allow_duplicates: bool,
    sheet: Path | None,
) -> "tuple[int, list[RowProblem], list[Rejection]]":
    """The number of rows, all problems in the order of their rows, and the rows without a valid consent, which is no problem."""
    from lynx_batch.intake.check import (
        check_rows,
        find_duplicates,
        find_shared_names,
        keys_of_requests,
    )
    from lynx_batch.intake.consent import ConsentRules, reject_revoked_requests, reject_without_consent
    from lynx_batch.intake.manifest import folder_of, read_manifest
    from lynx_batch.intake.texts import find_unknown_texts
    from lynx_batch.notices.notifier import open_targets
    from lynx_batch.preparation.budget import prices_of, require_prices
    from lynx_batch.preparation.consent import read_rules, read_tombstones
    from lynx_batch.preparation.selection import Selection

    defaults, inputs = (config.defaults, config.inputs) if config else (DefaultsConfig(), InputsConfig())
    table = read_manifest(manifest)
    num_rows = table.num_rows
    requests, problems = check_rows(table, defaults, inputs, folder_of(manifest))
    del table  # a million rows take 200 MB
    requests, unfit, readings = _fit_to_base(config, requests)
    if readings is not None:
        _warn_of_unknown(find_unknown_texts(requests, readings, defaults))
    if config:
        open_targets(config.notify)
        require_prices(config)
        prices_of(config.cluster)
    rules = ConsentRules(is_required=False)
    if config:
        rules = read_rules(config, Selection(), read_tombstones(config.output))
    requests, unconsented = reject_without_consent(requests, rules, datetime.now(UTC))
    found = _hash_photos(requests, inputs) if has_photos else {}
    hashes = {uri: photo for uri, photo in found.items() if isinstance(photo, str)}
    requests, revoked = reject_revoked_requests(requests, hashes, rules.revoked)
    unconsented += revoked
    keys = _name_clips(config, requests, readings, found) if config and has_photos and readings is not None else None
    if keys is None:
        keys = keys_of_requests(requests, hashes)
    problems += [*unfit, *find_shared_names(keys), *([] if allow_duplicates else find_duplicates(keys))]
    if has_photos:
        reports = _examine_photos(requests, found, config.faces if config else FacesConfig(), inputs, sheet is not None)
        seen = show_photos(reports, sheet, manifest)
        problems += _check_photos(requests, seen)
    return num_rows, sorted(problems, key=lambda problem: problem.row), unconsented


def _fit_to_base(
    config: RunConfig | None, requests: "list[ClipRequest]"
) -> "tuple[list[ClipRequest], list[RowProblem], Readings | None]":
    """As `fit_to_base`. If the run's base model cannot be read from here, says so and gives no readings."""
    from lynx_batch.intake.texts import warn_of_long_texts
    from lynx_batch.preparation.prepare import fit_to_base
    from lynx_batch.preparation.staging import inspect_weights

    if config is not None:
        try:
            return fit_to_base(inspect_weights(config.model.base).path, config.defaults, requests)
        except ConfigError:
            raise
        except LynxError as error:
            say(f"block ranges and text lengths were not compared with the model: {error}", is_error=True)
    warn_of_long_texts(requests)
    return requests, [], None


def _warn_of_unknown(texts: "list[UnknownText]") -> None:
    """One warning for all texts, the least known ones first."""
    from lynx_batch.intake.problems import shorten
    from lynx_batch.intake.texts import MAX_UNKNOWN_SHARE

    if not texts:
        return
    num_rows = len({row for text in texts for row in text.rows})
    say(
        f"warning: {counted(num_rows, 'row')} with a text of more than {MAX_UNKNOWN_SHARE:.0%} unknown tokens; "
        "the run's model reads every unknown piece as the same token, so use other words:"
    )
    for text in sorted(texts, key=lambda text: -text.share)[:MAX_TEXTS_SHOWN]:
        rows, pieces = _name_some(map(str, text.rows)), _name_some(map(shorten, text.pieces))
        say(
            f"  {'row' if len(text.rows) == 1 else 'rows'} {rows}: {text.column}={shorten(text.text)}: {100 * text.share:.3g}% unknown: {pieces}"
        )
    if (num_hidden := len(texts) - MAX_TEXTS_SHOWN) > 0:
        say(f"  ... and {counted(num_hidden, 'more text')}")


def _name_some(names: "Iterable[str]") -> str:
    """The first names, then how many more there are."""
    all_names = list(names)
    shown = ", ".join(all_names[:MAX_NAMED])
    return f"{shown} and {len(all_names) - MAX_NAMED} more" if len(all_names) > MAX_NAMED else shown


def _name_clips(
    config: RunConfig, requests: "list[ClipRequest]", readings: "Readings", photos: "Mapping[str, Photo]"
) -> "list[RequestKey] | None":
    """The rows' clips by their names. Says so and gives None if the run's model is incomplete."""
    from lynx_batch.intake.check import keys_of_clips
    from lynx_batch.preparation.model import check_model
    from lynx_batch.preparation.prepare import find_naming, name_clips

    try:
        clips = name_clips(requests, find_naming(check_model(config), readings), photos)
    except LynxError as error:
        say(f"duplicates were found by the rows' content, not by ClipIds: {error}", is_error=True)
        return None
    return keys_of_clips(clips)


def _hash_photos(requests: "list[ClipRequest]", inputs: InputsConfig) -> "dict[str, Photo]":
    from lynx_batch.intake.photos import hash_photos

    return hash_photos((uri for request in requests for uri in request.subject_uris), inputs)


def _examine_photos(
    requests: "list[ClipRequest]",
    photos: "Mapping[str, Photo]",
    faces: FacesConfig,
    inputs: InputsConfig,
    with_pictures: bool,
) -> "Iterator[PhotoReport]":
    """A report for each wanted face. Photos that could not be read come first."""
    from lynx_batch.intake.faces import PhotoReport, check_faces
    from lynx_batch.intake.photos import PhotoProblem

    wanted = {(uri, request.face_index): photos[uri] for request in requests for uri in request.subject_uris}
    compared = {uri for request in requests if len(request.subject_uris) > 1 for uri in request.subject_uris}
    unread = {face: photo for face, photo in wanted.items() if isinstance(photo, PhotoProblem)}
    yield from (PhotoReport(face=face, finding=problem) for face, problem in unread.items())
    readable = [face for face in wanted if face not in unread]
    yield from check_faces(readable, faces, inputs, with_pictures=with_pictures, compared=compared)


def _check_photos(requests: "list[ClipRequest]", findings: "Mapping[PhotoFace, Finding]") -> "list[RowProblem]":
    """Prints a note for each rotated face; returns the problems of photos that cannot be read or used."""
    from lynx_batch.intake.faces import find_photo_problems, find_turned_faces

    turned = find_turned_faces(requests, findings)
    for note in turned[:MAX_PROBLEMS_SHOWN]:
        say(f"note: {note}")
    if len(turned) > MAX_PROBLEMS_SHOWN:
        say(f"note: {counted(len(turned) - MAX_PROBLEMS_SHOWN, 'more row')} with a rotated face; it is turned upright")
    return find_photo_problems(requests, findings)


def _write_problems(problems: "list[RowProblem]", file: Path) -> None:
    """Writes one JSON object per line."""
    lines = [json.dumps(_as_json(problem), ensure_ascii=False) for problem in problems]
    try:
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--problems {file}: {error.strerror}") from error


def _as_json(problem: "RowProblem") -> dict[str, Any]:
    """Values without a JSON type, such as NaN and times, become text."""
    return asdict(problem) | {"value": problem.value if isinstance(problem.value, (int, str)) else str(problem.value)}


def _print_unconsented(unconsented: "list[Rejection]") -> None:
    if unconsented:
        say(f"{counted(len(unconsented), 'row')} will be rejected because of their consent:")
    for rejection in unconsented[:MAX_PROBLEMS_SHOWN]:
        say(f"  row {rejection.row}: {rejection.error}")
    if (num_hidden := len(unconsented) - MAX_PROBLEMS_SHOWN) > 0:
        say(f"  ... and {num_hidden} more: `lynx-batch manifest show MANIFEST --where` finds them")


def _conclude(manifest: str, num_rows: int, problems: "list[RowProblem]") -> None:
    from lynx_batch.intake.problems import shorten

    if not problems:
        say(f"{redact(manifest)}: {counted(num_rows, 'row')}, no problem")
        return
    shown, lines = problems[:MAX_PROBLEMS_SHOWN], _source_lines(manifest)
    table = Table("row", *(["line"] if lines else []), "column", "value", "rule")
    for problem in shown:
        line = [str(lines.get(problem.row, ""))] if lines else []
        add_row(table, str(problem.row), *line, problem.column, shorten(problem.value), problem.rule)
    make_console().print(table)
    num_faulty = len({problem.row for problem in problems})
    hidden = f"; {len(problems) - MAX_PROBLEMS_SHOWN} more: --problems FILE has all"
    say(
        f"{redact(manifest)}: {counted(len(problems), 'problem')} in {num_faulty} of {counted(num_rows, 'row')}"
        + (hidden if len(problems) > MAX_PROBLEMS_SHOWN else "")
    )
    raise typer.Exit(exits.FAULTY)


def _source_lines(manifest: str) -> dict[int, int]:
    """The line of each row in the table from which the manifest was built; empty if it was built otherwise."""
    from lynx_batch.intake.manifest import read_manifest

    table = read_manifest(manifest)
    lines = table["source_line"].to_pylist() if "source_line" in table.column_names else []
    return {row: line for row, line in enumerate(lines) if line is not None}
