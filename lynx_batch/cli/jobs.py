"""`submit` and `cancel`: runs as jobs of a Ray cluster."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from lynx_batch import exits, storage
from lynx_batch.cli import options
from lynx_batch.cli.console import say
from lynx_batch.cli.render import load

if TYPE_CHECKING:
    from lynx_batch.execution.jobs import Jobs

Address = Annotated[
    str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard, such as http://head:8265.")
]
DASHBOARD = "http://127.0.0.1:8265"


def submit(
    run_file: options.RunFile,
    address: Address = DASHBOARD,
    manifest: options.Manifest = None,
    output: options.Output = None,
    overrides: options.Overrides = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show the job's output, and end with its exit code.")
    ] = False,
    limit: options.Limit = None,
    where: options.Where = None,
    allow_invalid: options.AllowInvalid = False,
    allow_duplicates: options.AllowDuplicates = False,
    allow_missing_consent: options.AllowMissingConsent = False,
    unsafe_commit: options.UnsafeCommit = False,
) -> None:
    """Render on a Ray cluster, as a Ray job. Submit again to continue, whatever ended the job.

    A manifest and photos of this machine travel with the job; other paths must be in a folder of cluster.shared_paths.
    Ctrl-C stops following, not the job.
    """
    from lynx_batch.preparation.package import pack
    from lynx_batch.preparation.selection import Selection

    config = load(run_file, {"manifest": manifest, "output": output}, overrides)
    selection = Selection(
        where=where,
        limit=limit,
        allow_invalid=allow_invalid,
        allow_duplicates=allow_duplicates,
        allow_missing_consent=allow_missing_consent,
    )
    with TemporaryDirectory() as folder:
        package = pack(config, selection, Path(folder), is_unsafe_allowed=unsafe_commit)
        jobs = _connect(address)
        job_id = jobs.submit(package, run_file.stem)
    say(
        f"job {job_id} submitted; `lynx-batch status {storage.redact(config.output)}` shows its progress, "
        f"`lynx-batch cancel {job_id} --address {address}` stops it"
    )
    if follow:
        raise typer.Exit(_follow(jobs, job_id))


def _follow(jobs: "Jobs", job_id: str) -> int:
    """The exit code of the command that the job runs."""
    try:
        exit_code = jobs.follow(job_id, lambda text: say(text, ends_line=False))
    except KeyboardInterrupt:
        say(f"job {job_id} continues, but its output is no longer shown")
        return exits.STOPPED
    return exits.STOPPED if exit_code is None or exit_code < 0 else exit_code


def cancel(
    job: Annotated[str, typer.Argument(help="The id that `submit` printed.")], address: Address = DASHBOARD
) -> None:
    """Stop a submitted job. Committed clips stay, and submitting again continues."""
    say(f"job {job}: {_connect(address).cancel(job).lower()}")


def _connect(address: str) -> "Jobs":
    from lynx_batch.execution.ray_environment import configure_ray

    configure_ray()

    from lynx_batch.execution.jobs import Jobs

    return Jobs(address)
