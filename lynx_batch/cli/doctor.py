"""`lynx-batch doctor`: what this machine has, and whether a run would fit, before anything loads."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from lynx_batch import exits
from lynx_batch.cli import options
from lynx_batch.cli.answers import DoctorAnswer, FindingAnswer
from lynx_batch.cli.console import make_console, say_answer, silence
from lynx_batch.cli.render import load
from lynx_batch.errors import ConfigError


def doctor(
    run_file: Annotated[
        Path | None, typer.Argument(metavar="[RUN.yaml]", help="Also check what this run file names.")
    ] = None,
    preset: options.Preset = None,
    overrides: options.Overrides = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only what is wrong.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Report what this machine has, what fits its GPUs, and what is wrong. Exit code 2 if something is wrong."""
    from lynx_batch.cli.findings import Level, examine_machine, examine_models, examine_run, fit_published

    silence(as_json)
    if (overrides or preset) and run_file is None:
        option = f"--set {overrides[0]}" if overrides else f"--preset {preset}"
        raise ConfigError(f"{option}: overrides keys of a RUN.yaml, but none is given")
    config = load(run_file, {"preset": preset}, overrides) if run_file else None
    machine, findings = examine_machine()
    if config is None:
        findings += [*examine_models(), *fit_published(machine)]
    else:
        findings += examine_run(config, machine)
    faults = [finding for finding in findings if finding.level is Level.FAULT]
    shown = faults if quiet else findings
    if shown:
        table = Table("what", "", "found")
        for finding in shown:
            table.add_row(finding.subject, "" if finding.level is Level.OK else finding.level, finding.text)
        make_console().print(table)
    say_answer(DoctorAnswer(findings=[FindingAnswer(**asdict(finding)) for finding in shown]))
    if faults:
        raise typer.Exit(exits.FAULTY)
