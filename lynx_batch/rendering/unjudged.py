"""Judges clips that were committed without a quality gate, on the CPUs of this machine and without Ray."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import cache
from threading import local
from typing import Any

import pyarrow.compute as pc

from lynx_batch import storage
from lynx_batch.config import FacesConfig, InputsConfig, QualityConfig, RunConfig, parse_run_config
from lynx_batch.errors import (
    ConfigError,
    LynxError,
    MissingObject,
    NotJudged,
    PhotoChanged,
    StoreUnavailable,
    StoreUnready,
)
from lynx_batch.inputs import read_photo_file
from lynx_batch.ledger.commits import CommitRecord
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.history import known_commits
from lynx_batch.ledger.judgements import Judgement, record_judgement
from lynx_batch.ledger.metadata import PHOTO_COLUMNS, Outcome, photos_in, read_metadata
from lynx_batch.ledger.order import RunOrder
from lynx_batch.ledger.runs import read_runs
from lynx_batch.output import RUN_FILE, run_file_uri
from lynx_batch.preparation.staging import fetch_weights
from lynx_batch.rendering.gate import judge_options, measure
from lynx_batch.yaml_text import read_yaml
from lynx_model.checkpoints.published import PUBLISHED_IDENTITY_ENCODER
from lynx_model.faces.identity import OWN_RECOGNISER
from lynx_model.faces.photo import read_photo
from lynx_model.faces.reader import FaceReader, NamedPicture
from lynx_model.scoring.judge import ClipJudge
from lynx_model.spec import RenderParams

MAX_WORKERS = 8
"""Each holds the frames of one clip: some hundred MB at 81 frames of 832x480."""

PARAMETERS = tuple(field.name for field in fields(RenderParams))
COLUMNS = ["run", "row", "clip_id", *PHOTO_COLUMNS, "face_index", *PARAMETERS]

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unjudged:
    """A commit in force without scores, the newest row that asks for it, and how the run of that row reads photos."""

    commit: CommitRecord
    row: Row
    inputs: InputsConfig
    faces: FacesConfig

    @property
    def params(self) -> RenderParams:
        wanted = {name: self.row[name] for name in PARAMETERS if self.row[name] is not None}
        return RenderParams(**wanted | {"seed": self.commit.seed})

    def pictures(self) -> Iterator[NamedPicture]:
        """Each photo of the person, in the order in which it was rendered from. Raises PhotoChanged if one has other bytes now."""
        uris = {sha256: str(uri) for uri, sha256 in photos_in(self.row)}
        for sha256, uri in sorted(uris.items()):
            name, photo = f"subject_uri {storage.redact(uri)}", read_photo_file(uri, self.inputs)
            if hashlib.sha256(photo).hexdigest() != sha256:
                raise PhotoChanged(f"{name}: the photo changed since")
            yield name, read_photo(photo, is_parity=self.faces.parity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What is to be judged, and why some clips cannot be. `num_committed` clips were looked at."""

    num_committed: int
    clips: list[Unjudged]
    left_out: dict[str, str]


def find_unjudged(output: str, run_id: str | None = None) -> Backlog:
    """The clips in force that have no scores; with `run_id`, only those of rows of that run.

    Raises:
        ConfigError: If there is no such run.
    """
    runs = {run.run_id for run in read_runs(output)}
    if run_id is not None and run_id not in runs:
        raise ConfigError(
            f"--run {run_id!r}: must be a run of {storage.redact(output)}; `lynx-batch status` lists them"
        )
    commits = list(known_commits(output, list_editions(output).in_force))
    rows = _newest_rows(output, run_id)
    if run_id is not None:
        commits = [commit for commit in commits if commit.clip_id in rows]
    clips, left_out = list[Unjudged](), dict[str, str]()
    config_of = cache(lambda run: _read_config(output, run))
    for commit in commits:
        if commit.scores:
            continue
        row = rows.get(commit.clip_id)
        config = row and config_of(row["run"])
        if row is None:
            left_out[commit.clip_id] = (
                "no run's metadata names its photo yet; `lynx-batch render` with its run file adds it"
            )
        elif isinstance(config, RunConfig):
            clips.append(Unjudged(commit=commit, row=row, inputs=config.inputs, faces=config.faces))
        else:
            left_out[commit.clip_id] = str(config)
    return Backlog(num_committed=len(commits), clips=clips, left_out=left_out)


