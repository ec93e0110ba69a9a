"""Checks on CPUs, before any GPU is requested, that each photo shows the face that its rows ask for, and how good a photo it is."""

import multiprocessing
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import structlog

from lynx_batch.clip import ClipRequest
from lynx_batch.config import FacesConfig, InputsConfig
from lynx_batch.errors import ConfigError, Permanent, PhotoUnreachable, StoreUnavailable, Transient
from lynx_batch.inputs import read_photo_file
from lynx_batch.intake.photos import PhotoProblem
from lynx_batch.intake.problems import RowProblem
from lynx_batch.storage import redact
from lynx_batch.telemetry import configure_logging
from lynx_model.errors import DifferentPeople, FaceError, UnreadableImage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lynx_model.faces.detection import DetectedFace
    from lynx_model.faces.person import Embed
    from lynx_model.faces.photo_quality import Judgement

log = structlog.get_logger()

MAX_DEATHS = 2
"""A photo is refused after it was alone in this many processes that died. A single one may have been killed for lack of memory."""

PhotoFace = tuple[str, int | None]
"""A photo's URI, and the index of the requested face; None if the photo must show only one."""

MAX_AHEAD = 64
"""So many photos are searched before the report of an earlier one is taken, so that the memory for their pictures is bounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsableFace:
    """A face that can be used, how far it is rotated clockwise in its photo, and how good a likeness it promises.

    `embedding` is by the pack's own recogniser; None unless the photo is to be compared with others.
    """

    turned_degrees: int
    judgement: "Judgement"
    embedding: "NDArray[np.float32] | None" = field(repr=False, compare=False, default=None)


Finding = PhotoProblem | UsableFace
"""Why a face cannot be used, or what was seen of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoReport:
    """What was found out about a face of a photo.

    `photo_jpeg` is the photo in small, with a frame around each face, and `crop_jpeg` the aligned face as the model reads it. They are
    empty unless pictures were asked for, and where there is nothing to show.
    """

    face: PhotoFace
    finding: Finding
    photo_jpeg: bytes = b""
    crop_jpeg: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """A photo, the indices of the requested faces, and how the photo is searched and read.

    If `with_identity`, the faces are also embedded, to be compared with those of other photos.
    """

    uri: str
    indices: Sequence[int | None]
    faces: FacesConfig
    inputs: InputsConfig
    with_pictures: bool
    with_identity: bool


def check_faces(
    wanted_faces: Iterable[PhotoFace],
    faces: FacesConfig,
    inputs: InputsConfig,
    num_processes: int | None = None,
    *,
    with_pictures: bool = False,
    compared: Set[str] = frozenset(),
) -> Iterator[PhotoReport]:
    """A report for each wanted face, as soon as it is known. Each distinct photo is read, decoded and searched once.

    Args:
        wanted_faces: May contain repetitions. The reports of a photo come one after the other, the photos in this order.
        faces: Only the detector of its pack is loaded, and its recogniser if photos are compared, not the identity encoder.
        inputs: Where photos may be stored, and the limits for reading them.
        num_processes: None is one per CPU.
        with_pictures: Also make the pictures of each report.
        compared: The photos whose faces `find_photo_problems` is to compare, because a row has several.

    Raises:
        ConfigError: If the libraries that detect faces are not installed.
        MissingFile: If the face pack is not on this machine.
        Transient: If a process dies before it gets a photo, most likely for lack of memory.
    """
    tasks = _plan(wanted_faces, faces, inputs, with_pictures=with_pictures, compared=compared)
    num_processes = max(1, min(num_processes or os.cpu_count() or 1, len(tasks)))
    for reports in _search_all(tasks, faces.pack, num_processes):
        yield from reports


def check_faces_here(
    wanted_faces: Sequence[PhotoFace], faces: FacesConfig, inputs: InputsConfig
) -> Iterator[PhotoReport]:
    """As `check_faces`, in this process, which a harmful photo may kill. Several photos are to be compared."""
    compared = {uri for uri, _ in wanted_faces} if len(wanted_faces) > 1 else set()
    for task in _plan(wanted_faces, faces, inputs, with_pictures=False, compared=compared):
        yield from _check_photo(task)


