"""Fetches published weights and stores their fingerprints. Needs the network, so rendering never does it."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import HfApi, RepoFile, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import build_hf_headers

from lynx_model.checkpoints.digests import FileDigest
from lynx_model.checkpoints.fingerprint import Fingerprint, counts, is_as_recorded, read_fingerprint, write_fingerprint
from lynx_model.checkpoints.names import below, check_names
from lynx_model.checkpoints.published import FileSource, RepoSource
from lynx_model.checkpoints.transfer import Download, fetch, missing_bytes
from lynx_model.errors import LynxError, MissingFile, Transient

MAIN = "main"
COMMIT = re.compile("[0-9a-f]{40}")

GONE = frozenset({401, 403, 404, 410})
"""HTTP status codes that a retry will not change."""

REFUSALS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST})
"""Error numbers of a disk that will never let us write there."""


def pull(source: RepoSource | FileSource, root: Path, revision: str | None = None) -> Path:
    """Fetches `source` into the models folder `root` and stores its fingerprint; returns the folder with its files.

    A folder stays on the revision that it was fetched at, unless `revision` names another; once complete, it needs no network.
    `$HF_ENDPOINT` selects another hub, `$LYNX_BATCH_ARCFACE_URL` another URL for the ArcFace file.

    Raises:
        MissingFile: If the repository, revision or file does not exist or is not public.
        WeightsMismatch: If the content differs from what was published, or the repository names a file outside the folder.
        Transient: If network, server or disk failed; another call resumes.
    """
    if isinstance(source, FileSource):
        return _pull_file(source, root)
    return _pull_repo(source, root, revision)


def _pull_file(source: FileSource, root: Path) -> Path:
    file = root / source.path
    url = os.environ.get("LYNX_BATCH_ARCFACE_URL", source.url)
    download = Download(url=url, file=file, content_id=source.sha256)
    with _explained(_without_secrets(url)):
        if not _is_complete(file.parent, source.sha256):
            fetched = fetch([download], headers={})
            _record(file.parent, fetched, source=source.url, revision=source.sha256)
    return file.parent


def _pull_repo(source: RepoSource, root: Path, revision: str | None) -> Path:
    folder = root / source.folder
    with _explained(source.repo_id):
        kept = read_fingerprint(folder)
        wanted = revision or (kept and kept.revision) or source.revision or MAIN
        if _is_complete(folder, wanted):
            return folder
        hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))  # huggingface_hub reads it only at import
        commit = wanted if COMMIT.fullmatch(wanted) else hub.model_info(source.repo_id, revision=wanted).sha
        downloads = _list_downloads(hub, source, commit, folder if source.is_whole_repo else root)
        _check_space(root, missing_bytes(downloads))
        fetched = fetch(downloads, build_hf_headers())
        _record(folder, fetched, source=source.repo_id, revision=commit)
    return folder


def _is_complete(folder: Path, revision: str) -> bool:
    """Whether the folder was fetched completely at that revision and its files have not changed."""
    kept = read_fingerprint(folder)
    return kept is not None and kept.revision == revision and is_as_recorded(folder, kept)


def _list_downloads(hub: HfApi, source: RepoSource, commit: str, target: Path) -> list[Download]:
    """The files of `source`, with the repository's layout below `target`."""
    origin = f"{source.repo_id} at {commit}"
    entries = [
        entry
        for entry in hub.list_repo_tree(source.repo_id, revision=commit, recursive=True)
        if isinstance(entry, RepoFile) and any(fnmatch(entry.path, pattern) for pattern in source.patterns)
    ]
    check_names([entry.path for entry in entries], source=origin)
    downloads = [
        Download(
            url=hf_hub_url(source.repo_id, entry.path, revision=commit, endpoint=hub.endpoint),
            file=below(target, entry.path, source=origin),
            content_id=entry.lfs.sha256 if entry.lfs else entry.blob_id,
            num_bytes=entry.size,
        )
        for entry in entries
    ]
    if not downloads:
        raise MissingFile(f"{origin}: must hold {' '.join(source.patterns)}")
    return downloads


def _check_space(root: Path, needed_bytes: int) -> None:
    root.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(root).free
    if needed_bytes > free_bytes:
        raise Transient(f"{root}: needs {needed_bytes / 1e9:.1f} GB more, its disk has {free_bytes / 1e9:.1f} GB left")


def _record(folder: Path, fetched: dict[Path, FileDigest], *, source: str, revision: str) -> None:
    """Stores the fingerprint of the fetched files; other files in the folder came from elsewhere."""
    names = {file.relative_to(folder).as_posix(): digest for file, digest in fetched.items()}
    files = {name: digest for name, digest in names.items() if counts(name)}
    write_fingerprint(folder, Fingerprint(files=files, source=source, revision=revision))


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turns network and disk errors into ours, which name `what` was fetched."""
    try:
        yield
    except LynxError:
        raise
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise MissingFile(f"{what}: {_first_line(error)}") from error
    except (HfHubHTTPError, httpx2.HTTPStatusError) as error:
        status = error.response.status_code
        kind = MissingFile if status in GONE else Transient
        raise kind(f"{what}: the server answered {status} ({error.response.reason_phrase})") from error
    except httpx2.HTTPError as error:
        raise Transient(f"{what}: cannot be reached ({_first_line(error)}); pull again to resume") from error
    except OSError as error:
        if error.errno in REFUSALS:
            raise MissingFile(f"{what}: {_first_line(error)}; choose a models folder that you can write to") from error
        raise Transient(f"{what}: {_first_line(error)}; pull again to resume") from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().partition("\n")[0]


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{parts.path}"
