"""Errors of clusters that cannot be reached, without starting one."""

import pytest
import ray

from lynx_batch.config import ClusterConfig
from lynx_batch.errors import ConfigError, HeadLost
from lynx_batch.execution.cluster import connected


def connect(address: str) -> None:
    with connected(ClusterConfig(address=address)):
        pytest.fail("there is no cluster")


@pytest.mark.parametrize(
    "address", ["somewhere", "host:", "LOCAL", "127.0.0.1:1", "127.0.0.1:99999", "[::1", "x" * 300 + ":80", "host:²"]
)
def test_an_address_without_a_cluster_is_a_config_error(address: str) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.address="):
        connect(address)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Failed to start GCS"),
        Exception("The current node timed out during startup"),
        ConnectionError("refused"),
        TimeoutError("too late"),
        ray.exceptions.RaySystemError("raylet"),
        ray.exceptions.RpcError("unavailable"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_local_ray_that_dies_while_it_starts_is_a_lost_head(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mock: what Ray raises depends on the moment at which its processes die, to a tenth of a second."""

    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(HeadLost, match="Ray failed"):
        connect("local")


def test_a_cluster_that_requires_another_token_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock, as above."""

    def refuse(**_: object) -> None:
        raise ray.exceptions.AuthenticationError("token")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ConfigError, match="accepts our token"):
        connect("auto")
