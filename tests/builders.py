"""What tests are made of: subjects, clips, manifests, run files, and what a ledger holds."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from lynx_batch.clip import ClipRequest, ClipSpec, Portrait, Rejection, RenderIdentity, StoredClip
from lynx_batch.config import DefaultsConfig, EngineConfig, InputsConfig, QualityConfig
from lynx_batch.delivery.deliver import encode, upload
from lynx_batch.execution.outcomes import RunRecorder
from lynx_batch.intake.check import check_rows
from lynx_batch.intake.problems import RowProblem
from lynx_batch.intake.schema import MANIFEST_SCHEMA
from lynx_batch.ledger.commits import CommitRecord
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.events import AttemptEvent, EventKind
from lynx_batch.ledger.history import given_up_before
from lynx_batch.ledger.metadata import Outcome, RowOutcome
from lynx_batch.ledger.parts import MetadataParts
from lynx_batch.ledger.runs import RunRecord, write_run_record
from lynx_batch.ledger.tries import TryRecord, record_try
from lynx_batch.planning.cost import OTHER, CostModel, Engine, work_of
from lynx_batch.planning.order import PlannedClip
from lynx_batch.preparation.model import CheckedModel
from lynx_batch.preparation.prepare import PreparedRun
from lynx_model.canonical import ModelTraits
from lynx_model.checkpoints.adapter_spec import describe_adapters
from lynx_model.checkpoints.base import read_base
from lynx_model.engine.memory import ModelSize
from lynx_model.faces.pack import FacePack
from lynx_model.spec import ModelSource, RenderParams, Subject
from tests.models import BASE, MODEL, ROOT

SUBJECTS = ROOT / "jobs" / "demo" / "subjects"
COLLINS, HOPPER = SUBJECTS / "eileen-collins.jpg", SUBJECTS / "grace-hopper.jpg"
PARAMS = RenderParams(prompt="a person waves", width=64, height=48, num_frames=9, num_inference_steps=2, seed=7)
GPU_PARAMS = RenderParams(prompt="a person waves", width=96, height=80, num_frames=9, num_inference_steps=4)
NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
IDENTITY = RenderIdentity(
    base="b",
    id_adapter="a",
    ref_adapter=None,
    face_pack="p",
    identity_encoder="e",
    is_parity=False,
    precision="float32",
)


def checked_model() -> CheckedModel:
    """The tiny model, under names of its own."""
    source = ModelSource.of(str(BASE), str(MODEL / "lynx_full"))
    return CheckedModel(
        source=source,
        headers=source,
        base=read_base(BASE),
        adapters=describe_adapters(source.id_adapter, source.ref_adapter),
        size=ModelSize.of(source),
        traits=ModelTraits.of(source),
        engine=EngineConfig(),
        face_pack=FacePack(folder=BASE, name="p", identity_encoder="e", licence=""),
        identity=IDENTITY,
    )


def make_subject(seed: int = 0, encoder: str | None = None) -> Subject:
    random = np.random.default_rng(seed)
    embedding = random.standard_normal(512).astype(np.float32)
    face = random.integers(0, 256, (256, 256, 3), dtype=np.uint8)
    return Subject(face_embedding=embedding / np.linalg.norm(embedding), aligned_face=face, encoder=encoder)


def cosine(one: Subject, other: Subject) -> float:
    return float(one.face_embedding @ other.face_embedding)


def side_by_side(*photos: np.ndarray) -> np.ndarray:
    height = max(len(photo) for photo in photos)
    return np.hstack([np.pad(photo, ((0, height - len(photo)), (0, 0), (0, 0))) for photo in photos])


def row(photo: object = COLLINS, prompt: str = "A person waves.", **cells: object) -> dict[str, object]:
    """A row of a manifest."""
    return {"subject_uri": str(photo), "prompt": prompt, **cells}


def several_photos(*photos: object, prompt: str = "A person waves.", **cells: object) -> dict[str, object]:
    """A row of a manifest with several photos of one person."""
    return {"subject_uri": None, "subject_uris": [str(photo) for photo in photos], "prompt": prompt, **cells}


def write_manifest(file: Path, rows: Iterable[dict[str, object]]) -> None:
    """A cell that a row does not have is null, if other rows have it."""
    rows = list(rows)
    columns = {name for row in rows for name in row}
    pq.write_table(pa.Table.from_pylist([{name: row.get(name) for name in columns} for row in rows]), file)


def check(*rows: dict[str, object], **defaults: object) -> tuple[list[ClipRequest], list[RowProblem]]:
    """What intake makes of good rows, numbered from 10, with these cells in place of their own."""
    table = pa.Table.from_pylist([row("a.jpg", "一个人微笑") | cells for cells in rows], schema=MANIFEST_SCHEMA)
    table = table.add_column(0, "row", pa.array(range(10, 10 + len(rows)), pa.int64()))
    return check_rows(table, DefaultsConfig(**defaults), InputsConfig(), "/photos")


def tiny_run(
    face_pack: Path, *, provenance: Mapping[str, object] | None = None, **sections: object
) -> dict[str, object]:
    """What a run file says that renders on the tiny model."""
    return {
        "manifest": "manifest.parquet",
        "output": "out",
        "model": {"base": str(BASE), "adapters": str(MODEL / "lynx_full")},
        "faces": {"pack": str(face_pack), "identity": "pack"},
        "provenance": {"require_consent": False, **(provenance or {})},
        **sections,
    }


def write_run(folder: Path, face_pack: Path, **sections: Any) -> Path:
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(tiny_run(face_pack, **sections)), encoding="utf-8")
    return file


def make_request(params: RenderParams, **changes: object) -> ClipRequest:
    """`subject_uri` among the `changes` is its one photo."""
    uri = str(changes.pop("subject_uri", "/a.jpg"))
    request = ClipRequest(row=0, subject_uris=(uri,), written=uri, params=params, is_seed_given=True)
    return replace(request, **changes)


def with_photos(request: ClipRequest, *uris: str) -> ClipRequest:
    """The request with these photos in place of its own."""
    return replace(request, subject_uris=uris, written=uris[0] if len(uris) == 1 else uris)


def make_clip(clip_id: str, request: ClipRequest, *, photo_sha256: str) -> ClipSpec:
    """The clip of a request with one photo."""
    return make_clip_of_photos(clip_id, request, [photo_sha256])


def make_clip_of_photos(clip_id: str, request: ClipRequest, sha256s: Sequence[str]) -> ClipSpec:
    portraits = tuple(
        Portrait(uri=uri, subject_uri=uri, sha256=sha256, face_index=request.face_index)
        for uri, sha256 in zip(request.subject_uris, sha256s, strict=True)
    )
    return ClipSpec(clip_id=clip_id, portraits=portraits, request=request)


def clip(
    name: str, *, row: int = 0, priority: int = 0, subject: str = "0", prompt: str = "p", **params: float
) -> ClipSpec:
    request = make_request(RenderParams(prompt=prompt, **params), row=row, subject_uri="a.jpg", priority=priority)
    return make_clip(name, request, photo_sha256=subject)


def planned(spec: ClipSpec, group_size: int = 1) -> PlannedClip:
    work = work_of(spec.params, Engine())
    seconds = CostModel().seconds(work, group_size, OTHER)
    return PlannedClip(clip=spec, work=work, group_size=group_size, seconds=seconds)


def small_clip(clip_id: str = "ab12", row: int = 0) -> ClipSpec:
    """The clip of `record`, with all that a ledger has to tell of it, and a secret that it must not tell."""
    request = make_request(
        RenderParams(prompt="她微笑着", width=64, height=48, num_frames=5, seed=1),
        row=row,
        subject_uri="s3://user:secret@bucket/a.jpg?signature=1",
        tags={"team": "north"},
        consent_expires_at=NOW + timedelta(days=36500),
    )
    return make_clip(clip_id, request, photo_sha256="1" * 64)


def record(clip_id: str = "ab12", attempt: str = "run-1", run_id: str = "run") -> CommitRecord:
    return CommitRecord(
        clip_id=clip_id,
        attempt=attempt,
        run_id=run_id,
        committed_at=NOW,
        clip_uri=f"clips/{clip_id[:2]}/{clip_id}/{attempt}.mp4",
        poster_uri=f"clips/{clip_id[:2]}/{clip_id}/{attempt}.jpg",
        sha256="0" * 64,
        num_bytes=1000,
        num_frames=5,
        fps=16,
        width=64,
        height=48,
        seed=1,
        group_size=1,
        device="cpu",
        stage_s={"denoise_s": 1.5},
        identity={"base": "f", "ref_adapter": None, "is_parity": False},
        software={"torch": "2"},
    )


def event(
    kind: EventKind, *, minutes: int, clip_id: str = "ab12", run_id: str = "run", deaths: int = 0
) -> AttemptEvent:
    return AttemptEvent(
        run_id=run_id,
        clip_id=clip_id,
        attempt=f"{run_id}-{minutes}",
        row=0,
        kind=kind,
        at=NOW + timedelta(minutes=minutes),
        deaths=deaths,
        error_type="OutOfMemory",
        error="too big",
    )


def ended(outcome: Outcome, of: ClipSpec | None = None, *, minutes: int = 0, row: int = 0) -> RowOutcome:
    """A row of `of`, or one that never became a clip."""
    return RowOutcome(
        row=of.request.row if of else row,
        outcome=outcome,
        ended_at=NOW + timedelta(minutes=minutes),
        clip=of,
        attempts=1,
        error_type=None if outcome is Outcome.RENDERED else "OutOfMemory",
        error=None if outcome is Outcome.RENDERED else "too big",
        commit=record(of.clip_id) if of and outcome is Outcome.RENDERED else None,
    )


def start_run(output: str, run_id: str, *, minutes: int = 0, run_yaml: str = "", **columns: list[object]) -> None:
    uris = ["a.jpg", "https://host/b.jpg?signature=1"]
    manifest = pa.table({"row": [0, 1], "subject_uri": uris, **columns})
    started = RunRecord(started_at=NOW + timedelta(minutes=minutes), num_rows=2)
    write_run_record(output, run_id, started, run_yaml=run_yaml.encode(), manifest=manifest, environment={})


def recorded_try(output: str, number: int, *, edition: int = 1, clip_id: str = "ab12", **changes: Any) -> TryRecord:
    """A try of the clip of `record`, as its worker records it; its likeness is low."""
    attempt = f"run-{edition}{number}"
    made = record(clip_id, attempt).model_copy(update={"edition": edition, "try_number": number})
    known = {"clip_id": clip_id, "edition": edition, "number": number, "scores": {"likeness_p10": 0.1}}
    judged = TryRecord(**known | {"judged_at": NOW, "scorers": {}, "commit": made} | changes)
    record_try(output, judged, is_store_safe=True)
    return judged


def begin(output: str, run_id: str, clips: list[ClipSpec], *others: Any, **named: Any) -> RunRecorder:
    """A run that has prepared these clips and rendered none. The arguments are those of `recorder_of`."""
    recorder = recorder_of(output, run_id, clips, *others, **named)
    recorder.settle_past()
    return recorder


def recorder_of(
    output: str,
    run_id: str,
    clips: list[ClipSpec],
    rejections: list[Rejection] | None = None,
    quality: QualityConfig | None = None,
) -> RunRecorder:
    """As `begin`, before it looks at what earlier runs have left."""
    manifest = pa.table({"row": range(len(clips)), "subject_uri": ["a.jpg"] * len(clips)})
    started = RunRecord(started_at=datetime.now(UTC), num_rows=len(clips))
    write_run_record(output, run_id, started, run_yaml=b"", manifest=manifest, environment={})
    prepared = PreparedRun(manifest=manifest, model=checked_model(), clips=clips, rejections=rejections or [])
    return RunRecorder(output, run_id, prepared, quality)


def write_metadata(output: str, run_id: str, rows: list[RowOutcome]) -> None:
    parts = MetadataParts(output, run_id, 0)
    for row in rows:
        parts.add(row)
    parts.close()


def given_up(output: str) -> dict[str, str]:
    """Outcome by clip."""
    rows = given_up_before(output, list_editions(output)).to_pylist()
    return {row["clip_id"]: row["outcome"] for row in rows}


def deliver(
    frames: NDArray[np.uint8], *, output: str, clip_id: str, attempt: str, fps: int = 16, crf: int = 30
) -> StoredClip:
    """Frames become an attempt's video and poster in the store, as a worker puts them there."""
    encoded = encode(frames, fps=fps, crf=crf)
    stored = encoded.stored_as(clip_id, attempt)
    upload(encoded, stored, output=output)
    return stored


def files_below(output: str, folder: str) -> set[str]:
    return {str(path.relative_to(output)) for path in Path(output, folder).rglob("*") if path.is_file()}


def make_older(output: str, *, hours: float) -> None:
    """As if everything had been written so long ago, by the store's clock."""
    for path in Path(output).rglob("*"):
        seconds = path.stat().st_mtime - hours * 3600
        os.utime(path, (seconds, seconds))
