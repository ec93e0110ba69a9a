"""The command line. Each command has a module; this one joins them and ends each command with its exit code."""

import errno
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lynx_batch import exits
from lynx_batch.cli.audit import audit
from lynx_batch.cli.bench import bench_app
from lynx_batch.cli.clips import prune, verify
from lynx_batch.cli.console import end_without_output, say, say_error, show_bug, silence
from lynx_batch.cli.doctor import doctor
from lynx_batch.cli.export import export
from lynx_batch.cli.findings import RENDER_PACKAGES
from lynx_batch.cli.jobs import cancel, follow, jobs, submit
from lynx_batch.cli.judging import accept, judge
from lynx_batch.cli.logs import logs
from lynx_batch.cli.manifest import manifest_app
from lynx_batch.cli.models import models_app
from lynx_batch.cli.plan import plan
from lynx_batch.cli.quality import quality_app
from lynx_batch.cli.render import one, render
from lynx_batch.cli.report import report
from lynx_batch.cli.retry import retry
from lynx_batch.cli.revoke import revoke
from lynx_batch.cli.sample import approve, sample
from lynx_batch.cli.status import runs, status
from lynx_batch.errors import LynxError, Transient
from lynx_batch.home import ensure_home
from lynx_batch.interrupts import end_politely
from lynx_batch.printable import printable
from lynx_batch.telemetry import configure_logging

UsageError: Any = typer.BadParameter.__base__
"""The base of all Typer errors about arguments. Typer has no public name for it."""


NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EIO}
"""What writing to a file raises if its disk is full, or broken."""


class _Commands(TyperGroup):
    """The one place where an error becomes a message and an exit code."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Typer itself prints help and errors about arguments."""
        try:
            return super().main(*arguments, **options)
        except OSError as error:
            if error.errno not in NO_ROOM or error.filename is not None:
                raise
            end_without_output(error)
            sys.exit(exits.FAULTY if isinstance(error.__context__, UsageError) else exits.STOPPED)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except LynxError as error:
            say_error(error)
            raise typer.Exit(exits.STOPPED if isinstance(error, Transient) else exits.FAULTY) from error
        except UsageError as error:  # Typer prints it
            error.message = printable(error.message)
            raise
        except KeyboardInterrupt as interrupt:
            raise typer.Exit(exits.STOPPED) from interrupt
        except ModuleNotFoundError as error:
            if error.name not in RENDER_PACKAGES:
                raise
            say_error(f"this command needs {error.name}: pip install 'lynx-batch[render]'")
            raise typer.Exit(exits.FAULTY) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they print local variables, which may be signed URLs
    help="Face photos and prompts become videos that look like these people, thousands of times, on a Ray cluster.",
    epilog=exits.SUMMARY,
)
app.add_typer(manifest_app, name="manifest")
app.add_typer(models_app, name="models")
app.add_typer(quality_app, name="quality")
app.add_typer(bench_app, name="bench")
OF_RUNS = (render, plan, sample, approve, submit, follow, cancel, jobs, one, status, runs, logs, report, doctor)
OF_CLIPS = (retry, judge, accept, export, verify, prune, revoke, audit)
for command in (*OF_RUNS, *OF_CLIPS):
    app.command()(command)
for each_app in (app, manifest_app, models_app, quality_app, bench_app):
    for registered in each_app.registered_commands:
        registered.epilog = "Exit codes: `lynx-batch --help`"


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        say(f"lynx-batch {version('lynx-batch')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    sys.excepthook = show_bug
    silence(False)
    end_politely()
    ensure_home()
    configure_logging()
