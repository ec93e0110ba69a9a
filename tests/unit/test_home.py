"""A user whom the machine does not know, as containers have them, can run commands."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

UNKNOWN = 54321
# a test run as root may have its Python where nobody else may read
RIGHTS = ["--inh-caps=+dac_override,+dac_read_search", "--ambient-caps=+dac_override,+dac_read_search"]
AS_UNKNOWN = ["setpriv", f"--reuid={UNKNOWN}", f"--regid={UNKNOWN}", "--clear-groups", *RIGHTS]
PROGRAM = """
import getpass, os, platformdirs
from lynx_batch.home import ensure_home
ensure_home()
print(os.path.expanduser("~"), getpass.getuser(), platformdirs.user_cache_path("lynx-batch"))
"""


def run_unknown(temporary: Path) -> list[str]:
    kept = {"PATH": os.environ["PATH"], "TMPDIR": str(temporary), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [*AS_UNKNOWN, sys.executable, "-c", PROGRAM]
    told = subprocess.run(command, check=False, env=kept, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    return told.stdout.split()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_unknown_user_without_a_home_gets_one_of_their_own_and_finds_it_again(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    home = tmp_path / f"lynx-batch-{UNKNOWN}"
    for _ in range(2):
        assert run_unknown(tmp_path) == [str(home), f"uid-{UNKNOWN}", str(home / ".cache" / "lynx-batch")]
    assert (home.stat().st_uid, home.stat().st_mode & 0o777) == (UNKNOWN, 0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("make", [lambda path: path.mkdir(mode=0o777), Path.touch], ids=["folder", "file"])
def test_what_somebody_else_has_put_there_is_not_taken_for_a_home(tmp_path: Path, make: Callable[[Path], None]) -> None:
    tmp_path.chmod(0o777)
    theirs = tmp_path / f"lynx-batch-{UNKNOWN}"
    make(theirs)
    home, *_ = run_unknown(tmp_path)
    assert Path(home).parent == tmp_path
    assert Path(home) != theirs
