"""URIs as text: join, resolve and compare them, and tell local ones from the rest."""

import os
from pathlib import Path
from posixpath import normpath


def join(uri: str, *parts: str) -> str:
    """`uri` followed by `parts`, with one slash before each."""
    for part in filter(None, (part.strip("/") for part in parts)):
        uri = uri + part if uri.endswith("/") else f"{uri}/{part}"
    return uri


def resolve(uri: str, base: str) -> str:
    """`uri` itself if it is absolute, else relative to the folder `base`; `..` never leaves a bucket."""
    if "://" in uri or os.path.isabs(uri):
        return uri
    if is_local(base):
        return join(base, uri)
    scheme, _, address = base.partition("://")
    bucket, _, folder = address.partition("/")
    return f"{scheme}://{bucket}{normpath(join('/', folder, uri))}"


def absolute(uri: str) -> str:
    """The absolute path of a local URI, from the working directory; any other URI itself."""
    path = path_of(uri)
    return uri if path is None else os.path.abspath(path)


def is_within(uri: str, folder: str) -> bool:
    """Whether `uri` is `folder` or below it; symbolic links in local paths are followed first."""
    path, parent = path_of(uri), path_of(folder)
    if path is not None and parent is not None:
        return path.resolve().is_relative_to(parent.resolve())
    return f"{uri.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")


def is_local(uri: str) -> bool:
    """Whether `uri` is a path or `file://`: a file of the machine that reads it."""
    return path_of(uri) is not None


def path_of(uri: str) -> Path | None:
    """The path that a local URI names; None for any other URI."""
    path = uri.removeprefix("file://")
    return None if "://" in path else Path(path)


def scheme_of(uri: str) -> str:
    """The scheme, such as `s3`; empty for a local URI."""
    return "" if is_local(uri) else uri.partition("://")[0]
