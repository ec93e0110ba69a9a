"""Checks on CPUs, before any GPU is requested, that each photo shows the face that its rows ask for."""

import multiprocessing
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
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
from lynx_model.errors import FaceError, UnreadableImage

if TYPE_CHECKING:
    from lynx_model.faces.detection import DetectedFace

log = structlog.get_logger()

MAX_DEATHS = 2
"""A photo is refused after it was alone in this many processes that died. A single one may have been killed for lack of memory."""

PhotoFace = tuple[str, int | None]
"""A photo's URI, and the index of the requested face; None if the photo must show only one."""

Finding = PhotoProblem | int
"""Why a face cannot be used, or by how many degrees (not 0) it is rotated clockwise."""

_Task = tuple[str, Sequence[int | None], FacesConfig, InputsConfig]
"""A photo's URI, the indices of the requested faces, and how the photo is searched and read."""

_Findings = list[tuple[PhotoFace, Finding]]


def check_faces(
    wanted_faces: Iterable[PhotoFace], faces: FacesConfig, inputs: InputsConfig, num_processes: int | None = None
) -> dict[PhotoFace, Finding]:
    """A finding for each face that cannot be used or is rotated. Each distinct photo is read and searched once.

    Args:
        wanted_faces: May contain repetitions.
        faces: Only the detector of its pack is loaded, not the identity encoder.
        inputs: Where photos may be stored, and the limits for reading them.
        num_processes: None is one per CPU.

    Raises:
        ConfigError: If the libraries that detect faces are not installed.
        MissingFile: If the face pack is not on this machine.
        Transient: If a process dies before it gets a photo, most likely for lack of memory.
    """
    if find_spec("insightface") is None:
        raise ConfigError("check of photos: needs the extra [render]: pip install 'lynx-batch[render]'")
    indices: dict[str, list[int | None]] = {}
    for uri, face_index in dict.fromkeys(wanted_faces):
        indices.setdefault(uri, []).append(face_index)
    tasks = [(uri, wanted, faces, inputs) for uri, wanted in indices.items()]
    num_processes = max(1, min(num_processes or os.cpu_count() or 1, len(tasks)))
    return {face: finding for found in _search_all(tasks, faces.pack, num_processes) for face, finding in found}


def find_photo_problems(requests: Iterable[ClipRequest], findings: Mapping[PhotoFace, Finding]) -> list[RowProblem]:
    """A problem for each row whose face cannot be used."""
    return [
        _at(request, f"{finding.error_type}: {finding.error}")
        for request in requests
        if isinstance(finding := findings.get(_photo_face(request)), PhotoProblem)
    ]


def find_turned_faces(requests: Iterable[ClipRequest], findings: Mapping[PhotoFace, Finding]) -> list[RowProblem]:
    """A note for each row whose face is rotated in its photo. This is no fault."""
    from lynx_model.faces.upright import describe_turn

    return [
        _at(request, describe_turn(finding))
        for request in requests
        if isinstance(finding := findings.get(_photo_face(request)), int)
    ]


def _photo_face(request: ClipRequest) -> PhotoFace:
    return request.subject_uri, request.face_index


def _at(request: ClipRequest, rule: str) -> RowProblem:
    return RowProblem(row=request.row, column="subject_uri", value=redact(request.subject_uri), rule=rule)


def _search_all(tasks: Iterable[_Task], pack: str, num_processes: int) -> list[_Findings]:
    """The findings of each task. A photo that kills its process does not affect the others."""
    all_searchers = [_Searcher(pack) for _ in range(num_processes)]
    free = SimpleQueue[_Searcher]()
    for searcher in all_searchers:
        free.put(searcher)

    def search(task: _Task) -> _Findings:
        searcher = free.get()
        try:
            return searcher.search(task)
        finally:
            free.put(searcher)

    threads = ThreadPoolExecutor(num_processes)
    try:
        return list(threads.map(search, tasks))
    finally:
        threads.shutdown(cancel_futures=True)
        for searcher in all_searchers:
            searcher.end()


class _Searcher:
    """A process that searches one photo at a time, so it is clear which photo killed it. A process that died is replaced."""

    def __init__(self, pack: str) -> None:
        self._pack = pack
        self._process: ProcessPoolExecutor | None = None

    def search(self, task: _Task) -> _Findings:
        for _ in range(MAX_DEATHS):
            process = self._process or self._begin()
            try:
                return process.submit(_check_photo, task).result()
            except BrokenProcessPool:
                self.end()
            except Exception as error:
                log.exception("photo_search_failed", photo=redact(task[0]))
                return _refuse_all(task, f"photo: cannot be searched for faces: {type(error).__name__}: {error}")
        return _refuse_all(task, f"photo: must not kill the process that searches it, and did so {MAX_DEATHS} times")

    def end(self) -> None:
        if self._process is not None:
            self._process.shutdown()
        self._process = None

    def _begin(self) -> ProcessPoolExecutor:
        """Raises Transient if the process dies before it gets a photo."""
        self._process = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        try:
            self._process.submit(_load_detector, self._pack).result()
        except BrokenProcessPool as error:
            raise Transient(
                "check of photos: a process died before it had a photo, most likely for lack of memory"
            ) from error
        return self._process


def _refuse_all(task: _Task, rule: str) -> _Findings:
    uri, wanted, *_ = task
    return [((uri, index), PhotoProblem.of(UnreadableImage(rule))) for index in wanted]


def _check_photo(task: _Task) -> _Findings:
    uri, wanted, faces_config, inputs = task
    from lynx_model.faces.photo import read_photo
    from lynx_model.faces.upright import find_faces

    detector = _detector(faces_config.pack)
    try:
        photo = read_photo(read_photo_file(uri, inputs), is_parity=faces_config.parity)
        faces = find_faces(detector, photo, is_parity=faces_config.parity)
    except (Permanent, StoreUnavailable, PhotoUnreachable) as error:
        return [((uri, index), PhotoProblem.of(error)) for index in wanted]
    return [((uri, index), finding) for index in wanted if (finding := _check_face(faces, index))]


def _check_face(faces: "list[DetectedFace]", index: int | None) -> Finding:
    """0 means that the face is upright and can be used."""
    from lynx_model.faces.reader import choose_face

    try:
        return choose_face(faces, index).turned_degrees
    except FaceError as error:
        return PhotoProblem.of(error)


@cache
def _detector(pack: str) -> Any:
    """Loaded once per process."""
    from lynx_model.faces.detection import load_networks
    from lynx_model.faces.pack import find_pack

    return load_networks(find_pack(pack), ["detection"])["detection"]


def _load_detector(pack: str) -> None:
    """The first task of a process. Returns nothing because the detector cannot be pickled."""
    configure_logging()
    _detector(pack)
