"""A home for processes whose user has none, as in a container that runs under any number."""

import getpass
import os
import tempfile
from pathlib import Path


def ensure_home() -> None:
    """Gives this process and its children `HOME` and `LOGNAME` where the user has no passwd entry: libraries ask for both.

    The home is a folder of the user's own in the temporary folder, so what is cached there is found again.
    """
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = str(_own_folder())
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"


def _own_folder() -> Path:
    """Nobody else's, as names in the temporary folder are anybody's to take."""
    folder = Path(tempfile.gettempdir(), f"lynx-batch-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    is_own = folder.is_dir() and not folder.is_symlink() and status.st_uid == os.getuid() and not status.st_mode & 0o022
    return folder if is_own else Path(tempfile.mkdtemp(prefix="lynx-batch-"))
