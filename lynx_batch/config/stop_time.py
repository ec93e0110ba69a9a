"""`limits.stop_at`: a point in time, or a time of day that comes again every day."""

import re
from datetime import date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

RULE = "must be a time with a zone, such as 2026-11-28T06:00:00+01:00, or a time of day, such as 06:00, 06:00Z or 06:00 Europe/Berlin"

_OFFSET = r"Z|[+-]\d\d:\d\d"
_TIME_OF_DAY = re.compile(rf"(?P<hour>[01]\d|2[0-3]):(?P<minute>[0-5]\d)( ?(?P<offset>{_OFFSET})| (?P<zone>\S+))?")


def explain_stop_at(text: str) -> str | None:
    """The rule that `text` breaks, or None."""
    try:
        find_stop(text, datetime.now().astimezone())
    except ValueError:
        return RULE
    return None


def find_stop(text: str, now: datetime) -> datetime:
    """When a run that starts `now` has to stop. Raises ValueError if `text` breaks `RULE`."""
    match = _TIME_OF_DAY.fullmatch(text)
    if match is None:
        stop = datetime.fromisoformat(text)
        if stop.tzinfo is None:
            raise ValueError(RULE)
        return stop
    at = time(int(match["hour"]), int(match["minute"]))
    zone = _zone(match["zone"]) if match["offset"] is None else time.fromisoformat(f"00:00{match['offset']}").tzinfo
    today = now.astimezone(zone).date()
    stops = (_local(today + timedelta(days=days), at, zone) for days in (0, 1))
    return next(stop for stop in stops if stop > now)


def _zone(name: str | None) -> tzinfo | None:
    """None is the zone of this machine. Raises ValueError for an unknown name."""
    try:
        return None if name is None else ZoneInfo(name)
    except (KeyError, OSError) as error:  # unknown, or the name of a folder
        raise ValueError(RULE) from error


def _local(day: date, at: time, zone: tzinfo | None) -> datetime:
    naive = datetime.combine(day, at)
    return naive.astimezone() if zone is None else naive.replace(tzinfo=zone)
