"""How many graphs torch may compile of one function."""

import torch

MAX_GRAPHS = 128
"""Shapes of clips that a worker may meet; torch gives up after 8 graphs of one function, and a whole graph that is refused is an error."""


def allow_many_graphs() -> None:
    """To be called before anything of the model's is compiled; never lowers the limit."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_GRAPHS)
