"""Processes that start quickly: forks of a server that has loaded what they need."""

import multiprocessing
from multiprocessing.context import ForkServerContext

PRELOADED = ["tests.preloaded"]
"""All that any of them needs: a test process has one server, which loads what the first one to start it asks for."""


def preloaded_context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context
