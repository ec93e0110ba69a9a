"""Environment variables that Ray reads when it is imported. They must be set before that, so this module does not import Ray."""

import os
from pathlib import Path

TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
TOKEN_FILE = Path("~/.ray/auth_token")


def configure_ray() -> None:
    """Makes Ray send the user's token, if there is one, and upload only what a run asks for.

    Ray 2.60 clusters require a token, but a client sends it only if `RAY_AUTH_MODE` says so. Under `uv run`, Ray would upload the
    whole working folder and have each worker build its own environment.
    """
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    if any(name in os.environ for name in TOKEN_VARIABLES) or TOKEN_FILE.expanduser().is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
