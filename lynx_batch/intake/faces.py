"""Whether each photo shows the face that its rows mean; on CPUs, before a GPU is asked for."""

import multiprocessing
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from importlib.util import find_spec
from typing import Any

from lynx_batch.clip import ClipRequest
from lynx_batch.config import FacesConfig
from lynx_batch.errors import ConfigError, Permanent, Transient
from lynx_batch.intake.photos import PhotoProblem
from lynx_batch.intake.problems import RowProblem
from lynx_batch.storage import read_bytes, redact
from lynx_model.errors import FaceError

Portrait = tuple[str, int | None]
"""A photo's URI, and which of its faces is meant."""


def check_faces(
    portraits: Iterable[Portrait], faces: FacesConfig, num_processes: int | None = None
) -> dict[Portrait, PhotoProblem]:
    """What is wrong with each portrait that cannot be used. Each distinct photo is read and searched once.

    Args:
        portraits: May repeat.
        faces: Only the pack's detector is needed, not the identity encoder.
        num_processes: None is one for each CPU.

    Raises:
        ConfigError: If the libraries that find faces are not installed.
        MissingFile: If the face pack is not on this machine.
        Transient: If a store cannot be reached, or a process dies, most likely for lack of memory.
    """
    if find_spec("insightface") is None:
        raise ConfigError("check of photos: needs the extra [render]: pip install 'lynx-batch[render]'")
    indices: dict[str, list[int | None]] = {}
    for uri, face_index in dict.fromkeys(portraits):
        indices.setdefault(uri, []).append(face_index)
    context = multiprocessing.get_context("spawn")
    num_processes = min(num_processes or os.cpu_count() or 1, max(1, len(indices)))
    with ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        tasks = ((uri, wanted, faces.pack, faces.parity) for uri, wanted in indices.items())
        try:
            return {portrait: problem for found in pool.map(_check_photo, tasks) for portrait, problem in found}
        except BrokenProcessPool as error:
            raise Transient("check of photos: a process died, most likely for lack of memory") from error


def find_photo_problems(requests: Iterable[ClipRequest], problems: Mapping[Portrait, PhotoProblem]) -> list[RowProblem]:
    """Each row whose portrait is one of `problems`."""
    found = ((request, problems.get((request.subject_uri, request.face_index))) for request in requests)
    return [
        RowProblem(
            row=request.row,
            column="subject_uri",
            value=redact(request.subject_uri),
            rule=f"{problem.error_type}: {problem.error}",
        )
        for request, problem in found
        if problem is not None
    ]


def _check_photo(task: tuple[str, Sequence[int | None], str, bool]) -> list[tuple[Portrait, PhotoProblem]]:
    uri, wanted, pack, is_parity = task
    from lynx_model.faces.detection import find_faces
    from lynx_model.faces.photo import read_photo
    from lynx_model.faces.reader import choose_face

    detector = _detector(pack)
    try:
        faces = find_faces(detector, read_photo(read_bytes(uri)), is_parity=is_parity)
    except Permanent as error:
        return [((uri, index), PhotoProblem.of(error)) for index in wanted]
    problems = []
    for index in wanted:
        try:
            choose_face(faces, index)
        except FaceError as error:
            problems.append(((uri, index), PhotoProblem.of(error)))
    return problems


@cache
def _detector(pack: str) -> Any:
    """One for each process."""
    from lynx_model.faces.detection import load_networks
    from lynx_model.faces.pack import find_pack

    return load_networks(find_pack(pack), ["detection"])["detection"]
