"""The section `cluster` of a run file: the machines that are there, and those that may come."""

from math import inf
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from lynx_batch.config.section import Section


class NodeTypeConfig(Section):
    """A type of node that the cluster's autoscaler may add while the run lasts.

    A node has `gpus` GPUs of the type `gpu`: `H200`, `H100`, `A100`, or `other` for all that lynx-batch has no figures for. The run uses at
    most `max` nodes of the type; those that are there already count. `usd_per_hour` is the price of a node; null takes
    `cluster.usd_per_gpu_hour`. `spot: true` takes only spot nodes, `false` takes none of them.
    The run asks for nodes by Ray's labels: `ray.io/accelerator-type`, such as H100 (not for `other`), and `ray.io/market-type: spot` for
    spot nodes. So the cluster's own description of the type must carry them.
    """

    gpu: str
    gpus: int = Field(ge=1)
    max: int = Field(ge=1)
    usd_per_hour: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    spot: bool = False


class ClusterConfig(Section):
    """The machines of a run, and the groups of GPUs on them.

    `address: local` starts a private Ray; any other value is the address of an existing cluster. `shared_paths` are folders that
    every node has, with the same content. On several machines, and for `submit`, a run may use local files only from these folders.
    `gpus_per_group: auto` uses the group size that `lynx-batch plan` chooses, and larger groups for clips that need them; a number
    is the size of every group. `max_groups: null` forms as many groups as fit.
    A group that is not ready after `ready_within_s` is given up; the first node has the same time to join. A group is replaced after
    `max_clips_per_group` clips, in case something leaks slowly; null turns this off.
    `usd_per_gpu_hour` is the price of every GPU, or of each type, such as `{H100: 2.5, A100: 1.2}`; `other` is the price of all types
    that lynx-batch has no figures for. On a cluster without GPUs, a CPU core counts as one.
    `node_types` are the nodes that may come. With them, a run starts without any GPU, asks the cluster's autoscaler for the nodes that its
    clips need, the first type of the list first, and lets each go once no clip waits for it. The next type is used beside those before it,
    and in place of one of which no node came within `ready_within_s`.
    """

    address: str = "local"
    shared_paths: tuple[str, ...] = ()
    gpus_per_group: Literal["auto", 1, 2, 3, 4, 6, 8] = "auto"
    max_groups: int | None = Field(default=None, ge=1)
    max_clips_per_group: int | None = Field(default=500, ge=1)
    ready_within_s: float = Field(default=3600.0, gt=0)
    usd_per_gpu_hour: float | dict[str, float] | None = None
    node_types: tuple[NodeTypeConfig, ...] = ()

    @field_validator("usd_per_gpu_hour", mode="before")
    @classmethod
    def _has_prices(cls, prices: object) -> object:
        each: list[object] = list(prices.values()) if isinstance(prices, dict) else [prices]
        are_prices = all(isinstance(price, int | float) and price is not True and 0 < price < inf for price in each)
        if prices is not None and not (each and are_prices):
            rule = "must be a price in USD above 0, or a mapping of GPU types to such prices, for example {H100: 2.5}"
            raise PydanticCustomError("broken_rule", "{rule}", {"rule": rule})
        return prices

    @model_validator(mode="after")
    def _names_each_type_once(self) -> Self:
        seen = set[tuple[str, int, bool]]()
        for kind in self.node_types:
            key = kind.gpu.lower(), kind.gpus, kind.spot
            if key in seen:
                spot = str(kind.spot).lower()
                rule = f"node_types must have only one type with gpu={kind.gpu}, gpus={kind.gpus} and spot={spot}"
                raise PydanticCustomError("broken_rule", "{rule}", {"rule": rule})
            seen.add(key)
        return self

    @property
    def is_local(self) -> bool:
        """Whether the run starts a private Ray."""
        return self.address == "local"
