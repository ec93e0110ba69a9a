"""Signals end a command once politely, and then at once; each in a process of its own."""

import signal
import subprocess
import sys

import pytest

from lynx_batch import exits

POLITE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

PROGRAM = """
import signal, sys, time
from lynx_batch.interrupts import _State, end_politely, held
end_politely()
def wait():
    print("waits", flush=True)
    time.sleep(60)
{body}
"""

DIES = """
try:
    wait()
except KeyboardInterrupt:
    print("winds up", flush=True)
    wait()
"""

HOLDS = """
with held():
    print("waits", flush=True)
    while not _State.num_received:  # the signal may come before anything that waits for one
        time.sleep(0.01)
print("came to its end", flush=True)
"""


EARLY = """
import os, signal, sys
from lynx_batch.__main__ import main
class Signaller:
    def find_spec(self, name, path=None, target=None):
        if name == "lynx_batch.cli":
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Signaller())
main()
"""


@pytest.mark.parametrize("number", POLITE)
def test_a_signal_while_the_program_is_imported_ends_it_without_a_traceback(number: signal.Signals) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", EARLY.format(number=int(number))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (exits.STOPPED, "")


def start(body: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM.format(body=body)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert read(process) == "waits"
    return process


def read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("first", POLITE)
@pytest.mark.parametrize("second", POLITE)
def test_a_second_signal_ends_at_once_what_the_first_let_wind_up(first: signal.Signals, second: signal.Signals) -> None:
    with start(DIES) as process:
        process.send_signal(first)
        assert read(process) == "winds up"
        assert read(process) == "waits"
        process.send_signal(second)
        assert process.wait(10) == 4


@pytest.mark.parametrize("number", POLITE)
def test_what_is_held_comes_to_its_end(number: signal.Signals) -> None:
    with start(HOLDS) as process:
        process.send_signal(number)
        assert read(process) == "came to its end"
        assert process.wait(10) == 0


def test_what_a_parent_ignores_stays_ignored() -> None:
    with start("wait()") as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) != 0
    program = PROGRAM.format(body="wait()").replace("time.sleep(60)", "time.sleep(0.5)")
    with subprocess.Popen(["nohup", sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert read(process) == "waits"
        process.send_signal(signal.SIGHUP)
        assert process.wait(10) == 0
