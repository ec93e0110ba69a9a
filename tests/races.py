"""Racers for the commit of one clip; each writes down whom it saw win."""

import multiprocessing
import threading
from collections.abc import Callable

from lynx_batch import storage
from lynx_batch.ledger.commits import commit
from tests.builders import record
from tests.processes import preloaded_context

NUM_RACERS = 8


def race(output: str, number: int, start: Callable[[], object]) -> None:
    start()
    winner = commit(output, record(attempt=f"racer-{number}"))
    storage.write_bytes(storage.join(output, "seen", str(number)), winner.attempt.encode())


def race_in_threads(output: str) -> None:
    barrier = threading.Barrier(NUM_RACERS)
    racers = [threading.Thread(target=race, args=(output, n, barrier.wait)) for n in range(NUM_RACERS)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()


def race_in_processes(output: str) -> list[int | None]:
    """The exit codes."""
    context = preloaded_context()
    barrier = context.Barrier(NUM_RACERS)
    racers = [context.Process(target=race_in_process, args=(output, n, barrier)) for n in range(NUM_RACERS)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    return [racer.exitcode for racer in racers]


def race_in_process(output: str, number: int, barrier: "multiprocessing.synchronize.Barrier") -> None:
    race(output, number, barrier.wait)


def winners(output: str) -> set[str]:
    return {storage.read_bytes(file.uri).decode() for file in storage.list_files(storage.join(output, "seen"))}
