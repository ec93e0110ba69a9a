"""What Ray reads of the environment when it is imported: this must be settled before, so this module does not import it."""

import os
from pathlib import Path

TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
TOKEN_FILE = Path("~/.ray/auth_token")


def settle_ray() -> None:
    """Makes this process show the user's token, if there is one, and take nothing along but what a run asks for.

    Ray 2.60 clusters ask for a token, but a client sends it only if `RAY_AUTH_MODE` says so. Started by `uv run`, Ray would upload
    the working folder, whatever lies in it, and have each worker build an environment anew.
    """
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    if any(name in os.environ for name in TOKEN_VARIABLES) or TOKEN_FILE.expanduser().is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
