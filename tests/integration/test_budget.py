"""A budget ends a run and the next night's, on a real Ray; a webhook hears of it."""

import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.builders import row
from tests.heads import Head
from tests.jobs import Job
from tests.web import serving

pytestmark = pytest.mark.ray

MAX_GPU_S = 30.0
"""By far not enough for all of the clips. On a loaded machine it may end before the first one."""


@pytest.mark.slow
def test_a_spent_budget_stops_the_run_and_the_next_night_starts_nothing(
    tmp_path: Path, face_pack: Path, head: Head
) -> None:
    bodies: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Stays silent."""

    with serving(Hook) as address:
        settings = {
            "cluster": {"max_groups": 1, "usd_per_gpu_hour": 2.5},
            "limits": {"name": "nightly", "max_gpu_hours": MAX_GPU_S / 3600},
            "notify": [{"url": f"http://{address}/geheim", "events": ["stop", "end"]}],
        }
        rows = [row(prompt=f"Number {number}.", seed=number) for number in range(250)]
        job = Job(folder=tmp_path, face_pack=face_pack, rows=rows, steps=40, settings=settings, head=head)
        first = job.run("--run-id", "first")
        num_rendered = job.num_commits()
        second = job.run("--run-id", "second")

    assert first.exit_code == 5, first.stderr
    outcomes = [r["outcome"] for r in job.metadata()]
    assert num_rendered < len(rows)
    assert outcomes.count("rendered") == num_rendered, "what ran was finished, and the next night rendered nothing"
    assert outcomes.count("abandoned") == len(rows) - num_rendered
    assert f"{len(rows) - num_rendered} clips left" in first.stdout
    spent = json.loads((tmp_path / "out/runs/first/spent.json").read_text())
    assert 0.5 * MAX_GPU_S < spent["gpu_s"]["other"] < 2 * MAX_GPU_S
    assert spent["usd"] == pytest.approx(2.5 * spent["gpu_s"]["other"] / 3600, rel=1e-3)

    assert second.exit_code == 5, second.stderr
    assert "group_ready" not in second.stderr
    assert "limits.max_gpu_hours=0.00833333 of 'nightly'" in second.stdout
    assert [(body["run_id"], body["event"]) for body in bodies] == [("first", "stop"), ("second", "stop")]
    assert bodies[0]["counts"]["rendered"] == num_rendered
    assert bodies[0]["spending"]["used_share"] > 0.5
    assert "geheim" not in (tmp_path / "out/runs/first/run.yaml").read_text()
