"""What a run may spend and has spent, and whether it may start another clip: values in, values out, without clock or I/O.

What is spent is the size of each group times the time for which it holds its GPUs. All times are seconds of one monotonic clock,
except `Limits.stop_at_s`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median

from lynx_batch.planning.cost import LOAD_S, OTHER, CostModel, GpuType, Observation, Work
from lynx_batch.planning.simulate import HOUR_S, Forecast

MAX_OBSERVATIONS = 50
"""Enough for a median of this run's own times on devices without figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a run file. `stop_at_s`: seconds since 1970; `stop_at`: the same as the user wrote it, and as a full time."""

    name: str
    max_gpu_hours: float | None = None
    max_usd: float | None = None
    stop_at_s: float | None = None
    stop_at: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """USD per GPU-hour: of each type by its name, and of all others. Without either, nothing has a price."""

    by_type: Mapping[str, float] = field(default_factory=dict)
    of_others: float | None = None

    def of(self, gpu: GpuType) -> float | None:
        return self.by_type.get(gpu.name, self.of_others)

    @property
    def highest(self) -> float | None:
        return max([*self.by_type.values(), *([] if self.of_others is None else [self.of_others])], default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """GPU-hours and what they cost; None without a price."""

    gpu_hours: float = 0.0
    usd: float | None = 0.0

    def __add__(self, other: "Amount") -> "Amount":
        usd = None if self.usd is None or other.usd is None else self.usd + other.usd
        return Amount(gpu_hours=self.gpu_hours + other.gpu_hours, usd=usd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """For how long a group still needs its GPUs. `wait_s`: it can begin only then."""

    num_gpus: int
    seconds: float
    usd_per_gpu_hour: float | None = None
    wait_s: float = 0.0

    @property
    def amount(self) -> Amount:
        gpu_hours = self.num_gpus * self.seconds / HOUR_S
        return Amount(
            gpu_hours=gpu_hours, usd=None if self.usd_per_gpu_hour is None else gpu_hours * self.usd_per_gpu_hour
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What a run has spent so far, and what all runs under the name of its limits have spent together, itself included.

    `total_gpu_hours` and `total_usd` are what all these runs have spent, `max_gpu_hours` and `max_usd` what they may spend, `used_share` the
    larger share of both. USD are None without a price; all but the first two are None without limits.
    """

    gpu_hours: float = 0.0
    usd: float | None = None
    limit_name: str | None = None
    total_gpu_hours: float | None = None
    total_usd: float | None = None
    max_gpu_hours: float | None = None
    max_usd: float | None = None
    used_share: float | None = None


NOTHING = Amount()


def amount(value: float) -> str:
    """Hours or money for people: two decimals, or two digits of what is below 1."""
    return f"{value:,.2f}" if value >= 1 or not value else f"{value:.2g}"


def why_stop(limits: Limits, spent: Amount, running: Iterable[Need], new: Need | None, now_s: float) -> str | None:
    """Why nothing new may be started, or None if `new` may. `new` None asks whether anything could be.

    `now_s`: seconds since 1970.
    """
    needed = sum((need.amount for need in running), NOTHING)
    more = NOTHING if new is None else new.amount
    for key, unit, most, used, busy, next_one in (
        ("max_gpu_hours", "GPU-hours", limits.max_gpu_hours, spent.gpu_hours, needed.gpu_hours, more.gpu_hours),
        ("max_usd", "USD", limits.max_usd, spent.usd or 0.0, needed.usd or 0.0, more.usd or 0.0),
    ):
        if most is None:
            continue
        limit = f"limits.{key}={most:g} of {limits.name!r}"
        if used >= most:
            return f"{limit} is used up: {used:.4g} {unit} are spent"
        if new is not None and used + busy + next_one > most:
            needs = f"what runs needs {busy:.4g} more, and the next clip would take {next_one:.4g}"
            return f"{limit}: {used:.4g} {unit} are spent, {needs}"
    if limits.stop_at_s is not None and now_s >= limits.stop_at_s:
        return f"limits.stop_at={limits.stop_at}: it is later than that"
    if limits.stop_at_s is not None and now_s + (0.0 if new is None else new.wait_s + new.seconds) >= limits.stop_at_s:
        return f"limits.stop_at={limits.stop_at}: the next clip would not be done by then"
    return None


def exceeded_limits(limits: Limits, spent: Amount, forecast: Forecast, now_s: float) -> list[str]:
    """How a run of this length would compare with each limit that it would pass; `now_s`: seconds since 1970."""
    exceeded = []
    for key, unit, most, used, planned in (
        ("max_gpu_hours", "GPU-hours", limits.max_gpu_hours, spent.gpu_hours, forecast.held_gpu_hours),
        ("max_usd", "USD", limits.max_usd, spent.usd or 0.0, forecast.held_usd or 0.0),
    ):
        if most is not None and used + planned > most:
            left, missing = max(0.0, most - used), used + planned - most
            exceeded.append(
                f"limits.{key}={most:g} of {limits.name!r}: the run takes {amount(planned)} {unit} and {amount(left)} are left, so "
                f"{amount(missing)} are missing"
            )
    if limits.stop_at_s is not None and now_s + forecast.makespan_s > limits.stop_at_s:
        late_h = (now_s + forecast.makespan_s - limits.stop_at_s) / HOUR_S
        exceeded.append(f"limits.stop_at={limits.stop_at}: the run would end {late_h:,.1f} h later if it started now")
    return exceeded


class Meter:
    """For how long a run has held GPUs, in GPU-seconds by type."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, GpuType, float]] = {}
        self._ended: dict[str, float] = {}

    def hold(self, group: str, size: int, gpu: GpuType, since_s: float) -> None:
        self._held[group] = size, gpu, since_s

    def holds(self, group: str) -> bool:
        return group in self._held

    def release(self, group: str, now_s: float) -> None:
        """Does nothing if the group holds nothing."""
        if group in self._held:
            _add(self._ended, *self._held.pop(group), now_s)

    def gpu_s(self, now_s: float) -> dict[str, float]:
        total = dict(self._ended)
        for held in self._held.values():
            _add(total, *held, now_s)
        return total


def _add(total: dict[str, float], size: int, gpu: GpuType, since_s: float, now_s: float) -> None:
    total[gpu.name] = total.get(gpu.name, 0.0) + size * (now_s - since_s)


class Budget:
    """Keeps count of what a run spends, and decides whether it may start another clip. Without limits it may.

    `before`: what other runs under the same name have spent. Once `closed_by` says why, nothing new is started in this run.
    """

    def __init__(self, limits: Limits | None, prices: Prices, before: Amount = NOTHING) -> None:
        self.limits, self.before, self.closed_by = limits, before, ""
        self._prices, self._meter = prices, Meter()
        self._load_s: dict[str, float] = {}
        self._observed: list[Observation] = []
        self.predict_with(CostModel())

    def predict_with(self, cost: CostModel) -> None:
        """Predicts the time of clips with `cost` from now on."""
        self._cost, self._is_learning = cost, not cost.is_known(OTHER)

    def hold(self, group: str, size: int, gpu: GpuType, since_s: float) -> None:
        self._meter.hold(group, size, gpu, since_s)

    def holds(self, group: str) -> bool:
        return self._meter.holds(group)

    def release(self, group: str, now_s: float) -> None:
        self._meter.release(group, now_s)

    def note_load(self, gpu: GpuType, seconds: float) -> None:
        """A group took this long to load."""
        self._load_s[gpu.name] = seconds

    def note_clip(self, observation: Observation) -> None:
        """A clip took this long. Counts only on devices without figures, and if no earlier run was measured there."""
        if observation.gpu is OTHER and self._is_learning and len(self._observed) < MAX_OBSERVATIONS:
            self._observed.append(observation)
            fitted = self._cost.fitted(self._observed)
            self._cost = replace(fitted, factors={**self._cost.factors, **fitted.factors})

    def seconds(self, work: Work, size: int, gpu: GpuType) -> float:
        """How long a clip will keep a group busy; 0 on a device of which nothing is known yet."""
        return self._cost.seconds(work, size, gpu) if self._cost.is_known(gpu) else 0.0

    def usual_clip_s(self, planned_s: float, gpu: GpuType) -> float:
        """How long a clip takes for which `planned_s` were planned; on a device without figures, how long this run's clips took, or 0."""
        if gpu is not OTHER or not self._is_learning:
            return planned_s
        return median(each.seconds for each in self._observed) if self._observed else 0.0

    def load_s(self, gpu: GpuType) -> float:
        """How long loading will take; 0 on a device of which nothing is known yet."""
        return self._load_s.get(gpu.name, 0.0 if gpu is OTHER else LOAD_S)

    def need(self, size: int, gpu: GpuType, seconds: float, wait_s: float = 0.0) -> Need:
        return Need(num_gpus=size, seconds=seconds, usd_per_gpu_hour=self._price(gpu), wait_s=wait_s)

    def why_refused(self, running: Iterable[Need], new: Need | None, now_s: float, clock_s: float) -> str | None:
        """As `why_stop`; `now_s` is that of the monotonic clock, `clock_s` seconds since 1970."""
        if self.limits is None:
            return None
        return self.closed_by or why_stop(self.limits, self.before + self.spent(now_s), running, new, clock_s)

    def gpu_s(self, now_s: float) -> dict[str, float]:
        """What this run has held, in GPU-seconds by type."""
        return self._meter.gpu_s(now_s)

    def spent(self, now_s: float) -> Amount:
        """What this run has spent."""
        return price(self._meter.gpu_s(now_s), self._prices)

    def spending(self, now_s: float) -> Spending:
        return summarise_spending(self.spent(now_s), self.before, self.limits)

    def _price(self, gpu: GpuType) -> float | None:
        known = self._prices.of(gpu)
        return self._prices.highest if known is None else known


def price(gpu_s: Mapping[str, float], prices: Prices) -> Amount:
    """GPU-seconds by type as hours and USD. A type without a price costs as much as the dearest one."""
    total = Amount(usd=0.0 if prices.highest is not None else None)
    for name, seconds in gpu_s.items():
        usd_per_hour = prices.by_type.get(name, prices.highest if prices.of_others is None else prices.of_others)
        total += Need(num_gpus=1, seconds=seconds, usd_per_gpu_hour=usd_per_hour).amount
    return total


def summarise_spending(own: Amount, before: Amount, limits: Limits | None) -> Spending:
    spending = Spending(gpu_hours=own.gpu_hours, usd=own.usd)
    if limits is None:
        return spending
    of_all = before + own
    pairs = ((of_all.gpu_hours, limits.max_gpu_hours), (of_all.usd, limits.max_usd))
    shares = [used / most for used, most in pairs if used is not None and most is not None]
    return replace(
        spending,
        limit_name=limits.name,
        total_gpu_hours=of_all.gpu_hours,
        total_usd=of_all.usd,
        max_gpu_hours=limits.max_gpu_hours,
        max_usd=limits.max_usd,
        used_share=max(shares, default=None),
    )
