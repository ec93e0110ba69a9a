"""SeaweedFS, a real S3 server of one process, that tests may kill and start again on the same data."""

import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from tests.web import free_ports

WEED = Path(sys.executable).with_name("weed")
START_TIMEOUT_S = 60
PORT_OPTIONS = tuple(
    f"-{part}.port{kind}" for part in ("s3", "filer", "volume", "master") for kind in ("", ".grpc")
)  # else a gRPC port is another one plus 10,000, which may not exist


class SeaweedServer:
    """`url` is its S3 endpoint, the same after a restart; `kill` loses nothing that a put was answered for."""

    def __init__(self, folder: Path) -> None:
        ports = free_ports(len(PORT_OPTIONS))
        self.url = f"http://127.0.0.1:{ports[0]}"
        self._log = folder / "weed.log"
        self._command = [
            *(str(WEED), f"-logdir={folder}"),
            *("server", f"-dir={folder}", "-ip=127.0.0.1", "-s3", "-volume.max=200"),
            *("-master.volumeSizeLimitMB=64", "-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            *(f"{option}={port}" for option, port in zip(PORT_OPTIONS, ports, strict=True)),
        ]

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        waiting = Retrying(
            retry=retry_if_exception_type(OSError), wait=wait_fixed(0.1), stop=stop_after_delay(START_TIMEOUT_S)
        )
        waiting(self._answer)

    def kill(self) -> None:
        """As `kill -9` does."""
        self._process.kill()
        self._process.wait()

    def _answer(self) -> None:
        try:
            urllib.request.urlopen(self.url).close()
        except urllib.error.HTTPError:
            return  # it is there, and wants to know who asks
