"""`lynx-batch render` as its user runs it: a process of its own, a real local Ray, real photos, MP4s that are decoded."""

import json
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import av
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from tests import crashes
from tests.builders import COLLINS, HOPPER, row, several_photos
from tests.heads import Head, ray_head
from tests.jobs import DEADLINE_S, Job, decode, invoke, wait_until, workers_of
from tests.web import serve

pytestmark = pytest.mark.ray


def sha256_of(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest()


def kill_part_of_ray(driver: subprocess.Popen[str], name: str) -> None:
    """Ends the process `name` of the Ray that a driver has started for itself."""
    (process,) = (child for child in psutil.Process(driver.pid).children() if child.name() == name)
    process.kill()


@pytest.fixture
def make_job(tmp_path: Path, face_pack: Path) -> Callable[..., Job]:
    def make(rows: list[dict[str, object]], **options: object) -> Job:
        return Job(folder=tmp_path, face_pack=face_pack, rows=rows, **options)

    return make


def test_every_row_becomes_a_committed_video_and_a_second_run_renders_nothing(make_job: Callable[..., Job]) -> None:
    rows = [row(), row(HOPPER, "她微笑着,看向镜头。", seed=7), row(HOPPER, fps=24, num_frames=9)]
    job = make_job(rows, env={"RAY_ADDRESS": "127.0.0.1:1"})

    first = job.run()
    assert first.exit_code == 0, first.stderr
    rendered = job.metadata()
    assert [r["outcome"] for r in rendered] == ["rendered"] * 3
    assert [r["seed"] for r in rendered][1] == 7
    assert {commit["clip_id"] for commit in job.commits()} == {r["clip_id"] for r in rendered}
    for r in rendered:
        frames = decode(Path(job.output) / r["clip_uri"])
        assert frames.shape == (r["num_frames"], 48, 64, 3)
        assert frames.std() > 5, "a picture, if only of noise"

    second = job.run()
    assert second.exit_code == 0
    assert "0 to render, 3 rendered before" in second.stdout
    again = job.metadata()
    assert [(r["clip_id"], r["attempt"], r["rendered_by_run"]) for r in again] == [
        (r["clip_id"], r["attempt"], r["rendered_by_run"]) for r in rendered
    ]

    status = job.run(command="status")
    assert status.exit_code == 0
    assert "3" in status.stdout


@pytest.mark.slow
def test_a_group_of_two_ranks_renders_the_same_picture(
    make_job: Callable[..., Job], head: Head, tmp_path: Path
) -> None:
    job = make_job([row(seed=1)], head=head)
    assert job.run().exit_code == 0
    (alone,) = job.metadata()
    wide = job.run("--set", "cluster.gpus_per_group=2", "--output", str(tmp_path / "wide"))
    assert wide.exit_code == 0, wide.stderr
    job.output, out = str(tmp_path / "wide"), job.output
    (together,) = job.metadata()

    assert together["clip_id"] == alone["clip_id"]
    difference = decode(tmp_path / "wide" / together["clip_uri"]).astype(int) - decode(Path(out) / alone["clip_uri"])
    assert abs(difference).max() <= 2


@pytest.mark.slow
def test_a_row_that_cannot_be_rendered_is_rejected_and_stops_nothing(
    make_job: Callable[..., Job], tmp_path: Path, head: Head
) -> None:
    (tmp_path / "broken.jpg").write_bytes(COLLINS.read_bytes()[:2000])
    plain = np.full((200, 200, 3), 128, np.uint8)
    av.VideoFrame.from_ndarray(plain, format="rgb24").to_image().save(tmp_path / "faceless.png")
    ImageOps.mirror(Image.open(HOPPER)).save(tmp_path / "mirrored.png")
    yesterday = datetime.now(UTC) - timedelta(days=1)
    rows = [
        row(tmp_path / "missing.jpg"),
        row(tmp_path / "broken.jpg"),
        row(tmp_path / "faceless.png"),
        row(consent_expires_at=yesterday),
        several_photos(COLLINS, HOPPER),
        row(HOPPER, consent_expires_at=yesterday + timedelta(days=30)),
        several_photos(HOPPER, tmp_path / "mirrored.png"),
    ]
    job = make_job(rows, head=head)

    result = job.run()

    assert result.exit_code == 3, result.stderr
    outcomes = job.metadata()
    assert [r["outcome"] for r in outcomes] == ["rejected"] * 5 + ["rendered"] * 2
    assert [r["error_type"] for r in outcomes] == [
        "MissingObject",
        "UnreadableImage",
        "NoFaceFound",
        "ConsentExpired",
        "DifferentPeople",
        None,
        None,
    ]
    assert re.match(rf"subject_uri ({COLLINS}|{HOPPER}): must show the same person", outcomes[4]["error"])
    assert outcomes[6]["subject_uris"] == [str(HOPPER), str(tmp_path / "mirrored.png")]
    assert "3 clips will be tried again" in job.ask("retry").stdout
    retried = job.run()
    assert "3 to render" in retried.stdout
    assert [r["outcome"] for r in job.metadata()] == ["rejected"] * 5 + ["rendered"] * 2


@pytest.mark.slow
def test_a_host_that_gives_no_photos_holds_up_none_of_the_others_and_the_next_run_is_complete(
    make_job: Callable[..., Job], head: Head
) -> None:
    with serve() as server:
        rows = [row(f"{server.url}/{number}.jpg", f"Number {number}.", width=32) for number in range(5)]
        inputs = {"allow": ["/", server.url], "max_tries": 1}
        job = make_job([row(), *rows], steps=1, settings={"inputs": inputs}, head=head)
        for number in range(5):
            server.put(f"/{number}.jpg", status=500)

        stopped = job.run()

        assert stopped.exit_code == 4, stopped.stderr
        assert "5 of 5 photos of" in stopped.stdout
        assert [told["outcome"] for told in job.metadata()] == ["rendered"] + ["abandoned"] * 5

        for number in range(5):
            server.put(f"/{number}.jpg", HOPPER.read_bytes())
        assert job.run().exit_code == 0
        assert [told["outcome"] for told in job.metadata()] == ["rendered"] * 6


def test_bad_rows_are_all_told_before_anything_starts(make_job: Callable[..., Job]) -> None:
    job = make_job([row(width=100), row(num_frames=10), row(prompt=""), row(guidance_scale=-1.0), row()])

    result = job.run()

    assert result.exit_code == 2
    for fault in ("row 0: width=100", "row 1: num_frames=10", "row 2: prompt=''", "row 3: guidance_scale=-1.0"):
        assert fault in result.stderr
    assert not Path(job.output).exists()


@pytest.mark.slow(s=90)
def test_a_driver_killed_at_work_is_finished_by_the_next_run(make_job: Callable[..., Job], head: Head) -> None:
    job = make_job([row(seed=seed) for seed in range(6)], steps=4, head=head)
    process = job.start()
    wait_until(lambda: job.num_commits() >= 2, process)
    process.kill()
    process.communicate()
    committed = {commit["clip_id"]: commit["attempt"] for commit in job.commits()}
    assert 2 <= len(committed) < 6

    assert job.run().exit_code == 0

    after = {commit["clip_id"]: commit["attempt"] for commit in job.commits()}
    assert len(after) == 6
    assert committed.items() <= after.items(), "what was committed is not rendered again"
    assert Counter(r["outcome"] for r in job.metadata()) == {"rendered": 6}


@pytest.mark.slow
def test_two_drivers_on_one_output_commit_every_clip_once(make_job: Callable[..., Job], head: Head) -> None:
    job = make_job([row(seed=seed) for seed in range(4)], steps=4, head=head)
    runs = Path(job.output) / "runs"
    first = job.start()
    wait_until(lambda: bool(list(runs.glob("*/heartbeat.json"))), first)
    second = job.start()
    told = [process.communicate(timeout=2 * DEADLINE_S) for process in (first, second)]

    assert (first.returncode, second.returncode) == (0, 0), told
    assert "is also active at this output" in told[1][0]
    assert job.num_commits() == 4
    videos = {str(video.relative_to(job.output)) for video in (Path(job.output) / "clips").rglob("*.mp4")}
    assert videos == {commit["clip_uri"] for commit in job.commits()}, "what came too late is gone"
    for run in (Path(job.output) / "metadata").iterdir():
        outcomes = pq.read_table(run, partitioning=None)["outcome"].to_pylist()
        assert outcomes == ["rendered"] * 4
    assert not list(runs.glob("*/heartbeat.json"))


@pytest.mark.slow
def test_an_interrupt_abandons_what_runs_and_keeps_what_is_committed(make_job: Callable[..., Job], head: Head) -> None:
    job = make_job([row(seed=seed) for seed in range(6)], steps=60, head=head)
    process = job.start()
    wait_until(lambda: job.num_commits() >= 1, process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 4, stderr
    assert "again" in stdout
    counts = Counter(r["outcome"] for r in job.metadata())
    assert counts["rendered"] + counts["abandoned"] == 6
    assert counts["abandoned"] >= 1
    assert len(list(Path(job.output).glob("report/run=*/trace.json"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_ray_starts_ends_a_run_as_ctrl_c_does(
    make_job: Callable[..., Job], number: signal.Signals
) -> None:
    job = make_job([row(seed=0)])
    process = job.start()
    driver = psutil.Process(process.pid)
    wait_until(lambda: any("gcs_server" in child.name() for child in driver.children(recursive=True)), process)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=DEADLINE_S)

    assert (process.returncode, "stopped: interrupted" in stdout) == (4, True), stderr
    assert [r["outcome"] for r in job.metadata()] == ["abandoned"]
    assert len(list(Path(job.output).glob("runs/*/end.json"))) == 1


@pytest.fixture
def cluster_of_pretended_gpus() -> Iterator[Head]:
    """Three slots that Ray takes for H200s; workers find no CUDA there and use the CPU."""
    with ray_head("--num-cpus=3", "--num-gpus=3", '--resources={"accelerator_type:H200": 1}') as head:
        yield head


@pytest.mark.slow
def test_on_a_cluster_that_is_there_an_urgent_clip_gets_a_wide_group_beside_narrow_ones(
    make_job: Callable[..., Job], cluster_of_pretended_gpus: Head
) -> None:
    rows = [row(seed=seed, priority=100 * (seed == 2)) for seed in range(6)]
    result = (job := make_job(rows, settings={"cluster": {}}, head=cluster_of_pretended_gpus)).run()
    assert result.exit_code == 0, result.stderr
    sizes = [r["group_size"] for r in job.metadata()]
    assert sizes[2] == 2
    assert set(sizes) == {1, 2}


def test_a_cluster_that_is_not_there_is_told(make_job: Callable[..., Job]) -> None:
    result = make_job([row()]).run("--address", "127.0.0.1:1")
    assert result.exit_code == 2
    assert "cluster.address='127.0.0.1:1'" in result.stderr


@pytest.mark.slow
def test_a_killed_worker_costs_no_clip_and_no_attempt(make_job: Callable[..., Job], head: Head) -> None:
    job = make_job([row(seed=seed) for seed in range(4)], steps=4, head=head)
    process = job.start()
    wait_until(lambda: job.num_commits() >= 1, process)
    workers_of(head.process)[0].kill()
    _, stderr = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 0, stderr
    assert [r["attempts"] for r in job.metadata()] == [1] * 4
    assert len(job.commits()) == 4

    lines = [json.loads(line) for line in invoke("logs", job.output, "--json").stdout.splitlines()]
    (lost,) = [line for line in lines if line["event"] == "group_lost"]
    last = [line for line in lines if line.get("group") == lost["group"] and line.get("rank") == 0]
    assert [line["event"] for line in last][:1] == ["worker_started"], "it died before it could upload anything"
    assert last[-1]["event"] == "attempt_started"
    of_clip = [line for line in lines if line.get("clip_id") == last[-1]["clip_id"]]
    ends = [line["event"] for line in of_clip if line["event"] != "attempt_started"]
    assert ends == ["attempt_failed", "clip_rendered"]
    assert len({line["attempt"] for line in of_clip}) == 2
    assert {line["run"] for line in lines} == {lost["run"]}


@pytest.fixture
def crashing_head() -> Iterator[Head]:
    """Its workers have a decoder that some photos crash."""
    with ray_head("--num-cpus=2", **crashes.ENVIRONMENT) as head:
        yield head


@pytest.mark.slow(s=130)
def test_a_photo_that_kills_its_worker_fails_alone_whatever_becomes_of_the_driver_and_no_run_repeats_it(
    make_job: Callable[..., Job], tmp_path: Path, crashing_head: Head
) -> None:
    killer = crashes.write_crashing(tmp_path / "killer.jpg", HOPPER)
    while not sha256_of(HOPPER) < sha256_of(killer) < sha256_of(COLLINS):
        killer.write_bytes(killer.read_bytes() + b"\0")  # a group takes subjects in this order
    rows = [row(killer if number == 1 else (HOPPER, COLLINS)[number % 2], seed=number) for number in range(8)]
    impatient = {"retry": {"give_up_after_s": 0}}
    job = make_job(rows, settings=impatient, env=crashes.ENVIRONMENT, head=crashing_head)
    process = job.start()
    wait_until(lambda: any(event.deaths == 2 for event in job.events()), process)
    process.kill()
    process.communicate()
    assert job.num_commits() == 7, "nothing else waits for it"

    result = job.run()

    assert result.exit_code == 3, result.stderr
    failed = job.metadata()[1]
    assert [r["outcome"] for r in job.metadata() if r != failed] == ["rendered"] * 7
    assert (failed["outcome"], failed["error_type"]) == ("failed", "GroupLost")
    assert "killed its worker 3 times, each time alone on it" in str(failed["error"])
    assert [e.deaths for e in job.events() if e.clip_id == failed["clip_id"] and e.deaths] == [1, 2, 3]
    assert max(e.deaths for e in job.events() if e.clip_id != failed["clip_id"]) == 0
    assert "0 to render" in job.run().stdout


@pytest.mark.only_chaos
def test_a_local_ray_whose_head_dies_while_it_starts_is_told(make_job: Callable[..., Job]) -> None:
    process = make_job([row()]).start()
    wait_until(lambda: any(child.name() == "gcs_server" for child in psutil.Process(process.pid).children()), process)
    kill_part_of_ray(process, "gcs_server")
    stdout, stderr = process.communicate(timeout=DEADLINE_S)

    assert process.returncode in (0, 4), stderr
    assert process.returncode == 0 or "cluster.address='local'" in stdout + stderr
    assert "Traceback" not in stderr


@pytest.mark.slow
def test_a_local_ray_that_loses_its_node_is_started_once_more(make_job: Callable[..., Job]) -> None:
    job = make_job([row(seed=seed) for seed in range(9)], steps=60)
    process = job.start()
    wait_until(lambda: job.num_commits() >= 1, process)
    kill_part_of_ray(process, "raylet")
    num_before = job.num_commits()
    wait_until(lambda: job.num_commits() >= num_before + 2, process)
    kill_part_of_ray(process, "raylet")
    killed_s = time.monotonic()
    stdout, stderr = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 4, stderr
    assert time.monotonic() - killed_s < 20
    assert "stopped: " in stdout
    assert {r["attempts"] for r in job.metadata() if r["outcome"] == "rendered"} == {1}
    assert Counter(r["outcome"] for r in job.metadata())["rendered"] == job.num_commits() < 9
