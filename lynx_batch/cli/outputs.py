"""Output locations as arguments of commands: each must hold a run."""

import time
from pathlib import Path
from typing import Annotated

import typer

from lynx_batch import storage
from lynx_batch.cli.console import say
from lynx_batch.config import QualityConfig, load_run_config
from lynx_batch.errors import ConfigError
from lynx_batch.output import RUN_RECORD, parse_run_file, runs_uri
from lynx_batch.places import WRITABLE, explain_place

LOOK_EVERY_S = 2.0
HINT_AFTER_S = 60.0


def check_output(output: str) -> str:
    """Raises ConfigError unless a run has written to `output`: every run writes its record before its first clip."""
    if rule := explain_place(output, WRITABLE):
        raise ConfigError(f"OUT {storage.redact(output)}: {rule}")
    if not any(storage.list_files(runs_uri(output))):
        raise ConfigError(
            f"OUT {storage.redact(output)}: must be an output location, but there is no record of a run below runs/"
        )
    return output


def await_run(output: str) -> None:
    """Waits until a run, perhaps one that was just submitted, has written its record."""
    if rule := explain_place(output, WRITABLE):
        raise ConfigError(f"OUT {storage.redact(output)}: {rule}")
    if not _has_record(output):
        say(f"{storage.redact(output)}: waiting for the record of a run")
    hint_s = time.monotonic() + HINT_AFTER_S
    while not _has_record(output):
        time.sleep(LOOK_EVERY_S)
        if time.monotonic() > hint_s:
            say("there is still none: `lynx-batch jobs` says whether the job runs, `lynx-batch logs JOB` why it ended")
            hint_s = float("inf")


def _has_record(output: str) -> bool:
    return any(parse_run_file(file.uri)[1] == RUN_RECORD for file in storage.list_files(runs_uri(output)))


Output = Annotated[str, typer.Argument(metavar="OUT", help="The output location of a run file.", callback=check_output)]
Rules = Annotated[
    Path | None,
    typer.Option("--run", metavar="RUN.yaml", help="Take `quality` from this run file, not from the newest run."),
]


def read_rules(run_file: Path | None) -> QualityConfig | None:
    """Raises ConfigError if the run file has no rules."""
    if run_file is None:
        return None
    quality = load_run_config(run_file, {}).quality
    if quality is None:
        raise ConfigError(f"--run {run_file}: must have a section `quality`")
    return quality
