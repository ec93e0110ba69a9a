"""What commands print with `--json`: one object each, of one schema.

`tests.guide` writes the reference in jobs/README.md and the JSON Schema, jobs/answers.schema.json, from these models. Fields may be
added; one that is removed or changes its meaning raises `schema_version`.
"""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1


class Part(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Answer(Part):
    """The answer of a command."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="The version of this schema.")


class RunAnswer(Part):
    run: str = Field(description="The run's id.")
    started_at: datetime = Field(description="When it started.")
    ended_at: datetime | None = Field(description="When it ended.")
    state: str = Field(description="`running`, `finished`, `unfinished`, or `stopped: ` and the reason.")
    num_rows: int = Field(description="Rows that it selected.")
    outcomes: dict[str, int] = Field(description="Its rows by outcome, as far as known.")
    gpu_hours: float = Field(
        description="GPU-hours for which its groups held GPUs. Of an old run, those in which its committed clips were rendered."
    )
    usd: float | None = Field(
        description="Their cost: by `cluster.usd_per_gpu_hour`, or by --usd-per-gpu-hour. Null without a price."
    )


class PaceAnswer(Part):
    run: str = Field(description="The run, which has not ended.")
    clips_per_hour: float = Field(description="Clips that it rendered, over the time since it started.")
    num_attempts: int = Field(description="Attempts that ended.")
    num_left: int = Field(description="Rows without an outcome.")
    left_s: float | None = Field(description="Seconds until they have one at this pace. Null before the first clip.")


class GroupAnswer(Part):
    values: dict[str, Any] = Field(description="The value of each column or tag that `--by` names.")
    counts: dict[str, int] = Field(description="How many rows ended with each outcome.")
    num_judged: int = Field(description="How many of the rendered clips have a likeness.")
    likeness: float | None = Field(description="The mean of these.")


class StatusAnswer(Answer):
    output: str = Field(description="The output location.")
    num_committed: int = Field(description="Clips with a commit in force.")
    num_redo: int = Field(
        description="Those of them for which `retry --redo` asked and that are not rendered again yet."
    )
    redo_given_up: dict[str, int] = Field(
        description="Those of them whose redo was given up, by its outcome. An older edition stays in force."
    )
    runs: list[RunAnswer] = Field(description="All runs, the oldest first.")
    active: list[PaceAnswer] = Field(description="The runs that are alive.")
    reasons: dict[str, int] = Field(description="Why rows of the newest run were not rendered, and how many.")
    quality: dict[str, Any] | None = Field(description="How clips were judged. Null if none was.")
    groups: list[GroupAnswer] = Field(description="With `--by`: the newest rows by their values.")


class RunsAnswer(Answer):
    output: str = Field(description="The output location.")
    runs: list[RunAnswer] = Field(description="All runs, the oldest first.")


class JobAnswer(Part):
    job: str = Field(description="The job's id.")
    status: str = Field(description="`pending`, `running`, `stopped`, `succeeded` or `failed`, as Ray says.")
    started_at: datetime | None = Field(description="When it started.")
    ended_at: datetime | None = Field(description="When it ended.")
    exit_code: int | None = Field(description="The exit code of its `render`; 4 if it was cancelled or killed.")


class JobsAnswer(Answer):
    jobs: list[JobAnswer] = Field(description="The jobs that Ray remembers, the newest first.")


class VerifyAnswer(Answer):
    output: str = Field(description="The output location.")
    num_clips: int = Field(description="Clips with a commit in force.")
    num_read: int = Field(description="How many of them were read.")
    faults: dict[str, list[str]] = Field(description="What is wrong with a clip, by ClipId.")
    damaged_tries: list[str] = Field(description="Records of tries that cannot be read.")
    is_repaired: bool = Field(description="Whether --repair withdrew and set aside what is listed above.")
    remains: list[str] = Field(description="What is left of what was revoked.")


class ExportAnswer(Answer):
    destination: str = Field(description="DEST.")
    num_clips: int = Field(
        description="Clips that were asked for and that DEST now holds. With --no-copy: clips in the table."
    )
    num_shards: int = Field(description="Shards that were written now, with --format webdataset.")
    export_list: str | None = Field(
        description="The list of what exports wrote to DEST. Null if this one wrote nothing."
    )
    table: str | None = Field(description="The table that was written.")
    links_end_at: datetime | None = Field(description="When the first of the signed links ends.")
    withheld: dict[str, str] = Field(description="Why a clip may not be handed out, by ClipId.")
    left_out: dict[str, str] = Field(description="Why a clip could not be exported, by its name.")
    num_nameless: int = Field(
        description="Further committed clips: others have their names, or no metadata tell of them yet."
    )


class ProblemAnswer(Part):
    row: int = Field(description="Row of the manifest, counted from 0.")
    column: str = Field(description="Its column.")
    value: Any = Field(description="What is there.")
    rule: str = Field(description="What must be there.")


class RejectionAnswer(Part):
    row: int = Field(description="Row of the manifest, counted from 0.")
    error: str = Field(description="What is wrong with its consent.")


class ManifestCheckAnswer(Answer):
    manifest: str = Field(description="The manifest.")
    num_rows: int = Field(description="Its rows.")
    problems: list[ProblemAnswer] = Field(description="Every broken rule.")
    unconsented: list[RejectionAnswer] = Field(description="Rows that will be rejected because of their consent.")


class FindingAnswer(Part):
    subject: str = Field(description="What was examined.")
    level: str = Field(description="`ok`, `note` or `fault`.")
    text: str = Field(description="What was found.")


class DoctorAnswer(Answer):
    findings: list[FindingAnswer] = Field(description="What was found.")


class RetryAnswer(Answer):
    num_asked: int = Field(description="Clips that the next run tries again, or renders with another seed.")
    num_waiting: int = Field(description="Clips for which an earlier --redo waits.")
    num_left_to_gate: int = Field(
        description="Clips that the quality gate rejected, about which the rules of the next run decide."
    )
    num_unsafe: int = Field(description="Unsafe clips, which stay rejected.")


ANSWERS: dict[str, type[Answer]] = {
    "status": StatusAnswer,
    "runs": RunsAnswer,
    "jobs": JobsAnswer,
    "verify": VerifyAnswer,
    "export": ExportAnswer,
    "manifest check": ManifestCheckAnswer,
    "doctor": DoctorAnswer,
    "retry": RetryAnswer,
}
"""The answer of each command that has `--json`, except `plan`, whose object has no schema."""
