"""An output location whose runs told of some clips, and what `export` makes of it."""

import hashlib
from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
from typer.testing import CliRunner, Result

from lynx_batch import storage
from lynx_batch.cli import app
from lynx_batch.clip import ClipRequest, ClipSpec
from lynx_batch.intake.schema import MANIFEST_SCHEMA
from lynx_batch.ledger.commits import CommitRecord, commit
from lynx_batch.ledger.export import name_clips
from lynx_batch.ledger.metadata import Outcome, RowOutcome
from lynx_batch.ledger.runs import RunRecord, write_run_record
from tests.builders import NOW, ended, make_clip_of_photos, record, small_clip, with_photos, write_metadata

PHOTO = "https://host/ada.jpg"
TOMORROW, YESTERDAY = NOW + timedelta(days=1), NOW - timedelta(days=1)
ROWS = pa.schema(
    [
        ("row", pa.int64()),
        *(
            MANIFEST_SCHEMA.field(n)
            for n in ("subject_uri", "subject_uris", "subject_id", "clip_name", "prompt", "tags")
        ),
    ]
)


def spec(clip_id: str, row: int = 0, **cells: object) -> ClipSpec:
    """A clip whose consent holds for ever, if `cells` of its request do not say otherwise."""
    found = small_clip(clip_id, row)
    seed = cells.pop("seed", 1)
    params = replace(found.params, seed=seed, prompt=cells.pop("prompt", found.params.prompt))
    photos: list[str] = cells.pop("subject_uris", None) or [cells.pop("subject_uri", PHOTO)]
    request = replace(found.request, params=params, **{"consent_expires_at": None, **cells})
    request = with_photos(request, *photos)
    return make_clip_of_photos(clip_id, request, [str(place) * 64 for place in range(1, len(photos) + 1)])


def committed(clip_id: str, edition: int = 1) -> CommitRecord:
    content = f"{clip_id} {edition}".encode()
    update = {"sha256": hashlib.sha256(content).hexdigest(), "num_bytes": len(content), "edition": edition}
    return record(clip_id, attempt=f"run-{edition}").model_copy(update=update)


def publish(output: str, clip_id: str, edition: int = 1) -> CommitRecord:
    """A clip whose video is its id and edition as text."""
    found = commit(output, committed(clip_id, edition))
    storage.write_bytes(storage.join(output, found.clip_uri), f"{clip_id} {edition}".encode())
    return found


def rendered(clip_id: str, row: int = 0, **cells: object) -> RowOutcome:
    return replace(ended(Outcome.RENDERED, spec(clip_id, row, **cells)), commit=committed(clip_id))


def rejected(error_type: str, request: ClipRequest) -> RowOutcome:
    """A row that never became a clip."""
    row = ended(Outcome.REJECTED, row=request.row)
    return replace(row, error_type=error_type, error="why", inputs=request.inputs)


def ask(row: int = 0, *, is_seed_given: bool = True, **cells: object) -> ClipRequest:
    return replace(spec("00", row, **cells).request, is_seed_given=is_seed_given)


def manifest_row(request: ClipRequest) -> dict[str, object]:
    """The row of a manifest that makes this request, without the parameters that all requests here share."""
    own = {name: getattr(request, name) for name in ("row", "subject_id", "clip_name")}
    return own | {
        request.photo_column: request.written,
        "prompt": request.params.prompt,
        "tags": list(request.tags.items()),
    }


class Place:
    """An output location and its runs, which start a minute apart."""

    def __init__(self, output: str) -> None:
        self.output = output
        self.num_runs = 0

    def run(
        self,
        run_id: str,
        rows: list[RowOutcome],
        *,
        manifest: str | None = "/a.parquet",
        is_whole: bool = True,
        took: list[ClipRequest] | None = None,
    ) -> None:
        """Rows that a run told of; `took` are those of its manifest, if it has others or was killed."""
        requests = took or [row.clip.request for row in rows if row.clip]
        cells = [manifest_row(request) for request in requests]
        table = pa.Table.from_pylist(cells or [{"row": 0, "subject_uri": "", "prompt": ""}], ROWS)
        started = NOW + timedelta(minutes=self.num_runs)
        self.num_runs += 1
        told = RunRecord(started_at=started, num_rows=table.num_rows, manifest=manifest, is_whole=is_whole)
        write_run_record(self.output, run_id, told, run_yaml=b"", manifest=table, environment={})
        write_metadata(self.output, run_id, rows)
        for row in rows:
            if row.commit:
                publish(self.output, row.commit.clip_id)

    def names(self, template: str = "{clip_name}") -> dict[str, str]:
        clips = name_clips(self.output, template, NOW).clips
        return {name: found.clip_id for name, found in clips.items()}

    def withheld(self) -> dict[str, str]:
        return dict(name_clips(self.output, "{clip_id}", NOW).withheld)

    def export(self, destination: object, template: str | None = "{clip_name}.mp4", *options: object) -> Result:
        name = [] if template is None else ["--name", template]
        result = CliRunner().invoke(app, ["export", self.output, str(destination), *name, *map(str, options)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result
