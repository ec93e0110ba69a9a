"""`lynx-batch doctor`: what this machine has, and whether a run would fit it, before anything loads."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from lynx_batch.cli import exits
from lynx_batch.config import load_run_config, parse_override

WIDTH_IN_A_FILE = 160


def doctor(
    run_file: Annotated[
        Path | None, typer.Argument(metavar="[RUN.yaml]", help="Also look at what a run names.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key.")] = None,
) -> None:
    """Tell what this machine has, what fits its GPUs, and what is amiss. Exit code 2 if anything is."""
    from lynx_batch.cli.findings import Level, examine_machine, examine_models, examine_run, fit_published

    config = load_run_config(run_file, dict(map(parse_override, overrides or ()))) if run_file else None
    machine, findings = examine_machine()
    if config is None:
        findings += [*examine_models(), *fit_published(machine)]
    else:
        findings += examine_run(config, machine)
    table = Table("what", "", "found")
    for finding in findings:
        table.add_row(finding.subject, "" if finding.level is Level.OK else finding.level, finding.text)
    Console(width=None if sys.stdout.isatty() else WIDTH_IN_A_FILE).print(table, markup=False, highlight=False)
    if any(finding.level is Level.FAULT for finding in findings):
        raise typer.Exit(exits.FAULTY)
