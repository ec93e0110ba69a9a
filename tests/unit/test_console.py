"""Anybody's words reach a terminal, a real one here, as text that does nothing to it."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog

from lynx_batch import cli
from lynx_batch.cli import app
from lynx_batch.cli.console import make_console, say, show_bug
from lynx_batch.cli.jobs import _follow
from lynx_batch.cli.progress import shown
from lynx_batch.execution.progress import Progress
from lynx_batch.intake.schema import MANIFEST_SCHEMA
from lynx_batch.ledger.metadata import Outcome
from lynx_batch.printable import counted, printable
from lynx_batch.telemetry import configure_logging
from tests.builders import begin, ended, small_clip, write_metadata
from tests.models import OLD_OUTPUT

EVIL = "a\x1b]0;own\x07b\x9b31mc\u202ed\x7f\re\udcff"
OnTerminal = Callable[[Callable[[], object]], str]
ACTED = re.compile("\x1b\\]0;|\x07|\x9b|\u202e|\x7f")
"""What must not reach a terminal; a carriage return and the beginnings of colours are the terminal's and rich's own."""


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> OnTerminal:
    """What a terminal gets of what something prints."""

    def run(prints: Callable[[], object]) -> str:
        controller, terminal = pty.openpty()
        received: list[bytes] = []
        reading = Thread(target=lambda: received.extend(iter(lambda: _read(controller), b"")))
        reading.start()
        with open(terminal, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
            patch.setenv("TERM", "xterm")
            patch.setattr(sys, "stdout", stream)
            patch.setattr(sys, "stderr", stream)
            patch.setattr(sys, "excepthook", sys.excepthook)
            prints()
        reading.join()
        os.close(controller)
        return b"".join(received).decode()

    return run


def _read(controller: int) -> bytes:
    try:
        return os.read(controller, 65536)
    except OSError:  # the terminal's other end is closed
        return b""


def test_a_closed_stdout_ends_no_command() -> None:
    """As a daemon's is: Python then has no `sys.stdout` at all."""
    program = f"exec {sys.executable} -m lynx_batch status {OLD_OUTPUT} >&-"
    told = subprocess.run(["sh", "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (told.returncode, told.stderr) == (0, "")


def command(*arguments: str) -> Callable[[], None]:
    def run() -> None:
        with pytest.raises(SystemExit):
            app(list(arguments))

    return run


def assert_harmless(received: str, *, times: int = 1) -> None:
    assert received.count("own") >= times, "the words themselves are shown"
    assert not ACTED.search(received), repr(received)


@pytest.mark.parametrize("line", ["say('line')", "make_console().print('line')"])
def test_a_reader_that_goes_away_ends_no_command(line: str) -> None:
    program = (
        f"from lynx_batch.cli.console import make_console, say\nfor _ in range(20_000):\n    {line}\n"
        "say('worked to the end', is_error=True)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == b"line\n"
        command.stdout.close()
        _, told = command.communicate(timeout=60)
    assert (command.returncode, told) == (0, b"worked to the end\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("line", ["say('line')", "make_console().print('line')"])
def test_a_full_disk_is_reported_and_ends_no_command(line: str) -> None:
    program = (
        f"from lynx_batch.cli.console import make_console, say\nfor _ in range(5):\n    {line}\n"
        "say('worked to the end', is_error=True)"
    )
    with Path("/dev/full").open("w") as full:
        command = subprocess.run(
            [sys.executable, "-c", program], check=False, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert command.returncode == 0
    assert command.stderr.splitlines() == [
        "warning: the output cannot be written, the rest of it is lost: [Errno 28] No space left on device",
        "worked to the end",
    ]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("arguments", [["--help"], [], ["manifest", "build", "--help"]])
def test_help_that_a_full_disk_does_not_take_is_an_error_without_a_traceback(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = subprocess.run(
            [sys.executable, "-m", "lynx_batch", *arguments],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    told = "error: the output cannot be written: [Errno 28] No space left on device\n"
    assert (command.returncode, command.stderr) == (4, told)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_wrong_arguments_end_with_2_even_if_nobody_can_be_told() -> None:
    with Path("/dev/full").open("w") as full:
        command = subprocess.run(
            [sys.executable, "-m", "lynx_batch", "nonsense"], check=False, stdout=full, stderr=full, timeout=60
        )
    assert command.returncode == 2


def test_logs_that_nobody_reads_end_no_command() -> None:
    program = (
        "import structlog\nfrom lynx_batch.telemetry import configure_logging\nconfigure_logging()\n"
        "for _ in range(5_000):\n    structlog.get_logger().info('event')\nprint('worked to the end')"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        assert command.stderr is not None
        assert b"event" in command.stderr.readline()
        command.stderr.close()
        told, _ = command.communicate(timeout=60)
    assert (command.returncode, told) == (0, b"worked to the end\n")


def test_line_breaks_tabs_and_other_scripts_stay() -> None:
    assert printable("微笑\n\tمرحبا é") == "微笑\n\tمرحبا é"
    assert printable(EVIL) == "a�]0;own�b�31mc�d��e�"


def test_a_count_agrees_with_its_noun() -> None:
    assert [counted(number, "clip") for number in (0, 1, 2)] == ["0 clips", "1 clip", "2 clips"]
    assert [counted(number, "try", "tries") for number in (1, 3)] == ["1 try", "3 tries"]


def test_the_cells_of_a_manifest(on_terminal: OnTerminal, tmp_path: Path) -> None:
    words = EVIL[:-1]  # Parquet holds no half of a character
    row = {"subject_uri": words, "prompt": words, "clip_name": words, "subject_id": words, "tags": [(words, words)]}
    pq.write_table(pa.Table.from_pylist([row], MANIFEST_SCHEMA), tmp_path / "m.parquet")
    assert_harmless(on_terminal(command("manifest", "show", str(tmp_path / "m.parquet"))), times=4)
    assert_harmless(on_terminal(command("manifest", "check", str(tmp_path / "m.parquet"))))


def test_what_a_run_left(on_terminal: OnTerminal, tmp_path: Path) -> None:
    words, output = EVIL[:-1], str(tmp_path)
    begin(output, "run", [])
    spec = small_clip()
    spec = replace(
        spec, request=replace(spec.request, clip_name=words, params=replace(spec.request.params, prompt=words))
    )
    write_metadata(output, "run", [replace(ended(Outcome.FAILED, spec), error=words)])
    assert_harmless(on_terminal(command("status", output)))
    assert_harmless(on_terminal(command("status", output, "--clips")), times=3)


@pytest.mark.parametrize(
    "arguments",
    [
        ("manifest", "check", f"/{EVIL}.parquet"),
        ("manifest", "build", "--from", f"s3://{EVIL}/a.csv", "--out", EVIL),
        ("status", f"/{EVIL}"),
        ("plan", f"{EVIL}.yaml"),
        ("models", "check", EVIL),
        ("doctor", "--set", EVIL),
        ("plan", "run.yaml", f"--{EVIL}"),
        (f"own{EVIL}",),
    ],
    ids=lambda arguments: " ".join(arguments).encode("ascii", "ignore").decode(),
)
def test_the_names_in_an_error(on_terminal: OnTerminal, arguments: tuple[str, ...]) -> None:
    assert_harmless(on_terminal(command(*arguments)))


def test_the_clips_that_are_being_rendered(on_terminal: OnTerminal) -> None:
    progress = Progress(
        num_rendered=0, num_rejected=0, num_failed=0, num_left=1, running=((EVIL, 1, 2),), num_groups_loading=0
    )

    def show() -> None:
        with shown(make_console()) as watch:
            watch(progress)
        make_console().print(f"stopped: {EVIL}")

    assert_harmless(on_terminal(show), times=2)


class Talkative:
    """A job whose lines somebody else wrote."""

    def follow(self, job_id: str, echo: Callable[[str], None]) -> int:
        echo(f"first\n{EVIL}\tlast\n")
        return 0


def test_the_lines_of_a_job_that_is_followed(on_terminal: OnTerminal) -> None:
    received = on_terminal(lambda: _follow(Talkative(), "job"))
    assert_harmless(received)
    assert "first\r\na" in received
    assert "\tlast\r\n" in received or "    last" in received


def test_events_and_the_errors_of_bugs(on_terminal: OnTerminal) -> None:
    def fail() -> None:
        raise ValueError(EVIL)

    def log_and_break() -> None:
        configure_logging()
        try:
            fail()
        except ValueError as error:
            structlog.get_logger().exception("broke", clip=EVIL, files=[EVIL, {EVIL: EVIL}])
            show_bug(type(error), error, error.__traceback__)

    assert_harmless(on_terminal(log_and_break), times=6)


def test_everything_is_said_by_the_console() -> None:
    forbidden = re.compile(r"\btyper\.(echo|secho)\b|(?<![.\w])print\(|\bConsole\(|sys\.std(out|err)\.write")
    for module in Path(cli.__file__).parent.glob("*.py"):
        if module.name != "console.py":
            assert not forbidden.search(module.read_text(encoding="utf-8")), f"{module.name}: use say or make_console"


def test_what_is_said_may_be_long(capsys: pytest.CaptureFixture[str]) -> None:
    say("x" * 1000)
    assert capsys.readouterr().out == "x" * 1000 + "\n"
