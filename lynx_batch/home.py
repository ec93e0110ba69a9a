"""Provides a home folder for a user without one, as in a container that runs under an arbitrary UID."""

import getpass
import os
import tempfile
from contextlib import suppress
from pathlib import Path


def ensure_home() -> None:
    """Sets `HOME` and `LOGNAME` for this process and its children if the user has no passwd entry: libraries need both.

    The home is a fixed folder in the temporary folder, so caches in it are found again.
    """
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = str(_own_folder())
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"


def _own_folder() -> Path:
    """A folder that only this user can write to; a new one if somebody else has taken the name."""
    folder = Path(tempfile.gettempdir(), f"lynx-batch-{os.getuid()}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    is_own = folder.is_dir() and not folder.is_symlink() and status.st_uid == os.getuid() and not status.st_mode & 0o022
    return folder if is_own else Path(tempfile.mkdtemp(prefix="lynx-batch-"))