def _plan(
    wanted_faces: Iterable[PhotoFace],
    faces: FacesConfig,
    inputs: InputsConfig,
    *,
    with_pictures: bool,
    compared: Set[str],
) -> list[_Task]:
    """A task for each photo."""
    if find_spec("insightface") is None:
        raise ConfigError("check of photos: needs the extra [render]: pip install 'lynx-batch[render]'")
    indices: dict[str, list[int | None]] = {}
    for uri, face_index in dict.fromkeys(wanted_faces):
        indices.setdefault(uri, []).append(face_index)
    return [
        _Task(
            uri=uri,
            indices=wanted,
            faces=faces,
            inputs=inputs,
            with_pictures=with_pictures,
            with_identity=uri in compared,
        )
        for uri, wanted in indices.items()
    ]


def find_photo_problems(requests: Iterable[ClipRequest], findings: Mapping[PhotoFace, Finding]) -> list[RowProblem]:
    """A problem for each photo of a row whose face cannot be used, or that shows somebody else than the row's other photos."""
    problems = []
    for request in requests:
        found = {uri: findings.get((uri, request.face_index)) for uri in request.subject_uris}
        faults = {uri: finding for uri, finding in found.items() if isinstance(finding, PhotoProblem)}
        problems += [_at(request, uri, f"{fault.error_type}: {fault.error}") for uri, fault in faults.items()]
        problems += [] if faults else _find_stranger(request, found)
    return problems


def _find_stranger(request: ClipRequest, found: Mapping[str, Finding | None]) -> list[RowProblem]:
    """Nothing if the row has one photo, or if its photos were not compared."""
    embeddings = {
        uri: finding.embedding
        for uri, finding in found.items()
        if isinstance(finding, UsableFace) and finding.embedding is not None
    }
    if len(embeddings) < len(found) or len(found) == 1:
        return []
    from lynx_model.faces.person import find_stranger

    stranger = find_stranger(embeddings)
    return [_at(request, stranger.photo, f"{DifferentPeople.__name__}: {stranger.rule}")] if stranger else []


def find_turned_faces(requests: Iterable[ClipRequest], findings: Mapping[PhotoFace, Finding]) -> list[RowProblem]:
    """A note for each row whose face is rotated in its photo. This is no fault."""
    from lynx_model.faces.upright import describe_turn

    return [
        _at(request, uri, describe_turn(finding.turned_degrees))
        for request in requests
        for uri in request.subject_uris
        if isinstance(finding := findings.get((uri, request.face_index)), UsableFace) and finding.turned_degrees
    ]


def _at(request: ClipRequest, uri: str, rule: str) -> RowProblem:
    return RowProblem(row=request.row, column=request.photo_column, value=redact(uri), rule=rule)


def _search_all(tasks: Iterable[_Task], pack: str, num_processes: int) -> Iterator[list[PhotoReport]]:
    """The reports of each task, in order. A photo that kills its process does not affect the others."""
    all_searchers = [_Searcher(pack) for _ in range(num_processes)]
    free = SimpleQueue[_Searcher]()
    for searcher in all_searchers:
        free.put(searcher)

    def search(task: _Task) -> list[PhotoReport]:
        searcher = free.get()
        try:
            return searcher.search(task)
        finally:
            free.put(searcher)

    threads = ThreadPoolExecutor(num_processes)
    pending = deque[Future[list[PhotoReport]]]()
    try:
        for task in tasks:
            pending.append(threads.submit(search, task))
            if len(pending) >= MAX_AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
        for searcher in all_searchers:
            searcher.end()


