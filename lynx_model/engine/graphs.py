"""The limit on graphs that torch may compile for one function."""

import torch

MAX_GRAPHS = 128
"""Clip shapes that one worker can compile. Torch's default is 8; beyond the limit a function with fullgraph=True raises an error."""


def allow_many_graphs() -> None:
    """Raises torch's limit to `MAX_GRAPHS`; call it before compiling. Never lowers the limit."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_GRAPHS)
