"""Errors become messages and exit codes; events go to stderr."""

import json
import subprocess
import sys

import pytest
import structlog
import typer
from typer.testing import CliRunner

from lynx_batch.cli import app
from lynx_batch.errors import ConfigError, StoreUnavailable
from lynx_batch.telemetry import configure_logging


@pytest.fixture
def failing() -> typer.Typer:
    """The application's group of commands, around commands that fail."""
    failing = typer.Typer(cls=app.info.cls, pretty_exceptions_enable=False)

    @failing.command()
    def clip() -> None:
        raise ConfigError("width=833: must be a multiple of 16")

    @failing.command()
    def world() -> None:
        raise StoreUnavailable("s3://b: cannot be reached")

    @failing.command()
    def bug() -> None:
        raise KeyError("bug")

    return failing


@pytest.mark.parametrize(
    ("command", "exit_code", "message"),
    [("clip", 2, "error: width=833: must be a multiple of 16\n"), ("world", 4, "error: s3://b: cannot be reached\n")],
)
def test_an_error_is_a_message_and_an_exit_code(
    failing: typer.Typer, command: str, exit_code: int, message: str
) -> None:
    result = CliRunner().invoke(failing, [command])
    assert (result.exit_code, result.stderr, result.stdout) == (exit_code, message, "")


def test_a_bug_is_not_dressed_up_as_a_fault_of_the_user(failing: typer.Typer) -> None:
    assert isinstance(CliRunner().invoke(failing, ["bug"]).exception, KeyError)


@pytest.mark.parametrize("arguments", [["nonsense"], ["manifest", "check"], ["manifest", "show", "m", "--limit", "-1"]])
def test_wrong_arguments_end_with_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_the_version_is_told() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("lynx-batch ")


def test_away_from_a_terminal_an_event_is_a_line_of_json_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    log = structlog.get_logger()
    log.debug("not_shown")
    log.warning("clip_rendered", clip="微笑", seconds=1.5)
    try:
        int("x")
    except ValueError:
        log.exception("clip_failed")
    out, err = capsys.readouterr()
    first, second = map(json.loads, err.splitlines())
    assert out == ""
    assert (first["event"], first["clip"], first["seconds"], first["level"]) == (
        "clip_rendered",
        "微笑",
        1.5,
        "warning",
    )
    assert "ValueError: invalid literal" in second["exception"]


def test_a_command_that_needs_more_than_the_base_install_says_what() -> None:
    program = "import sys; sys.modules['torch'] = None; from lynx_batch.cli import app; app(['bench', 'engine'])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == "error: this command needs torch: pip install 'lynx-batch[render]'\n"