class _Searcher:
    """A process that searches one photo at a time, so it is clear which photo killed it. A process that died is replaced."""

    def __init__(self, pack: str) -> None:
        self._pack = pack
        self._process: ProcessPoolExecutor | None = None

    def search(self, task: _Task) -> list[PhotoReport]:
        for _ in range(MAX_DEATHS):
            process = self._process or self._begin()
            try:
                return process.submit(_check_photo, task).result()
            except BrokenProcessPool:
                self.end()
            except Exception as error:
                log.exception("photo_search_failed", photo=redact(task.uri))
                return _refuse_all(task, f"photo: cannot be searched for faces: {type(error).__name__}: {error}")
        return _refuse_all(task, f"photo: must not kill the process that searches it, and did so {MAX_DEATHS} times")

    def end(self) -> None:
        if self._process is not None:
            self._process.shutdown()
        self._process = None

    def _begin(self) -> ProcessPoolExecutor:
        """Raises Transient if the process dies before it gets a photo. A process that cannot load the detector is ended."""
        process = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        try:
            process.submit(_load_detector, self._pack).result()
        except Exception as error:
            process.shutdown()
            if isinstance(error, BrokenProcessPool):
                raise Transient(
                    "check of photos: a process died before it had a photo, most likely for lack of memory"
                ) from error
            raise
        self._process = process
        return process


def _refuse_all(task: _Task, rule: str) -> list[PhotoReport]:
    problem = PhotoProblem.of(UnreadableImage(rule))
    return [PhotoReport(face=(task.uri, index), finding=problem) for index in task.indices]


def _check_photo(task: _Task) -> list[PhotoReport]:
    from lynx_model.faces.photo import read_photo
    from lynx_model.faces.upright import find_faces

    detector = _detector(task.faces.pack)
    try:
        photo = read_photo(read_photo_file(task.uri, task.inputs), is_parity=task.faces.parity)
        faces = find_faces(detector, photo, is_parity=task.faces.parity)
    except (Permanent, StoreUnavailable, PhotoUnreachable) as error:
        return [PhotoReport(face=(task.uri, index), finding=PhotoProblem.of(error)) for index in task.indices]
    return [_check_face(task, photo, faces, index) for index in task.indices]


def _check_face(task: _Task, photo: "NDArray[np.uint8]", faces: "list[DetectedFace]", index: int | None) -> PhotoReport:
    from lynx_model.faces.align import align_face_for_identity
    from lynx_model.faces.photo_quality import judge, measure
    from lynx_model.faces.reader import choose_face

    try:
        chosen = choose_face(faces, index)
    except FaceError as error:
        return _report(task, photo, faces, index, PhotoProblem.of(error))
    judgement = judge(measure(photo, faces, chosen))
    embedding = (
        _recogniser(task.faces.pack)(align_face_for_identity(photo, chosen.landmarks)) if task.with_identity else None
    )
    seen = UsableFace(turned_degrees=chosen.turned_degrees, judgement=judgement, embedding=embedding)
    return _report(task, photo, faces, index, seen, chosen)


def _report(
    task: _Task,
    photo: "NDArray[np.uint8]",
    faces: "list[DetectedFace]",
    index: int | None,
    finding: Finding,
    chosen: "DetectedFace | None" = None,
) -> PhotoReport:
    if not task.with_pictures:
        return PhotoReport(face=(task.uri, index), finding=finding)
    from lynx_batch.intake.thumbnails import encode_crop, encode_photo

    return PhotoReport(
        face=(task.uri, index),
        finding=finding,
        photo_jpeg=encode_photo(photo, faces, chosen),
        crop_jpeg=encode_crop(photo, chosen) if chosen else b"",
    )


@cache
def _detector(pack: str) -> Any:
    """Loaded once per process."""
    from lynx_model.faces.detection import load_networks
    from lynx_model.faces.pack import find_pack

    return load_networks(find_pack(pack), ["detection"])["detection"]


@cache
def _recogniser(pack: str) -> "Embed":
    """Loaded once per process, and only if photos are compared."""
    from lynx_model.faces.pack import find_pack
    from lynx_model.faces.reader import load_recogniser

    return load_recogniser(find_pack(pack))


def _load_detector(pack: str) -> None:
    """The first task of a process. Returns nothing because the detector cannot be pickled."""
    configure_logging()
    _detector(pack)
