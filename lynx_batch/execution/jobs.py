"""Submits, follows and cancels runs as jobs of a Ray cluster, through its dashboard."""

import asyncio
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp
import ray
from ray.job_submission import JobDetails, JobSubmissionClient

from lynx_batch import exits
from lynx_batch.errors import ConfigError, HeadLost
from lynx_batch.preparation.package import Package

POLL_S = 0.5

STOP_WAIT_S = 120
"""How long a cancelled run has to abandon its clips and write its metadata before Ray kills it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """A job as Ray knows it. `status` is PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED; `exit_code` is as in `Jobs.follow`, or None while
    it has not ended.
    """

    job_id: str
    status: str
    started_at: datetime | None
    ended_at: datetime | None
    exit_code: int | None


class Jobs:
    """The jobs of the cluster whose dashboard is at `address`.

    Raises:
        ConfigError: If no dashboard answers there, or it requires another token.
    """

    def __init__(self, address: str) -> None:
        self._address = address if "://" in address else f"http://{address}"
        os.environ["RAY_API_SERVER_ADDRESS"] = self._address  # Ray prefers the environment to the argument
        with self._ray_errors_mapped(ConfigError):
            self._client = JobSubmissionClient(self._address)

    def submit(self, package: Package, name: str) -> str:
        """Starts a job; returns its id, which begins with `name` and is unique.

        Raises:
            ConfigError: If the cluster refuses it.
        """
        env_vars = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
        with self._ray_errors_mapped(HeadLost):
            job_id: str = self._client.submit_job(
                entrypoint=f"exec {shlex.join(package.command)}",
                submission_id=f"{re.sub('[^A-Za-z0-9_-]', '-', name)}-{package.run_id}",
                runtime_env={"working_dir": str(package.folder), "env_vars": env_vars},
                metadata=package.metadata,
            )
        return job_id

    def list(self) -> list[JobState]:
        """The jobs that Ray remembers, the newest first."""
        with self._ray_errors_mapped(HeadLost):
            found = self._client.list_jobs()
        states = [_state_of(details) for details in found if details.submission_id]
        return sorted(states, key=lambda job: (job.started_at is not None, job.started_at), reverse=True)

    def output_of(self, job_id: str) -> str:
        """What a job has printed so far.

        Raises:
            ConfigError: If there is no such job.
        """
        with self._ray_errors_mapped(HeadLost):
            text: str = self._client.get_job_logs(job_id)
        return text

    def follow(self, job_id: str, echo: Callable[[str], None]) -> int:
        """Passes the job's output to `echo` until it ends; returns its exit code. It is STOPPED for a job that was cancelled or killed, of
        which Ray knows none.

        Raises:
            HeadLost: If the connection breaks.
        """
        with self._ray_errors_mapped(HeadLost):
            try:
                asyncio.run(self._tail(job_id, echo))
            except RuntimeError as error:  # Ray raises this if the connection breaks
                raise HeadLost(
                    f"job {job_id}: {error}; the job may still be running, otherwise submit it again"
                ) from error
        return _exit_code(self._await_end(job_id))

    def cancel(self, job_id: str) -> str:
        """Stops the run and waits until it has ended; returns Ray's final status of the job.

        Raises:
            ConfigError: If there is no such job.
        """
        with self._ray_errors_mapped(HeadLost):
            self._client.stop_job(job_id)
        return str(self._await_end(job_id).status)

    async def _tail(self, job_id: str, echo: Callable[[str], None]) -> None:
        async for text in self._client.tail_job_logs(job_id):
            echo(text)

    def _await_end(self, job_id: str) -> JobDetails:
        with self._ray_errors_mapped(HeadLost):
            while not (details := self._client.get_job_info(job_id)).status.is_terminal():
                time.sleep(POLL_S)
        return details

    @contextmanager
    def _ray_errors_mapped(self, unreachable: type[ConfigError | HeadLost]) -> Iterator[None]:
        """Turns Ray's errors into ours; `unreachable` is the error to raise if nothing answers."""
        try:
            yield
        except ray.exceptions.AuthenticationError as error:
            raise ConfigError(
                f"--address {self._address}: the cluster wants another token; put it in RAY_AUTH_TOKEN or ~/.ray/auth_token"
            ) from error
        except (OSError, aiohttp.ClientError) as error:
            raise unreachable(f"--address {self._address}: no Ray dashboard answers there: {error}") from error
        except RuntimeError as error:
            raise ConfigError(f"--address {self._address}: {error}") from error


def _state_of(details: JobDetails) -> JobState:
    return JobState(
        job_id=details.submission_id,
        status=str(details.status),
        started_at=_time(details.start_time),
        ended_at=_time(details.end_time),
        exit_code=_exit_code(details) if details.status.is_terminal() else None,
    )


def _exit_code(details: JobDetails) -> int:
    """A negative code of Ray's is the signal that killed the command."""
    code = details.driver_exit_code
    return exits.STOPPED if code is None or code < 0 else code


def _time(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
