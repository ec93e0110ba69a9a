"""Photos are read in one way, and every read is bounded; of local files here, `test_web.py` and `test_s3.py` have the rest."""

import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from lynx_batch.config import InputsConfig
from lynx_batch.errors import InputRefused, MissingObject, StoreRefused
from lynx_batch.inputs import find_version, read_photo_file


def test_a_regular_file_is_read_by_path_and_by_uri(tmp_path: Path) -> None:
    (tmp_path / "a b#%20?.jpg").write_bytes(b"photo")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "a b#%20?.jpg")
    for name in ("a b#%20?.jpg", "link.jpg"):
        for uri in (f"{tmp_path}/{name}", f"file://{tmp_path}/{name}"):
            assert read_photo_file(uri, InputsConfig()) == b"photo"


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name in ("/dev/zero", "/dev/null", *(str(tmp_path / name) for name in ("pipe", "link", "socket"))):
            with pytest.raises(InputRefused, match=f"{name}: must be a regular file"):
                read_photo_file(name, InputsConfig())
    for name in (str(tmp_path), str(tmp_path / "nowhere"), "/dev/null/x"):
        with pytest.raises(MissingObject):
            read_photo_file(name, InputsConfig())


def test_what_gives_nothing_without_waiting_is_no_regular_file(tmp_path: Path) -> None:
    if not os.access("/proc/kmsg", os.R_OK):
        pytest.skip("needs the right to read /proc/kmsg")
    (tmp_path / "a.jpg").symlink_to("/proc/kmsg")
    with pytest.raises(InputRefused, match=r"a\.jpg: must be a regular file"):
        read_photo_file(str(tmp_path / "a.jpg"), InputsConfig())


def test_a_path_that_leads_nowhere_is_refused_and_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "file").write_bytes(b"file")
    names = [
        "circle",
        "circle/a.jpg",
        "file/a.jpg",
        "file/../file/a.jpg",
        "a\0.jpg",
        "a" * 300,
        "a/" * 3000,
        "\ud800.jpg",
    ]
    for name in names:
        with pytest.raises((InputRefused, MissingObject, StoreRefused)):
            read_photo_file(f"{tmp_path}/{name}", InputsConfig())
        with suppress(InputRefused, StoreRefused):
            assert find_version(f"{tmp_path}/{name}", InputsConfig()) == ""


def test_a_link_that_this_user_may_not_follow_is_refused() -> None:
    """Root may follow all links, so it becomes an ordinary user for this."""
    code = (
        "import os; from lynx_batch.config import InputsConfig; from lynx_batch.inputs import read_photo_file\n"
        "os.getuid() or os.setuid(65534)\n"
        "for allow in (['/'], ['/proc/1/root/etc', '/proc']):\n"
        "    try: read_photo_file('/proc/1/root/etc/x.jpg', InputsConfig(allow=allow))\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    refused = "StoreRefused /proc/1/root/etc/x.jpg: cannot read: Permission denied; this needs permission to read there"
    assert told.splitlines() == [refused] * 2


def test_an_error_that_nobody_foresaw_is_the_photos_and_is_logged_once(tmp_path: Path) -> None:
    """Here a limit of a type that only unchecked settings can have."""
    uris = [str(tmp_path / f"{number}.jpg") for number in range(2)]
    unchecked = InputsConfig.model_construct(max_photo_bytes="many")
    with capture_logs() as logs:
        for uri in uris:
            Path(uri).write_bytes(b"photo")
            with pytest.raises(InputRefused, match=f"{uri}: cannot be read: TypeError: "):
                read_photo_file(uri, unchecked)
    assert [entry["event"] for entry in logs] == ["unforeseen_photo_error"]
    assert "read_whole" in logs[0]["traceback"]


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(12 * 2**30)
    with pytest.raises(InputRefused, match=r"must have at most 67,108,864 bytes \(inputs\.max_photo_bytes\)"):
        read_photo_file(str(tmp_path / "a.jpg"), InputsConfig())
    (tmp_path / "a.jpg").write_bytes(bytes(10))
    assert len(read_photo_file(str(tmp_path / "a.jpg"), InputsConfig(max_photo_bytes=10))) == 10


def test_what_a_link_leads_to_must_lie_in_an_allowed_place(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"photo")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "photos" / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "linked").symlink_to(tmp_path / "photos")
    for place in ("photos", "linked"):
        narrow = InputsConfig(allow=[str(tmp_path / place)])
        assert read_photo_file(str(tmp_path / place / "a.jpg"), narrow) == b"photo"
        for name in ("out.jpg", "../secret.jpg", "nowhere/../../secret.jpg"):
            with pytest.raises(InputRefused, match=r"must be in or below one of the places in inputs\.allow"):
                read_photo_file(str(tmp_path / place / name), narrow)


@pytest.mark.parametrize("uri", ["memory://a.jpg", "local:///etc/passwd", "simplecache::file:///etc/passwd", "a.jpg"])
def test_nothing_is_read_from_where_photos_may_not_lie(uri: str) -> None:
    with pytest.raises(InputRefused):
        read_photo_file(uri, InputsConfig())
