"""What a server of processes loads before it forks any: all that any of them needs."""

from lynx_model.imports import without_collection

with without_collection():
    import lynx_model.pipeline
    import tests.races

__all__ = ["lynx_model", "tests"]
