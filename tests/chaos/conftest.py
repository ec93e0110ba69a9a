"""The table of what was injected and what it cost, below the results."""

from statistics import mean

import pytest

TABLE = pytest.StashKey[list[tuple[str, int, int, int, int, float]]]()
"""(fault, clips lost, clips doubled, attempts retried within a run, runs until the job's end, seconds) of each trial."""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    trials = config.stash[TABLE]
    if not trials:
        return
    calm_s = mean([seconds for name, *_, seconds in trials if name == "nothing"] or [0.0])
    terminalreporter.write_line(
        f"{'fault':50} injected  lost  doubled  retried  runs  {'extra' if calm_s else 'in all'} s"
    )
    for name in dict.fromkeys(name for name, *_ in trials):
        mine = [trial for trial in trials if trial[0] == name]
        _, lost, doubled, retried, runs, seconds = zip(*mine, strict=True)
        told = f"{len(mine):8}  {sum(lost):4}  {sum(doubled):7}  {sum(retried):7}  {mean(runs):4.1f}  {mean(seconds) - calm_s:7.1f}"
        terminalreporter.write_line(f"{name.replace('_', ' '):50} {told}")
