"""Shows how good the photos of a manifest are: a table, and a sheet of pictures."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from lynx_batch.cli.console import add_row, make_console, say
from lynx_batch.errors import ConfigError

# They take a while to load, so they are imported where they are needed.
if TYPE_CHECKING:
    from lynx_batch.intake.faces import Finding, PhotoFace, PhotoReport

MAX_PHOTOS_SHOWN = 50


def show_photos(reports: "Iterable[PhotoReport]", sheet: Path | None, manifest: str) -> "dict[PhotoFace, Finding]":
    """Prints the verdicts and writes the sheet, if one is wanted. Keeps what was found, without the pictures.

    Raises:
        ConfigError: If the sheet cannot be written.
    """
    seen = reports if sheet is None else _write_sheet(reports, sheet, manifest)
    findings = {report.face: report.finding for report in seen}
    _print_verdicts(findings, "--sheet FILE.html" if sheet is None else str(sheet))
    return findings


def _write_sheet(reports: "Iterable[PhotoReport]", sheet: Path, manifest: str) -> "Iterator[PhotoReport]":
    """Gives each report again, once it is on the sheet."""
    from lynx_batch.intake.photo_sheet import PhotoSheet

    with _explained(sheet):
        file = sheet.open("w", encoding="utf-8")
    try:
        with _explained(sheet):
            page = PhotoSheet(file, manifest)
        for report in reports:
            with _explained(sheet):
                page.add(report)
            yield report
        with _explained(sheet):
            page.end()
            file.flush()
    finally:
        with suppress(OSError):  # of a file that could not be written, which has been said
            file.close()


@contextmanager
def _explained(sheet: Path) -> "Iterator[None]":
    try:
        yield
    except OSError as error:
        raise ConfigError(f"--sheet {sheet}: {error.strerror}") from error


def _print_verdicts(findings: "dict[PhotoFace, Finding]", whole_list: str) -> None:
    """A table of the faces that can be used, the worst first, and a line of counts. `whole_list` says where all can be seen."""
    from lynx_batch.intake.photo_sheet import VERDICTS, count_verdicts, describe, name_face
    from lynx_batch.intake.photos import PhotoProblem

    if not findings:
        return
    described = {face: describe(finding) for face, finding in findings.items()}
    order = {verdict: place for place, verdict in enumerate(VERDICTS)}
    judged = [face for face, finding in findings.items() if not isinstance(finding, PhotoProblem)]
    worst_first = sorted(judged, key=lambda face: order[described[face][0]])
    table = Table("verdict", "photo", "why")
    for face in worst_first[:MAX_PHOTOS_SHOWN]:
        verdict, reasons = described[face]
        add_row(table, verdict, name_face(face), "; ".join(reasons))
    if worst_first:
        make_console().print(table)
    num_hidden = len(worst_first) - MAX_PHOTOS_SHOWN
    hidden = f"; {num_hidden} more, none of them worse: {whole_list} shows all" if num_hidden > 0 else ""
    say(count_verdicts(Counter(verdict for verdict, _ in described.values())) + hidden)
