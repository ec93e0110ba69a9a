"""The token with which a Ray cluster knows its users; must be settled before ray is imported, so this module does not."""

import os
from pathlib import Path

TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
TOKEN_FILE = Path("~/.ray/auth_token")


def show_token() -> None:
    """Makes this process show the user's token, if there is one.

    Ray 2.60 clusters ask for it, but a client sends it only if `RAY_AUTH_MODE` says so when ray is imported.
    """
    if any(name in os.environ for name in TOKEN_VARIABLES) or TOKEN_FILE.expanduser().is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
