"""`submit`, `follow`, `cancel` and `jobs`: runs as jobs of a Ray cluster."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from lynx_batch import exits, storage
from lynx_batch.cli import options
from lynx_batch.cli.answers import JobAnswer, JobsAnswer
from lynx_batch.cli.console import add_row, make_console, say, say_answer, say_some, silence
from lynx_batch.cli.render import load
from lynx_batch.printable import counted

if TYPE_CHECKING:
    from lynx_batch.clip import Rejection
    from lynx_batch.execution.jobs import Jobs, JobState

Address = Annotated[
    str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard, such as http://head:8265.")
]
Job = Annotated[str, typer.Argument(help="The id that `submit` printed.")]
MAX_REJECTIONS_SHOWN = 50
DASHBOARD = "http://127.0.0.1:8265"


def submit(
    run_file: options.RunFile,
    address: Address = DASHBOARD,
    manifest: options.Manifest = None,
    output: options.Output = None,
    preset: options.Preset = None,
    overrides: options.Overrides = None,
    is_followed: Annotated[
        bool, typer.Option("--follow", help="Show the job's output, and end with its exit code.")
    ] = False,
    limit: options.Limit = None,
    where: options.Where = None,
    allow_invalid: options.AllowInvalid = False,
    allow_duplicates: options.AllowDuplicates = False,
    allow_missing_consent: options.AllowMissingConsent = False,
    require_approval: options.RequireApproval = None,
    unsafe_commit: options.UnsafeCommit = False,
) -> None:
    """Render on a Ray cluster, as a Ray job. Submit again to continue, whatever ended the job.

    A manifest and photos of this machine travel with the job; other paths must be in a folder of cluster.shared_paths.
    Ctrl-C stops following, not the job.
    """
    from lynx_batch.preparation.package import pack
    from lynx_batch.preparation.selection import Selection

    settings = {"manifest": manifest, "output": output, "preset": preset, "approval.required": require_approval}
    config = load(run_file, settings, overrides)
    selection = Selection(
        where=where,
        limit=limit,
        allow_invalid=allow_invalid,
        allow_duplicates=allow_duplicates,
        allow_missing_consent=allow_missing_consent,
    )
    with TemporaryDirectory() as folder:
        package = pack(config, selection, Path(folder), is_unsafe_allowed=unsafe_commit)
        _say_rejections(package.rejections)
        connected = connect(address)
        job_id = connected.submit(package, run_file.stem)
    say(
        f"job {job_id} submitted; `lynx-batch status {storage.redact(config.output)}` shows its progress, "
        f"`lynx-batch cancel {job_id} --address {address}` stops it"
    )
    if is_followed:
        raise typer.Exit(_follow(connected, job_id))


def _say_rejections(rejections: "list[Rejection]") -> None:
    if rejections:
        say(f"{counted(len(rejections), 'row')} will be rejected because of their consent:")
        say_some([f"row {each.row}: {each.error}" for each in rejections], MAX_REJECTIONS_SHOWN)


def _follow(jobs: "Jobs", job_id: str) -> int:
    """The exit code of the command that the job runs."""
    try:
        return jobs.follow(job_id, lambda text: say(text, ends_line=False))
    except KeyboardInterrupt:
        say(f"job {job_id} continues, but its output is no longer shown")
        return exits.STOPPED


def follow(job: Job, address: Address = DASHBOARD) -> None:
    """Show the output of a submitted job from its beginning until it ends, and end with its exit code. Ctrl-C does not stop the job."""
    connected = connect(address)
    connected.output_of(job)  # an unknown job is an error of the user's
    raise typer.Exit(_follow(connected, job))


def jobs(
    address: Address = DASHBOARD,
    as_json: options.AsJson = False,
) -> None:
    """List the jobs of a cluster that Ray remembers, the newest first."""
    silence(as_json)
    found = connect(address).list()
    table = Table("job", "status", "started", "ended", "exit code")
    for job in found:
        times = [f"{at:%Y-%m-%d %H:%M:%S}" if at else "" for at in (job.started_at, job.ended_at)]
        add_row(table, job.job_id, job.status.lower(), *times, "" if job.exit_code is None else str(job.exit_code))
    make_console().print(table)
    say_answer(JobsAnswer(jobs=[JobAnswer(job=job.job_id, **_shown(job)) for job in found]))


def _shown(job: "JobState") -> dict[str, Any]:
    return {
        "status": job.status.lower(),
        "started_at": job.started_at,
        "ended_at": job.ended_at,
        "exit_code": job.exit_code,
    }


def cancel(job: Job, address: Address = DASHBOARD) -> None:
    """Stop a submitted job. Committed clips stay, and submitting again continues."""
    say(f"job {job}: {connect(address).cancel(job).lower()}")


def connect(address: str) -> "Jobs":
    """Raises ConfigError if no dashboard answers there."""
    from lynx_batch.execution.ray_environment import configure_ray

    configure_ray()

    from lynx_batch.execution.jobs import Jobs

    return Jobs(address)
