"""The display of a running run: live on a terminal, plain lines anywhere else."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lynx_batch.execution.progress import Estimate, Progress
from lynx_batch.printable import counted

LINE_EVERY_S = 10.0

MIN_PAUSE = 0.01
"""The least time between two lines, as a share of the time since the start. It is at most `LINE_EVERY_S`."""


@contextmanager
def shown(console: Console) -> Iterator[Callable[[Progress], None]]:
    """Gives a function that shows the progress of a run."""
    estimate = Estimate()
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            yield lambda progress: live.update(_panel(progress, estimate.remaining_s(progress)))
    else:
        yield _line_printer(console, estimate)


def _line_printer(console: Console, estimate: Estimate) -> Callable[[Progress], None]:
    started_s = last_s = time.monotonic()
    last_done = 0

    def show(progress: Progress) -> None:
        """In a long run, clips end faster than anybody reads: the more time has passed, the fewer lines there are."""
        nonlocal last_s, last_done
        now_s = time.monotonic()
        done = progress.num_rendered + progress.num_rejected + progress.num_failed
        pause_s = LINE_EVERY_S if done == last_done else min(LINE_EVERY_S, MIN_PAUSE * (now_s - started_s))
        if now_s - last_s < pause_s:
            return
        last_s, last_done = now_s, done
        console.print(_headline(progress, estimate.remaining_s(progress)), soft_wrap=True)

    return show


def _panel(progress: Progress, remaining_s: float | None) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for name, step, num_steps in progress.running:
        table.add_row(
            name, ProgressBar(total=max(num_steps, 1), completed=step, width=24), f"step {step} of {num_steps}"
        )
    return Group(Text(_headline(progress, remaining_s)), table)


def _headline(progress: Progress, remaining_s: float | None) -> str:
    parts = [f"{progress.num_rendered} rendered", f"{len(progress.running)} running"]
    parts += [f"{progress.num_waiting} waiting"]
    if progress.num_rejected:
        parts.append(f"{progress.num_rejected} rejected")
    if progress.num_failed:
        parts.append(f"{progress.num_failed} failed")
    if progress.num_groups_loading:
        parts.append(f"{counted(progress.num_groups_loading, 'group')} loading")
    if progress.num_groups_asked:
        parts.append(f"{counted(progress.num_groups_asked, 'group')} waiting for nodes")
    if remaining_s is not None:
        parts.append(f"about {duration(remaining_s)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
