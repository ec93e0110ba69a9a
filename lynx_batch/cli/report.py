"""`report`: what a run made, as pages that open in any browser."""

import webbrowser
from typing import Annotated

import structlog
import typer

from lynx_batch import storage
from lynx_batch.cli.console import say
from lynx_batch.cli.outputs import Output
from lynx_batch.cli.run_table import UsdPerGpuHour
from lynx_batch.errors import ConfigError, LynxError

log = structlog.get_logger()


def report(
    output: Output,
    run_id: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Default: the newest run.")] = None,
    photos: Annotated[
        bool | None,
        typer.Option(
            "--photos/--no-photos", help="Show the people's photos, or not. Default: `report.photos` of the run file."
        ),
    ] = None,
    usd_per_gpu_hour: UsdPerGpuHour = None,
    is_opened: Annotated[bool, typer.Option("--open", help="Open the report in the browser.")] = False,
) -> None:
    """Write a report on a run: outcomes, times, likeness, and a contact sheet on which clips are approved or rejected.

    The report is in OUT/report/run=RUN/ and needs no server; `render` writes it too, at the end. Copy it together with OUT/clips.
    """
    from lynx_batch.report.write import write_report

    if is_opened and not storage.is_local(output):
        raise ConfigError(
            f"OUT {storage.redact(output)}: must be a folder on this machine for --open; copy its folders report and clips here"
        )
    index = write_report(output, run_id, has_photos=photos, usd_per_gpu_hour=usd_per_gpu_hour)
    announce(index)
    if is_opened and (path := storage.path_of(index)):
        webbrowser.open(path.resolve().as_uri())


def report_after_run(output: str, run_id: str) -> None:
    """Writes the report of a run that has just ended. If that fails, it is only a warning: the run itself is complete."""
    from lynx_batch.report.write import write_report

    try:
        announce(write_report(output, run_id))
    except KeyboardInterrupt:
        log.warning("report_unwritten", error="interrupted; `lynx-batch report OUT` writes it")
    except LynxError as error:
        log.warning("report_unwritten", error=str(error))
    except Exception:
        log.exception("report_unwritten")


def announce(index: str) -> None:
    say(f"report: {storage.redact(index)}")
