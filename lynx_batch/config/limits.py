"""The sections `retry`, `limits` and `notify` of a run file: when a run stops, and who is told."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from lynx_batch.config.references import explain_address, explain_reference
from lynx_batch.config.section import Section
from lynx_batch.config.stop_time import explain_stop_at

MAX_LIMIT_NAME = 100


class RetryConfig(Section):
    """When a clip fails, and when the run stops.

    A clip fails after `max_attempts` attempts on different groups. A clip that kills its worker three times while it is the only clip
    there fails whatever `max_attempts` is. A clip is tried on another group once it takes longer than `deadline_factor` times the
    predicted time plus 15 minutes.
    The run stops when more than `max_failed_share` of its clips failed, or when only machine failures happened for `give_up_after_s`
    plus the time of the longest clip.
    """

    max_attempts: int = Field(default=3, ge=1)
    max_failed_share: float = Field(default=0.2, gt=0, le=1)
    give_up_after_s: float = Field(default=1800.0, ge=0)
    deadline_factor: float = Field(default=4.0, ge=1)


class LimitsConfig(Section):
    """How much may be spent, and when to stop. Nothing new starts once what is spent, what runs and the next clip together would pass a
    limit, by the predicted times; what runs is finished, and the exit code is 5.

    What counts is the number of GPUs of each group times the time for which it holds them, loading included, summed over all runs of this
    output with the same `name`. Another `name` is a fresh budget. `max_usd` needs `cluster.usd_per_gpu_hour`, or prices of nodes;
    for `plan`, a price in `--gpus` will do.
    `stop_at` is a time such as `2026-11-28T06:00:00+01:00`, or a time of day such as `06:00`, `06:00Z` or `06:00 Europe/Berlin`: the run
    stops when the clock next shows that time. Without a zone, it is the local time of the machine that runs `render`.
    """

    name: str = "default"
    max_gpu_hours: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_usd: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    stop_at: str | None = None

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not (name.strip() and name.isprintable() and len(name) <= MAX_LIMIT_NAME):
            rule = f"must be one line of visible text with at most {MAX_LIMIT_NAME} characters"
            raise PydanticCustomError("broken_rule", "{rule}", {"rule": rule})
        return name

    @field_validator("stop_at")
    @classmethod
    def _is_a_time(cls, stop_at: str | None) -> str | None:
        if stop_at is not None and (rule := explain_stop_at(stop_at)) is not None:
            raise PydanticCustomError("broken_rule", "{rule}", {"rule": rule})
        return stop_at

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.max_gpu_hours is None and self.max_usd is None and self.stop_at is None:
            raise PydanticCustomError("broken_rule", "needs at least one of max_gpu_hours, max_usd and stop_at")
        return self


class NotifyConfig(Section):
    """Who is told about the run, and when: at its start, at its end, and if it stops early; after every `every_percent` % of the rows, and
    every `every_hours` hours.

    `url` is a webhook (`http://`, `https://`), which gets JSON, or an address of the package apprise, such as `slack://...` or
    `mailto://...` (extra `notify`); or `env:NAME`, an environment variable that holds it. Records and messages show no more than its
    scheme and a webhook's host. `secret` is a path, a URI of a store or `env:NAME`: with it, a webhook is signed (HMAC-SHA256).
    """

    url: str
    events: tuple[Literal["start", "stop", "end"], ...] = ("start", "stop", "end")
    every_percent: float | None = Field(default=None, gt=0, le=100)
    every_hours: float | None = Field(default=None, gt=0)
    secret: str | None = None

    @model_validator(mode="after")
    def _has_an_occasion(self) -> Self:
        if not self.events and self.every_percent is None and self.every_hours is None:
            raise PydanticCustomError("broken_rule", "events must name one if there is no every_percent or every_hours")
        return self

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        if (rule := explain_address(url)) is not None:
            raise PydanticCustomError("secret", "{rule}", {"rule": rule})
        return url

    @field_validator("secret")
    @classmethod
    def _is_a_reference(cls, reference: str | None) -> str | None:
        if reference is not None and (rule := explain_reference(reference)) is not None:
            raise PydanticCustomError("secret", "{rule}", {"rule": rule})
        return reference
