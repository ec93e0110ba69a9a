"""In which order two processes take the slow tests, so that both end at about the same time."""

from pathlib import PurePath

import pytest
from xdist.scheduler import LoadScopeScheduling

KEPT_TOGETHER = {"test_chaos.py", "test_elastic.py", "test_report.py", "test_submit.py"}
"""Files whose tests share what takes long to start."""


class SlowTests(LoadScopeScheduling):  # type: ignore[misc]
    """Each test goes to the process that is free, those of some files to the same one. xdist's own groups do nothing in pytest 9.2."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if PurePath(file).name in KEPT_TOGETHER else nodeid


def expected_s(item: pytest.Item) -> float:
    """What the mark `slow` says, as in `@pytest.mark.slow(s=90)`."""
    return max((float(mark.kwargs.get("s", 0)) for mark in item.iter_markers("slow")), default=0.0)
