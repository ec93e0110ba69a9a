"""What a run tells those who record it: groups that are ready, and attempts that end."""

from typing import Protocol

from lynx_batch.planning.schedule import ClipState
from lynx_batch.rendering.tasks import Failed, Judged, Loaded, Rendered, RenderTask


class Recorder(Protocol):
    """Records each group that becomes ready and each attempt that ends.

    `attempts` is how many the clip has used up, `deaths` how many groups broke while it was the only clip aboard.
    """

    def loaded(self, group: str, answer: Loaded) -> None: ...

    def rendered(self, task: RenderTask, group: str, result: Rendered, *, attempts: int) -> None: ...

    def judged(self, task: RenderTask, group: str, result: Judged, *, attempts: int) -> None: ...

    def failed(
        self, task: RenderTask, group: str, result: Failed, state: ClipState, *, attempts: int, deaths: int
    ) -> None: ...


class Recorders:
    """Passes each report on to several recorders, in their order."""

    def __init__(self, *recorders: Recorder) -> None:
        self._recorders = recorders

    def loaded(self, group: str, answer: Loaded) -> None:
        for recorder in self._recorders:
            recorder.loaded(group, answer)

    def rendered(self, task: RenderTask, group: str, result: Rendered, *, attempts: int) -> None:
        for recorder in self._recorders:
            recorder.rendered(task, group, result, attempts=attempts)

    def judged(self, task: RenderTask, group: str, result: Judged, *, attempts: int) -> None:
        for recorder in self._recorders:
            recorder.judged(task, group, result, attempts=attempts)

    def failed(
        self, task: RenderTask, group: str, result: Failed, state: ClipState, *, attempts: int, deaths: int
    ) -> None:
        for recorder in self._recorders:
            recorder.failed(task, group, result, state, attempts=attempts, deaths=deaths)