def judge_all(
    output: str, clips: list[Unjudged], quality: QualityConfig, *, num_workers: int | None = None
) -> Iterator[tuple[str, str | None]]:
    """Judges and records clips, several at once. Yields each clip's id, and why it was not judged or None. Stop it at any time.

    Raises:
        StoreUnavailable, StoreUnready: If the store fails; what was recorded stays.
        MissingFile, WeightsMismatch: If a scorer's file is missing or wrong.
    """
    of_thread, is_safe = local(), {run.run_id: run.record.is_store_safe for run in read_runs(output)}

    def scorers_for(faces: FacesConfig) -> "_Scorers":
        """Those of this thread: face networks must not be shared."""
        if getattr(of_thread, "faces", None) != faces:
            of_thread.scorers, of_thread.faces = _Scorers.load(faces, quality), faces
        found: _Scorers = of_thread.scorers
        return found

    def judge(clip: Unjudged) -> str | None:
        scorers = scorers_for(clip.faces)
        try:
            judgement = scorers.judge(output, clip)
        except (StoreUnavailable, StoreUnready):
            raise
        except LynxError as error:
            return f"{type(error).__name__}: {error}"
        record_judgement(output, judgement, is_store_safe=is_safe.get(clip.commit.run_id, True))
        return None

    pool = ThreadPoolExecutor(num_workers or min(os.cpu_count() or 1, MAX_WORKERS), thread_name_prefix="judge")
    try:
        waiting = {pool.submit(judge, clip): clip for clip in clips}
        for done in as_completed(waiting):
            yield waiting[done].commit.clip_id, done.result()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scorers:
    """What one thread judges with. `conditioned_on` is the encoder whose embeddings the model took."""

    reader: FaceReader
    judge_clip: ClipJudge
    conditioned_on: str
    quality: QualityConfig

    @classmethod
    def load(cls, faces: FacesConfig, quality: QualityConfig) -> "_Scorers":
        pack = fetch_weights(faces.pack)
        reader = FaceReader.load(pack, OWN_RECOGNISER, is_parity=faces.parity)
        return cls(
            reader=reader,
            judge_clip=ClipJudge.load(judge_options(quality, pack)),
            conditioned_on=reader.encoder if faces.identity == OWN_RECOGNISER else PUBLISHED_IDENTITY_ENCODER,
            quality=quality,
        )

    def judge(self, output: str, clip: Unjudged) -> Judgement:
        """Raises LynxError if the video or the photo is gone or has changed, or the clip cannot be measured."""
        commit, row = clip.commit, clip.row
        uri = storage.join(output, commit.clip_uri)
        video = storage.read_bytes(uri)
        if hashlib.sha256(video).hexdigest() != commit.sha256:
            raise NotJudged(f"{storage.redact(uri)}: must have the committed bytes; `lynx-batch verify` says more")
        subject = self.reader.read_person(clip.pictures(), row["face_index"])
        subject = replace(subject, encoder=self.conditioned_on)
        scores = measure(self.judge_clip, video, subject, clip.params, self.quality)
        return Judgement(
            clip_id=commit.clip_id,
            edition=commit.edition,
            judged_at=datetime.now(UTC),
            scores=scores.values,
            scorers={name: dict(files) for name, files in scores.scorers.items()},
        )


def _newest_rows(output: str, run_id: str | None) -> dict[str, Row]:
    """For each rendered clip, its row in the newest run."""
    is_wanted = pc.field("outcome") == Outcome.RENDERED
    if run_id is not None:
        is_wanted &= pc.field("run") == run_id
    table = read_metadata(output, COLUMNS, is_wanted)
    order = RunOrder.of(output, {*pc.unique(table["run"]).to_pylist()})
    return {row["clip_id"]: row for row in reversed(order.sort_newest_first(table).to_pylist())}


def _read_config(output: str, run_id: str) -> RunConfig | str:
    """The run file of a run, or why it cannot be read."""
    uri = run_file_uri(output, run_id, RUN_FILE)
    try:
        content = read_yaml(storage.read_bytes(uri).decode("utf-8", "replace"), source=storage.redact(uri))
        return parse_run_config(content or {}, source=storage.redact(uri))
    except (ConfigError, MissingObject) as error:
        return str(error)
